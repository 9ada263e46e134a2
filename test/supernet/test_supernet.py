"""Search space, plan, masked and materialised execution, weights: one supernet, many sub-networks."""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.engines import onnxruntime as engine_onnxruntime
from dynofa_ros.supernet.engines.onnx_graph import build_graph, build_model
from dynofa_ros.supernet.layers import make_divisible
from dynofa_ros.supernet.materialise import materialise
from dynofa_ros.supernet.registry import DEMO_SPACE, EngineError, load_engine, load_space, require_processor
from dynofa_ros.supernet.weights import WeightsError, load_weights

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
masked = pytest.importorskip("dynofa_ros.supernet.masked")

SPACE = load_space(DEMO_SPACE)
CLASSES = 7


def configs(space=SPACE):
    drawn = {name: st.tuples(*map(st.sampled_from, allowed)) for name, allowed in space.choices.items()}
    return st.builds(space.config, resolution=st.sampled_from(space.input_sizes), **drawn)


@pytest.fixture(scope="module")
def state() -> dict:
    """Random weights with statistics of a batch, and kernel matrices that are not the identity."""
    weights = masked.initial_weights(SPACE, CLASSES, seed=3)
    generator = torch.Generator().manual_seed(5)
    for key in weights:
        if key.endswith("_matrix"):
            weights[key] += 0.05 * torch.randn(weights[key].shape, generator=generator)
    images = torch.randn(8, 3, 96, 96, generator=generator)
    normalise = masked.batch_statistics(weights, SPACE.bn_epsilon, momentum=1.0)
    with torch.no_grad():
        masked.masked_forward(SPACE.plan(SPACE.largest, CLASSES), weights, images, normalise)
    return weights


def shared_statistics(weights):
    """Normalisation of inference by the running statistics of the weights."""

    def normalise(x, key):
        leaves = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (weights[f"{key}.{leaf}"][: x.shape[1]] for leaf in leaves)
        return torch.nn.functional.batch_norm(x, mean, var, scale, shift, False, 0.0, SPACE.bn_epsilon)

    return normalise


@pytest.fixture(scope="module")
def supernet(state):
    return load_supernet(DEMO_SPACE, state)


@pytest.mark.parametrize(
    ("name", "keys", "parameters", "largest", "smallest"),
    [
        ("ofa_mbv3_w1.0", 475, 7_678_880, (566.2, 7.665), (121.3, 3.411)),
        ("ofa_mbv3_w1.2", 475, 10_715_752, (843.1, 10.702), (193.1, 4.602)),
        ("ofa_proxyless_w1.3", 446, 7_956_882, (1004.9, 7.942), (265.5, 3.719)),
        ("ofa_resnet50", 368, 48_105_992, (7491.6, 48.106), (962.2, 6.539)),
    ],
)
def test_official_sizes(name, keys, parameters, largest, smallest):
    """Counts of the official implementation at 224 px: million MACs, million parameters."""
    space = load_space(name)
    shapes = space.parameter_shapes(1000)
    assert len(shapes) == keys
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(int(np.prod(s)) for k, s in shapes.items() if not k.endswith(buffers)) == parameters
    small = msgspec.structs.replace(space.smallest, resolution=224)
    for config, expected in ((space.largest, largest), (small, smallest)):
        plan = space.plan(config, 1000)
        assert (round(plan.macs / 1e6, 1), round(plan.params / 1e6, 3)) == expected


@given(st.integers(1, 4000))
def test_make_divisible(value):
    rounded = make_divisible(value)
    assert rounded % 8 == 0 and rounded >= 0.9 * value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_sizes": 4}, ["kernel_sizes", "4", "3, 5, 7"]),
        ({"kernel_sizes": [3] * 19}, ["kernel_sizes", "19 entries", "20"]),
        ({"kernel_sizes": [3] * 19 + [9]}, ["kernel_sizes[19]", "9"]),
        ({"expand_ratios": 5}, ["expand_ratios", "5", "3, 4, 6"]),
        ({"depths": [2, 2, 2, 2, 1]}, ["depths[4]", "1", "2, 3, 4"]),
        ({"depths": 0}, ["depths", "0"]),
        ({"resolution": 66}, ["resolution", "66", "multiple of 4", "64..128"]),
        ({"resolution": 224}, ["resolution", "224"]),
        ({"resolution": 64.5}, ["resolution", "64.5"]),
        ({"resolution": True}, ["resolution", "True"]),
        ({"kernel_sizes": "3"}, ["kernel_sizes", "'3'"]),
        ({"kernel_sizes": {}}, ["kernel_sizes", "{}"]),
        ({"kernel_sizes": np.ones((2, 2))}, ["kernel_sizes"]),
        ({"resolution": np.array([96])}, ["resolution"]),
        ({"resolution": math.inf}, ["resolution", "inf"]),
        ({"widths": 1}, ["widths"]),
    ],
)
def test_an_invalid_configuration_names_the_entry_and_what_is_allowed(arguments, words):
    with pytest.raises(ValueError) as error:
        SPACE.config(**arguments)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [10**400, np.float32(0.3), float("nan"), None.__class__, "0.2"])
