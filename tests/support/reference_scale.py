"""SCALE as its authors' code computes it, written again from its description: slow, obvious, everything on every token.

Module names are those of the released checkpoints. Nothing here is shared with `aggregate`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        for q_h, k_h, v_h in zip(
            q.chunk(self.heads, -1), k.chunk(self.heads, -1), v.chunk(self.heads, -1), strict=True
        ):
            weights = torch.softmax(q_h @ k_h.transpose(1, 2) / math.sqrt(q_h.shape[-1]), dim=-1)
            outputs.append(weights @ v_h)
        return self.proj(torch.cat(outputs, dim=-1))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def _head(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class ReferenceScale(nn.Module):
    """The released model and both its losses; dropout left out (it is 0 in eval mode)."""

    def __init__(
        self, input_dim: int, dim: int = 64, depth: int = 2, ratio: float = 2.0, p: int = 128, head: int = 4096,
        target: int = 2048,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_projection = nn.Linear(input_dim, dim)
        self.pos_encoding_mlp = nn.Sequential(nn.Linear(7, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.set_cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.msk_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.set_head = _head(dim, head, p)
        self.transformer = nn.ModuleList(_Block(dim, dim // 32, int(dim * ratio)) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.dense_target_head = _head(input_dim, target, target, p)
        self.dense_pred_head = _head(dim, head, p)

    def encode(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (R, V, D), pos (R, V, 7), mask (R, V) -> set token (R, d), tokens (R, V, d)."""
        h = self.input_projection(x)
        if mask is not None:
            h = torch.where(mask[..., None], self.msk_token.expand_as(h), h)
        h = h + self.pos_encoding_mlp(pos)
        h = torch.cat([self.set_cls_token.expand(len(h), -1, -1), h], dim=1)
        for block in self.transformer:
            h = block(h)
        h = self.norm(h)
        return h[:, 0], h[:, 1:]

    def losses(self, x: Tensor, pos: Tensor, mask: Tensor, tau: float = 0.2) -> tuple[Tensor, Tensor]:
        """x (B, 2, V, D), pos (B, 2, V, 7), mask (B, 2, V) -> set loss, dense loss."""
        b, two, v, _ = x.shape
        cls, tokens = self.encode(x.flatten(0, 1), pos.flatten(0, 1), mask.flatten(0, 1))
        z = nn.functional.normalize(self.set_head(cls), dim=-1).view(b, two, -1)
        logits = z[:, 0] @ z[:, 1].T / tau
        rows, columns = torch.log_softmax(logits, 1), torch.log_softmax(logits, 0)
        set_loss = -(torch.diag(rows) + torch.diag(columns)).mean() / 2
        y = nn.functional.normalize(self.dense_target_head(x), dim=-1).view(b * two * v, -1)
        p = nn.functional.normalize(self.dense_pred_head(tokens), dim=-1).view(b * two * v, -1)
        every = -torch.diag(torch.log_softmax(p @ y.T / tau, dim=1))
        return set_loss, every[mask.flatten()].mean()


def randomised(model: ReferenceScale, seed: int) -> ReferenceScale:
    """Give every parameter a value that shows (tokens start at zero, norms at one)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.0 / math.sqrt(parameter.shape[-1])
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()
