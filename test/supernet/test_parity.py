"""Sub-networks against the official once-for-all implementation (PyPI package ``ofa``, for tests only)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest

from dynofa_ros.supernet import load_supernet
from dynofa_ros.supernet.registry import engine_names, load_space, official_spaces
from dynofa_ros.supernet.space import SubnetConfig

torch = pytest.importorskip("torch")
networks = pytest.importorskip(
    "ofa.imagenet_classification.elastic_nn.networks", reason="needs the package ofa"
)

torch.set_num_threads(1)
CONFIGS_PER_SPACE = 50  # beside the largest and the smallest; resolutions are drawn with them
BOUND = 0.01  # of what another image changes
MOBILE = {"dropout_rate": 0, "ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}


def build(space: str):
    if space.startswith("ofa_mbv3"):
        return networks.OFAMobileNetV3(width_mult=float(space.rpartition("w")[2]), **MOBILE)
    if space.startswith("ofa_proxyless"):
        return networks.OFAProxylessNASNets(width_mult=1.3, **MOBILE)
    return networks.OFAResNets(
        depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0]
    )


@pytest.fixture(scope="module", params=official_spaces())
def official(request: pytest.FixtureRequest):
    """The official supernet with random weights whose BN statistics come from a batch of random images.

    With purely random statistics the signal dies on its way and a wrong network would pass.
    """
    torch.manual_seed(0)
    net = build(request.param)
    net.set_max_net()
    for name, parameter in net.named_parameters():
        if name.endswith("_matrix"):
            parameter.data += 0.02 * torch.randn_like(parameter)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(torch.randn(8, 3, 160, 160))
    return request.param, net.eval()


def official_logits(net, config: SubnetConfig, images):
    net.set_active_subnet(
        ks=list(config.kernel_sizes),
        e=list(config.expand_ratios),
        d=list(config.depths),
        w=list(config.widths),
    )
    with torch.inference_mode():
        return net(images)


@dataclass(frozen=True)
class Expected:
    """An image, its official logits, and the most that another image changes in them."""

    image: torch.Tensor
    logits: torch.Tensor
    spread: float

    def error_share(self, logits: torch.Tensor) -> float:
        return float((logits - self.logits).abs().max()) / self.spread


def expect(net, config: SubnetConfig, seed: int) -> Expected:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, config.resolution, config.resolution, generator=generator)
    logits, other = (official_logits(net, config, image) for image in images.split(1))
    return Expected(images[:1], logits, float((other - logits).abs().max()))


@pytest.fixture(scope="module")
def expected(official) -> dict[SubnetConfig, Expected]:
    name, net = official
    space, rng = load_space(name), np.random.default_rng(1)
    configs = [space.largest, space.smallest, *(space.random(rng) for _ in range(CONFIGS_PER_SPACE))]
    return {config: expect(net, config, seed) for seed, config in enumerate(configs)}


@pytest.mark.slow
@pytest.mark.parametrize("engine", engine_names())
def test_random_subnets_equal_the_official_ones(official, expected, engine):
    name, net = official
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    supernet = load_supernet(name, net.state_dict())
    # OpenVINO reads the same graph as ONNX Runtime and compiles it for longer: a fifth of the sub-networks
    step = 5 if engine == "openvino" else 1
    shares = [
        wanted.error_share(supernet.activate(config, engine=engine)(wanted.image))
        for config, wanted in list(expected.items())[::step]
    ]
    print(f"{name} {engine}: worst error {max(shares):.5%} of the difference between two images")
    assert len(shares) >= 50 / step and max(shares) <= BOUND


def test_one_wrong_value_in_an_early_block_is_caught(official):
    """The bound would be worth nothing if a wrong network stayed inside it."""
    name, net = official
    supernet = load_supernet(name, net.state_dict())
    dimension = "kernel_sizes" if supernet.space.choices["kernel_sizes"] else "expand_ratios"
    first, *others = supernet.space.choices[dimension]
    right = supernet.space.config(**{dimension: first[1]}, resolution=160)
    wrong = supernet.space.config(**{dimension: [first[0], *(a[1] for a in others)]}, resolution=160)
    wanted = expect(net, right, 0)
    assert wanted.error_share(supernet.activate(right)(wanted.image)) <= BOUND
    assert wanted.error_share(supernet.activate(wrong)(wanted.image)) > BOUND


def old_block_names(key: str) -> str:
    return key.replace(".conv.", ".mobile_inverted_conv.", 1) if key.startswith("blocks.") else key


def single_names(key: str) -> str:
    return (
        key.replace(".bn.bn.", ".bn.")
        .replace(".conv.conv.weight", ".conv.weight")
        .replace(".linear.linear.", ".linear.")
    )


@pytest.mark.parametrize("style", [old_block_names, single_names, str])
def test_every_style_of_official_state_dict_loads(official, style):
    name, net = official
    if style is old_block_names and name == "ofa_resnet50":
        pytest.skip("only the inverted bottlenecks ever had another name")
    state = {"state_dict": {style(key): value for key, value in net.state_dict().items()}}
    assert load_supernet(name, state).weights.digest == load_supernet(name, net.state_dict()).weights.digest
