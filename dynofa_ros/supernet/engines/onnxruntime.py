"""ONNX Runtime engine: a session on the graph of a sub-network, on the best execution provider present."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import logging
import os
import platform
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime

from dynofa_ros.errors import one_line
from dynofa_ros.files import write_atomically
from dynofa_ros.paths import cache_folder
from dynofa_ros.supernet.engines import onnxruntime_c
from dynofa_ros.supernet.engines.engine import Engine, one_by_one, takes_batches
from dynofa_ros.supernet.engines.onnx_graph import Model, build_graph, for_one_row, with_weights
from dynofa_ros.supernet.graphs import Arrays, Graph, GraphRunner, Runner, Value
from dynofa_ros.supernet.materialise import Subnet
from dynofa_ros.supernet.memory import large_blocks_returned
from dynofa_ros.supernet.registry import EngineError

Session = Any  # of onnxruntime, which has no types, or of onnxruntime_c
Provider = tuple[str, dict[str, Any]]
TENSORRT = "TensorrtExecutionProvider"
ON_CPU: Provider = ("CPUExecutionProvider", {})
# Before 1.31 its Python maps no file, and holds the interpreter while it makes a session; its C API does not.
BY_PYTHON = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= (1, 31)
MAPS_FILES = BY_PYTHON or onnxruntime_c.library() is not None
MAPPED = (
    "session.use_memory_mapped_ort_model",
    "session.use_env_allocators",
    "session.use_ort_model_bytes_for_initializers",
)
UNPACKED = "session.disable_prepacking"
KEPT_BYTES = 2 * 2**30  # of optimised networks on disk
# TensorRT writes a file that holds what it compiled and needs no weights
COMPILED = {"trt_dump_ep_context_model": "1", "trt_ep_context_embed_mode": "1"}

PROVIDERS: dict[str, list[Provider]] = {  # that reach each processor, best first
    "cpu": [("XnnpackExecutionProvider", {}), ON_CPU],
    # TF32 rounds products to 10 bits: another network than on the CPU
    "gpu": [
        (TENSORRT, {}),
        ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
    ],
    "npu": [(TENSORRT, {"trt_dla_enable": True, "trt_fp16_enable": True}), ("QNNExecutionProvider", {})],
}


def choose_providers(processor: str | None, available: list[str]) -> list[Provider]:
    """Those of ``available`` that reach the processor (None = the fastest there is), then the CPU's."""
    wanted = [] if processor == "cpu" else PROVIDERS["npu" if processor == "npu" else "gpu"]
    return [p for p in wanted + PROVIDERS["cpu"] if p[0] in available]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options that every session of this package has; ``threads`` intra-op threads (0 = 1)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # waiting threads would spin on cores that the robot's other nodes need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntime(Engine):
    """Sessions of ONNX Runtime."""

    concurrent = keeps_files = True

    def processors(self) -> tuple[str, ...]:
        # TensorRT is asked for a DLA only when it is used
        available = onnxruntime.get_available_providers()
        return tuple(p for p, wanted in PROVIDERS.items() if any(name in available for name, _ in wanted))

    def is_compiled(self, subnet: Subnet, processor: str | None) -> bool:
        chosen = choose_providers(processor, onnxruntime.get_available_providers())
        if chosen[0][0] != TENSORRT:
            return True
        built = (build_graph(graph) for graph in subnet.graphs.values())
        return all(compiled_file(for_one_row(model), chosen[0]).is_file() for model in built)

    def prepare(self, subnet: Subnet, threads: int = 0, processor: str | None = None) -> Runner:
        chosen = choose_providers(processor, onnxruntime.get_available_providers())
        if chosen[0] != ON_CPU or not MAPS_FILES or subnet.digest is None:
            return super().prepare(subnet, threads, processor)
        known = recalled(subnet.digest, threads)
        if known is None:
            with large_blocks_returned():
                known = super().prepare(subnet, threads, processor)
            remember(subnet.digest, known)
        return known

    def prepare_graph(self, graph: Graph, threads: int, processor: str | None) -> GraphRunner:
        built = build_graph(graph)
        chosen = choose_providers(processor, onnxruntime.get_available_providers())
        single = chosen[0] not in PROVIDERS["cpu"] and takes_batches(graph)
        built = for_one_row(built) if single else built
        outputs, unwritten = [value.name for value in graph.outputs], None
        if chosen[0] == ON_CPU and MAPS_FILES:
            try:
                file = optimised_file(built, threads)
                if (mapped := mapped_runner(file, threads, outputs, is_packed(built))) is not None:
                    return mapped
            except Exception as error:  # noqa: BLE001 - of files, and of a runtime that cannot write this model
                unwritten = one_line(error)
        try:
            make = compiled_session if chosen[0][0] == TENSORRT else make_session
            session = make(built, chosen, threads)
        except Exception as error:  # the runtime raises its own unrelated exception types
            raise EngineError(f"onnxruntime refused the sub-network: {error}") from error
        if unwritten is not None:
            logging.getLogger(__name__).warning("optimised networks are not kept: %s", unwritten)
        if processor is not None:
            require_provider(session, chosen, processor)
        run = SessionRunner(session, outputs)
        return one_by_one(run, graph) if single else run


