"""Training of a detector: which cells learn which box, and a training that goes on after it was killed."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from dynofa_ros.demo.signs import CLASS_NAMES, render_scene  # noqa: E402
from dynofa_ros.supernet.families.detector import Boxes  # noqa: E402
from dynofa_ros.supernet.masked import initial_weights  # noqa: E402
from dynofa_ros.supernet.registry import load_space  # noqa: E402
from dynofa_ros.supernet.weights import BUFFERS  # noqa: E402
from dynofa_ros.training import loop  # noqa: E402
from dynofa_ros.training.detection import (  # noqa: E402
    Detection,
    Example,
    assigned,
    begun,
    collated,
    generalised_overlap,
)
from dynofa_ros.training.loop import Settings, Training  # noqa: E402

SPACE = "ofa_mbv3_demo_detector"


pytestmark = pytest.mark.usefixtures("one_thread")  # a child of one thread is compared


class FewScenes(Detection):
    """Four drawn scenes, at one size, not scored unless asked: that takes longer than a training of them."""

    labels = CLASS_NAMES
    aspect = 9 / 16

    def __init__(self, scored: bool = False) -> None:
        self._scored = scored
        self.space = load_space(SPACE)
        scenes = [render_scene(7, index, 144, 256) for index in range(4)]
        self._examples = [Example(s.image[..., ::-1].copy(), s.boxes, s.labels) for s in scenes]

    def size(self, rng):
        return {"width": 256, "height": 160}

    def example(self, rng):
        return self._examples[rng.integers(4)]

    def held_out(self):
        return self._examples

    def score(self, weights):
        return super().score(weights) if self._scored else {}


def weights():
    return begun(initial_weights(load_space(SPACE), len(CLASS_NAMES)))


def test_cells_of_a_box_lie_in_it_on_the_levels_of_its_size():
    cells = Boxes(160, 256)
    centres, strides = cells.cells()
    boxes = np.array([[100, 60, 120, 80], [10, 10, 140, 120], [3.5, 3.5, 5, 5]], np.float32)
    cell, owner = assigned(boxes, cells)
    assert set(strides[cell[owner == 0]]) == {8}
    assert set(strides[cell[owner == 1]]) == {32}
    assert centres[cell[owner == 2]].tolist() == [[4, 4]]  # smaller than a cell: the nearest one
    for box in (0, 1):
        inside = centres[cell[owner == box]]
        assert len(inside) >= 4 and (inside > boxes[box, :2]).all() and (inside < boxes[box, 2:]).all()
    assert [len(part) for part in assigned(np.zeros((0, 4), np.float32), cells)] == [0, 0]


def test_of_two_boxes_in_one_place_a_cell_learns_the_smaller():
    boxes = np.array([[100, 60, 140, 100], [110, 70, 130, 90]], np.float32)
    centres, strides = Boxes(160, 256).cells()
    cell, owner = assigned(boxes, Boxes(160, 256))
    middle = (centres[cell] == [116, 76]).all(1) & (strides[cell] == 8)
    assert owner[middle].tolist() == [1]


def test_generalised_overlap():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[1.0, 0, 3, 2], [2, 0, 3, 1]])
    iou, giou = generalised_overlap(a, b)
    assert iou.tolist() == pytest.approx([1 / 3, 0])
    assert giou.tolist() == pytest.approx([1 / 3, -1 / 3])


def test_boxes_of_a_batch_are_in_pixels_of_the_input():
    image = np.zeros((720, 1280, 3), np.uint8)
    example = Example(image, np.array([[100, 200, 300, 400]], np.float32), np.array([5]))
    batch = collated([example, example], 160, 256)
    assert batch.images.shape == (2, 3, 160, 256)
    assert batch.boxes.numpy() == pytest.approx(np.tile([[20, 40, 60, 80]], (len(batch.boxes), 1)))
    assert set(batch.image.tolist()) == {0, 1} and set(batch.labels.tolist()) == {5}


@pytest.mark.slow
def test_the_loss_falls_for_all_sub_networks(tmp_path: Path):
    scenes = FewScenes(scored=True)
    batch = scenes.batch(scenes.size(None), 4, np.random.default_rng(0))

    def losses(training: Training) -> list[float]:
        smallest = scenes.space.resized(scenes.space.smallest, width=256, height=160)
        plans = [scenes.plan(c) for c in (scenes.space.config(width=256), smallest)]
        values = {k: v.detach().clone() for k, v in training.weights.items()}
        return [float(scenes.taught(scenes.raw(p, values, batch.images), batch, p)[0]) for p in plans]

    settings = Settings(images=40, batch=2, largest_only=0.5, learning_rate=4e-3)
    training = Training(scenes, weights(), settings, tmp_path)
    before = losses(training)
    training.run(lambda state: None)
    after = losses(training)
    assert after[0] < 0.98 * before[0] and after[1] < 0.98 * before[1], (before, after)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [10, 20]
    assert all(0 <= log[-1][f"{name}_map50"] <= 1 for name in ("largest", "smallest"))


def test_a_batch_of_large_images_goes_through_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They share one update, and its size is that of the whole batch."""
    monkeypatch.setattr(loop, "LARGEST_PIXELS", 5 * 256 * 160)
    assert loop.parts(16, 256 * 160) == [4, 4, 4, 4] and loop.parts(11, 256 * 160) == [6, 5]
    assert loop.parts(5, 256 * 160) == loop.parts(5, 2560 * 1600) == [5]
    drawn, scenes = [], FewScenes()
    scenes.batch = lambda size, count, rng: (
        drawn.append(count)
        or collated(  # the same image over and over
            [scenes._examples[0]] * count, size["height"], size["width"]
        )
    )
    moved = []
    for batch in (8, 4):
        training = Training(
            scenes, weights(), Settings(images=8, batch=batch, largest_only=1.0), tmp_path / f"{batch}"
        )
        training._step()
        moved.append(training.weights["head.boxes.weight"].grad)
    assert drawn == [4, 4, 4] and torch.allclose(*moved, rtol=1e-3, atol=1e-6)


