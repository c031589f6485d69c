"""The set transformer of SCALE: crops of one video in, contextual tokens and a set token out.

Legend: R = sets, V = crops a set, T = V + 1 tokens, D = feature channels, d = model width, M = scored tokens.
Module names are those of the released code (src/scale.py), so that its checkpoints load by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from aggregate.data.geometry import MODEL_COLUMNS, visible_columns
from aggregate.network.temporal_norm import TemporalGroupNorm, time_groups
from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.recipe import ModelSpec

TIME_FROM, TIME_TO = MODEL_COLUMNS.index("t0"), MODEL_COLUMNS.index("t1")


class Attention(nn.Module):
    """Multi-head self-attention over one set; `proj` is applied by the block, which may need fewer tokens."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attendable: Tensor | None) -> Tensor:
        """Return attended values (R, T, d), before the output projection."""
        num_sets, num_tokens, dim = x.shape
        qkv = self.qkv(x).view(num_sets, num_tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attendable, dropout_p=self.dropout if self.training else 0.0
        )
        return attended.transpose(1, 2).reshape(num_sets, num_tokens, dim)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, dropout: float, norm_groups: int = 0) -> None:
        super().__init__()
        self.norm1 = _norm(dim, norm_groups)
        self.attn = Attention(dim, num_heads, dropout)
        self.norm2 = _norm(dim, norm_groups)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, attendable: Tensor | None, wanted: Tensor | None = None, group: Tensor | None = None
    ) -> Tensor:
        """Return (R, T, d); or (K, d), only the tokens at `wanted`, flat positions in (R * T).

        `group` is given where tokens are normalised together: then none can be left out before the end.
        """
        if group is not None:
            x = x + self.drop(self.attn.proj(self.attn(self.norm1(x, group), attendable)))
            x = x + self.mlp(self.norm2(x, group))
            return x if wanted is None else x.flatten(0, 1).index_select(0, wanted)
        y = self.attn(self.norm1(x), attendable)
        if wanted is not None:  # what nobody reads is not computed: projection and MLP of these tokens alone
            x, y = x.flatten(0, 1).index_select(0, wanted), y.flatten(0, 1).index_select(0, wanted)
        x = x + self.drop(self.attn.proj(y))
        return x + self.mlp(self.norm2(x))


def _norm(dim: int, num_groups: int) -> nn.Module:
    return TemporalGroupNorm(dim, num_groups) if num_groups else nn.LayerNorm(dim)


def _prediction_head(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim, bias=False), nn.GELU(), nn.Linear(hidden_dim, output_dim, bias=False)
    )


def _target_head(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim, bias=False),
        nn.GELU(),
        nn.Linear(hidden_dim, hidden_dim, bias=False),
        nn.GELU(),
        nn.Linear(hidden_dim, output_dim, bias=False),
    )


MIN_RELATIVE_DEVIATION = 0.05


