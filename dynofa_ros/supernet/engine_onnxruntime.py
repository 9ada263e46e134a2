"""ONNX Runtime engine: a session on the graph of a sub-network, on the best execution provider present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from dynofa_ros.paths import cache_folder
from dynofa_ros.supernet.engines import EngineError, Runner
from dynofa_ros.supernet.materialise import Subnet
from dynofa_ros.supernet.onnx_graph import build_graph

Provider = tuple[str, dict[str, Any]]


def _tensorrt(cache: Path, **options: Any) -> Provider:
    # building an engine takes minutes on a Jetson: once per sub-network and machine
    kept = {
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
        "trt_engine_cache_path": str(cache),
    }
    return "TensorrtExecutionProvider", kept | options


def providers(processor: str | None, available: list[str]) -> list[Provider]:
    """Execution providers for a processor, best first, of those ``available``.

    None = the fastest there is. Raises EngineError for an npu without a provider that reaches one.
    """
    cpu: list[Provider] = [("XnnpackExecutionProvider", {}), ("CPUExecutionProvider", {})]
    cache = cache_folder("tensorrt")
    # TF32 rounds products to 10 bits: another network than on the CPU
    gpu: list[Provider] = [_tensorrt(cache), ("CUDAExecutionProvider", {"use_tf32": "0"})]
    npu: list[Provider] = [
        _tensorrt(cache, trt_dla_enable=True, trt_fp16_enable=True),
        ("QNNExecutionProvider", {}),
    ]
    wanted = {"cpu": cpu, "gpu": gpu + cpu, "npu": npu + cpu, None: gpu + cpu}[processor]
    return [p for p in wanted if p[0] in available]


def prepare(subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
    """An inference session with ``threads`` intra-op threads (0 = 1).

    On the CPU for processor "cpu", else on the best provider present.

    Raises EngineError with ONNX Runtime's reason.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # waiting threads would spin on cores that the robot's other nodes need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = build_graph(subnet)
    names = list(graph.weights)
    # the session reads the weights where they are: no copy inside a serialised model
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(graph.weights[n]) for n in names]
    options.add_external_initializers(names, values)
    chosen = providers(processor, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(graph.model.SerializeToString(), options, providers=chosen)
    except Exception as error:  # the runtime raises its own unrelated exception types
        raise EngineError(f"onnxruntime refused the sub-network: {error}") from error
    return lambda images: session.run(["logits"], {"images": images})[0]
