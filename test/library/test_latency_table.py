"""Latency tables: sums as published, the vectorised form, official folders, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.bench.published_networks import published
from dynofa_ros.library.genomes import Batch, Genomes
from dynofa_ros.library.latency_table import load_latency_table, official_rows, summed_latency
from dynofa_ros.library.library import LibraryError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space

SPACE = load_space("ofa_mbv3_w1.2")
PATHS = {p: share_file("config", "latency_tables", f"xavier_nx_{p}.yaml") for p in ("cpu", "gpu")}
TABLES = {p: load_latency_table(path) for p, path in PATHS.items()}
ORIGINALS = Path(__file__).resolve().parents[3] / "shared" / "data" / "xavier_nx_latency"
SUMS = {  # the sums of the original tables for the published sub-networks (ms): GPU, CPU
    "6/0": (18.2, 1208), "6/1": (19.9, 1295), "6/2": (23.7, 1581), "6/3": (24.8, 1767), "6/4": (27.3, 2129),
    "6/5": (30.2, 2902), "7/1": (21.5, 1517), "7/2": (24.7, 1785), "7/4": (26.6, 2050), "7/5": (29.7, 2551),
}  # fmt: skip


def subnet(name: str):
    (found,) = (s for s in published().dynamic_ofa if s.name == name)
    return SPACE.from_mapping(found.config)


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_the_published_sub_networks(name):
    gpu, cpu = SUMS[name]
    assert TABLES["gpu"].latency_ms(subnet(name)) == pytest.approx(gpu, abs=0.06)
    assert TABLES["cpu"].latency_ms(subnet(name)) == pytest.approx(cpu, abs=0.6)


@given(st.integers(0, 10**6), st.sampled_from(("cpu", "gpu")))
def test_batches_equal_single_sums(seed, processor):
    table = TABLES[processor]
    rng = np.random.default_rng(seed)
    configs = [SPACE.random(rng) for _ in range(8)]
    configs = [c for c in configs if c.resolution in table.input_sizes]
    genomes = Genomes(SPACE, table.input_sizes)
    batch = summed_latency(table.block_costs())(Batch(genomes, genomes.encode(configs)))
    assert batch.tolist() == pytest.approx([table.latency_ms(c) for c in configs])


def official_folder(folder: Path, resolutions: tuple[int, ...]) -> Path:
    """Tables in which every layer takes 1 ms, so that a sum counts the layers."""
    for resolution in resolutions:
        fixed, positions = SPACE.latency_table.keys(resolution)
        names = [*fixed, *(key for keys in positions for key in keys)]
        table = {key: {"count": 10, "mean": 1.0, "std": 0.1} for key in names}
        (folder / f"{resolution}_lookup_table.json").write_text(json.dumps(table))
    return folder


def test_a_folder_of_official_tables(tmp_path):
    table = load_latency_table(official_folder(tmp_path, (160, 224)))
    assert table.input_sizes == (160, 224)
    assert table.latency_ms(SPACE.config(depths=[2, 3, 4, 2, 3], resolution=160)) == 6 + 14


def test_a_table_tells_where_it_was_measured(tmp_path):
    assert [(t.board, t.processor) for t in TABLES.values()] == [("xavier_nx", "cpu"), ("xavier_nx", "gpu")]
    official = load_latency_table(official_folder(tmp_path, (224,)))
    assert official.board is official.processor is None


def test_key_names_by_hand():
    fixed, positions = SPACE.latency_table.keys(208)
    assert fixed[0] == "Conv-input:208x208x3-output:104x104x24"
    assert fixed[2] == "Conv_1-input:7x7x192-output:7x7x1152"
    assert positions[3][5] == (
        "expanded_conv-input:26x26x48-output:26x26x48-expand:288-kernel:5-stride:1-idskip:1-se:1-hs:0"
    )
    assert len(fixed) == 6 and [len(p) for p in positions] == [9] * 10


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the original tables are not here")
@pytest.mark.parametrize(("processor", "folder"), [("cpu", "jetson"), ("gpu", "jetson_GPU")])
def test_the_carried_tables_are_the_original_ones(processor, folder):
    rows, _ = official_rows(ORIGINALS / folder)
    own = TABLES[processor]
    assert own.input_sizes == tuple(r.px for r in rows) == tuple(range(160, 225, 4))
    np.testing.assert_allclose(own.fixed_ms, [r.fixed_ms for r in rows], rtol=1e-5)
    flat = own.position_ms.reshape(len(rows), 10, 9)
    np.testing.assert_allclose(flat, [r.block_ms for r in rows], rtol=1e-5)


def test_other_spaces_and_resolutions_are_refused():
    with pytest.raises(LibraryError, match=r"for ofa_mbv3_w1\.2, not for ofa_resnet50"):
        TABLES["gpu"].check_space("ofa_resnet50")
    TABLES["gpu"].check_space("ofa_mbv3_w1.2")
    with pytest.raises(ValueError, match="resolution 128 is not in this latency table.*160, 164"):
        TABLES["gpu"].latency_ms(SPACE.config(resolution=128))


def test_the_gpu_table_says_what_was_not_measured_on_the_board():
    assert any("not Jetson measurements" in note for note in TABLES["gpu"].notes)


def refusal(path: Path) -> str:
    with pytest.raises(LibraryError) as error:
        load_latency_table(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_bad_official_tables(tmp_path):
    folder = official_folder(tmp_path, (224,))
    path = folder / "224_lookup_table.json"
    whole = json.loads(path.read_text())
    key = "Logits-input:1x1x1536-output:1000"
    for broken in (
        {k: v for k, v in whole.items() if k != key},
        whole | {key: 3},
        whole | {key: {"mean": "x"}},
    ):
        path.write_text(json.dumps(broken))
        assert f"{path}: the mean of {key!r} is missing" in refusal(folder)
    path.write_text(json.dumps(whole | {key: {"mean": -1.0}}))
    assert "positive and finite" in refusal(folder)
    path.write_text("{")
    assert "not a JSON file" in refusal(folder)
    path.unlink()
    assert "no file in it is named like 224_lookup_table.json" in refusal(folder)
    assert "cannot be read" in refusal(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("space: ofa_mbv3_w1.2", "space: ofa_resnet50", "space must be ofa_mbv3_w1.2"),
        ("processor: gpu", "processors: gpu", "processors"),
        ("- resolution: 164\n  fixed_ms: [", "- resolution: 164\n  fixed_ms: [1.0, ", "resolution 164"),
        ("fixed_ms: [0.525427,", "fixed_ms: [.nan,", "resolution 164: nan ms is not allowed"),
        ("rows:", "rows: [", "line"),
        ("processor: gpu", "processor: tpu", "processor"),
        (
            "resolution: 164",
            "resolution: 160",
            "ascend in resolution, each once: 160 comes after 160",
        ),
        (
            "resolution: 164",
            "resolution: 300",
            "ascend in resolution, each once: 168 comes after 300",
        ),
    ],
)
def test_bad_compact_tables(tmp_path, old, new, words):
    text = PATHS["gpu"].read_text()
    assert old in text
    path = tmp_path / "table.yaml"
    path.write_text(text.replace(old, new))
    assert words in refusal(path)