def test_an_invalid_expand_ratio_of_resnet50_is_a_value_error(value):
    with pytest.raises(ValueError, match="expand_ratios.*one of 0.2, 0.25, 0.35"):
        load_space("ofa_resnet50").config(expand_ratios=value)


@pytest.mark.parametrize("value", [0.2, np.float32(0.2), np.array(0.2), torch.tensor(0.2), [0.2] * 18])
def test_expand_ratios_of_resnet50_are_taken_in_any_precision(value):
    assert load_space("ofa_resnet50").config(expand_ratios=value).expand_ratios == (0.2,) * 18


def test_the_last_stage_of_proxyless_is_one_block():
    space = load_space("ofa_proxyless_w1.3")
    assert space.config(depths=3).depths == (3, 3, 3, 3, 3, 1)
    with pytest.raises(ValueError, match=r"depths\[5\] = 2 is not allowed: it must be 1"):
        space.config(depths=[2] * 6)


def test_scalars_broadcast_and_numpy_integers_pass():
    config = SPACE.config(kernel_sizes=np.int64(5), expand_ratios=4, depths=3, resolution=np.int32(96))
    assert config.kernel_sizes == (5,) * 20 and config.depths == (3,) * 5 and type(config.resolution) is int


@pytest.mark.parametrize("name", ["", "resnet", "ofa_mbv3_w", "ofa_mbv3_w0", "ofa_mbv3_wx", "ofa_mbv3_w01.2"])
def test_an_unknown_space_names_the_known_ones(name):
    with pytest.raises(ValueError, match=re.escape("ofa_mbv3_w<width>")):
        load_space(name)


@settings(max_examples=12, deadline=None)
@given(config=configs())
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_engines_equal_the_masked_supernet(state, supernet, engine, config):
    images = torch.randn(1, 3, config.resolution, config.resolution)
    plan = SPACE.plan(config, CLASSES)
    with torch.inference_mode():
        expected = masked.masked_forward(plan, state, images, shared_statistics(state))
    logits = supernet.activate(config, engine=engine)(images)
    assert logits.shape == (1, CLASSES)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_own_statistics_are_used(state, supernet):
    config = SPACE.smallest
    batch = torch.randn(16, 3, config.resolution, config.resolution)
    own = masked.calibrate(SPACE.plan(config, CLASSES), state, [batch])
    with torch.inference_mode():
        weights = {k: v.clone() for k, v in state.items()}
        plan = SPACE.plan(config, CLASSES)
        by_batch = masked.masked_forward(
            plan, weights, batch, masked.batch_statistics(weights, SPACE.bn_epsilon, None)
        )
    ours = supernet.activate(config, statistics=own)(batch)
    torch.testing.assert_close(ours, by_batch, rtol=1e-2, atol=1e-2 * float(by_batch.abs().max()))
    assert not torch.allclose(ours, supernet.activate(config)(batch), rtol=1e-2)


def test_statistics_of_another_width_are_refused(state, supernet):
    wide = masked.calibrate(SPACE.plan(SPACE.largest, CLASSES), state, [torch.randn(2, 3, 128, 128)])
    with pytest.raises(ValueError, match="blocks.1.conv.inverted_bottleneck.bn.bn.running_mean.*expected"):
        dict(materialise(SPACE.plan(SPACE.smallest, CLASSES), supernet.weights, wide).graphs)


def test_batches_arrays_and_tensors_are_taken_and_wrong_shapes_named(supernet):
    run = supernet.activate(SPACE.smallest, engine="onnxruntime")
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    torch.testing.assert_close(run(images), run(torch.from_numpy(images)))
    with pytest.raises(ValueError, match=r"\(1, 3, 65, 65\).*\(N, 3, 64, 64\)"):
        run(np.zeros((1, 3, 65, 65), np.float32))


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(
        EngineError, match="'tensorflow' is unknown: choose one of onnxruntime, openvino, torch"
    ):
        load_engine("tensorflow")


def test_a_config_of_another_space_is_refused(supernet):
    with pytest.raises(ValueError, match="resolution = 224"):
        supernet.activate(load_space("ofa_mbv3_w1.0").largest)


# --- checkpoints --------------------------------------------------------------------------------


