"""Detectors: one neck and head for every sub-network, boxes that are the same in torch and in ONNX."""

from __future__ import annotations

import numpy as np
import pytest

from dynofa_ros.demo.signs import render_scene
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.boxes import CANDIDATES, Found, average_precision, select
from dynofa_ros.supernet.families.detector import STRIDES, Boxes, fitting_height
from dynofa_ros.supernet.preprocess import letterbox
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.weights import load_weights

torch = pytest.importorskip("torch")
from dynofa_ros.supernet.masked import calibrate, fixed_statistics, initial_weights, masked_forward  # noqa: E402

SPACE = "ofa_mbv3_demo_detector"
CLASSES = 7
torch.set_num_threads(1)
CLASSIFIER = share_file("config", "weights", f"{DEMO_SPACE}.safetensors")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """The body of the demo classifier under a random neck and head."""
    space = load_space(SPACE)
    weights = initial_weights(space, CLASSES)
    body = load_weights(load_space(DEMO_SPACE), CLASSIFIER)
    weights |= {name: torch.from_numpy(np.array(a)) for name, a in body.items() if name in weights}
    return Supernet(space, load_weights(space, weights))


def inputs(plan) -> torch.Tensor:
    scenes = [render_scene(9, index).image[..., ::-1] for index in range(2)]
    return torch.from_numpy(np.concatenate([letterbox(s, *plan.input_shape[1:]) for s in scenes]))


def configs():
    space, rng = load_space(SPACE), np.random.default_rng(3)
    square = space.resized(space.random(rng), width=256, height=256)
    return [space.smallest, space.largest, space.random(rng), square]


@pytest.mark.parametrize("config", configs(), ids=load_space(SPACE).label)
def test_masked_torch_and_onnx_give_the_same_boxes(supernet: Supernet, config):
    plan = supernet.plan(config)
    weights = {name: torch.from_numpy(np.array(a)) for name, a in supernet.weights.items()}
    images = inputs(plan)
    double = {name: value.double() for name, value in weights.items()}
    statistics = calibrate(plan, weights, [images])
    normalise = fixed_statistics(double, statistics, plan.bn_epsilon)
    with torch.inference_mode():
        expected = masked_forward(plan, double, images.double(), normalise).numpy()
    for engine in ("onnxruntime", "torch"):
        rows = supernet.prepare(config, engine, statistics=statistics, threads=1)(images.numpy())
        assert rows.shape == expected.shape == (2, plan_cells(plan), 4 + CLASSES)
        assert np.abs(rows[..., :4] - expected[..., :4]).max() <= 1e-3  # px
        assert np.abs(rows[..., 4:] - expected[..., 4:]).max() <= 1e-5
    assert expected[..., 4:].std() > 0.01  # not the same everywhere