class ScaleModel(nn.Module):
    """SCALE (Sameni, Jenni, Favaro; ICCV 2023): a transformer over the crops of one video.

    Token i is ``W_in x_i + MLP(p_i)``; a masked token is ``msk_token + MLP(p_i)``,
    its geometry being the query. A set token without geometry is prepended, then
    `num_layers` pre-norm blocks and a LayerNorm.

    Parameters
    ----------
    input_dim : int
        Channels D of the frozen features.
    spec : ModelSpec
        Width, depth, heads, geometry variant.

    Raises
    ------
    InvalidInputError
        If `input_dim` is no positive integer, or `spec` no ModelSpec.

    Attributes
    ----------
    set_head, dense_pred_head : Module
        g_s and g_p: linear d -> 4096, GELU, linear -> 128, no bias.
    dense_target_head : Module
        g_t: D -> 2048 -> 2048 -> 128, no bias. Position-free: it sees a crop's feature alone.

    Examples
    --------
    >>> import torch
    >>> model = ScaleModel(32, ModelSpec(dim=64, head_hidden_dim=32, target_hidden_dim=32)).eval()
    >>> set_token, tokens = model(torch.randn(2, 5, 32), torch.zeros(2, 5, 7))
    >>> set_token.shape, tokens.shape
    (torch.Size([2, 64]), torch.Size([2, 5, 64]))
    """

    def __init__(self, input_dim: int, spec: ModelSpec | None = None) -> None:
        super().__init__()
        spec = ModelSpec() if spec is None else spec
        if not isinstance(spec, ModelSpec) or not isinstance(input_dim, int) or input_dim < 1:
            raise InvalidInputError(
                "expected ScaleModel(channels >= 1, ModelSpec(...)) with ModelSpec from pipeline.recipe, "
                f"found {input_dim!r} and {type(spec).__name__}"
            )
        self.input_dim = input_dim
        self.spec = spec
        dim = spec.dim
        self.norm_groups = spec.norm_groups if spec.norm == "temporal_group" else 0
        self.input_projection = nn.Linear(input_dim, dim)
        self.pos_encoding_mlp = nn.Sequential(
            nn.Linear(len(MODEL_COLUMNS), 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )
        self.set_cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.msk_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.set_head = _prediction_head(dim, spec.head_hidden_dim, spec.projection_dim)
        self.transformer = nn.ModuleList(
            Block(dim, spec.num_heads, spec.mlp_ratio, spec.dropout, self.norm_groups) for _ in range(spec.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dense_target_head = _target_head(input_dim, spec.target_hidden_dim, spec.projection_dim)
        self.dense_pred_head = _prediction_head(dim, spec.head_hidden_dim, spec.projection_dim)
        # Absent (None, and in no state dict) until a training standardises its inputs.
        self.register_buffer("input_mean", None)
        self.register_buffer("input_scale", None)
        self.input_mean: Tensor | None
        self.input_scale: Tensor | None
        self.visible_columns: Tensor
        self.register_buffer("visible_columns", visible_columns(spec.geometry), persistent=False)

    @property
    def dim(self) -> int:
        """Width d of set token and tokens."""
        return self.spec.dim

    def standardise_by(self, mean_D: Tensor, deviation_D: Tensor) -> None:
        """Keep what inputs are standardised by: channel means and deviations of the training rows.

        Channels that hardly vary are not blown up: a deviation is at least a twentieth of the typical one.
        """
        device = self.set_cls_token.device
        typical = deviation_D.double().square().mean().sqrt()
        floor = max(float(MIN_RELATIVE_DEVIATION * typical), 1e-12)
        self.input_mean = mean_D.to(device, torch.float32)
        self.input_scale = (1.0 / deviation_D.double().clamp_min(floor)).to(device, torch.float32)

    def standardised(self, features: Tensor) -> Tensor:
        """Return frozen features as the network reads them."""
        if self.input_mean is None or self.input_scale is None:
            return features
        return (features - self.input_mean) * self.input_scale

    def targets(self, features: Tensor) -> Tensor:
        """Return what masked crops are predicted as: g_t of their (standardised) features, (..., D) -> (..., P)."""
        projected: Tensor = self.dense_target_head(self.standardised(features))
        return projected

    def forward(
        self,
        features: Tensor,
        geometry: Tensor,
        valid: Tensor | None = None,
        masked: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode sets of crops.

        Parameters
        ----------
        features : Tensor
            (R, V, D) floating point.
        geometry : Tensor
            (R, V, 7) float32 from :func:`aggregate.derive_geometry`.
        valid : Tensor, optional
            (R, V) bool; None: all are. Invalid crops are not attended to, whatever they hold.
        masked : Tensor, optional
            (R, V) bool: crops whose feature is replaced by the mask token; None: none.
        wanted : Tensor, optional
            (M,) int64, flat positions in (R * V): the only tokens returned (and computed to the end).

        Returns
        -------
        set_token : Tensor
            (R, d). Invariant to the order of the crops. A set without a valid crop gives a constant.
        tokens : Tensor
            (R, V, d), or (M, d) with `wanted`. Those of invalid crops have no meaning.

        Raises
        ------
        ShapeMismatchError
            If the arrays do not fit each other or the model.
        """
        self._check(features, geometry, valid, masked)
        return self.contextualise(self.project(features, valid), geometry, valid, masked, wanted)

    def project(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return what of a crop enters its token, before anything is hidden: (..., D) -> (..., d)."""
        if valid is not None:
            # Stored garbage under an invalid crop (NaN included) must not reach a valid one through 0 * NaN.
            features = torch.where(valid[..., None], features, 0.0)
        projected: Tensor = self.input_projection(self.standardised(features).to(self.input_projection.weight.dtype))
        return projected

    def contextualise(
        self,
        projected: Tensor,
        geometry: Tensor,
        valid: Tensor | None = None,
        masked: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the transformer over crops that :meth:`project` has read, (R, V, d); the rest as for :meth:`forward`."""
        h = projected
        num_sets, num_crops, _ = h.shape
        attendable = group = None
        geometry = geometry * self.visible_columns
        if self.norm_groups:
            group = time_groups(geometry[..., TIME_FROM], geometry[..., TIME_TO], valid, self.norm_groups)
        if valid is not None:
            geometry = torch.where(valid[..., None], geometry, 0.0)
            attendable = functional.pad(valid, (1, 0), value=True)[:, None, None, :]
        if masked is not None:
            h = torch.where(masked[..., None], self.msk_token.to(h.dtype), h)
        h = h + self.pos_encoding_mlp(geometry)
        h = torch.cat((self.set_cls_token.to(h.dtype).expand(num_sets, -1, -1), h), dim=1)
        for block in self.transformer[:-1]:
            h = block(h, attendable, None, group)
        if wanted is None:
            h = self.norm(self.transformer[-1](h, attendable, None, group))
            return h[:, 0], h[:, 1:]
        rows = torch.arange(num_sets, device=h.device) * (num_crops + 1)
        # Token v of set r stands at r * (V + 1) + 1 + v, the set token in front of them.
        positions = torch.cat((rows, wanted + torch.div(wanted, num_crops, rounding_mode="floor") + 1))
        h = self.norm(self.transformer[-1](h, attendable, positions, group))
        return h[:num_sets], h[num_sets:]

    def _check(self, features: Tensor, geometry: Tensor, valid: Tensor | None, masked: Tensor | None) -> None:
        if features.ndim != 3 or features.shape[-1] != self.input_dim or features.shape[1] == 0:
            raise ShapeMismatchError(
                f"expected features (sets, crops >= 1, {self.input_dim}), found {tuple(features.shape)}"
            )
        if geometry.shape != (*features.shape[:2], len(MODEL_COLUMNS)):
            raise ShapeMismatchError(
                f"expected geometry {(*features.shape[:2], len(MODEL_COLUMNS))} (from derive_geometry), "
                f"found {tuple(geometry.shape)}"
            )
        for name, mask in (("valid", valid), ("masked", masked)):
            if mask is not None and mask.shape != features.shape[:2]:
                raise ShapeMismatchError(f"expected {name} {tuple(features.shape[:2])}, found {tuple(mask.shape)}")
