"""The five sub-transformers of scenario S12, as plain data.

A transformer has no place in the library schema, whose entries are configurations of a convolutional space.
Sources: the range of latency, 0.356 to 1.526 s, is that of Dynamic-HAT (Parry et al., MLCAD 2021) on the GPU
of a Jetson Nano, not of the simulated board. The five BLEU scores, 25.8 to 28.5, and where the three in the
middle lie in the range are those of HAT on a Titan Xp (README of hardware-aware-transformers: 57.1, 91.2,
126, 146.7 and 208.1 ms), scaled to it. Accuracy is BLEU / 28.5. The share of the clock in the latency is a
guess, that of the convolutional networks.
"""

from __future__ import annotations

from math import nan

from dynofa_ros.messages import DomainFrequency, SubnetEntry

HAT_MS = (57.1, 91.2, 126.0, 146.7, 208.1)
HAT_BLEU = (25.8, 27.6, 27.9, 28.1, 28.5)
RANGE_MS = (356.0, 1526.0)
CLOCK_SHARE = 0.4  # guess


def translation_library(processor: str, reference: tuple[DomainFrequency, ...]) -> tuple[SubnetEntry, ...]:
    """The five entries, ascending in latency and accuracy."""
    low, high = RANGE_MS
    entries = []
    for number, (hat_ms, bleu) in enumerate(zip(HAT_MS, HAT_BLEU, strict=True)):
        latency_ms = low + (high - low) * (hat_ms - HAT_MS[0]) / (HAT_MS[-1] - HAT_MS[0])
        entries.append(
            SubnetEntry(
                id=f"hat_{number}",
                processor=processor,
                accuracy=bleu / HAT_BLEU[-1],
                latency_ms=latency_ms,
                alpha_ms=(1.0 - CLOCK_SHARE) * latency_ms,
                beta_ms=CLOCK_SHARE * latency_ms,
                energy_j=nan,
                reference_frequencies=reference,
            )
        )
    return tuple(entries)
