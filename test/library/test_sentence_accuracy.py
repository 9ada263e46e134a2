"""Libraries of a translating network: accuracy on sentences, time by their size."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import dynofa
from safetensors.numpy import save_file

from dynofa_ros.demo.commands import commands
from dynofa_ros.errors import CliError
from dynofa_ros.library import build as builder
from dynofa_ros.library.library import LibraryError, load_library
from dynofa_ros.library.profiling import Job, Runs, fixed_shares
from dynofa_ros.library.sentences import METRICS, MeasuredSentences, read_pairs
from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.registry import load_space

WORDS = 40
SPACE = load_space("seq2seq_demo")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with a tokenizer of single letters."""
    rng, letters = np.random.default_rng(0), "▁abcdefghijklmnopqrstuvwxyz.,?!='_;"
    vocabulary = {"<pad>": 0, "<end>": 1, "<unknown>": 2, "<de>": 3, "<intent>": 4}
    vocabulary |= {letter: 5 + i for i, letter in enumerate(letters)}
    keys = ("single_word", "lstrip", "rstrip", "normalized")
    special = [
        {"id": i, "content": c, "special": True, **dict.fromkeys(keys, False)}
        for c, i in list(vocabulary.items())[:5]
    ]
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "BPE", "unk_token": "<unknown>", "fuse_unk": True, "vocab": vocabulary, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": special, "pre_tokenizer": spaces, "decoder": spaces}
    arrays = {
        name: (rng.normal(0, 0.1, shape) + name.endswith("norm.weight")).astype(np.float16)
        for name, shape in SPACE.parameter_shapes(len(vocabulary)).items()
    }
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(arrays, file, {"tokenizer": json.dumps(tokenizer | {"model": model})})
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.tsv"
    short = (pair for pair in commands(0) if len(pair[0]) < 30)
    file.write_text("".join(f"{a}\t{b}\n" for a, b in itertools.islice(short, 3)))
    return file


def build(weights: Path, pairs: Path, out: Path, *more: object) -> int:
    options = ("--space", SPACE.name, "--weights", weights, "--pairs", pairs, "--out", out)
    quick = ("--rounds", 5, "--pause-ms", 0, "--evaluations", 5, "--points", 3)
    return dynofa("library", "build", *options, *quick, *more)


@pytest.mark.slow
def test_build_and_profile_measure_sentences(
    weights: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 6)
    out, again = tmp_path / "library.yaml", tmp_path / "profiled.yaml"
    assert build(weights, pairs, out, "--target", "intent", "--metric", "bleu") == 0
    library = load_library(out, load_supernet(SPACE.name, weights).weights)
    assert library.entries and all(e.reference_size == 10 for e in library)
    assert all(e.fixed_share is not None and 0 <= e.fixed_share <= 1 for e in library)
    assert any("BLEU / 100" in note and "target intent" in note for note in library.notes)
    measured = MeasuredSentences(
        load_supernet(SPACE.name, weights), read_pairs(pairs, 300, 0), "intent", "bleu"
    )
    for e in library:
        assert e.accuracy == pytest.approx(measured.score(library.config(e)), abs=1e-5)
    quick = ("--rounds", 5, "--pause-ms", 0)
    assert dynofa("library", "profile", out, "--weights", weights, "--out", again, *quick) == 0
    assert {e.reference_size for e in load_library(again)} == {10}


def test_the_part_that_does_not_grow_is_what_was_made_so(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 ms and 0.7 ms a token, by a clock of the test."""
    now = [0]

    def exercise(run: object, config: object, size: int | None = None) -> None:
        now[0] += 3_000_000 + 700_000 * (size or 10)

    supernet = load_supernet(SPACE.name, weights)
    monkeypatch.setattr(supernet.space, "exercise", exercise)
    jobs = {"a": Job(SPACE.smallest), "b": Job(SPACE.config(beam=1))}
    shares = fixed_shares(supernet, jobs, replace(Runs(), rounds=5), 0, clock=lambda: now[0])
    assert shares == {"a": pytest.approx(0.3), "b": pytest.approx(0.3)}


def test_metrics() -> None:
    outputs, references = ["Das ist ein Haus.", "Ich bin hier."], ["Das ist ein Haus.", "Er war dort."]
    assert METRICS["exact"](outputs, references) == 0.5
    assert METRICS["bleu"](references, references) == pytest.approx(1.0)
    assert 0.3 < METRICS["bleu"](outputs, references) < 0.7


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Hello\tHallo\nHello\n", ":2: expected a sentence, a tab and its reference"),
        ("Hello\tHallo\nHello\tHallo\tHi\n", ":2: expected"),
        ("Hello\tHallo\n", "has 1 pairs: at least 2"),
        ("", "has 0 pairs"),
    ],
)
def test_a_file_that_holds_no_pairs_is_named(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "p.tsv"
    file.write_text(text)
    with pytest.raises(LibraryError, match=named) as error:
        read_pairs(file, 10, 0)
    assert str(error.value).startswith(str(file))


def test_what_the_weights_do_not_have_is_named(weights: Path, pairs: Path) -> None:
    out = pairs.with_name("out.yaml")
    for more, named in (
        (("--target", "fr"), "target 'fr' is unknown to these weights: they have de, intent"),
        ((), "--pairs needs --target"),
        (("--target", "de", "--images", pairs.parent), "do not go together"),
    ):
        with pytest.raises(CliError, match=named):
            build(weights, pairs, out, *more)
    assert not out.exists()
