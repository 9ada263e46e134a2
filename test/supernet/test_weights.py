"""Checkpoints: names and formats that load, what is refused, memory mapping, processes without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from factories import random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dynofa_ros.supernet import weights as convert
from dynofa_ros.supernet.registry import DEMO_SPACE, load_space, official_spaces
from dynofa_ros.supernet.weights import WeightsError, load_weights, memory_mapped, save_weights

SPACE = load_space(DEMO_SPACE)
KEY = "blocks.3.conv.depth_conv.conv.conv.weight"
SHAPE = SPACE.parameter_shapes(7)[KEY]


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return random_weights(SPACE)


@pytest.fixture
def file(tmp_path, state) -> Path:
    path = tmp_path / "demo.safetensors"
    save_file(state, path, {"labels": "a,b,c,d,e,f,g"})
    return path


@pytest.fixture
def torch_file(tmp_path, state) -> Path:
    torch = pytest.importorskip("torch")
    path = tmp_path / "demo.pth"
    torch.save({"state_dict": {k: torch.from_numpy(v) for k, v in state.items()}}, path)
    return path


# --- names ----------------------------------------------------------------------------------------------


def official_network(name: str):
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks", reason="needs ofa")
    if name == "ofa_resnet50":
        return networks.OFAResNets(
            depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0]
        )
    kind = networks.OFAMobileNetV3 if "mbv3" in name else networks.OFAProxylessNASNets
    lists = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    return kind(dropout_rate=0, width_mult=float(name.rpartition("w")[2]), **lists)


@pytest.mark.parametrize("name", official_spaces())
def test_names_and_shapes_are_the_official_ones(name):
    state = official_network(name).state_dict()
    shapes = load_space(name).parameter_shapes(1000)
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes
    assert len({load_space(name).canonical_name(key) for key in shapes}) == len(shapes), (
        "two arrays would share a name"
    )


OLD = {
    "old block names": lambda k: (
        k.replace(".conv.", ".mobile_inverted_conv.", 1) if k.startswith("blocks") else k
    ),
    "single names": lambda k: re.sub(r"\b(bn|conv|linear)\.\1\.", r"\1.", k),
    "data parallel": lambda k: f"module.{k}",
}


@pytest.mark.parametrize("style", OLD)
@pytest.mark.parametrize("name", official_spaces())
def test_every_official_style_of_names_loads(name, style):
    if style == "old block names" and name == "ofa_resnet50":
        pytest.skip("resnet50 has no block of that name")
    space = load_space(name)
    state = {
        key: np.zeros(shape, np.float32) + index % 7
        for index, (key, shape) in enumerate(space.parameter_shapes(3).items())
    }
    renamed = {OLD[style](key): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    loaded = load_weights(space, {"state_dict": renamed})
    assert loaded.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(np.array_equal(loaded[key], state[key]) for key in loaded)
    assert loaded.classes == 3


def test_parameters_are_counted_as_the_official_code_does():
    weights = load_weights(load_space("ofa_mbv3_w1.0"), random_weights(load_space("ofa_mbv3_w1.0"), 1000))
    assert weights.parameters == 7_678_880


WRAPPED = {
    "a trainer's": lambda s: {"best_acc": np.float64(0.7), "args": Trainer(), "state_dict": s},
    "compiled": lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}},
    "compiled and parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "lightning": lambda s: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in s.items()}},
    "nncf": lambda s: {f"nncf_module.{k}": v for k, v in s.items()},
    "ignite": lambda s: {"model_state_dict": s, "optimizer_state_dict": {}},
    "net": lambda s: {"net": s, "acc": 71.0},
    "averaged": lambda s: {"ema": {"n_averaged": s[KEY] * 0, **{f"module.{k}": v for k, v in s.items()}}},
    "the newest, not the average": lambda s: {
        "model": s,
        "model_ema": {k: 0 * v for k, v in s.items()},
    },
    "own head": lambda s: {k.replace("classifier.linear.", "classifier."): v for k, v in s.items()},
}


class Trainer:
    """Of a package that is not there when the file is read."""

    def __init__(self) -> None:
        self.rate = 0.1


@pytest.mark.parametrize("style", WRAPPED)
def test_checkpoints_as_trainers_leave_them(tmp_path, state, style):
    torch = pytest.importorskip("torch")
    tensors = {k: torch.from_numpy(v) for k, v in state.items()}
    torch.save(WRAPPED[style](tensors), tmp_path / "w.pt")
    loaded = load_weights(SPACE, tmp_path / "w.pt")
    assert loaded.digest == load_weights(SPACE, state).digest


def test_a_whole_saved_model_is_read_without_its_code(tmp_path, state):
    torch = pytest.importorskip("torch")
    networks = pytest.importorskip("ofa.imagenet_classification.elastic_nn.networks")
    name = "ofa_mbv3_w0.25"
    net = networks.OFAMobileNetV3(
        n_classes=7, width_mult=0.25, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    torch.save({"model": net}, tmp_path / "w.pt")
    loaded = load_weights(load_space(name), tmp_path / "w.pt")
    assert loaded.digest == load_weights(load_space(name), net.state_dict()).digest
    static = net.get_active_subnet().state_dict()
    with pytest.raises(WeightsError, match="is one static sub-network that was cut out of a supernet"):
        load_weights(load_space(name), static)


def test_bfloat16_and_prefixes_of_safetensors(tmp_path, state):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    halves = {f"model.{k}": torch.from_numpy(v).to(torch.bfloat16) for k, v in state.items() if v.ndim}
    save_torch(halves, tmp_path / "w.safetensors")
    loaded = load_weights(SPACE, tmp_path / "w.safetensors")
    assert np.array_equal(loaded[KEY], halves[f"model.{KEY}"].float().numpy())


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(KEY), [KEY, "missing", str(SHAPE)]),
        (lambda s: s.update(surprise=np.zeros(2)), ["surprise", "unknown", "1 unknown"]),
        (lambda s: s.update({KEY: np.zeros((8, 1, 5, 5))}), [KEY, "(8, 1, 5, 5)", str(SHAPE)]),
        (lambda s: s.update({f"module.{KEY}": s[KEY]}), [KEY, f"module.{KEY}", "same array"]),
        (lambda s: s.update({KEY: np.full(SHAPE, np.nan)}), [KEY, "not finite", str(SHAPE)]),
        (lambda s: s.update({KEY: np.full(SHAPE, 1e300)}), [KEY, "not finite"]),
        (lambda s: s.update({KEY: np.zeros(SHAPE, complex)}), [KEY, "complex128", "float32"]),
        (lambda s: s.update({KEY: "text"}), [KEY, "str", "tensor"]),
        (lambda s: s.pop("classifier.linear.weight"), ["classifier.linear.weight", "missing"]),
    ],
)
def test_a_key_that_does_not_fit_is_named(state, change, words):
    broken = dict(state)
    change(broken)
    with pytest.raises(WeightsError) as error:
        load_weights(SPACE, broken)
    assert all(word in str(error.value) for word in ["state_dict", *words]), error.value
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_space_names_the_first_difference(file):
    with pytest.raises(WeightsError, match=rf"{file}.*ofa_resnet50 needs"):
        load_weights(load_space("ofa_resnet50"), file)


def header_of(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: dict, values: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


@pytest.mark.parametrize("damage", ["cut", "longer", "overlap", "beyond the end", "other shape", "bfloat16"])
def test_a_damaged_file_is_one_line(file, damage):
    header, values = header_of(file)
    entry = header[KEY]
    if damage == "cut":
        values = values[:-4]
    elif damage == "longer":
        values += bytes(4)
    elif damage == "overlap":
        entry["data_offsets"] = header["first_conv.conv.weight"]["data_offsets"]
    elif damage == "beyond the end":
        entry["data_offsets"] = [len(values), len(values) + 4 * int(np.prod(SHAPE))]
    elif damage == "other shape":
        entry["shape"][0] += 1
    else:
        entry["dtype"], entry["shape"][1] = "BF16", 2
    with_header(file, header, values)
    with pytest.raises(WeightsError, match=re.escape(str(file))) as error:
        load_weights(SPACE, file)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "any.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as error:
        load_weights(SPACE, path)
    assert "\n" not in str(error.value)


def test_labels_must_be_as_many_as_classes(tmp_path, state):
    save_file(state, tmp_path / "demo.safetensors", {"labels": "a,b"})
    with pytest.raises(WeightsError, match="2 labels for 7 classes"):
        load_weights(SPACE, tmp_path / "demo.safetensors")
    save_file(state, tmp_path / "demo.safetensors", {"labels": '["a'})
    with pytest.raises(WeightsError, match=r"demo.safetensors: not a readable checkpoint: Unterminated"):
        load_weights(SPACE, tmp_path / "demo.safetensors")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("quantised", "not a readable checkpoint: Got unsupported ScalarType QInt8"),
        ("sparse", "not a readable checkpoint: can't convert Sparse layout"),
        ("script", "a TorchScript program: its state_dict() is needed"),
    ],
)
def test_other_files_of_torch_are_one_line_without_its_warnings(tmp_path, state, kind, words):
    torch = pytest.importorskip("torch")
    path, array = tmp_path / "other.pt", torch.from_numpy(state[KEY])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "script":
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
        elif kind == "sparse":
            torch.save({KEY: array.to_sparse()}, path)
        else:
            torch.save({KEY: torch.quantize_per_tensor(array, 0.1, 0, torch.qint8)}, path)
    with pytest.raises(WeightsError, match=re.escape(f"{path}: {words}")):
        load_weights(SPACE, path)


# --- memory mapping -------------------------------------------------------------------------------------


def test_arrays_are_read_only_views_of_one_mapping(file, state):
    weights = load_weights(SPACE, file)
    mapped = np.frombuffer(weights.mapping, np.uint8)
    for key, array in weights.items():
        assert np.shares_memory(array, mapped) and not array.flags.writeable
        assert np.array_equal(array, state[key])
    assert weights.labels == tuple("abcdefg")


def test_other_types_become_float32(tmp_path, state):
    path = tmp_path / "mixed.safetensors"
    save_file({k: v.astype(np.float16 if "running" in k else np.float64) for k, v in state.items()}, path)
    weights = load_weights(SPACE, path)
    assert all(array.dtype == np.float32 for array in weights.values())
    assert np.array_equal(weights[KEY], state[KEY])


@pytest.mark.parametrize("shift", range(1, 4))
def test_values_at_odd_places_of_the_file_load(file, state, shift):
    header, values = header_of(file)
    header["__metadata__"] = {"pad": ""}
    free = -(8 + len(json.dumps(header))) % 4  # up to the next aligned place
    header["__metadata__"]["pad"] = "x" * (free + shift)
    with_header(file, header, values)
    weights = load_weights(SPACE, file)
    assert all(array.flags.aligned for array in weights.values())
    assert np.array_equal(weights[KEY], state[KEY])


def resident_bytes(path: Path) -> int:
    """Of this process, in mappings of ``path``."""
    maps = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(int(re.search(r"Rss: +(\d+) kB", text)[1]) * 1024 for text in maps)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_memory_is_given_back_after_loading_and_after_use(file):
    weights = load_weights(SPACE, file)
    page_cache_read_around = 1 << 18
    assert resident_bytes(file) <= page_cache_read_around
    total = sum(float(a.sum()) for a in weights.values())
    assert resident_bytes(file) > 0.8 * file.stat().st_size
    weights.release()
    assert resident_bytes(file) == 0
    assert len(weights.digest) == 64 and resident_bytes(file) == 0
    assert sum(float(a.sum()) for a in weights.values()) == total


def test_the_digest_does_not_depend_on_format_or_order(file, torch_file, state):
    expected = hashlib.sha256()
    for key in sorted(k for k in state if not k.endswith("num_batches_tracked")):
        expected.update(f"{key}{state[key].shape}".encode() + state[key].tobytes())
    backwards = dict(reversed(state.items()))
    digests = {load_weights(SPACE, source).digest for source in (file, torch_file, backwards)}
    assert digests == {expected.hexdigest()}


def test_written_weights_are_the_same_and_nothing_half_written_stays(tmp_path, file):
    weights = load_weights(SPACE, file)
    copy = tmp_path / "copy" / "demo.safetensors"
    save_weights(copy, weights)
    again = load_weights(SPACE, copy)
    assert (again.digest, again.labels) == (weights.digest, weights.labels)
    assert not any(key.endswith("num_batches_tracked") for key in load_file(copy))
    assert [p.name for p in copy.parent.iterdir()] == ["demo.safetensors"]
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(copy / "below a file.safetensors", weights)


# --- without torch --------------------------------------------------------------------------------------

LOAD = """
import sys
from dynofa_ros.supernet import weights as convert
from dynofa_ros.supernet.weights import memory_mapped
from dynofa_ros.supernet.registry import load_space
try:
    print(memory_mapped(load_space(sys.argv[1]), sys.argv[2]).digest)
