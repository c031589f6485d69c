"""Fused programs give what the program gave, whatever follows a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extract.backbones.graph_fusing import fuse_convolutions
from tests.support.reference_networks import randomise

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Convolution, optional norm, optional activation, and a second convolution."""

    def __init__(self, activation: nn.Module, *, norm: bool, dims: int = 2, bias: bool = True) -> None:
        super().__init__()
        conv, batch_norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.first = conv(3, 6, 3, stride=2, padding=1, bias=bias)
        self.norm = batch_norm(6) if norm else nn.Identity()
        self.act = activation
        self.last = conv(6, 6, 3, padding="same" if dims == 3 else 2, dilation=2, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.first(x)))).flatten(2).mean(2)


def program(network: nn.Module, example: Tensor) -> torch.fx.GraphModule:
    return torch.export.export(network, (example,)).module()


ACTIVATIONS = [
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.ReLU6(inplace=True),
    nn.Hardtanh(-0.3, 0.2),
    nn.SiLU(),
    nn.GELU(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_equal_whatever_follows(activation: nn.Module, norm: bool, dims: int) -> None:
    network = randomise(Net(activation, norm=norm, dims=dims, bias=not norm))
    clips = torch.randn(2, 3, *([9] * dims))
    module = program(network, clips)
    with torch.inference_mode():
        expected = network(clips)
        assert fuse_convolutions(module) >= 1
        torch.testing.assert_close(module(clips), expected, rtol=1e-4, atol=1e-5)
    left = {str(n.target) for n in module.graph.nodes}
    assert "aten.batch_norm.default" not in left
    if not isinstance(activation, nn.Identity | nn.GELU):
        assert not any(name in text for text in left for name in ("relu", "hardtanh", "silu", "clamp"))


def test_an_output_that_is_used_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return (self.norm(x).relu() + x.clamp(0.0, 0.5) + x.clamp(max=0.1)).mean((2, 3))

    network = randomise(Twice())
    images = torch.randn(2, 3, 5, 5)
    module = program(network, images)
    with torch.inference_mode():
        expected = network(images)
        fuse_convolutions(module)
        torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)


def test_half_open_limits_are_no_hardtanh() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(self.conv(x), 0.1).mean((2, 3))

    network = randomise(Half())
    images = torch.randn(2, 3, 5, 5)
    module = program(network, images)
    with torch.inference_mode():
        expected = network(images)
        fuse_convolutions(module)
        torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)
