"""RF-DETR: equal to the official package in recorded answers, and its checkpoints load as they are."""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rfdetr_reference as reference

from dynofa_ros.application.detection import ObjectDetection
from dynofa_ros.supernet import detr_graph
from dynofa_ros.supernet.families import rfdetr
from dynofa_ros.supernet.families.rfdetr import FAMILY, RfDetrConfig, RfDetrSpace, interpolated
from dynofa_ros.supernet.masked import initial_weights
from dynofa_ros.supernet.registry import engine_names, load_engine, load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import prepare_subnet
from dynofa_ros.supernet.weights import Weights, WeightsError, load_weights
from dynofa_ros.topics import DETECTIONS

torch = pytest.importorskip("torch")

BOUND_PX, BOUND_SCORE = 1e-3, 5e-5
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No optimised networks on disk: those of the nano have 110 MB each."""
    engine = pytest.importorskip("dynofa_ros.supernet.engines.onnxruntime")
    monkeypatch.setattr(engine, "MAPS_FILES", False)


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    return dict(np.load(reference.FILE))


def made(name: str) -> Supernet:
    space = reference.space(name)
    return Supernet(space, load_weights(space, reference.weights(space)))


@pytest.fixture(scope="module")
def reduced() -> Supernet:
    return made("reduced")


def errors(
    supernet: Supernet, config: RfDetrConfig, answers: dict[str, np.ndarray], engine: str = "onnxruntime"
) -> tuple[float, float]:
    """Largest error of a box, px, and of a score."""
    key = (config.resolution, *config.queries, *config.windows, *config.decoder_layers)
    expected = answers[".".join(map(str, (supernet.space.name, *key)))]
    run = supernet.prepare(config, engine, threads=1, processor="cpu")
    found = run(reference.images(config.resolution))[:, :: reference.EVERY]
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    return float(error[..., :4].max()), float(error[..., 4:].max())


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.TRAINED)
def test_every_recorded_sub_network_answers_as_the_official_one(
    name: str, answers: dict[str, np.ndarray], reduced: Supernet
) -> None:
    """Fewer layers of the decoder give the auxiliary output of the whole one."""
    supernet = reduced if name == "reduced" else made(name)
    configs = reference.configurations(supernet.space)
    assert len(configs) == {"reduced": 18, "nano": 4}[name]
    for config in configs:
        pixels, score = errors(supernet, config, answers)
        assert pixels <= BOUND_PX and score <= BOUND_SCORE, (config, pixels, score)


@pytest.mark.parametrize("engine", engine_names())
def test_every_engine_answers_alike(engine: str, answers: dict[str, np.ndarray], reduced: Supernet) -> None:
    pytest.importorskip(engine)
    config = reference.configurations(reduced.space)[1]
    pixels, score = errors(reduced, config, answers, engine)
    assert pixels <= BOUND_PX and score <= BOUND_SCORE


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (detr_graph, "spans_windows", lambda block: block % 3 == 1),
        (detr_graph, "FINE", 1e-5),
        (detr_graph.Writer.norm, "__defaults__", (1e-6,)),
        (rfdetr, "FIRST_EXTENT", 0.1),
        (rfdetr, "interpolated", lambda table, side: table[:side, :side]),
    ],
)
def test_a_network_that_is_wrong_on_purpose_is_seen(
    place: object,
    name: str,
    wrong: object,
    answers: dict[str, np.ndarray],
    reduced: Supernet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, name, wrong)
    pixels, score = errors(reduced, reference.configurations(reduced.space)[1], answers, "torch")
    assert pixels > BOUND_PX or score > BOUND_SCORE


@pytest.mark.parametrize("side", [12, 20, 24, 28, 44])
def test_positions_are_resized_as_torch_does_it(side: int) -> None:
    table = np.random.default_rng(side).standard_normal((24, 24, 3), np.float32)
    planes = torch.from_numpy(table).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        planes, size=(side, side), mode="bicubic", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(interpolated(table, side), expected[0].permute(1, 2, 0), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "count", "layers"),
    [("nano", 466, 2), ("small", 488, 3), ("medium", 510, 4), ("large", 510, 4)],
)
def test_the_published_sizes_have_the_published_arrays(name: str, count: int, layers: int) -> None:
    space = load_space(f"rfdetr_{name}")
    assert isinstance(space, RfDetrSpace) and space.native.decoder_layers == (layers,)
    shapes = space.parameter_shapes(91)
    assert len(shapes) == count
    assert shapes["class_embed.weight"] == (91, 256) and shapes["refpoint_embed.weight"] == (3900, 4)
    assert shapes[f"{rfdetr.BODY}.embeddings.position_embeddings"] == (
        1,
        (space.trained.side // 16) ** 2 + 1,
        384,
    )
    if name == "medium":
        assert sum(math.prod(shape) for shape in shapes.values()) == 33_687_458


def test_a_checkpoint_loads_as_it_is_stored(tmp_path: Path, reduced: Supernet, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = partial(RfDetrSpace, "rfdetr_reduced_here", reference.REDUCED)
    monkeypatch.setitem(FAMILY.known, own.args[0], own)
    state = {name: torch.from_numpy(np.array(a)) for name, a in reference.weights(reduced.space).items()}
    state["_kp_active_mask"] = torch.zeros(0, 0, dtype=torch.bool)
    file = tmp_path / "checkpoint_best_total.pth"
    torch.save({"model": state, "args": Namespace(num_classes=5, class_names=["a"]), "epoch": 3}, file)
    space = load_space("rfdetr_reduced_here")
    loaded = load_weights(space, file)
    assert loaded.classes == reference.CLASSES and loaded.digest == reduced.weights.digest
    del state["bbox_embed.layers.2.bias"]
    torch.save({"model": state}, file)
    with pytest.raises(WeightsError, match="bbox_embed.layers.2.bias is missing"):
        load_weights(space, file)


def test_boxes_are_of_the_stretched_image_and_none_is_suppressed(reduced: Supernet) -> None:
    config = reduced.space.config(resolution=192, queries=100)
    network = prepare_subnet("a", reduced, config, load_engine("torch"), processor="cpu")
    image = np.random.default_rng(3).integers(0, 256, (96, 384, 3), np.uint8)
    shown = network.preprocess(image)
    assert shown.shape == (1, 3, 192, 192)
    rows = network.run(shown)
    options = {"score_threshold": 0.3, "overlap_threshold": 0.0}
    task = ObjectDetection(Weights({}, reference.CLASSES, task="detection"))
    found = task.postprocess(rows, image, network, options).results[DETECTIONS].detections
    scores = rows[0, :, 4:]
    assert len(found) == min(300, (scores >= 0.3).sum()) > 10
    query, label = np.unravel_index(scores.argmax(), scores.shape)
    left, top, right, bottom = rows[0, query, :4] * [2, 0.5, 2, 0.5]
    box = found[0].bbox
    assert found[0].results[0].hypothesis.class_id == str(label)
    assert box.size_x == pytest.approx(np.clip(right, 0, 384) - np.clip(left, 0, 384), rel=1e-5)
    assert box.size_y == pytest.approx(np.clip(bottom, 0, 96) - np.clip(top, 0, 96), rel=1e-5)


def test_the_cost_of_a_sub_network_grows_with_each_knob() -> None:
    space = load_space("rfdetr_medium")
    base = {"resolution": 384, "decoder_layers": 2, "queries": 200, "windows": 2}
    macs = space.plan(space.config(**base), 91).macs
    for knob, value in {"resolution": 448, "decoder_layers": 3, "queries": 300, "windows": 1}.items():
        assert space.plan(space.config(**base | {knob: value}), 91).macs > 1.001 * macs, knob
    with pytest.raises(ValueError, match="resolution = 400 is not allowed"):
        space.config(resolution=400)
    drawn = initial_weights(reference.space("reduced"), 3)
    assert drawn["class_embed.weight"].shape == (3, 32)
