"""The committed libraries of the Jetson Xavier NX, how they were made, and `dynofa library show` on them."""

from __future__ import annotations

import json
from itertools import pairwise

import build_xavier_libraries as build
import numpy as np
import pytest
import xavier_predictions as predictions
from command import dynofa

from dynofa_ros.errors import CliError
from dynofa_ros.library.accuracy import load_predictor
from dynofa_ros.library.genomes import Batch, Genomes
from dynofa_ros.library.latency_table import summed_latency
from dynofa_ros.library.library import Library, load_library
from dynofa_ros.paths import share_file

PATHS = {
    p: share_file("config", "libraries", "xavier_nx", f"{p}_ofa_mbv3_w1.2.yaml")
    for p in ("gpu", "cpu", "npu")
}
LIBRARIES = {p: load_library(path) for p, path in PATHS.items()}
PREDICTOR = load_predictor("ofa_mbv3_w1.2")
ACCURACY, ACCURACY_LINE = predictions.calibrated_accuracy()
PUBLISHED = [  # of the source: top-1, ms on the GPU
    (0.74202, 41.16), (0.74968, 45.42), (0.76134, 49.44),
    (0.77540, 51.08), (0.78346, 56.75), (0.79030, 61.73),
]  # fmt: skip


def promised(library: Library) -> np.ndarray:
    """Calibrated accuracy of every entry, from its configuration."""
    return ACCURACY_LINE(PREDICTOR.predict([library.config(e) for e in library]))


def notes(library: Library) -> str:
    return " ".join(library.notes)


@pytest.mark.parametrize("processor", PATHS)
def test_every_library(processor):
    library = LIBRARIES[processor]
    assert (library.space, library.board, library.processor) == ("ofa_mbv3_w1.2", "xavier_nx", processor)
    assert len(library.entries) >= 30
    assert library.weights_sha256 is None and "weights_sha256 is null" in notes(library)
    for e in library:
        plan = predictions.SPACE.plan(library.config(e))
        assert (e.macs, e.params) == (plan.macs, plan.params)
        assert e.config["resolution"] >= 160  # where the predictor holds
        assert e.energy_j is None


def test_reference_clocks_are_the_top_ones_of_the_board():
    clocks = {p: library.reference_frequencies_hz for p, library in LIBRARIES.items()}
    assert clocks["gpu"] == {"gpu": 1_109_250_000}
    assert clocks["cpu"] == dict.fromkeys(("cpu0", "cpu2", "cpu4"), 1_907_200_000)
    assert clocks["npu"] == {"npu": 1_100_800_000}


def test_gpu_keeps_the_six_published_sub_networks_as_published():
    library = LIBRARIES["gpu"]
    published = [e for e in library if e.latency_source == "published"]
    assert [(e.accuracy, e.latency_ms.median) for e in published] == PUBLISHED
    assert all(e.accuracy_source == "published" for e in published)
    assert [round(e.macs / 1e6) for e in published] == [235, 254, 289, 376, 522, 731]
    assert library.entries[0] is published[0] and library.entries[-1] is published[-1]
    others = [e for e in library if e not in published]
    assert {e.accuracy_source for e in others} == {e.latency_source for e in others} == {"predicted"}


def test_gpu_predictions_are_what_their_notes_say():
    library = LIBRARIES["gpu"]
    table = predictions.table("gpu")
    subnets = predictions.published_subnets()
    configs = [predictions.SPACE.from_mapping(s.config) for s in subnets]
    ms = np.array([s.xavier_nx_gpu_ms for s in subnets])
    line = predictions.fit_line(np.array([table.latency_ms(c) for c in configs]), ms, 1 / ms)
    for e, accuracy in zip(library, promised(library), strict=True):
        if e.accuracy_source == "predicted":
            assert e.accuracy == pytest.approx(accuracy, abs=1e-4)
            assert e.latency_ms.median == pytest.approx(line(table.latency_ms(library.config(e))), abs=0.01)
    assert line.text("%", 100 / ms, 1) in notes(library)
    assert ACCURACY_LINE.text("points", 100, 2) in notes(library)


def test_gpu_predictions_lie_between_their_published_neighbours():
    library = LIBRARIES["gpu"]
    at = [i for i, e in enumerate(library) if e.accuracy_source == "published"]
    for first, last in pairwise(at):
        low, high = library.entries[first], library.entries[last]
        for e in library.entries[first + 1 : last]:
            low_px, px, high_px = (entry.config["resolution"] for entry in (low, e, high))
            assert low_px <= px <= high_px
            assert low.macs < e.macs < high.macs


