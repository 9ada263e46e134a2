"""Sessions by the C API of ONNX Runtime, for versions whose Python API maps no file (before 1.31).

Those hold the interpreter for all of the time that they make a session; ctypes lets go of it. The wheel has
the C library beside its Python module. The numbers are places in the table of functions, `OrtApi` of
onnxruntime_c_api.h, to which functions are only ever added.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FUNCTIONS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "CreateEnv": (3, (c_int, c_char_p, c_void_p)),
    "CreateSessionFromArray": (8, (c_void_p, c_void_p, c_size_t, c_void_p, c_void_p)),
    "Run": (9, (c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p)),
    "CreateSessionOptions": (10, (c_void_p,)),
    "SetSessionLogSeverityLevel": (22, (c_void_p, c_int)),
    "SetSessionGraphOptimizationLevel": (23, (c_void_p, c_int)),
    "SetIntraOpNumThreads": (24, (c_void_p, c_int)),
    "SetInterOpNumThreads": (25, (c_void_p, c_int)),
    "CreateTensorWithDataAsOrtValue": (
        49,
        (c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_int, c_void_p),
    ),
    "GetTensorMutableData": (51, (c_void_p, c_void_p)),
    "GetTensorElementType": (60, (c_void_p, c_void_p)),
    "GetDimensionsCount": (61, (c_void_p, c_void_p)),
    "GetDimensions": (62, (c_void_p, c_void_p, c_size_t)),
    "GetTensorTypeAndShape": (65, (c_void_p, c_void_p)),
    "CreateCpuMemoryInfo": (69, (c_int, c_int, c_void_p)),
    "AddSessionConfigEntry": (130, (c_void_p, c_char_p, c_char_p)),
    "CreateAndRegisterAllocator": (144, (c_void_p, c_void_p, c_void_p)),
}
RELEASE = {"Status": 93, "Session": 95, "Value": 96, "TensorTypeAndShapeInfo": 99, "SessionOptions": 100}
MESSAGE = 2  # GetErrorMessage
API_VERSION, ERRORS_ONLY, ARENA, NO_OPTIMISATION = 17, 3, 1, 0
TYPES: dict[int, np.dtype[Any]] = {  # ONNXTensorElementDataType
    number: np.dtype(name)
    for number, name in {1: "f4", 2: "u1", 3: "i1", 6: "i4", 7: "i8", 9: "?", 11: "f8"}.items()
}
NUMBERS = {dtype: number for number, dtype in TYPES.items()}


def library() -> Path | None:
    """The C library of the installed wheel, None if it has none."""
    return next(iter(Path(onnxruntime.__file__).with_name("capi").glob("libonnxruntime.so*")), None)


class Api:
    """The functions by name; each raises RuntimeError with the runtime's reason."""

    def __init__(self, file: Path) -> None:
        base = ctypes.CDLL(str(file)).OrtGetApiBase
        base.restype = POINTER(c_void_p)
        get = ctypes.CFUNCTYPE(c_void_p, c_uint32)(base()[0])
        self._table = ctypes.cast(get(API_VERSION), POINTER(c_void_p))
        self._message = ctypes.CFUNCTYPE(c_char_p, c_void_p)(self._table[MESSAGE])
        self._release = {n: ctypes.CFUNCTYPE(None, c_void_p)(self._table[i]) for n, i in RELEASE.items()}
        self._functions = {
            name: ctypes.CFUNCTYPE(c_void_p, *types)(self._table[place])
            for name, (place, types) in FUNCTIONS.items()
        }
        self.environment = self.made("CreateEnv", ERRORS_ONLY, b"dynofa")
        self.memory = self.made("CreateCpuMemoryInfo", ARENA, 0)
        # one arena for the working memory of all networks
        self("CreateAndRegisterAllocator", self.environment, self.memory, None)

    def __call__(self, name: str, *arguments: Any) -> None:
        status = self._functions[name](*arguments)
        if status:
            reason = self._message(status).decode(errors="replace")
            self._release["Status"](status)
            raise RuntimeError(f"{name}: {reason}")

    def made(self, name: str, *arguments: Any) -> c_void_p:
        """What a function makes, which it writes to its last argument."""
        found = c_void_p()
        self(name, *arguments, byref(found))
        return found

    def release(self, kind: str, value: c_void_p) -> None:
        self._release[kind](value)


