"""A family and an engine of their own: one class each, known to everything above without a further change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from dynofa_ros.library.genomes import Batch
from dynofa_ros.library.library import Entry, Latency, Library, LibraryError, load_library, save_library
from dynofa_ros.library.search import search
from dynofa_ros.supernet import load_supernet, registry
from dynofa_ros.supernet.layers import Classifier, Conv, GlobalPool, Layer
from dynofa_ros.supernet.space import Config, SearchSpace


class TokenConfig(Config, frozen=True, forbid_unknown_fields=True):
    """Entries that no other family has."""

    side: int
    embed: tuple[int, ...]
    depth: tuple[int, ...]


class TokenSpace(SearchSpace):
    """Patches of 8 px, embedded by one convolution and mixed by up to three of 1x1."""

    name, input_sizes, bn_epsilon = "tokens", range(16, 49, 16), 1e-5
    config_type, size_entry, per_block, shown = TokenConfig, "side", (), ("embed", "depth")
    independent_blocks, head = False, "head.weight"
    choices = {"embed": ((8, 16),), "depth": ((1, 2, 3),)}

    def active(self, genes: np.ndarray) -> np.ndarray:
        return np.arange(3) <= genes[:, self.columns["depth"]]

    def layers(self, config: Any, classes: int) -> Sequence[Layer]:
        (width,), (depth,) = config.embed, config.depth
        mixers = [Conv(f"mix.{n}", width, width, activation="relu") for n in range(depth)]
        return [Conv("patch", 3, width, 7, 8), *mixers, GlobalPool(), Classifier("head", width, classes)]


@pytest.fixture(autouse=True)
def tokens(monkeypatch):
    """The family, for the time of a test."""
    known = registry.families()
    monkeypatch.setattr(registry, "families", lambda: (*known, registry.Family({"tokens": TokenSpace})))
    registry.load_space.cache_clear()
    yield
    registry.load_space.cache_clear()


def library(config: dict[str, Any]) -> Library:
    latency = Latency(1.0, 1.1)
    entry = Entry("a", config, 0.5, "measured", latency, "measured", 0.1, 0.9, macs=1, params=1)
    return Library(1, "tokens", None, "bench", "cpu", {}, (), (entry,))


def test_a_library_file_holds_the_configurations_of_a_new_family(tmp_path):
    space, path = registry.load_space("tokens"), tmp_path / "l.yaml"
    config = space.config(embed=8, depth=2, side=32)
    save_library(path, library(config.to_dict()))
    text = path.read_bytes()
    read = load_library(path)
    assert read.config(read.entries[0]) == config
    assert space.describe(config) == {"px": "32", "embed": "8", "depth": "2"} and space.label(config) == "r32"
    save_library(path, read)
    assert path.read_bytes() == text, "what is read is written again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed": [12]}, "embed[0] = 12 is not allowed: it must be one of 8, 16"),
        ({"embed": "wide"}, "`$.entries[0].config.embed`"),
        ({"kernel_sizes": [3]}, "unknown field `kernel_sizes` - at `$.entries[0].config`"),
    ],
)
def test_its_wrong_configurations_are_refused_with_the_place(tmp_path, change, words):
    whole = registry.load_space("tokens").largest.to_dict()
    path = tmp_path / "l.yaml"
    path.write_bytes(msgspec.yaml.encode(library(whole | change)))
    with pytest.raises(LibraryError) as error:
        load_library(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_it_is_searched_and_runs_in_every_engine():
    torch = pytest.importorskip("torch")
    supernet = load_supernet("tokens")
    space = supernet.space

    def size(batch: Batch) -> np.ndarray:
        return 1.0 + batch.rows.sum(axis=1)

    found = search(space, size, size, evaluations=100, seed=0)
    assert found[0].config == space.smallest and found[-1].config == space.largest
    images = np.random.default_rng(0).standard_normal((2, 3, 48, 48)).astype(np.float32)
    by_torch, by_onnx = (supernet.activate(space.largest, e)(images) for e in ("torch", "onnxruntime"))
    assert by_torch.shape == (2, 1000)
    torch.testing.assert_close(by_torch, by_onnx, rtol=1e-3, atol=1e-5)


def test_an_unknown_space_names_the_new_family_too():
    with pytest.raises(ValueError, match="known are .*ofa_resnet50.*tokens"):
        registry.load_space("words")


def test_engines_are_the_files_of_their_room():
    assert set(registry.engine_names()) >= {"onnxruntime", "openvino", "torch"}
    assert not set(registry.SHARED) & set(registry.engine_names())