finally:
    assert "torch" not in sys.modules
"""


def in_a_process(path: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD, DEMO_SPACE, str(path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
    )


def test_a_process_that_maps_a_torch_checkpoint_does_not_import_torch(tmp_path, torch_file, state):
    result = in_a_process(torch_file, tmp_path / "cache")
    assert result.stdout.strip() == load_weights(SPACE, state).digest, result.stderr
    (cached,) = (tmp_path / "cache" / "dynofa_ros" / "weights").iterdir()
    before = cached.stat().st_mtime_ns
    blocked = tmp_path / "blocked"  # the second time no conversion is needed, so no torch either
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('no torch here')")
    path = os.pathsep.join([str(blocked), os.environ["PYTHONPATH"]])
    again = in_a_process(torch_file, tmp_path / "cache", PYTHONPATH=path)
    assert again.stdout == result.stdout and cached.stat().st_mtime_ns == before

    other = in_a_process(torch_file, tmp_path / "empty", PYTHONPATH=path)
    assert other.returncode == 1
    line = other.stderr.strip().splitlines()[-1]
    assert f"{torch_file}: this format needs torch" in line
    assert "dynofa weights check demo.pth --out demo.safetensors" in line


def test_the_child_says_why_in_one_line(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "foreign.pth"
    torch.save({"classifier.linear.weight": torch.zeros(7, 8)}, path)
    with pytest.raises(WeightsError, match=re.escape(f"{path}: first_conv.conv.weight is missing")) as error:
        memory_mapped(SPACE, path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_a_changed_checkpoint_is_converted_anew(tmp_path, monkeypatch, torch_file, state):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "_convert_in_child", convert.convert)  # the child is tested above
    first = memory_mapped(SPACE, torch_file)
    assert first.source == str(torch_file)
    times = torch_file.stat()
    changed = {k: torch.from_numpy(v) for k, v in state.items()} | {KEY: torch.ones(SHAPE)}
    torch.save({"state_dict": changed}, torch_file)
    os.utime(torch_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert float(memory_mapped(SPACE, torch_file)[KEY].max()) == 1.0
    assert np.array_equal(first[KEY], state[KEY]), "the first one is still mapped"
