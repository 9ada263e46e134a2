#!/usr/bin/env python3
"""Record what the public Gemma 3n answers, for test/supernet/test_gemma3n.py.

    pip install transformers
    python tools/record_gemma3n_parity.py

Every sub-network is built on its own, with the feed-forward widths that it has, from slices of the weights of
test/helpers/gemma3n_reference.py. Only answers are kept: log-probabilities of a given output, and the output
that greedy decoding finds with a cache.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test" / "helpers"))
import gemma3n_reference as reference

from dynofa_ros.supernet.families.gemma3n import BEGIN, END, Gemma3nConfig

KINDS = {True: "sliding_attention", False: "full_attention"}


def public(config: Gemma3nConfig, weights: dict[str, np.ndarray]) -> Any:
    """One sub-network as the public code has it."""
    own = reference.TINY
    net = Gemma3nForCausalLM(
        Gemma3nTextConfig(
            vocab_size=reference.WORDS,
            vocab_size_per_layer_input=reference.WORDS - own.unlisted,
            hidden_size=own.width,
            hidden_size_per_layer_input=own.per_layer,
            intermediate_size=list(config.ffn),
            num_hidden_layers=own.layers,
            num_attention_heads=own.heads,
            num_key_value_heads=own.key_heads,
            head_dim=own.head_width,
            sliding_window=own.window,
            layer_types=[KINDS[own.windowed(i)] for i in range(own.layers)],
            altup_num_inputs=own.copies,
            num_kv_shared_layers=own.shared,
            laurel_rank=own.rank,
            activation_sparsity_pattern=[own.sparsity * (i < own.sparse) for i in range(own.layers)],
            eos_token_id=END,
            bos_token_id=BEGIN,
            attn_implementation="eager",
        )
    ).eval()
    shapes = {n: t.shape for n, t in net.model.state_dict().items()}
    if own.ffns[-1] == min(config.ffn):
        assert shapes == {n: a.shape for n, a in weights.items()}
    cut = {n: torch.tensor(weights[n][tuple(map(slice, shape))]) for n, shape in shapes.items()}
    net.model.load_state_dict(cut, strict=True)
    return net


def main() -> None:
    weights = reference.weights()
    forced, found = [], []
    for config in reference.configurations():
        net = public(config, weights)
        tokens = torch.tensor([reference.PROMPT + reference.TARGET])
        with torch.inference_mode():
            answers = net(tokens).logits[0, len(reference.PROMPT) - 1 :].log_softmax(-1)
            written = net.generate(
                torch.tensor([reference.PROMPT]), max_new_tokens=reference.GREEDY, do_sample=False
            )[0, len(reference.PROMPT) :].tolist()
        forced.append(answers.numpy())
        found.append(written + [END] * (reference.GREEDY - len(written)))
    np.savez_compressed(reference.FILE, forced=np.array(forced), found=np.array(found))
    lengths = {row.index(END) if END in row else len(row) for row in found}
    print(f"{len(found)} sub-networks, outputs of {sorted(lengths)} tokens")


if __name__ == "__main__":
    main()
