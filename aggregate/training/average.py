"""The moving average of the weights: what is kept in the end, and what teaches on the way."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aggregate.training.hooks import Hook, StepDone

Network = TypeVar("Network", bound=nn.Module)


class MovingAverage(Hook, Generic[Network]):
    """An exponential moving average of a network, in eval mode.

    Parameters
    ----------
    online : nn.Module
        The network that is optimised; the average begins as its copy.
    decay : float
    """

    def __init__(self, online: Network, decay: float) -> None:
        self.decay = decay
        self._online = online
        self._averaged = AveragedModel(online, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False).eval()
        self._averaged.update_parameters(online)  # the first one copies; from now on the copy counts as a past

    @property
    def model(self) -> Network:
        """The averaged network."""
        return cast(Network, self._averaged.module)

    def after(self, step: StepDone) -> None:
        """Move a little towards the weights of now."""
        self._averaged.update_parameters(self._online)
