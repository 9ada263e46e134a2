"""Checkpoints made to harm who reads them."""

from __future__ import annotations

from pathlib import Path

import hostile
import pytest
from confined import Outcome, confined, note, refused


@pytest.mark.parametrize("name", hostile.safetensors_files())
def test_safetensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(hostile.safetensors_files()[name])
    refused(confined(hostile.fit_demo, path), path)


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
