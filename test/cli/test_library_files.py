"""Sub-networks that come from other programs, and go to them: `library import`, `library export`, labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from factories import random_weights
from safetensors.numpy import save_file

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS
from dynofa_ros.cli.main import main
from dynofa_ros.library.files import open_library
from dynofa_ros.library.library import load_library
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.weights import load_weights

TABLE = share_file("config", "latency_tables", "xavier_nx_gpu.yaml")
SPACE = load_space("ofa_mbv3_w1.2")
WEIGHTS, LIBRARY = share_file(*DEMO_WEIGHTS), share_file(*DEMO_LIBRARY)


def dynofa(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return int(error.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert dynofa(*arguments) in (1, 2)
    return capsys.readouterr().err


def searched(rng: np.random.Generator, size: int) -> dict[str, object]:
    """What the official evolution finds."""
    config = SPACE.random(rng)
    lists = {"ks": config.kernel_sizes, "e": config.expand_ratios, "d": config.depths}
    return {"wid": None, **{name: list(values) for name, values in lists.items()}, "r": [size]}


def test_what_a_search_found_becomes_a_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    found = [searched(rng, size) for size in (160, 176, 208)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    out = ("--space", SPACE.name, "--latency-table", TABLE, "--out", tmp_path / "l.yaml")
    assert dynofa("library", "import", tmp_path / "found.json", *out) == 0
    library = load_library(tmp_path / "l.yaml")
    given = [SPACE.imported(one) for one in found]
    assert {library.config(e) for e in library} <= set(given) and library.entries
    assert all(note.split(":")[0] != "search" for note in library.notes)
    (tmp_path / "no.json").write_text(json.dumps({"ks": 9, "r": 176}))
    assert "no.json: kernel_sizes = 9 is not allowed" in refused(
        capsys, "library", "import", tmp_path / "no.json", *out
    )
    (tmp_path / "no.json").write_text(json.dumps({"ks": 3}))
    assert "no.json: it does not say the size of its input: give --resolution PX" in refused(
        capsys, "library", "import", tmp_path / "no.json", *out
    )
    (tmp_path / "no.json").write_text("[3]")
    assert "expected a JSON object" in refused(capsys, "library", "import", tmp_path / "no.json", *out)
    (tmp_path / "no.json").write_text("[" * 100_000)
    assert "no.json: maximum recursion" in refused(capsys, "library", "import", tmp_path / "no.json", *out)


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3"])
def test_a_net_config_is_the_subnet_that_was_extracted(name: str):
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks", reason="needs ofa")
    space, rng = load_space(name), np.random.default_rng(1)
    kind, arguments = space.official_network
    net = getattr(networks, kind)(**arguments)
    for _ in range(3):
        config = space.resized(space.random(rng), resolution=160)
        net.set_active_subnet(**space.official_entries(config))
        described = json.loads(json.dumps(net.get_active_subnet(preserve_weight=False).config))
        imported = space.imported({**described, "resolution": 160})
        rows = space.canonical(space.encode([config, imported]))
        assert (rows[0] == rows[1]).all() and imported.resolution == 160
    with pytest.raises(ValueError, match="has a block of another kind|of another space"):
        load_space(DEMO_SPACE).imported(described)


def test_an_exported_subnet_answers_as_it_does_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import onnxruntime

    subnet = load_library(LIBRARY).entries[1]
    out = tmp_path / "s.onnx"
    assert dynofa("library", "export", LIBRARY, subnet.id, "--weights", WEIGHTS, "--onnx", out) == 0
    opened = open_library(LIBRARY, WEIGHTS)
    config = opened.library.config(subnet)
    run = opened.supernet.prepare(
        config, statistics=opened.statistics.get(subnet.id), threads=1, processor="cpu"
    )
    image = np.random.default_rng(0).random((1, 3, config.resolution, config.resolution), np.float32)
    session = onnxruntime.InferenceSession(str(out))
    assert session.get_inputs()[0].shape == [1, 3, config.resolution, config.resolution]
    np.testing.assert_allclose(session.run(None, {"images": image})[0], run(image), atol=1e-5)
    assert "names" in session.get_modelmeta().custom_metadata_map
    assert "'x' is not in" in refused(
        capsys, "library", "export", LIBRARY, "x", "--weights", WEIGHTS, "--onnx", out
    )


def test_weights_get_names_of_their_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    space = load_space(DEMO_SPACE)
    plain, named = tmp_path / "plain.safetensors", tmp_path / "named.safetensors"
    save_file(random_weights(space, classes=3), plain)
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\nGröße\n\nc\n", encoding="utf-8")
    label = ("weights", "label", plain, "--space", space.name, "--labels", tmp_path / "names.txt")
    assert dynofa(*label, "--out", named) == 0
    assert load_weights(space, named).labels == ("tench, Tinca tinca", "Größe", "c")
    assert load_weights(space, named).digest == load_weights(space, plain).digest
    (tmp_path / "names.txt").write_text("a\nb")
    assert "names.txt has 2 names, " in refused(capsys, *label, "--out", named)
    (tmp_path / "names.txt").write_text("a\na\nb")
    assert "names.txt: 'a' is there twice" in refused(capsys, *label, "--out", named)
