"""AutoFormer: equal to the official code in recorded answers, and usable as every other supernet."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import autoformer_reference as reference
import cv2
import numpy as np
import pytest
from command import dynofa

from dynofa_ros.library import build as builder
from dynofa_ros.library.library import load_library
from dynofa_ros.supernet import load_supernet, transformer_layers
from dynofa_ros.supernet.engines.onnx_graph import build_model
from dynofa_ros.supernet.families.autoformer import SIZES
from dynofa_ros.supernet.registry import engine_names, load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.transformer_layers import PatchMean, RelativeAttention
from dynofa_ros.supernet.weights import WeightsError, load_weights

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

BOUND = 1e-4  # of what another image changes
PER_ENGINE = 14  # every how manieth sub-network runs in every engine
TINY = "autoformer_tiny"


@pytest.fixture(scope="module", params=SIZES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    return load_supernet(request.param, reference.weights(load_space(request.param)))


@pytest.fixture(scope="module")
def tiny() -> Supernet:
    return load_supernet(TINY, reference.weights(load_space(TINY)))


def recorded(supernet: Supernet) -> list[dict[str, Any]]:
    rows = json.loads((reference.FOLDER / f"{supernet.space.name}.json").read_text())
    for row in rows:
        row["config"] = supernet.space.from_mapping(row["config"])
    return rows


def error_share(logits: Any, row: dict[str, Any]) -> float:
    """Largest error of the first image's logits, as a share of what the second one changes in them."""
    own, other = np.array(row["logits"])
    return float(np.abs(np.asarray(logits)[0] - own).max() / np.abs(other - own).max())


# --- parity ---------------------------------------------------------------------------------------------


def masked_logits(supernet: Supernet, config: Any, weights: Any) -> Any:
    """Of the first image, by the forward that slices the shared weights."""
    masked = pytest.importorskip("dynofa_ros.supernet.masked")
    normalise = masked.batch_statistics(weights, supernet.space.bn_epsilon, None)
    image = torch.from_numpy(reference.images()[:1])
    return masked.masked_forward(supernet.plan(config), weights, image, normalise)


@pytest.mark.slow
def test_masked_sub_networks_answer_as_the_official_ones(supernet: Supernet) -> None:
    rows, weights = recorded(supernet), {k: torch.from_numpy(a) for k, a in supernet.weights.items()}
    with torch.inference_mode():
        shares = [error_share(masked_logits(supernet, row["config"], weights), row) for row in rows]
    print(f"{supernet.space.name}: worst error {max(shares):.1e} of the difference of two images")
    assert len({row["config"] for row in rows}) >= 40 and max(shares) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("engine", engine_names())
def test_engines_answer_as_the_official_code(supernet: Supernet, engine: str) -> None:
    """For some of the sub-networks: an engine may take seconds to compile one."""
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    image, rows = reference.images()[:1], recorded(supernet)[1::PER_ENGINE]
    shares = [
        error_share(supernet.prepare(row["config"], engine, threads=1, processor="cpu")(image), row)
        for row in rows
    ]
    print(f"{supernet.space.name} {engine}: worst error {max(shares):.1e} of {len(rows)} sub-networks")
    assert shares and max(shares) <= BOUND


@pytest.mark.parametrize("engine", engine_names())
def test_the_published_tiny_sub_network_answers_as_the_official_one(tiny: Supernet, engine: str) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    row = recorded(tiny)[2]
    assert row["config"] == tiny.space.config(**reference.SEARCHED[TINY])
    run = tiny.prepare(row["config"], engine, threads=1, processor="cpu")
    batch = run(reference.images())
    assert error_share(batch, row) <= BOUND and error_share(batch[::-1], row) > 0.9, "and image by image"


def test_the_masked_forward_has_gradients_of_what_is_active(tiny: Supernet) -> None:
    config = tiny.space.smallest
    weights = {key: torch.tensor(array).requires_grad_() for key, array in tiny.weights.items()}
    masked_logits(tiny, config, weights).square().sum().backward()
    embed, depth = config.embed[0], config.depth[0]
    gradient = weights["blocks.0.fc2.weight"].grad
    assert gradient[:embed].abs().sum() > 0 and not gradient[embed:].any(), "only the active rows learn"
    tables = weights["blocks.0.attn.rel_pos_embed_k.embeddings_table_v"].grad
    assert tables.abs().sum() > 0 and weights[f"blocks.{depth}.fc1.weight"].grad is None


