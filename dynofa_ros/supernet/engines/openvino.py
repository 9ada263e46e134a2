"""OpenVINO engine: the ONNX graph of a sub-network compiled for the CPU, or an Intel GPU or NPU."""

from __future__ import annotations

import functools

import openvino

from dynofa_ros.errors import one_line
from dynofa_ros.supernet.engines.engine import Engine, one_by_one, takes_batches
from dynofa_ros.supernet.engines.onnx_graph import build_model
from dynofa_ros.supernet.graphs import Arrays, Graph, GraphRunner
from dynofa_ros.supernet.registry import EngineError

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


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
            if takes_batches(graph):  # compiled for one image
                model.reshape([1, *graph.inputs[0].shape[1:]])
            request = _core().compile_model(model, name, options).create_infer_request()
        except Exception as error:  # OpenVINO raises plain RuntimeErrors of many lines
            reason = one_line(error)
            raise EngineError(f"openvino refused the sub-network: {reason}") from error

        def run(inputs: Arrays) -> Arrays:
            found = request.infer(inputs, share_inputs=True)
            return {value.name: found[i].copy() for i, value in enumerate(graph.outputs)}

        return one_by_one(run, graph) if takes_batches(graph) else run


ENGINE = OpenVino()
