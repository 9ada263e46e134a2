"""What is compiled ahead of time and kept on disk: TensorRT's engines, optimised networks of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from command import dynofa

from dynofa_ros.errors import CliError
from dynofa_ros.paths import share_file
from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.engines import onnxruntime as engine_onnxruntime
from dynofa_ros.supernet.registry import DEMO_SPACE, EngineError, load_engine
from dynofa_ros.supernet.supernet import Supernet
from dynofa_ros.supernet.switching import prepare_subnet

WEIGHTS = share_file("config", "weights", "ofa_mbv3_demo.safetensors")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet(DEMO_SPACE, WEIGHTS)


class FakeSession:
    """Stands for a session of TensorRT: keeps what it was made of, writes the file that is asked for."""

    made: ClassVar[list[tuple[Any, dict[str, Any]]]] = []

    def __init__(self, model: Any, options: Any, providers: list[tuple[str, dict[str, Any]]]) -> None:
        if isinstance(model, str) and Path(model).read_bytes() != b"compiled":
            raise RuntimeError("not an engine of this TensorRT")
        self.made.append((model, providers[0][1]))
        if file := providers[0][1].get("trt_ep_context_file_path"):
            Path(file).write_bytes(b"compiled")

    def get_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider"]

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert len(inputs["images"]) == 1, "it was compiled for one image"
        return [inputs["images"].mean((1, 2, 3), keepdims=True)[..., 0, 0]]


def test_tensorrt_compiles_once_for_one_image_with_the_weights_inside(supernet, monkeypatch, tmp_path):
    """No GPU here: what the runtime is asked for. docs/hardware.md has what only a board can confirm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime = engine_onnxruntime.onnxruntime
    names = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: names)
    monkeypatch.setattr(runtime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "made", [])
    engine, config = load_engine("onnxruntime"), supernet.space.smallest
    subnet = supernet.materialise(config)
    assert not engine.is_compiled(subnet, "gpu") and engine.is_compiled(subnet, "cpu")
    with pytest.raises(EngineError, match="small is not compiled for this gpu: `dynofa library compile`"):
        prepare_subnet("small", supernet, config, engine, processor="gpu", compiled=True)
    engine.prepare(subnet, 1, "gpu")
    model, options = FakeSession.made[-1]
    graph = onnx.load_model_from_string(model).graph
    assert [v.type.tensor_type.shape.dim[0].dim_value for v in (*graph.input, *graph.output)] == [1, 1]
    assert all(tensor.raw_data and not tensor.external_data for tensor in graph.initializer)
    assert options["trt_dump_ep_context_model"] == "1" and options["trt_timing_cache_enable"] == "1"
    (file,) = tmp_path.rglob("*.onnx")
    assert options["trt_timing_cache_path"] == str(file.parent), "one for all networks"
    assert engine.is_compiled(subnet, "gpu") and not engine.is_compiled(subnet, "npu")
    prepared = prepare_subnet("small", supernet, config, engine, processor="gpu", compiled=True)
    assert FakeSession.made[-1][0] == str(file) and "trt_dump_ep_context_model" not in FakeSession.made[-1][1]
    images = np.arange(2 * 3 * 64 * 64, dtype=np.float32).reshape(2, 3, 64, 64)
    np.testing.assert_allclose(prepared.run(images)[:, 0], images.mean((1, 2, 3)))
    file.write_bytes(b"of another TensorRT")
    engine.prepare(subnet, 1, "gpu")
    assert file.read_bytes() == b"compiled" and not list(tmp_path.rglob("*.part*")), "compiled anew"


def test_a_library_is_compiled_ahead_of_time(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = share_file("config", "libraries", "demo", "cpu_ofa_mbv3_demo.yaml")
    command = ["library", "compile", library, "--weights", WEIGHTS]
    assert dynofa(*command, "--json", tmp_path / "out.json") == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["processor"] == "cpu" and len(written["entries"]) > 3
    if engine_onnxruntime.MAPS_FILES:
        assert len(list(tmp_path.rglob("*.ort"))) == len(written["entries"])
    with pytest.raises(CliError, match="onnxruntime reaches no gpu here"):
        dynofa(*command, "--processor", "gpu")
    with pytest.raises(CliError, match="engine torch keeps nothing on disk"):
        dynofa(*command, "--engine", "torch")