@dataclass(frozen=True)
class SessionRunner:
    """A session as a function of arrays by name.

    file: where its weights are read, None = in memory. packed: see `is_packed`.
    """

    session: Session
    outputs: Sequence[str]
    file: Path | None = None
    packed: bool = False

    @property
    def mapped(self) -> bool:
        return self.file is not None and not self.packed

    def __call__(self, inputs: Arrays) -> Arrays:
        return dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))


def require_provider(session: Session, chosen: list[Provider], processor: str) -> None:
    """Raises EngineError where the session runs on the CPU although another provider was asked for.

    The list of what is available says what was compiled in; where its driver is missing the runtime goes on
    with the next provider without an error.
    """
    wanted = [name for name, _ in chosen if (name, {}) not in PROVIDERS["cpu"]]
    used = session.get_providers()
    if wanted and used[0] not in wanted:
        raise EngineError(
            f"onnxruntime has {' and '.join(wanted)} compiled in, but runs on {used[0]} where {processor} is "
            "asked for: a driver or library of that processor is missing or of another version"
        )


def make_session(
    model: Model, providers: list[Provider], threads: int, save_to: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session on a model. save_to: also write there what the runtime makes of it."""
    options = session_options(threads)
    # the session reads the weights where they are: no copy inside a serialised model
    names = list(model.weights)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(model.weights[n]) for n in names]
    options.add_external_initializers(names, values)
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
        options.add_session_config_entry("session.save_model_format", "ORT")
    return onnxruntime.InferenceSession(model.model.SerializeToString(), options, providers=providers)


def compiled_file(model: Model, provider: Provider) -> Path:
    """Where TensorRT's form of a network is kept: other versions, chips and options make another one."""
    options = hashlib.sha256(repr(sorted(provider[1].items())).encode()).hexdigest()[:8]
    folder = cache_folder("tensorrt", onnxruntime.__version__, _accelerator())
    return folder / f"{model.digest}-{options}.onnx"


def compiled_session(model: Model, providers: list[Provider], threads: int) -> onnxruntime.InferenceSession:
    """A session on what TensorRT compiled; where there is no file it compiles, minutes on a Jetson.

    All networks share one timing cache: what was tried for one layer is known for the next network.
    """
    (name, options), *others = providers
    file = compiled_file(model, providers[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    timing = {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(file.parent)}
    if file.is_file():
        try:
            return onnxruntime.InferenceSession(
                str(file), session_options(threads), providers=[(name, options), *others]
            )
        except Exception as error:  # noqa: BLE001 - of another TensorRT than its name says, or damaged
            logging.getLogger(__name__).warning("%s is not used and was removed: %s", file, one_line(error))
            file.unlink(missing_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part.onnx")
    compiling = (name, {**options, **timing, **COMPILED, "trt_ep_context_file_path": str(part)})
    # weights in memory of others are not read by TensorRT
    data = with_weights(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, session_options(threads), providers=[compiling, *others])
    if part.is_file():
        part.replace(file)
    return session


def _accelerator() -> str:
    """What tells computers apart for which TensorRT compiles differently: its version, driver and chip."""
    found = []
    with suppress(OSError, AttributeError):
        found.append(str(ctypes.CDLL(ctypes.util.find_library("nvinfer")).getInferLibVersion()))
    places = ("/proc/driver/nvidia/version", "/proc/device-tree/compatible", "/etc/nv_tegra_release")
    for path in (*map(Path, places), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))):
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            found += [line for line in lines if not line.startswith(("IRQ", "GPU UUID", "Bus Location"))]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


@functools.cache
def _share_arena() -> None:
    """One arena for the working memory of all mapped networks: of several only one runs at a time."""
    device, arena = onnxruntime.OrtMemType.DEFAULT, onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, device)
    onnxruntime.create_and_register_allocator(info, None)


def _optimised_folder() -> Path:
    return cache_folder("onnxruntime", onnxruntime.__version__, _computer())


def optimised_file(model: Model, threads: int) -> Path:
    """The optimised model in a file, written for the first one. Raises what the runtime or the files do.

    To optimise takes ten times as long as to map the file, and what is mapped costs no memory of its own: the
    weights are read where they are in the file.
    """
    folder = _optimised_folder()
    file = folder / f"{model.digest}.ort"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{file.stem}.{os.getpid()}.{threading.get_ident()}.part"
        make_session(model, [ON_CPU], threads, save_to=part)
        part.replace(file)
        _drop_oldest(folder)
    return file


def is_packed(model: Model) -> bool:
    """Whether the runtime shall keep weights in memory as matrix products read them, beside the file.

    Else each product arranges them anew: convolutions and one classifier lose nothing by that, a vision
    Transformer a tenth of its time, a translator of four beams more than a third (2 cores of an EPYC).
    """
    return any(node.op_type == "MatMul" for node in model.model.graph.node)


def mapped_runner(file: Path, threads: int, outputs: Sequence[str], packed: bool) -> SessionRunner | None:
    """An optimised model in its file; None where that is damaged, and then it is removed."""
    entries = MAPPED if packed else (*MAPPED, UNPACKED)
    try:
        file.touch()  # those that were not used for long go first
        make = _mapped if BY_PYTHON else onnxruntime_c.MappedSession
        return SessionRunner(make(file, threads, entries), outputs, file, packed)
    except Exception as error:  # noqa: BLE001 - it is written anew the next time
        logging.getLogger(__name__).warning("%s is not used and was removed: %s", file, one_line(error))
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None


class Remembered(msgspec.Struct, frozen=True):
    """A graph of a sub-network that is in a file: its name there, and what goes in and comes out."""

    file: str
    packed: bool
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]