@functools.cache
def api() -> Api:
    """Of this process; it stays until the end. Raises OSError or AttributeError where there is none."""
    found = library()
    if found is None:
        raise OSError("this build of onnxruntime has no C library")
    return Api(found)


class MappedSession:
    """A session on a file in the format of ONNX Runtime, whose weights are read where they are in the
    file."""

    def __init__(self, file: Path, threads: int, entries: Sequence[str]) -> None:
        self._api, self._session = api(), c_void_p()
        with file.open("rb") as opened:
            self._mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = (ctypes.c_char * len(self._mapping)).from_buffer(self._mapping)
        options = self._api.made("CreateSessionOptions")
        try:
            self._api("SetSessionLogSeverityLevel", options, ERRORS_ONLY)
            self._api("SetSessionGraphOptimizationLevel", options, NO_OPTIMISATION)
            self._api("SetIntraOpNumThreads", options, max(1, threads))
            self._api("SetInterOpNumThreads", options, 1)
            self._api("AddSessionConfigEntry", options, b"session.intra_op.allow_spinning", b"0")
            for entry in (*entries, "session.use_ort_model_bytes_directly"):  # those that it knows count
                self._api("AddSessionConfigEntry", options, entry.encode(), b"1")
            self._session = self._api.made(
                "CreateSessionFromArray", self._api.environment, self._bytes, len(self._bytes), options
            )
        finally:
            self._api.release("SessionOptions", options)

    def __del__(self) -> None:
        if self._session:
            self._api.release("Session", self._session)

    def get_providers(self) -> list[str]:
        """As of every session."""
        return ["CPUExecutionProvider"]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays of one of TYPES in, arrays out. Raises RuntimeError with the runtime's reason."""
        arrays = [np.ascontiguousarray(array) for array in inputs.values()]
        values = (c_void_p * len(arrays))(*(self._value(array) for array in arrays))
        found = (c_void_p * len(outputs))()
        try:
            self._api(
                "Run",
                self._session,
                None,
                (c_char_p * len(inputs))(*(name.encode() for name in inputs)),
                values,
                len(inputs),
                (c_char_p * len(outputs))(*(name.encode() for name in outputs)),
                len(outputs),
                found,
            )
            return [self._array(c_void_p(value)) for value in found]
        finally:
            for value in (*values, *found):
                if value:
                    self._api.release("Value", c_void_p(value))

    def _value(self, array: np.ndarray) -> int | None:
        shape = (c_int64 * array.ndim)(*array.shape)
        form = array.nbytes, shape, array.ndim, NUMBERS[array.dtype]
        return self._api.made(
            "CreateTensorWithDataAsOrtValue", self._api.memory, array.ctypes.data, *form
        ).value

    def _array(self, value: c_void_p) -> np.ndarray:
        """A copy, which outlives the value."""
        form = self._api.made("GetTensorTypeAndShape", value)
        try:
            count, kind = c_size_t(), c_int()
            self._api("GetDimensionsCount", form, byref(count))
            shape = (c_int64 * count.value)()
            self._api("GetDimensions", form, shape, count.value)
            self._api("GetTensorElementType", form, byref(kind))
        finally:
            self._api.release("TensorTypeAndShapeInfo", form)
        made, data = np.empty(tuple(shape), TYPES[kind.value]), self._api.made("GetTensorMutableData", value)
        if made.nbytes:
            ctypes.memmove(made.ctypes.data, data, made.nbytes)
        return made
