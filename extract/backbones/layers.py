"""Modules around and inside networks: pooling, batches of any size, layout, fused activations."""

from __future__ import annotations

import torch
from torch import nn


class MeanOverSpaceTime(nn.Module):
    """(B, C, T, H, W) -> (B, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over all positions."""
        return x.mean(dim=(2, 3, 4))


class MeanOverFrames(nn.Module):
    """Run an image network on every frame and average: (B, 3, T, H, W) -> (B, D).

    Parameters
    ----------
    image_network : nn.Module
        (N, 3, H, W) -> (N, D).
    """

    def __init__(self, image_network: nn.Module) -> None:
        super().__init__()
        self.image_network = image_network

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Average over the frames of each crop."""
        num_crops, channels, frames, height, width = clips.shape
        # one copy that is channels-last already; strided so, a (N, C, H, W) tensor is also right for any other network
        images = clips.permute(0, 2, 3, 4, 1).reshape(num_crops * frames, height, width, channels).permute(0, 3, 1, 2)
        features = self.image_network(images)
        return features.reshape(num_crops, frames, -1).mean(dim=1)


class LimitedBatch(nn.Module):
    """A network that takes between `fewest` and `most` samples at a time, made to take any number.

    Parameters
    ----------
    network : nn.Module
    fewest, most : int
        Larger batches are split, a last one that is too small is filled up with zeros.
    """

    def __init__(self, network: nn.Module, fewest: int, most: int) -> None:
        super().__init__()
        self.network = network
        self.fewest = fewest
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run as many batches as it takes."""
        if self.fewest <= x.shape[0] <= self.most:
            return self._run(x)
        return torch.cat([self._one(part) for part in x.split(self.most)])

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        missing = self.fewest - x.shape[0]
        if missing <= 0:
            return self._run(x)
        filled = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
        return self._run(filled)[: x.shape[0]]

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        features = self.network(x)
        return features[0] if isinstance(features, tuple | list) else features  # some programs give a tuple of one


class ChannelsFirst(nn.Module):
    """A network that gets its input contiguous."""

    channels_first = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network on a contiguous copy (none where it is so already)."""
        return self.network(x.contiguous())


class ChannelsLast(nn.Module):
    """A network whose input and convolution weights lie channels-last in memory.

    Parameters
    ----------
    network : nn.Module
        Its 4-d and 5-d parameters and buffers are laid out anew.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.ndim in _FORMATS:
                tensor.data = tensor.data.contiguous(memory_format=_FORMATS[tensor.ndim])
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network on a channels-last copy (none where it is so already)."""
        return self.network(x.contiguous(memory_format=_FORMATS[x.ndim]))


_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class ConvolutionWithActivation(nn.Module):
    """A convolution, and the ReLU or SiLU after it if there is one, as one oneDNN call; CPU only.

    Parameters
    ----------
    convolution : nn.Conv2d or nn.Conv3d
        Zero-padded.
    activation : nn.ReLU, nn.SiLU or None
    """

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, activation: nn.Module | None) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.geometry = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self.activation = "none" if activation is None else "relu" if isinstance(activation, nn.ReLU) else "swish"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return activation(convolution(x))."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.activation, [], ""
        )