def test_official_files_load_nested_and_flat(tmp_path, state, supernet):
    for name, content in (("flat.pth", state), ("nested.pth", {"state_dict": state})):
        torch.save(content, tmp_path / name)
        assert load_weights(SPACE, tmp_path / name).digest == supernet.weights.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("blocks.3.conv.point_linear.conv.conv.weight"),
            ["blocks.3.conv.point_linear.conv.conv.weight", "missing"],
        ),
        (lambda s: s.update(surprise=torch.zeros(2)), ["surprise", "unknown"]),
        (
            lambda s: s.update({"first_conv.conv.weight": torch.zeros(16, 3, 3, 3)}),
            ["first_conv.conv.weight", "(16, 3, 3, 3)", "(8, 3, 3, 3)"],
        ),
        (lambda s: s["classifier.linear.bias"].fill_(float("nan")), ["classifier.linear.bias", "not finite"]),
        (lambda s: s.clear(), ["expected a mapping"]),
        (lambda s: s["first_conv.bn.running_var"].fill_(-1.0), ["first_conv.bn.running_var", "negative"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_key(state, change, words):
    broken = {k: v.clone() for k, v in state.items()}
    change(broken)
    with pytest.raises(WeightsError) as error:
        load_weights(SPACE, broken)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_foreign_or_cut_file_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))) as error:
        load_weights(SPACE, path)
    assert "\n" not in str(error.value)


def test_checked_weights_of_another_space_are_refused(supernet):
    with pytest.raises(WeightsError, match="first_conv.conv.weight is of shape"):
        load_weights(load_space("ofa_mbv3_w1.0"), supernet.weights)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(SPACE, tmp_path / "none.pth")


# --- engines ------------------------------------------------------------------------------------


def test_a_processor_that_the_engine_does_not_reach_is_named():
    require_processor("onnxruntime", "cpu")
    with pytest.raises(EngineError, match="onnxruntime reaches no npu here, only cpu"):
        require_processor("onnxruntime", "npu")


@pytest.mark.parametrize(
    ("processor", "available", "chosen"),
    [
        ("cpu", ["CUDA", "CPU"], ["CPU"]),
        ("cpu", ["Xnnpack", "CPU"], ["Xnnpack", "CPU"]),
        ("gpu", ["Tensorrt", "CUDA", "CPU"], ["Tensorrt", "CUDA", "CPU"]),
        (None, ["CUDA", "CPU"], ["CUDA", "CPU"]),
        ("npu", ["CUDA", "CPU"], ["CPU"]),
    ],
)
def test_execution_providers_by_processor(processor, available, chosen):
    names = [f"{name}ExecutionProvider" for name in available]
    providers = engine_onnxruntime.choose_providers(processor, names)
    assert [name.removesuffix("ExecutionProvider") for name, _ in providers] == chosen


def test_a_processor_without_its_driver_is_an_error(supernet, monkeypatch):
    """A build with CUDA on a computer without it: the session falls back to the CPU and says nothing."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engine_onnxruntime.onnxruntime, "get_available_providers", lambda: names)
    engine = load_engine("onnxruntime")
    subnet = supernet.materialise(SPACE.smallest)
    with pytest.raises(EngineError, match="CUDA.* compiled in, but runs on CPU.* where gpu is asked for"):
        engine.prepare(subnet, 1, "gpu")
    assert engine.prepare(subnet, 1, "cpu") and engine.prepare(subnet, 1)


def test_two_subnetworks_never_share_an_engine_cache(supernet):
    """TensorRT's own cache names them alike: same depths, same nodes."""
    digests = set()
    for kernel, resolution in ((3, 64), (5, 64), (3, 68)):
        config = SPACE.config(kernel_sizes=kernel, resolution=resolution)
        digests.add(build_graph(supernet.materialise(config).network).digest)
    other = load_supernet(DEMO_SPACE, masked.initial_weights(SPACE, CLASSES, seed=9)).weights
    digests.add(
        build_graph(
            materialise(SPACE.plan(SPACE.config(kernel_sizes=3, resolution=64), CLASSES), other).network
        ).digest
    )
    assert len(digests) == 4


def test_the_onnx_model_stands_alone(tmp_path, supernet):
    """The model with its weights inside, loaded by a plain session, equals the engine's."""
    config = SPACE.smallest
    subnet = supernet.materialise(config)
    path = tmp_path / "subnet.onnx"
    path.write_bytes(build_model(subnet.network).SerializeToString())
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = load_engine("onnxruntime").prepare(subnet, 1, "cpu")(images)
    np.testing.assert_allclose(session.run(None, {"images": images})[0], ours, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_cuda_graph_equals_the_cpu(supernet):
    subnet = supernet.materialise(SPACE.largest)
    gpu, cpu = (load_engine("torch").prepare(subnet, 1, processor) for processor in ("gpu", "cpu"))
    rng = np.random.default_rng(1)
    for number in (1, 1, 3):  # one image replays the graph, three do not fit it
        images = rng.standard_normal((number, 3, 128, 128)).astype(np.float32)
        np.testing.assert_allclose(gpu(images), cpu(images), rtol=1e-3, atol=1e-3)
