"""BN statistics from images: the official recipe, and `dynofa library calibrate`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from command import dynofa

from dynofa_ros.application.networks import DEMO_LIBRARY, DEMO_WEIGHTS
from dynofa_ros.datasets.problems import DataError
from dynofa_ros.errors import CliError
from dynofa_ros.library import calibration
from dynofa_ros.library.calibration import WeightedMean, batches, choose_images, library_statistics
from dynofa_ros.library.files import open_library
from dynofa_ros.library.library import (
    Entry,
    Latency,
    Library,
    load_library,
    load_statistics,
    save_library,
)
from dynofa_ros.paths import share_file
from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.preprocess import preprocess
from dynofa_ros.supernet.registry import load_space
from dynofa_ros.supernet.supernet import Supernet

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

WEIGHTS = share_file(*DEMO_WEIGHTS)
DEMO = share_file(*DEMO_LIBRARY)


def small_library(space: str, *resolutions: int) -> Library:
    """One random sub-network per resolution."""
    own, rng = load_space(space), np.random.default_rng(5)
    entries = []
    for number, resolution in enumerate(resolutions, start=1):
        config = {**own.random(rng).to_dict(), "resolution": resolution}
        latency = Latency(number, number)
        source = "predicted"
        entries.append(
            Entry(
                f"s{number}",
                config,
                number / 10,
                source,
                latency,
                source,
                0.0,
                float(number),
                macs=1,
                params=1,
            )
        )
    return Library(1, space, None, "demo", "cpu", {}, (), tuple(entries))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven noisy pictures of several sizes, some in sub-folders."""
    rng = np.random.default_rng(0)
    for number in range(7):
        folder = tmp_path / "images" / ("" if number % 2 else f"class{number}")
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (140 + number, 120)))
    return tmp_path / "images"


# --- the recipe ---------------------------------------------------------------------------------


