"""The accuracy predictor: equal to the original, to what was published with it, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynofa_ros.bench.published_networks import published
from dynofa_ros.library.accuracy import load_predictor
from dynofa_ros.library.library import LibraryError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet.registry import load_space

SPACE = load_space("ofa_mbv3_w1.2")
PREDICTOR = load_predictor(SPACE.name)
ORIGINAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ofa_acc_predictor.pth"
# computed with the original network in torch from the published configurations
PREDICTED = {
    "6/0": 0.787, "6/1": 0.799, "6/2": 0.814, "6/3": 0.822, "6/4": 0.834, "6/5": 0.848,
    "7/1": 0.805, "7/2": 0.813, "7/4": 0.830, "7/5": 0.847,
}  # fmt: skip


def random_config(seed: int):
    rng = np.random.default_rng(seed)
    while True:
        config = SPACE.random(rng)
        if config.resolution >= 160:
            return config


def test_published_sub_networks():
    subnets = [s for s in published().dynamic_ofa if s.name in PREDICTED]
    configs = [SPACE.from_mapping(s.config) for s in subnets]
    predicted = PREDICTOR.predict(configs)
    assert predicted.shape == (len(PREDICTED),)
    for subnet, accuracy in zip(subnets, predicted, strict=True):
        assert accuracy == pytest.approx(PREDICTED[subnet.name], abs=6e-4), subnet.name


@pytest.mark.skipif(not ORIGINAL.is_file(), reason=f"the original predictor is not here: {ORIGINAL.name}")
def test_equals_the_original_in_torch():
    import torch

    state = torch.load(ORIGINAL, map_location="cpu", weights_only=True)
    sizes = (128, 400, 400, 400, 1)
    layers = [
        m for i, o in zip(sizes, sizes[1:], strict=False) for m in (torch.nn.Linear(i, o), torch.nn.ReLU())
    ]
    original = torch.nn.Sequential(*layers[:-1])
    original.load_state_dict(state)
    rows = PREDICTOR.encode([random_config(seed) for seed in range(100)])
    with torch.inference_mode():
        expected = original(torch.from_numpy(rows))[:, 0].numpy()
    np.testing.assert_allclose(PREDICTOR.predict_encoded(rows), expected, atol=1e-6)


def test_encoding_by_hand():
    config = SPACE.config(
        kernel_sizes=[3, 5, 7, 7] * 5, expand_ratios=[6, 4, 3, 3] * 5, depths=3, resolution=176
    )
    (row,) = PREDICTOR.encode([config])
    assert row.dtype == np.float32
    block = ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0])  # the fourth is skipped
    assert row[:60].reshape(20, 3).tolist() == list(block) * 5
    assert row[60:120].reshape(20, 3).tolist() == list(([0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0])) * 5
    assert row[120:].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


@given(st.integers(0, 10**6))
def test_skipped_blocks_have_no_effect_and_16_px_share_a_bin(seed):
    config = random_config(seed)
    active = SPACE.active(SPACE.encode([config]))[0]
    twin = SPACE.config(
        resolution=config.resolution // 16 * 16,
        depths=config.depths,
        kernel_sizes=[k if on else 3 for k, on in zip(config.kernel_sizes, active, strict=True)],
        expand_ratios=[e if on else 3 for e, on in zip(config.expand_ratios, active, strict=True)],
    )
    first, second = PREDICTOR.encode([config, twin])
    assert (first == second).all()
    assert first.sum() == 2 * sum(active) + 1


def test_an_empty_batch():
    assert PREDICTOR.predict([]).shape == (0,)


@pytest.mark.parametrize("resolution", [128, 156])
def test_too_small_images_are_refused(resolution):
    configs = [SPACE.largest, SPACE.config(resolution=resolution)]
    with pytest.raises(ValueError, match=rf"resolution = {resolution} \(sub-network 1\).*160 to 224 px"):
        PREDICTOR.predict(configs)


@pytest.mark.parametrize("space", ["ofa_mbv3_w1.0", "ofa_resnet50", "ofa_mbv3_demo", "../ofa_mbv3_w1.2"])
def test_other_spaces_are_told_what_is_possible(space):
    with pytest.raises(LibraryError, match="accuracy must come from images: give --images DIR") as error:
        load_predictor(space)
    assert space in str(error.value)


def test_a_damaged_file_is_one_line(tmp_path, monkeypatch):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\0" * 20)
    monkeypatch.setattr("dynofa_ros.library.accuracy.share_file", lambda *parts: damaged)
    with pytest.raises(LibraryError, match=r"ofa_mbv3_w1\.2\.safetensors cannot be read") as error:
        load_predictor(SPACE.name)
    assert "\n" not in str(error.value)


def test_the_licence_travels_with_the_data():
    from safetensors import safe_open

    notice = share_file("config", "predictors", "LICENSE").read_text()
    assert notice.startswith("MIT License") and "Han Cai" in notice
    with safe_open(share_file("config", "predictors", "ofa_mbv3_w1.2.safetensors"), framework="np") as file:
        assert file.metadata()["license"].endswith(notice)
