"""ONNX Runtime engine: a session on the graph of a sub-network, on the best execution provider present."""

from __future__ import annotations

import logging
from typing import Any

import onnxruntime

from dynofa_ros.paths import cache_folder
from dynofa_ros.supernet.engines.engine import Engine
from dynofa_ros.supernet.engines.onnx_graph import Model, build_graph
from dynofa_ros.supernet.graphs import Graph, GraphRunner
from dynofa_ros.supernet.registry import EngineError, register_engine

Provider = tuple[str, dict[str, Any]]
TENSORRT = "TensorrtExecutionProvider"


PROVIDERS: dict[str, list[Provider]] = {  # that reach each processor, best first
    "cpu": [("XnnpackExecutionProvider", {}), ("CPUExecutionProvider", {})],
    # TF32 rounds products to 10 bits: another network than on the CPU
    "gpu": [(TENSORRT, {}), ("CUDAExecutionProvider", {"use_tf32": "0"})],
    "npu": [(TENSORRT, {"trt_dla_enable": True, "trt_fp16_enable": True}), ("QNNExecutionProvider", {})],
}


def choose_providers(processor: str | None, available: list[str]) -> list[Provider]:
    """Those of ``available`` that reach the processor (None = the fastest there is), then the CPU's."""
    wanted = [] if processor == "cpu" else PROVIDERS["npu" if processor == "npu" else "gpu"]
    return [p for p in wanted + PROVIDERS["cpu"] if p[0] in available]


def with_engine_cache(provider: Provider, model: Model) -> Provider:
    """TensorRT keeps what it built: that takes minutes on a Jetson.

    A folder per sub-network, because its own file names do not tell two sub-networks apart. Where no folder
    can be made it builds anew every time.
    """
    name, options = provider
    if name != TENSORRT:
        return provider
    try:
        folder = cache_folder("tensorrt", model.digest)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.getLogger(__name__).warning("TensorRT engines are not kept: %s", error)
        return provider
    kept = {
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
        "trt_engine_cache_path": str(folder),
    }
    return name, kept | options


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options that every session of this package has; ``threads`` intra-op threads (0 = 1)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # waiting threads would spin on cores that the robot's other nodes need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@register_engine
class OnnxRuntime(Engine):
    """Sessions of ONNX Runtime."""

    concurrent = True

    def processors(self) -> tuple[str, ...]:
        # TensorRT is asked for a DLA only when it is used
        available = onnxruntime.get_available_providers()
        return tuple(p for p, wanted in PROVIDERS.items() if any(name in available for name, _ in wanted))

    def prepare_graph(self, graph: Graph, threads: int, processor: str | None) -> GraphRunner:
        options, built = session_options(threads), build_graph(graph)
        # the session reads the weights where they are: no copy inside a serialised model
        names = list(built.weights)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(built.weights[n]) for n in names]
        options.add_external_initializers(names, values)
        available = onnxruntime.get_available_providers()
        try:
            chosen = [with_engine_cache(p, built) for p in choose_providers(processor, available)]
            session = onnxruntime.InferenceSession(built.model.SerializeToString(), options, providers=chosen)
        except Exception as error:  # the runtime raises its own unrelated exception types
            raise EngineError(f"onnxruntime refused the sub-network: {error}") from error
        outputs = [value.name for value in graph.outputs]
        return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))
