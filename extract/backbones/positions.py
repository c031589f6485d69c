"""Position embeddings for another number of frames or another size than the network was trained with."""

from __future__ import annotations

import torch
from torch.nn import functional

Grid = tuple[int, int, int]


def resize_grid(tokens: torch.Tensor, from_grid: Grid, to_grid: Grid) -> torch.Tensor:
    """Interpolate a grid of embeddings linearly in time, height and width.

    Parameters
    ----------
    tokens : Tensor of shape (1, T * H * W, C)
        In the order of `from_grid`, width fastest.
    from_grid, to_grid : tuple of int
        (T, H, W).

    Returns
    -------
    Tensor of shape (1, T' * H' * W', C)
        The same tensor where the grids are equal. SCALE interpolates so
        (224 px to 256); SVT's own code takes the nearest, which repeats
        embeddings.
    """
    if from_grid == to_grid:
        return tokens
    channels = tokens.shape[-1]
    grid = tokens.reshape(1, *from_grid, channels).permute(0, 4, 1, 2, 3).float()
    resized = functional.interpolate(grid, size=to_grid, mode="trilinear", align_corners=False)
    return resized.permute(0, 2, 3, 4, 1).reshape(1, -1, channels).to(tokens.dtype)


def square_side(num_tokens: int) -> int | None:
    """Return n where n * n tokens form a square; None where they do not."""
    side = round(num_tokens**0.5)
    return side if side * side == num_tokens else None


def sinusoid_table(num_positions: int, dim: int) -> torch.Tensor:
    """Return VideoMAE's fixed embeddings, (1, `num_positions`, `dim`) float32.

    Channel 2i is sin(p / 10000^(2i/dim)), channel 2i + 1 the cosine, over
    the running number p of a token, not its place in the grid.
    """
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    channels = torch.arange(dim, dtype=torch.float64)
    angles = positions / torch.pow(torch.tensor(10000.0, dtype=torch.float64), 2 * (channels // 2) / dim)
    table = torch.where(channels % 2 == 0, angles.sin(), angles.cos())
    return table.float()[None]
