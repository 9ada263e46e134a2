"""Sub-networks against the official once-for-all implementation (PyPI package ``ofa``, for tests only)."""

from __future__ import annotations

import numpy as np
import pytest

from dynofa_ros.supernet import Supernet, load_supernet
from dynofa_ros.supernet.space import DEPTHS, EXPAND_RATIOS, KERNEL_SIZES, SearchSpace, SubnetConfig

torch = pytest.importorskip("torch")
networks = pytest.importorskip(
    "ofa.imagenet_classification.elastic_nn.networks", reason="needs the package ofa"
)

WIDTHS = (1.0, 1.2)
CONFIGS_PER_SPACE = 6


@pytest.fixture(scope="module", params=WIDTHS)
def official(request: pytest.FixtureRequest):
    """The official supernet with random weights whose BN statistics come from a batch of random images.

    With purely random statistics the signal dies on its way and a wrong network would pass.
    """
    torch.manual_seed(0)
    net = networks.OFAMobileNetV3(
        dropout_rate=0,
        width_mult=request.param,
        ks_list=[3, 5, 7],
        expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )
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
    return f"ofa_mbv3_w{request.param}", net.eval()


def random_config(space: SearchSpace, rng: np.random.Generator) -> SubnetConfig:
    blocks = len(space.blocks)
    return space.config(
        kernel_sizes=rng.choice(KERNEL_SIZES, blocks).tolist(),
        expand_ratios=rng.choice(EXPAND_RATIOS, blocks).tolist(),
        depths=rng.choice(DEPTHS, len(space.stages)).tolist(),
        resolution=int(rng.choice(space.resolutions)),
    )


def official_logits(net, config: SubnetConfig, images):
    net.set_active_subnet(ks=list(config.kernel_sizes), e=list(config.expand_ratios), d=list(config.depths))
    with torch.inference_mode():
        return net(images)


def error_share(
    supernet: Supernet, net, engine: str, config: SubnetConfig, seed: int, run_config=None
) -> float:
    """max|ours - official| as a share of what another image changes in the official output."""
    generator = torch.Generator().manual_seed(seed)
    image, other = torch.randn(2, 1, 3, config.resolution, config.resolution, generator=generator)
    expected = official_logits(net, config, image)
    spread = (official_logits(net, config, other) - expected).abs().max()
    ours = supernet.activate(run_config or config, engine=engine)(image)
    return float((ours - expected).abs().max() / spread)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_random_subnets_equal_the_official_ones(official, engine):
    name, net = official
    supernet = load_supernet(name, net.state_dict())
    rng = np.random.default_rng(1)
    configs = [supernet.space.largest, supernet.space.smallest]
    configs += [random_config(supernet.space, rng) for _ in range(CONFIGS_PER_SPACE)]
    worst = max(error_share(supernet, net, engine, c, i) for i, c in enumerate(configs))
    assert worst <= 0.01, f"{name} {engine}: {worst:.2%} of the difference between two images"


def test_one_wrong_kernel_in_an_early_block_is_caught(official):
    name, net = official
    supernet = load_supernet(name, net.state_dict())
    right = supernet.space.config(kernel_sizes=5, resolution=160)
    wrong = supernet.space.config(kernel_sizes=[3] + [5] * 19, resolution=160)
    assert error_share(supernet, net, "torch", right, 0, run_config=wrong) > 0.01


@pytest.mark.parametrize("style", ["old block names", "nested", "single names"])
def test_every_style_of_official_state_dict_loads(official, style):
    name, net = official
    state = dict(net.state_dict())
    if style == "old block names":
        state = {
            k.replace(".conv.", ".mobile_inverted_conv.", 1) if k.startswith("blocks.") else k: v
            for k, v in state.items()
        }
    elif style == "single names":
        state = {
            k.replace(".bn.bn.", ".bn.").replace(".conv.conv.weight", ".conv.weight"): v
            for k, v in state.items()
        }
    elif style == "nested":
        state = {"state_dict": state}
    assert load_supernet(name, state).weights.digest == load_supernet(name, net.state_dict()).weights.digest
