"""OpenVINO engine: the ONNX graph of a sub-network compiled for the CPU, or an Intel GPU or NPU."""

from __future__ import annotations

import functools

import numpy as np
import openvino

from dynofa_ros.errors import one_line
from dynofa_ros.supernet.engines.engine import Engine
from dynofa_ros.supernet.engines.onnx_graph import build_model
from dynofa_ros.supernet.graphs import Arrays, Graph, GraphRunner
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

    def prepare_graph(self, graph: Graph, threads: int, processor: str | None) -> GraphRunner:
        name = DEVICES[processor if processor in self.processors() else "cpu"]
        options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
        if name == "CPU":
            options["INFERENCE_NUM_THREADS"] = str(max(1, threads))
            options["ENABLE_CPU_PINNING"] = "NO"  # where inference runs is the manager's to say
        try:
            model = _core().read_model(build_model(graph).SerializeToString())
            batched = graph.inputs[0].shape[0] == "N" and len(graph.inputs) == 1
            if batched:  # compiled for one image
                model.reshape([1, *graph.inputs[0].shape[1:]])
            request = _core().compile_model(model, name, options).create_infer_request()
        except Exception as error:  # OpenVINO raises plain RuntimeErrors of many lines
            reason = one_line(error)
            raise EngineError(f"openvino refused the sub-network: {reason}") from error

        def run(inputs: Arrays) -> Arrays:
            found = request.infer(inputs, share_inputs=True)
            return {value.name: found[i].copy() for i, value in enumerate(graph.outputs)}

        def one_by_one(inputs: Arrays) -> Arrays:
            ((name, rows),) = inputs.items()
            found = [run({name: row[None]}) for row in rows]
            return {value.name: np.concatenate([f[value.name] for f in found]) for value in graph.outputs}

        return one_by_one if batched else run