def test_statistics_are_those_of_the_official_implementation(monkeypatch):
    """`set_running_statistics` on the official supernet, with batches of different sizes."""
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    space = "ofa_mbv3_w0.5"
    torch.manual_seed(0)
    official = networks.OFAMobileNetV3(
        width_mult=0.5, dropout_rate=0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    for name, parameter in official.named_parameters():
        if ".bn." in name:  # with shifts of zero, most means would be zero
            parameter.data += 0.2 * torch.randn_like(parameter)
    library, supernet = small_library(space, 128), load_supernet(space, official.state_dict())
    config = library.config(library.entries[0])
    own_batches = [torch.randn(5, 3, 128, 128), torch.randn(2, 3, 128, 128)]
    official.set_active_subnet(
        ks=list(config.kernel_sizes), e=list(config.expand_ratios), d=list(config.depths)
    )
    set_running_statistics(official, [(batch, None) for batch in own_batches])
    monkeypatch.setattr(calibration, "batches", lambda *arguments: iter(own_batches))
    statistics = library_statistics(library, supernet, [Path("a.png")])["s1"]
    expected = official.state_dict()
    assert len(statistics) >= 60
    for key, value in statistics.items():
        wanted = expected[key][: len(value)].numpy()
        scale = expected[key.replace("running_mean", "running_var")][: len(value)].numpy().max()
        error = np.abs(value - wanted).max()
        assert error <= 1e-4 * (np.sqrt(scale) if key.endswith("mean") else scale), key


def test_mean_is_weighted_by_the_batch_size():
    mean = WeightedMean()
    mean.add({"a": np.array([1.0, 2.0])}, 3)
    mean.add({"a": np.array([5.0, 2.0])}, 1)
    assert mean.value()["a"].tolist() == [2.0, 2.0]
    assert mean.value()["a"].dtype == np.float32


def test_every_subnet_gets_its_own_active_widths(images):
    library, supernet = (
        small_library("ofa_mbv3_demo", 64, 96, 64),
        Supernet(load_space("ofa_mbv3_demo"), open_library(DEMO, WEIGHTS).supernet.weights),
    )
    steps: list[int] = []
    statistics = library_statistics(library, supernet, choose_images(images, 7, 0)[0], 3, steps.append)
    assert steps == [9] * 9, "three batches of three sub-networks"
    for entry in library:
        prepared = supernet.prepare(library.config(entry), statistics=statistics[entry.id])
        assert np.isfinite(
            prepared(np.zeros((1, *supernet.plan(library.config(entry)).input_shape), np.float32))
        ).all()
    assert not np.array_equal(
        statistics["s1"]["first_conv.bn.running_mean"], statistics["s2"]["first_conv.bn.running_mean"]
    )


def at_64_px(bgr):
    return preprocess(bgr, 64)


def test_images_are_drawn_by_the_seed_and_prepared_as_the_node_does(images):
    files, _ = chosen = choose_images(images, 5, seed=1)
    assert len(set(files)) == 5 and chosen == choose_images(images, 5, seed=1) != choose_images(
        images, 5, seed=2
    )
    assert len(choose_images(images, 2000, seed=0)[0]) == 7
    sizes = [len(b) for b in batches(files, at_64_px, 2)]
    assert sizes == [2, 2, 1]
    first = next(batches(files, at_64_px, 2))[0].numpy()
    assert np.array_equal(first, preprocess(cv2.imread(str(files[0])), 64)[0])


def test_a_folder_without_images_and_a_broken_one_are_named(tmp_path, images):
    with pytest.raises(DataError, match="is not a folder"):
        choose_images(tmp_path / "none", 1, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        choose_images(tmp_path / "empty", 1, 0)
    for name in ("broken.jpg", "worse.png"):
        (images / name).write_bytes(b"\xff\xd8 no")
    with pytest.raises(DataError) as error:
        choose_images(images, 9, 0)
    assert sorted(Path(p.split(":")[0]).name for p in error.value.problems) == ["broken.jpg", "worse.png"]
    files, left_out = choose_images(images, 9, 0, skip_broken=True)
    assert len(files) == 7 and len(left_out) == 2


def test_linked_folders_are_followed_and_hidden_files_are_not_taken(tmp_path, images):
    os.symlink(images, tmp_path / "linked")
    (tmp_path / "linked" / "._1.png").write_bytes(b"of a Mac")
    assert len(choose_images(tmp_path / "linked", 9, 0)[0]) == 7


# --- the command --------------------------------------------------------------------------------


def run_calibrate(*arguments: object) -> int:
    return dynofa("library", "calibrate", "--weights", WEIGHTS, *arguments)


def demo_library(path: Path, entries: int = 2) -> Path:
    """The first entries of the demo's library, bound to no weights and without statistics."""
    demo = load_library(DEMO)
    own = msgspec.structs.replace(
        demo, bn_statistics=None, weights_sha256=None, entries=demo.entries[:entries]
    )
    save_library(path, own)
    return path


def test_calibrate_rewrites_the_library_with_digest_and_weights(tmp_path, images, capsys):
    path = demo_library(tmp_path / "l.yaml")
    assert run_calibrate(path, "--images", images, "--json", tmp_path / "r.json") == 0
    library = load_library(path, open_library(path, WEIGHTS).supernet.weights)
    assert library.weights_sha256 is not None
    file = path.with_name(library.bn_statistics.file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == library.bn_statistics.sha256
    assert set(load_statistics(path, library)) == {e.id for e in library}
    assert library.notes[-1] == (
        "BN statistics: of 7 images, prepared as the perception node prepares a frame "
        "(largest centre square, resized by area), batches of 64, seed 0"
    )
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 7
    assert "few" in capsys.readouterr().out
    again = dict(load_statistics(path, library))
    assert run_calibrate(path, "--images", images) == 0
    assert load_library(path) == library, "the same images give the same file"
    assert again.keys() == load_statistics(path, load_library(path)).keys()
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_without_a_library_the_one_for_the_weights_is_taken(tmp_path, images, monkeypatch):
    shutil.copy(DEMO, tmp_path / "mine.yaml")
    shutil.copy(DEMO.with_suffix(".safetensors"), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_calibrate("--images", images, "--out", "out.yaml") == 0
    calibrated, demo = load_library("out.yaml"), load_library(DEMO)
    assert calibrated.entries == demo.entries
    assert load_library("mine.yaml") == demo, "--out leaves the source as it is"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", "none"), "none is not a folder"),
        (("--images", "."), "holds no image"),
        (("--images", "images", "--out", "file/l.yaml"), "file/l.yaml cannot be written: .* --out"),
        (("--images", "broken"), "x.png: not a whole image"),
    ],
)
def test_what_is_wrong_is_one_line_and_the_library_stays(tmp_path, monkeypatch, images, arguments, words):
    folder = tmp_path / "work"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "x.png").write_text("no")
    (folder / "file").write_text("")
    shutil.move(images, folder / "images" if words.startswith("file") else tmp_path / "elsewhere")
    if "holds" in words:
        shutil.rmtree(folder / "broken")
    monkeypatch.chdir(folder)
    before = demo_library(folder / "l.yaml").read_bytes()
    with pytest.raises(CliError, match=words) as error:
        run_calibrate("l.yaml", *arguments)
    assert "\n" not in str(error.value)
    assert (folder / "l.yaml").read_bytes() == before
    assert not list(folder.glob("*.safetensors"))


def test_a_read_only_place_says_so_before_the_work(tmp_path, images, monkeypatch):
    path = demo_library(tmp_path / "l.yaml")
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(CliError, match="cannot be written: choose another place with --out"):
        run_calibrate(path, "--images", images)
