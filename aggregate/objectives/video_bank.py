"""The newest key of every video of a training in every stream: what is searched where a batch is too small for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NOBODY = -1
VIDEOS_AT_ONCE = 1 << 16


class VideoBank(nn.Module):
    """Keys by video. An epoch shows every video once, so that none is older than an epoch.

    Its arrays are buffers: they are saved with the training, and a resumed one goes on with the same keys.

    Parameters
    ----------
    num_videos : int
        Of the selection.
    num_streams, width : int
        Keys a video, and their channels.
    """

    def __init__(self, num_videos: int, num_streams: int, width: int) -> None:
        super().__init__()
        self.ids: Tensor
        self.groups: Tensor
        self.keys: Tensor
        self.register_buffer("ids", torch.full((num_videos,), NOBODY, dtype=torch.int64))
        self.register_buffer("groups", torch.full((num_videos,), NOBODY, dtype=torch.int64))
        self.register_buffer("keys", torch.zeros(num_streams, num_videos, width))

    @torch.no_grad()
    def remember(self, ids_B: Tensor, groups_B: Tensor, keys_SBP: Tensor) -> None:
        """Put the keys of different videos in place of their older ones."""
        found = ids_B[:, None] == self.ids
        is_known = found.any(dim=1)
        taken = (self.ids != NOBODY).sum()
        slots = torch.where(is_known, found.int().argmax(dim=1), taken - 1 + (~is_known).cumsum(dim=0))
        self.ids[slots] = ids_B
        self.groups[slots] = groups_B
        self.keys[:, slots] = keys_SBP.to(self.keys.dtype)

    @torch.no_grad()
    def nearest(
        self, stream: int, keys_BP: Tensor, groups_B: Tensor, top_k: int, *, at_once: int = VIDEOS_AT_ONCE
    ) -> Tensor:
        """Return the slots of the most similar videos of other groups, (B, top_k), best first; exact.

        Where there are fewer, the rest is -1. A video's own group holds the video. `at_once` bounds the memory.
        """
        best = keys_BP.new_full((len(keys_BP), top_k), -torch.inf, dtype=torch.float32)
        slots = torch.full(best.shape, NOBODY, device=best.device)
        for start in range(0, len(self.ids), at_once):
            at = slice(start, start + at_once)
            own = (groups_B[:, None] == self.groups[at]) | (self.ids[at] == NOBODY)
            similarity = (keys_BP.float() @ self.keys[stream, at].mT).masked_fill(own, -torch.inf)
            here = torch.arange(start, start + similarity.shape[1], device=slots.device).expand_as(similarity)
            best, order = torch.cat((best, similarity), dim=1).topk(top_k, dim=1)
            slots = torch.cat((slots, here), dim=1).gather(1, order)
        return slots.masked_fill(best == -torch.inf, NOBODY)