def plan_cells(plan) -> int:
    _, height, width = plan.input_shape
    return sum(height // s * (width // s) for s in STRIDES)


def test_neck_and_head_are_shared_by_all_sub_networks():
    space = load_space(SPACE)
    largest, smallest = (space.plan(c, 25) for c in (space.largest, space.smallest))
    static = {k: v for k, v in largest.stored().items() if k.startswith(("neck.", "head."))}
    assert static == {k: v for k, v in smallest.stored().items() if k.startswith(("neck.", "head."))}
    assert smallest.macs == pytest.approx(10.7e6, rel=0.01)
    assert largest.macs == pytest.approx(389.6e6, rel=0.01)


def test_macs_are_those_that_torch_counts(supernet: Supernet):
    from torch.utils.flop_counter import FlopCounterMode

    plan = supernet.plan(supernet.space.smallest)
    run = supernet.activate(supernet.space.smallest)
    with FlopCounterMode(display=False) as counter:
        run(torch.zeros(1, *plan.input_shape))
    assert counter.get_total_flops() == 2 * plan.macs


def test_configurations_of_a_detector():
    space = load_space(SPACE)
    config = space.config(width=320)
    assert (config.height, space.label(config)) == (192, "320x192")
    assert space.from_mapping(config.to_dict()) == config
    assert space.resized(config, width=512, height=384).height == 384
    with pytest.raises(ValueError, match=r"height = 100 is not allowed: it must be a multiple of 32"):
        space.config(height=100)
    with pytest.raises(ValueError, match=r"resolution is no entry of a configuration"):
        space.config(resolution=256)
    assert fitting_height(256, 9 / 16) == 160 and fitting_height(512, 9 / 16) == 288


def test_spaces_by_name():
    assert load_space("ofa_mbv3_w1.0_detector").neck_width == 96
    with pytest.raises(ValueError, match="is unknown"):
        load_space("ofa_mbv3_w9_detector")


def test_the_letterbox_keeps_the_aspect():
    planes = letterbox(np.full((720, 1280, 3), 255, np.uint8), 160, 256)
    assert planes.shape == (1, 3, 160, 256)
    assert (planes[0, :, 144:] == 0).all() and (planes[0, :, :144] > 1).all()  # 16 rows of the mean colour


def test_boxes_come_back_within_a_pixel_of_the_image(monkeypatch: pytest.MonkeyPatch):
    """Whatever rounding to whole rows and columns of the input does to its aspect."""
    import measure_detector as tool

    errors = [tool.round_trip_px(frame, fitted) for frame in tool.FRAMES for fitted in tool.INPUTS]
    assert max(errors) <= 1
    alike = [(min(h / rows, w / columns),) * 2 for rows, columns in tool.FRAMES for h, w in tool.INPUTS]
    scales = iter(alike)
    monkeypatch.setattr(tool, "letterbox_scale", lambda *given: next(scales))
    assert max(tool.round_trip_px(frame, fitted) for frame in tool.FRAMES for fitted in tool.INPUTS) > 1


def rows_of(*boxes: tuple[float, float, float, float, int, float]) -> np.ndarray:
    rows = np.zeros((len(boxes), 4 + CLASSES), np.float32)
    for row, (*sides, label, score) in zip(rows, boxes, strict=True):
        row[:4], row[4 + int(label)] = sides, score
    return rows


def test_overlapping_boxes_of_one_class_become_one_and_others_stay():
    rows = rows_of(
        (0, 0, 10, 10, 1, 0.9), (1, 0, 11, 10, 1, 0.8), (0, 0, 10, 10, 2, 0.7), (50, 0, 60, 9, 1, 0.6)
    )
    found = select(rows, 0.5, 0.5, scale=(0.5, 0.5))
    assert found.labels.tolist() == [1, 2, 1]
    assert found.scores == pytest.approx([0.9, 0.7, 0.6])
    assert found.boxes[0].tolist() == [0, 0, 20, 20]  # px of the image


def test_nothing_found_is_an_empty_array():
    found = select(rows_of((0, 0, 10, 10, 1, 0.3)), 0.5, 0.5)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)


def test_only_the_likeliest_are_compared():
    rng = np.random.default_rng(0)
    boxes = [(20 * i, 0, 20 * i + 10, 10, 0, s) for i, s in enumerate(rng.uniform(0.1, 1, 2 * CANDIDATES))]
    found = select(rows_of(*boxes), 0.05, 0.5)
    assert len(found.scores) == CANDIDATES
    assert found.scores.min() >= sorted(box[5] for box in boxes)[CANDIDATES] - 1e-6
    assert (np.diff(found.scores) <= 0).all()


def test_cells_are_centred_in_their_stride():
    centres, strides = Boxes(64, 96).cells()
    assert len(centres) == 8 * 12 + 4 * 6 + 2 * 3
    assert centres[0].tolist() == [4, 4] and centres[1].tolist() == [12, 4] and strides[-1] == 32


def test_average_precision():
    pytest.importorskip("pycocotools")
    box = np.array([[10, 10, 50, 40]], np.float32)
    truth = [(box, np.array([3])), (np.zeros((0, 4), np.float32), np.zeros(0, int))]
    empty = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
    exact = Found(box, np.ones(1, np.float32), np.array([3]))
    shifted = Found(box + np.float32(10), np.ones(1, np.float32), np.array([3]))  # IoU 1/3
    precisions = [average_precision(truth, [one, empty]) for one in (exact, shifted, empty)]
    assert [(p.map50, p.map50_95) for p in precisions] == [
        (pytest.approx(1), pytest.approx(1)),
        (0, 0),
        (0, 0),
    ]
    assert np.isnan(average_precision([truth[1]], [empty]).map50)
