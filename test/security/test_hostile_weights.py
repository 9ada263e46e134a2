"""Checkpoints made to harm who reads them."""

from __future__ import annotations

import os
from pathlib import Path

import hostile
import pytest
from confined import Outcome, confined, note, refused
from onnx import TensorProto, helper

from dynofa_ros.supernet.onnx_adapter import read_model


@pytest.mark.parametrize("name", hostile.safetensors_files())
def test_safetensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(hostile.safetensors_files()[name])
    refused(confined(hostile.fit_demo, path), path)


def onnx_with_weights_in(location: str) -> bytes:
    """A model of one node whose weight is said to be in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1,))
    node = helper.make_node("Add", ["x", "w"], ["x2"])
    return helper.make_model(helper.make_graph([node], "g", [value], [value], [weight])).SerializeToString()


@pytest.mark.parametrize("location", ["/dev/zero", "../secret", "folder/../../secret", "..", "link", "pipe"])
def test_onnx_weights_elsewhere(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"\0" * 4)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    path = folder / "n.onnx"
    path.write_bytes(onnx_with_weights_in(location))
    refused(confined(read_model, path), folder)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Path]]:
    """Of all torch checkpoints in one process, as importing torch takes seconds."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("torch")
    files = hostile.torch_files(folder / "outside")
    paths = [folder / f"{number}.pth" for number in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    found = confined(hostile.fit_each, paths).value
    assert not (folder / "outside").exists()
    return dict(zip(files, zip(found, paths, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.TORCH)
def test_torch_checkpoints(name: str, outcomes: dict[str, tuple[Outcome, Path]]) -> None:
    assert set(outcomes) == set(hostile.TORCH)
    outcome, path = outcomes[name]
    refused(outcome, path)
    note("fit", outcome)