def test_cpu_is_predicted_and_as_long_as_the_figure():
    library, figure = LIBRARIES["cpu"], predictions.figure4_cpu()
    assert {e.accuracy_source for e in library} == {e.latency_source for e in library} == {"predicted"}
    assert figure[0, 0] <= library.entries[0].latency_ms.median < 1.2 * figure[0, 0]
    assert 0.7 * figure[-1, 0] < library.entries[-1].latency_ms.median <= figure[-1, 0]
    assert figure[0, 1] >= library.entries[0].accuracy and 0.785 <= library.entries[-1].accuracy <= 0.7903
    for e, accuracy in zip(library, promised(library), strict=True):
        assert e.accuracy == pytest.approx(accuracy, abs=1e-4)
    sums = np.array([predictions.table("cpu").latency_ms(library.config(e)) for e in library])
    factors = np.array([e.latency_ms.median for e in library]) / sums
    assert np.ptp(factors) < 1e-4
    assert f"latency = {factors.mean():.4f}" in notes(library)
    assert "theirs are not public: residual" in notes(library)


def test_npu_is_the_gpu_library_with_a_guessed_factor():
    gpu, npu = LIBRARIES["gpu"], LIBRARIES["npu"]
    assert "guess" in notes(npu)
    for e, original in zip(npu, gpu, strict=True):
        assert e.config == original.config and e.id == original.id
        assert {e.accuracy_source, e.latency_source} == {"predicted"}
        assert e.latency_ms.median == pytest.approx(1.75 * original.latency_ms.median, abs=0.006)


# --- how they were made ---------------------------------------------------------------------------


def test_operations_add_up_block_by_block():
    costs = predictions.operations((176, 224))
    rng = np.random.default_rng(0)
    configs = [
        predictions.SPACE.config(
            **{**predictions.SPACE.random(rng).to_dict(), "widths": None, "resolution": r}
        )
        for r in (176, 224) * 5
    ]
    expected = [predictions.SPACE.plan(c).macs / 1e6 for c in configs]
    genomes = Genomes(predictions.SPACE, (176, 224))
    summed = summed_latency(costs)(Batch(genomes, genomes.encode(configs)))
    assert summed.tolist() == pytest.approx(expected)


def test_a_line_and_its_residuals():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    exact = predictions.fit_line(x, 3 * x - 1, np.ones(4))
    assert (exact.slope, exact.offset) == pytest.approx((3, -1))
    assert exact.left_out == pytest.approx(np.zeros(4), abs=1e-9)
    bent = predictions.fit_line(x, np.array([1.0, 2.0, 3.0, 5.0]), np.ones(4))
    assert bent.left_out[-1] == pytest.approx(1.0)
    assert "at most" in bent.text("ms", 1.0, 1)
    through_origin = predictions.fit_line(x, 2 * x, np.ones(4), offset=False)
    assert (through_origin.slope, through_origin.offset) == pytest.approx((2, 0))


def test_the_search_between_two_networks_is_deterministic():
    configs = [predictions.SPACE.from_mapping(s.config) for s in predictions.published_subnets()[:2]]
    genomes = Genomes(predictions.SPACE, [176])
    parents = np.stack([genomes.encode([c])[0] for c in configs])
    assert Batch(genomes, parents).configs == configs

    def distance(batch):
        return np.abs(ACCURACY(batch) - 0.745)

    first, second = (build.evolve(genomes, parents, distance, np.random.default_rng(5)) for _ in range(2))
    assert (first == second).all()
    assert distance(Batch(genomes, first[None]))[0] < 1e-3


# --- the command ----------------------------------------------------------------------------------


def test_show(tmp_path, capsys):
    picture, figures = tmp_path / "plots" / "gpu.png", tmp_path / "gpu.json"
    assert dynofa("library", "show", str(PATHS["gpu"]), "--plot", str(picture), "--json", str(figures)) == 0
    printed = capsys.readouterr().out
    assert "gpu 1109.25 MHz" in printed and "not bound to particular weights" in printed
    (row,) = (line for line in printed.splitlines() if line.startswith("published_6_0"))
    for text in ("176", "3,2,3,2,2", "0.7420", "published", "41.16", "235", "5.3"):
        assert text in row
    assert picture.read_bytes().startswith(b"\x89PNG")
    written = json.loads(figures.read_text())
    assert written["entries"][0]["accuracy"] == 0.74202 and written["weights_sha256"] is None


def test_show_refuses_in_one_line(tmp_path):
    with pytest.raises(CliError, match="cannot be read"):
        dynofa("library", "show", str(tmp_path / "nothing.yaml"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CliError, match="cannot write"):
        dynofa("library", "show", str(PATHS["gpu"]), "--plot", str(blocked / "gpu.png"))