def train(folder: Path, steps: int) -> None:
    settings = Settings(images=2 * steps, batch=2, largest_only=0.3)
    Training(FewScenes(), weights(), settings, folder).run(lambda state: print(state.step, flush=True))


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path):
    code = f"{PRELUDE}test_detection_training.train(test_detection_training.Path({str(tmp_path)!r}), 6)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "3":
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    first = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"]
    assert 2 <= first < 6
    train(tmp_path, 6)
    again = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    whole = tmp_path / "whole"
    train(whole, 6)
    straight = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert again["state"]["step"] == straight["state"]["step"] == 6
    for name, value in straight["weights"].items():
        assert torch.allclose(value, again["weights"][name], atol=1e-6), name


PRELUDE = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
import torch
torch.set_num_threads(1)
import dynofa_ros.training.loop as loop
loop.SAVE_EVERY_S = 0.0
import test_detection_training
"""


def test_frozen_layers_keep_their_weights_and_the_head_never_does(tmp_path: Path):
    begin = weights()
    training = Training(FewScenes(), begin, Settings(images=4, batch=2, frozen=0.5), tmp_path)
    training.run(lambda state: None)
    changed = {k for k, v in training.weights.items() if not torch.equal(v, begin[k])}
    moved = {name.rpartition(".")[0] for name in changed if not name.endswith(BUFFERS)}
    assert {"head.boxes", "neck.lateral.0.conv"} <= moved
    assert any(name.startswith("blocks.16.") for name in moved)
    assert not any(name.startswith(("first_conv.", "blocks.0.", "blocks.5.")) for name in moved)
    with pytest.raises(ValueError, match="other frozen layers"):
        Training(FewScenes(), begin, Settings(images=8, batch=2), tmp_path)


def test_a_folder_of_another_training_is_refused(tmp_path: Path):
    train(tmp_path, 1)
    other = FewScenes()
    other.labels = CLASS_NAMES[:-1]
    fewer = begun(initial_weights(other.space, len(other.labels)))
    with pytest.raises(ValueError, match="holds the training of another network, of other classes"):
        Training(other, fewer, Settings(images=1), tmp_path)
    for changes, named in (
        ({"origin": "other images"}, r"other frozen layers or options \(origin\)"),
        ({"learning_rate": 1e-4}, r"\(learning_rate\)"),
        ({"batch": 1, "seed": 3}, r"\(batch, seed\)"),
    ):
        settings = Settings(**{"images": 2, "batch": 2, "largest_only": 0.3, **changes})
        with pytest.raises(ValueError, match=named):
            Training(FewScenes(), weights(), settings, tmp_path)
    train(tmp_path, 2)  # more of the same goes on
    with pytest.raises(ValueError, match="holds 2 steps of a training, 1 are asked for"):
        train(tmp_path, 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint", {}, {"identity": {}}, [1]])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: object):
    if isinstance(content, bytes):
        (tmp_path / "checkpoint.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint.pt: no checkpoint of a training: remove .* to begin"):
        Training(FewScenes(), weights(), Settings(images=1), tmp_path)


def test_the_log_goes_on_where_the_checkpoint_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that is killed has logged steps that its checkpoint does not have, the last one in part."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    train(tmp_path, 2)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "loss": 1.0}\n{"step": 4')
    train(tmp_path, 3)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_a_loss_that_is_no_number_and_a_full_disk_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training = Training(FewScenes(), weights(), Settings(images=1), tmp_path)
    monkeypatch.setattr(training, "_step", lambda: float("nan"))
    with pytest.raises(ValueError, match="step 0: the loss is not finite: lower the learning rate"):
        training.run(lambda state: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as error:
            training.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path / "checkpoint.pt") and not list(tmp_path.iterdir())
