"""Small networks written from the papers' code structure, with the names of published checkpoints.

They share no code with pytorchvideo or transformers: equality of outputs
shows that a converter moved every tensor to where it acts, not merely that
the number of keys is right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)
KERNELS = {  # temporal kernel of `a`, by stage and block (repeated)
    "slow_r50": (1, [[1], [1], [3], [3]]),
    "c2d_r50": (1, [[1], [1], [1], [1]]),
    "i3d_r50": (5, [[3], [3, 1], [3, 1], [1, 3]]),
}


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor, the statistics of norms included, values that a wrong place would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.ndim >= 2:
            fan_in = tensor[0].numel()
            tensor.copy_(noise * (2.0 / fan_in) ** 0.5 if tensor.shape[0] > 1 else noise * 0.5)
        elif name.endswith("weight"):
            tensor.copy_(0.8 + 0.2 * noise)
        else:
            tensor.copy_(0.2 * noise)
    return network.eval()


def conv(cin: int, cout: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> nn.Conv3d:
    return nn.Conv3d(cin, cout, kernel, stride, tuple(k // 2 for k in kernel), bias=False)


class Branch2(nn.Module):
    def __init__(self, cin: int, inner: int, cout: int, temporal: int, stride: int) -> None:
        super().__init__()
        self.a, self.a_bn = conv(cin, inner, (temporal, 1, 1)), nn.BatchNorm3d(inner)
        self.b, self.b_bn = conv(inner, inner, (1, 3, 3), (1, stride, stride)), nn.BatchNorm3d(inner)
        self.c, self.c_bn = conv(inner, cout, (1, 1, 1)), nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_bn(self.a(x)).relu()
        x = self.b_bn(self.b(x)).relu()
        return self.c_bn(self.c(x))


class Residual(nn.Module):
    def __init__(self, cin: int, inner: int, cout: int, temporal: int, stride: int) -> None:
        super().__init__()
        if cin != cout or stride != 1:
            self.branch1 = conv(cin, cout, (1, 1, 1), (1, stride, stride))
            self.branch1_bn = nn.BatchNorm3d(cout)
        self.branch2 = Branch2(cin, inner, cout, temporal, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_bn(self.branch1(x)) if hasattr(self, "branch1") else x
        return (shortcut + self.branch2(x)).relu()


class Stem(nn.Module):
    def __init__(self, cout: int, temporal: int) -> None:
        super().__init__()
        self.conv = conv(3, cout, (temporal, 7, 7), (1, 2, 2))
        self.bn = nn.BatchNorm3d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool3d(self.bn(self.conv(x)).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))


class Stage(nn.Module):
    """One stage; `pathwayP_resI` as PySlowFast names its blocks."""

    def __init__(self, pathways: list[tuple[int, int, int, list[int]]], num_blocks: int, stride: int) -> None:
        super().__init__()
        self.num_pathways, self.num_blocks = len(pathways), num_blocks
        for p, (cin, inner, cout, kernels) in enumerate(pathways):
            for i in range(num_blocks):
                block = Residual(
                    cin if i == 0 else cout, inner, cout, (kernels * num_blocks)[i], stride if i == 0 else 1
                )
                self.add_module(f"pathway{p}_res{i}", block)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        out = []
        for p, x in enumerate(xs):
            for i in range(self.num_blocks):
                x = getattr(self, f"pathway{p}_res{i}")(x)
            out.append(x)
        return out


class Pathways(nn.Module):
    def __init__(self, **stems: Stem) -> None:
        super().__init__()
        for name, stem in stems.items():
            self.add_module(name, stem)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [getattr(self, f"pathway{p}_stem")(x) for p, x in enumerate(xs)]


class Head(nn.Module):
    def __init__(self, cin: int) -> None:
        super().__init__()
        self.projection = nn.Linear(cin, 10)


class PySlowFastResNet(nn.Module):
    """Slow, C2D and I3D R50: (B, 3, T, H, W) -> (B, 2048)."""

    def __init__(self, model: str) -> None:
        super().__init__()
        stem, kernels = KERNELS[model]
        self.pools = model != "slow_r50"
        self.s1 = Pathways(pathway0_stem=Stem(64, stem))
        cin = 64
        for k, (num_blocks, kernel) in enumerate(zip(BLOCKS, kernels, strict=True)):
            width = 64 * 2**k
            self.add_module(f"s{k + 2}", Stage([(cin, width, 4 * width, kernel)], num_blocks, 1 if k == 0 else 2))
            cin = 4 * width
        self.head = Head(cin)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.s2(self.s1([clips]))
        if self.pools:
            x = [nn.functional.max_pool3d(x[0], (2, 1, 1))]
        return self.s5(self.s4(self.s3(x)))[0].mean(dim=(2, 3, 4))


class Fuse(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_f2s = nn.Conv3d(channels, 2 * channels, (7, 1, 1), (4, 1, 1), (3, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(2 * channels)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        slow, fast = xs
        return [torch.cat([slow, self.bn(self.conv_f2s(fast)).relu()], 1), fast]


class PySlowFastSlowFast(nn.Module):
    """SlowFast 8x8 R50 (alpha 4, beta 1/8): two clips -> (B, 2304)."""

    def __init__(self) -> None:
        super().__init__()
        self.s1 = Pathways(pathway0_stem=Stem(64, 1), pathway1_stem=Stem(8, 5))
        self.s1_fuse = Fuse(8)
        slow, fast = 64, 8
        for k, num_blocks in enumerate(BLOCKS):
            width = 64 * 2**k
            pathways = [
                (slow + 2 * fast, width, 4 * width, [3] if k >= 2 else [1]),
                (fast, width // 8, width // 2, [3]),
            ]
            self.add_module(f"s{k + 2}", Stage(pathways, num_blocks, 1 if k == 0 else 2))
            slow, fast = 4 * width, width // 2
            if k < 3:
                self.add_module(f"s{k + 2}_fuse", Fuse(fast))
        self.head = Head(slow + fast)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        xs = self.s1_fuse(self.s1([slow, fast]))
        for k in range(2, 6):
            xs = getattr(self, f"s{k}")(xs)
            if k < 5:
                xs = getattr(self, f"s{k}_fuse")(xs)
        return torch.cat([x.mean(dim=(2, 3, 4)) for x in xs], dim=1)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, *, split_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=not split_bias)
        if split_bias:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x)
        if hasattr(self, "q_bias"):
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = (part.reshape(batch, tokens, self.heads, -1).transpose(1, 2) for part in qkv.split(dim, dim=-1))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class PatchEmbed(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj


def norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)


class SvtBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.temporal_norm1 = norm(dim), norm(dim), norm(dim)
        self.attn, self.temporal_attn = Attention(dim, heads), Attention(dim, heads)
        self.temporal_fc = nn.Linear(dim, dim)
        self.mlp = Mlp(dim)

    def forward(self, cls: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """cls (B, D), x (B, T, P, D): time first, then space, the class token averaged over frames."""
        batch, frames, places, dim = x.shape
        over_time = x.transpose(1, 2).reshape(batch * places, frames, dim)
        over_time = self.temporal_fc(self.temporal_attn(self.temporal_norm1(over_time)))
        x = x + over_time.reshape(batch, places, frames, dim).transpose(1, 2)
        per_frame = torch.cat([cls[:, None, None].expand(batch, frames, 1, dim), x], dim=2)
        change = self.attn(self.norm1(per_frame.reshape(batch * frames, places + 1, dim)))
        change = change.reshape(batch, frames, places + 1, dim)
        cls, x = cls + change[:, :, 0].mean(1), x + change[:, :, 1:]
        return cls + self.mlp(self.norm2(cls)), x + self.mlp(self.norm2(x))


class Svt(nn.Module):
    """kahnchana/svt's VisionTransformer: (B, 3, T, H, W) -> (B, D), the class token."""

    def __init__(self, depth: int = 2, frames: int = 8, size_px: int = 224, dim: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size_px // 16) ** 2 + 1, dim))
        self.time_embed = nn.Parameter(torch.zeros(1, frames, dim))
        self.patch_embed = PatchEmbed(nn.Conv2d(3, dim, 16, 16))
        self.blocks = nn.ModuleList([SvtBlock(dim, heads) for _ in range(depth)])
        self.norm = norm(dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, clips: Tensor) -> Tensor:
        frames = [self.patch_embed.proj(clips[:, :, t]).flatten(2).transpose(1, 2) for t in range(clips.shape[2])]
        x = torch.stack(frames, dim=1) + self.pos_embed[:, None, 1:] + self.time_embed[:, :, None]
        cls = (self.cls_token[:, 0] + self.pos_embed[:, 0]).expand(len(clips), -1)
        for block in self.blocks:
            cls, x = block(cls, x)
        return self.norm(cls)


class MaeBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attn, self.mlp = Attention(dim, heads, split_bias=True), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VideoMae(nn.Module):
    """MCG-NJU/VideoMAE's encoder: (B, 3, 16, 224, 224) -> (B, D)."""

    def __init__(self, *, finetuned: bool, depth: int = 2, dim: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(nn.Conv3d(3, dim, (2, 16, 16), (2, 16, 16)))
        self.blocks = nn.ModuleList([MaeBlock(dim, heads) for _ in range(depth)])
        if finetuned:
            self.fc_norm, self.head = norm(dim), nn.Linear(dim, 5)
        else:
            self.norm = norm(dim)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.patch_embed.proj(clips).flatten(2).transpose(1, 2)
        x = x + slow_sinusoids(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x.mean(1)) if hasattr(self, "fc_norm") else self.norm(x).mean(1)


def slow_sinusoids(num_positions: int, dim: int) -> Tensor:
    """VideoMAE's fixed table in NumPy."""
    import numpy as np

    angle = np.arange(num_positions)[:, None] / np.power(10000, 2 * (np.arange(dim) // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.tensor(angle, dtype=torch.float32)[None]