def interleaved_bias(cut: Any) -> Any:
    def wrong(layer: RelativeAttention, weights: Any) -> Any:
        bias, d = weights[f"{layer.key}.qkv.bias"], layer.features
        parts = np.concatenate([bias[n : 3 * d : 3] for n in range(3)])
        return cut(layer, {**weights, f"{layer.key}.qkv.bias": parts})

    return wrong


def separate_rows(cut: Any) -> Any:
    """Query, key and value one after the other in the weight, as most Transformers have them."""

    def wrong(layer: RelativeAttention, weights: Any) -> Any:
        name, d = f"{layer.key}.qkv.weight", layer.features
        rows = np.arange(3 * d).reshape(3, d).T.reshape(-1)
        return cut(layer, {**weights, name: weights[name][rows]})

    return wrong


def no_class_row(cut: Any) -> Any:
    def wrong(layer: RelativeAttention, weights: Any) -> Any:
        tables = {k: np.r_[0 * a[:1], a[1:]] for k, a in weights.items() if ".rel_pos_embed_k." in k}
        return cut(layer, {**weights, **tables})

    return wrong


def test_wrong_networks_are_caught(tiny: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound would be worth nothing if a wrong network stayed inside it."""
    image, row = reference.images()[:1], recorded(tiny)[2]

    def share() -> float:
        return error_share(tiny.prepare(row["config"], "torch", threads=1, processor="cpu")(image), row)

    shares = {"right": share()}
    for change in (interleaved_bias, separate_rows, no_class_row):
        with monkeypatch.context() as patch:
            patch.setattr(RelativeAttention, "cut", change(RelativeAttention.cut))
            shares[change.__name__] = share()
    with monkeypatch.context() as patch:
        patch.setattr(transformer_layers, "LAYER_NORM_EPSILON", 1e-6)
        shares["epsilon of timm"] = share()
    with monkeypatch.context() as patch:
        patch.setattr(PatchMean, "forward", lambda *_: lambda x: x.mean(1))
        shares["mean with class token"] = share()
    with monkeypatch.context() as patch:
        gelu = torch.nn.functional.gelu
        patch.setattr(torch.nn.functional, "gelu", lambda x: gelu(x, approximate="tanh"))
        shares["approximate GELU"] = share()
    print({name: f"{value:.1e}" for name, value in shares.items()})
    assert shares.pop("right") <= BOUND < min(shares.values())


def test_parameters_are_counted_as_the_official_code_does(supernet: Supernet) -> None:
    rows = recorded(supernet)
    assert [supernet.plan(row["config"]).params for row in rows] == [row["params"] for row in rows]
    published = {TINY: 5.868, "autoformer_small": 22.891, "autoformer_base": 53.692}  # millions, README
    found = supernet.space.plan(rows[2]["config"], classes=1000)
    assert found.params / 1e6 == pytest.approx(published[supernet.space.name], abs=1e-3)


# --- checkpoints and configurations ---------------------------------------------------------------------


def test_an_official_file_loads_and_a_foreign_one_is_refused(tiny: Supernet, tmp_path: Path) -> None:
    state, path = {key: torch.tensor(array) for key, array in tiny.weights.items()}, tmp_path / "tiny.pth"
    torch.save({"model": state, "epoch": 499, "args": Namespace(model="", gp=True)}, path)
    assert len(state) == 232
    assert load_weights(tiny.space, path).digest == tiny.weights.digest
    with pytest.raises(WeightsError, match=r"proj.weight has shape \(256, 3, 16, 16\): autoformer_small"):
        load_weights(load_space("autoformer_small"), path)
    del state["blocks.3.attn.qkv.bias"]
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=r"blocks.3.attn.qkv.bias is missing: .* with shape \(768,\)"):
        load_weights(tiny.space, path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"embed": 256}, "embed = 256 is not allowed: it must be one of 192, 216, 240"),
        ({"depth": [11]}, "depth[0] = 11 is not allowed: it must be one of 12, 13, 14"),
        ({"heads": [4] * 13 + [5]}, "heads[13] = 5 is not allowed: it must be one of 3, 4"),
        ({"heads": [4] * 12}, "heads has 12 entries: it must be one number or 14 of them"),
        ({"mlp_ratios": 3.2}, "mlp_ratios = 3.2 is not allowed: it must be one of 3.0, 3.5, 4.0"),
        ({"resolution": 256}, "resolution = 256 is not allowed: it must be 224"),
        ({"kernel_sizes": 5}, "kernel_sizes is no entry of a configuration: they are resolution, embed,"),
    ],
)
def test_wrong_configurations_are_refused(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        load_space(TINY).config(**entries)
    assert words in str(error.value)


def test_a_configuration_is_described_and_equal_ones_have_equal_genes() -> None:
    space = load_space(TINY)
    config = space.config(embed=192, depth=12, heads=[3] * 12 + [4, 4], mlp_ratios=4)
    assert space.label(config) == "e192d12"
    assert space.describe(config) == {"px": "224", "embed": "192", "depth": "12"}
    other = space.config(embed=192, depth=12, heads=3, mlp_ratios=[4] * 12 + [3, 3.5])
    genes = space.encode([config, other])
    assert [space.decode(row, 224) for row in genes] == [config, other]
    assert np.array_equal(*space.canonical(genes)), "entries of skipped blocks"
    assert space.plan(config).macs == space.plan(other).macs < space.plan(space.largest).macs


def test_the_graph_is_written_from_operators_of_its_opset(tiny: Supernet) -> None:
    onnx = pytest.importorskip("onnx")
    model = build_model(tiny.materialise(tiny.space.smallest).network)
    onnx.checker.check_model(model)
    held = sum(np.prod(tensor.dims) for tensor in model.graph.initializer)
    params = tiny.plan(tiny.space.smallest).params
    assert held < 1.2 * params, "relative positions take a table per axis, not one of all pairs"


# --- commands -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tiny: Supernet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and a labelled image for each of its classes."""
    folder = tmp_path_factory.mktemp("autoformer")
    torch.save({"model": {k: torch.tensor(a) for k, a in tiny.weights.items()}}, folder / "tiny.pth")
    rng = np.random.default_rng(0)
    for number in range(reference.CLASSES):
        own = folder / "images" / f"{number:02d}"
        own.mkdir(parents=True)
        cv2.imwrite(str(own / "a.png"), rng.integers(0, 255, (60, 80, 3), np.uint8))
    return folder


@pytest.mark.slow
def test_library_commands(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builder, "FITTED_SUBNETS", 6)
    weights, images, out = files / "tiny.pth", files / "images", tmp_path / "vit.yaml"
    searched = ["--space", TINY, "--weights", weights, "--images", images, "--evaluations", "4"]
    quick = ["--rounds", "5", "--pause-ms", "0"]
    assert dynofa("library", "build", *searched, *quick, "--points", "3", "--out", out) == 0
    library = load_library(out)
    assert library.space == TINY and library.bn_statistics is None and os.listdir(tmp_path) == ["vit.yaml"]
    assert "measured on 16 images" in library.notes[0] and "BN statistics" not in library.notes[0]
    assert library.entries[0].id.startswith("s00_e")
    profiled = tmp_path / "here.yaml"
    assert dynofa("library", "profile", out, "--weights", weights, *quick, "--out", profiled) == 0
    assert load_library(profiled).entries[0].latency_ms.median > 0
    capsys.readouterr()
    assert dynofa("library", "show", profiled) == 0
    shown = capsys.readouterr().out
    assert "embed" in shown and "depth" in shown and "kernel" not in shown
    shutil.copy(profiled, tmp_path / "before.yaml")
    assert dynofa("library", "calibrate", profiled, "--weights", weights, "--images", images) == 0
    assert "has no batch normalisation: there is nothing to calibrate" in capsys.readouterr().out
    assert profiled.read_bytes() == (tmp_path / "before.yaml").read_bytes()


def test_a_predicted_accuracy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="--images"):
        dynofa("library", "build", "--space", TINY, "--out", tmp_path / "x.yaml")
