"""The training script of the demo translator: its loss, its order, and a run that was killed goes on."""

from __future__ import annotations

import itertools
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import train_seq2seq_demo as script

from dynofa_ros.demo.commands import commands
from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.text import load_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_loss_in_slabs_is_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    states, labels = torch.randn(2, 700, 24, generator=generator), torch.randint(50, (700,))
    words = torch.randn(50, 24, generator=generator) * 0.3

    def plain(states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        found = (states @ words.T).log_softmax(-1)
        smooth = torch.full((700, 50), script.SMOOTHING / 50)
        smooth[torch.arange(700), labels] += 1 - script.SMOOTHING
        taught = (smooth + found[0].exp().detach()) / 2
        return torch.stack([-(smooth * found[0]).sum(1).mean(), -(taught * found[1]).sum(1).mean()])

    results = []
    for loss in (plain, lambda s, w: script.DistilledLoss.apply(s, w, labels)):
        s, w = states.clone().requires_grad_(), words.clone().requires_grad_()
        value = loss(s, w)
        value.sum().backward()
        results.append((value.detach(), s.grad, w.grad))
    for expected, found in zip(*results, strict=True):  # products are bfloat16
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    pairs = list(itertools.islice(commands(0), 2000))
    tokenizer = script.load_tokenizer(tmp_path, pairs, 0)
    script_text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    words = tokenizer.get_vocab_size()
    encoded = [pair for pair in script.encoded(tokenizer, pairs[:20], script.INTENT)]
    batch = [script.padded([pair[side] for pair in encoded]) for side in (0, 1)]
    configs = [script.SPACE.largest, script.SPACE.smallest]

    def step(state: object) -> np.ndarray:
        return script.train_step(state, configs, *batch, 1e-3)

    state = script.new_state(0, 1e-3)
    before = [step(state), step(state)]
    state.pool, state.spent_s = 3, 12.5
    state.save(tmp_path, script_text)
    again = script.new_state(1, 1e-3)
    again.load(tmp_path / "checkpoint.pt")
    assert (again.step, again.pairs, again.pool, again.spent_s) == (2, 40, 3, 12.5)
    assert np.array_equal(step(state), after := step(again))
    assert all(torch.equal(state.weights[name], again.weights[name]) for name in state.weights)
    assert after[0] < before[0][0]
    net = load_supernet(script.SPACE.name, tmp_path / "seq2seq_demo.safetensors")
    assert np.allclose(net.weights["encoder.norm.bias"], state.average["encoder.norm.bias"], atol=0.01)
    if words == script.VOCABULARY:
        assert load_tokenizer(net.weights).targets == {"de": script.GERMAN, "intent": script.INTENT}


def test_pools_hold_every_pair_once_an_epoch() -> None:
    drawn = list(script._epochs(1000, 0, 0, 2500))
    assert sorted(drawn[:1000]) == sorted(drawn[1000:2000]) == list(range(1000))
    assert drawn[:1000] != drawn[1000:2000]
    assert list(script._epochs(1000, 0, 700, 900)) == drawn[700:1600]


def test_the_last_phase_learns_own_translations(tmp_path: Path) -> None:
    """Of weights that were never trained; in the folder they are those of a run."""
    pairs = list(itertools.islice(commands(0), 2000))
    tokenizer = script.load_tokenizer(tmp_path, pairs, 0)
    state = script.new_state(0, 1e-3)
    args = Namespace(seed=0, tokens=300, finish=0.03)
    before = {name: value.clone() for name, value in state.average.items()}
    script.finish(args, state, tokenizer, [("go", "geh"), ("stop now", "halt jetzt")] * 20)
    assert state.step > 0
    assert not torch.equal(before["embedding.weight"], state.average["embedding.weight"])
    (tmp_path / "distilled.tsv").write_text("go\tgeh\nstop\thalt\n", encoding="utf-8")
    assert script.distilled(tmp_path, pairs, 5, 0) == [("go", "geh"), ("stop", "halt")]  # made once