def remember(digest: str, runner: Runner) -> None:
    """Write down in which files a sub-network is: it need not be cut out of the weights again."""
    graphs = {
        name: Remembered(run.file.name, run.packed, tuple(runner.inputs[name]), tuple(run.outputs))
        for name, run in runner.graphs.items()
        if isinstance(run, SessionRunner) and run.file is not None
    }
    if len(graphs) == len(runner.graphs):
        with suppress(OSError):  # then it is cut again
            write_atomically(_optimised_folder() / f"{digest}.json", msgspec.json.encode(graphs))


def recalled(digest: str, threads: int) -> Runner | None:
    """A sub-network that was remembered; None where it was not, or where a file of it is gone."""
    try:
        folder = _optimised_folder()
        index = folder / f"{digest}.json"
        graphs = msgspec.json.decode(index.read_bytes(), type=dict[str, Remembered])
        index.touch()
        files = {name: folder / Path(graph.file).name for name, graph in graphs.items()}
        if not all(file.is_file() for file in files.values()):
            return None
    except (OSError, msgspec.DecodeError):
        return None
    found: dict[str, SessionRunner] = {}
    for name, graph in graphs.items():
        run = mapped_runner(files[name], threads, graph.outputs, graph.packed)
        if run is None:
            return None
        found[name] = run
    return Runner(found, {name: graph.inputs for name, graph in graphs.items()})


def _mapped(file: Path, threads: int, entries: Sequence[str]) -> onnxruntime.InferenceSession:
    _share_arena()
    options = session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for entry in entries:
        options.add_session_config_entry(entry, "1")
    return onnxruntime.InferenceSession(str(file), options, providers=[ON_CPU])


def _drop_oldest(folder: Path) -> None:
    """Keep the networks that were used last, up to KEPT_BYTES. A file in use stays until nobody maps it."""
    kept, files = 0, [*folder.glob("*.ort"), *folder.glob("*.json")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if kept > KEPT_BYTES:
            file.unlink(missing_ok=True)
        else:
            kept += file.stat().st_size


@functools.cache
def _computer() -> str:
    """What tells computers apart whose CPUs need another layout of the weights."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kind = [
            line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")
        ]
        return hashlib.sha256("\n".join(kind).encode()).hexdigest()[:12]
    return platform.machine()


ENGINE = OnnxRuntime()
