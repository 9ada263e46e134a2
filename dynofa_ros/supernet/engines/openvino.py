"""OpenVINO engine: the ONNX graph of a sub-network compiled for the CPU, or an Intel GPU or NPU."""

from __future__ import annotations

import functools

import numpy as np
import openvino

from dynofa_ros.supernet.engines.engine import Engine, Runner
from dynofa_ros.supernet.engines.onnx_graph import build_model
from dynofa_ros.supernet.materialise import Subnet
from dynofa_ros.supernet.registry import EngineError, register_engine

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


@register_engine
class OpenVino(Engine):
    """Compiled models of OpenVINO, one stream each."""

    def processors(self) -> tuple[str, ...]:
        kinds = {name.split(".")[0] for name in _core().available_devices}
        return tuple(processor for processor, device in DEVICES.items() if device in kinds)

    def prepare(self, subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
        name = DEVICES[processor if processor in self.processors() else "cpu"]
        options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
        if name == "CPU":
            options["INFERENCE_NUM_THREADS"] = str(max(1, threads))
            options["ENABLE_CPU_PINNING"] = "NO"  # where inference runs is the manager's to say
        try:
            model = _core().read_model(build_model(subnet).SerializeToString())
            model.reshape([1, *subnet.input_shape])
            request = _core().compile_model(model, name, options).create_infer_request()
        except Exception as error:  # OpenVINO raises plain RuntimeErrors of many lines
            reason = " ".join(str(error).split())
            raise EngineError(f"openvino refused the sub-network: {reason}") from error

        def run(images: np.ndarray) -> np.ndarray:
            logits = [request.infer({0: image[None]}, share_inputs=True)[0].copy() for image in images]
            return np.concatenate(logits)

        return run
