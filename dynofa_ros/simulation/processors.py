"""Jobs that share a processor: how far each has come, and which is ready next.

The time of an inference alone is slowdown * noise * (alpha + beta * f_reference / f). While n jobs run on one
processor, each runs at 1 / (1 + contention * (n - 1)) of its speed. Jobs whose threads take only a share of
the cores wait where all together ask for more cores than there are: n is then the sum of the shares, but not
less than 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from dynofa_ros.device.board import Board, processor_domains
from dynofa_ros.latency import latency, reference_hz
from dynofa_ros.messages import SubnetEntry

# Guess: published figures have 570 ms at 1.42 GHz and 840 ms at 1.19 GHz with fewer cores (4 of 6, it seems).
CORES_EXPONENT = 0.5


@dataclass(slots=True)
class Job:
    """One inference under way; alpha and beta with its bias and noise. ``left`` goes from 1 to 0."""

    app: str
    entry: SubnetEntry
    alpha_s: float
    beta_s: float
    reference_hz: float
    started_s: float
    share: float = 1.0  # of the cores
    left: float = 1.0
    ready_s: float = inf


class SharedProcessor:
    """One processor with the jobs that run on it."""

    def __init__(self, board: Board, name: str, contention: float) -> None:
        self.name = name
        self.domains = processor_domains(board, name)
        self.jobs: list[Job] = []
        self.slowdown = 1.0  # by load from outside
        self.ready_s = inf  # when the next job is ready
        self._contention = contention
        self._cores = {d: board.domains[d].cores for d in self.domains}
        self._total = sum(self._cores.values())
        self._hz = 1.0
        self._capacity = 1.0
        self._now_s = 0.0
        self._top_hz = float(min(board.domains[d].frequencies_hz[-1] for d in self.domains))

    def set_clocks(self, clocks_hz: Mapping[str, float]) -> None:
        """New clocks in effect; 0 = that domain is off. Call ``retime`` before with the present time."""
        on = [(clocks_hz[d], self._cores[d]) for d in self.domains if clocks_hz[d] > 0.0]
        self._hz = min((hz for hz, _ in on), default=0.0)
        self._capacity = (sum(cores for _, cores in on) / self._total) ** CORES_EXPONENT if on else 0.0

    def start(self, app: str, entry: SubnetEntry, factor: float, now_s: float) -> None:
        """An inference begins; ``factor`` = bias * noise on what the library says."""
        self.progress(now_s)
        scale = 1e-3 * factor
        reference = reference_hz(entry.reference_frequencies, self._cores, self._top_hz)
        alpha_s, beta_s = scale * entry.alpha_ms, scale * entry.beta_ms
        self.jobs.append(Job(app, entry, alpha_s, beta_s, reference, now_s, self.share(entry)))
        self.retime()

    def finish(self, job: Job, now_s: float) -> None:
        """A job is ready, or was given up."""
        self.progress(now_s)
        self.jobs.remove(job)
        self.retime()

    def progress(self, now_s: float) -> None:
        """Bring the jobs up to now at the speed that held so far."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        if passed_s > 0.0:
            for job in self.jobs:
                job.left = max(0.0, job.left - passed_s / self._duration_s(job))

    def retime(self) -> None:
        """When jobs are ready at the speed that holds from now on."""
        self.ready_s = inf
        for job in self.jobs:
            job.ready_s = self._now_s + job.left * self._duration_s(job)
            self.ready_s = min(self.ready_s, job.ready_s)

    def share(self, entry: SubnetEntry) -> float:
        """Share of the cores that the threads of an entry take: all, where it names none."""
        return min(1.0, entry.threads / self._total) if entry.threads else 1.0

    @property
    def asked(self) -> float:
        """Cores that the jobs ask for over those that there are."""
        return sum(job.share for job in self.jobs)

    def _duration_s(self, job: Job) -> float:
        speed = self._hz * self._capacity
        if not speed:
            return inf
        sharing = 1.0 + self._contention * max(0.0, self.asked - 1.0)
        return float(latency(job.alpha_s, job.beta_s, job.reference_hz / speed, self.slowdown * sharing))
