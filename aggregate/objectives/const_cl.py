"""ConST-CL (Yuan et al., CVPR 2022): the crops of one set, reconstructed as the other set of the video shows them.

A decoder f lets the contextual tokens h of set A ask the tokens of set B; for the crop i of A

    L_local = mean_i -log e(p) / (e(p) + sum_{j of other videos} e(j)),       e(j) = exp(r_i . y_j / tau')
    r_i = norm(g_p(f(h^A_i, h^B)))        y_j = norm(g_t(x_j))        p = argmax_{j in B} cos(x_i, x_j)

the positive being the crop of B whose frozen feature is nearest to that of i. Both directions, and

    L = NT-Xent(set tokens; tau) + w L_local
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.masked_crops import masked_crop_loss
from aggregate.objectives.set_contrast import nt_xent_loss
from aggregate.objectives.vicc import with_both_sets
from pipeline.errors import InvalidInputError
from pipeline.recipe.objectives.regions import ConstClObjective


class ConstCl(Objective):
    """See the module; figures `const_cl_global_loss`, `const_cl_local_loss` and `const_cl_local_accuracy`."""

    def __init__(self, spec: ConstClObjective) -> None:
        super().__init__()
        self.spec = spec
        self.decoder: nn.TransformerDecoder | None = None
        self.needs_tokens = "all" if spec.local_weight > 0 else "none"

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make the decoder, one layer as wide as the network.

        Raises
        ------
        InvalidInputError
            If its heads do not divide the network's width.
        """
        if not self.spec.local_weight:
            return
        model = next(iter(models.values()))
        if model.dim % self.spec.heads:
            raise InvalidInputError(
                f"expected objective.heads that divide the width {model.dim} of the network, found {self.spec.heads}"
            )
        layer = nn.TransformerDecoderLayer(
            model.dim, self.spec.heads, 2 * model.dim, dropout=model.spec.dropout, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.decoder = nn.TransformerDecoder(layer, num_layers=1, norm=nn.LayerNorm(model.dim))

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video that has both."""
        encoded = inputs.main
        both = with_both_sets(encoded)
        batch = encoded.batch
        ids, groups = batch.video_ids[both], batch.group_ids[both]
        z = encoded.model.set_head(encoded.set_tokens[both, :2])
        whole, _ = nt_xent_loss(
            z[:, 0], z[:, 1], temperature=self.spec.temperature, video_ids_B=ids, group_ids_B=groups
        )
        logs = {"const_cl_global_loss": whole.detach()}
        chance = math.log(max(2 * len(both) - 1, 1))
        if self.decoder is None or len(both) < 2:
            return ObjectiveResult(whole, logs, chance)
        sides = [self._reconstruct(encoded, both, source, ids, groups) for source in (0, 1)]
        local = (sides[0][0] + sides[1][0]) / 2
        logs |= {"const_cl_local_loss": local.detach(), "const_cl_local_accuracy": (sides[0][1] + sides[1][1]) / 2}
        loss = whole + self.spec.local_weight * local
        num_others = 1 + (len(both) - 1) * batch.shape[2]
        return ObjectiveResult(loss, logs, chance + self.spec.local_weight * math.log(num_others))

    def _reconstruct(
        self, encoded: EncodedSets, both: Tensor, source: int, ids: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert self.decoder is not None
        assert encoded.tokens is not None
        batch = encoded.batch
        target = 1 - source
        valid_a, valid_b = batch.valid[both, source], batch.valid[both, target]
        decoded = self.decoder(
            encoded.tokens[both, source], encoded.tokens[both, target],
            tgt_key_padding_mask=~valid_a, memory_key_padding_mask=~valid_b,
        )  # fmt: skip
        x = encoded.model.standardised(torch.where(batch.valid[both][..., None], batch.features[both], 0.0))
        near = torch.einsum("bid,bjd->bij", unit(x[:, source]), unit(x[:, target]))
        best = near.masked_fill(~valid_b[:, None], -torch.inf).argmax(2)
        # Only valid crops are targets: row of each in the list of all of them.
        row_of = torch.cumsum(valid_b.flatten().long(), 0).view_as(valid_b) - 1
        owner_a, crop_a = valid_a.nonzero(as_tuple=True)
        owner_b, crop_b = valid_b.nonzero(as_tuple=True)
        features_b = batch.features[both, target]
        return masked_crop_loss(
            encoded.model.dense_pred_head(decoded[owner_a, crop_a]),
            encoded.model.targets(features_b[owner_b, crop_b]),
            row_of.gather(1, best)[owner_a, crop_a],
            temperature=self.spec.local_temperature,
            query_video_M=ids[owner_a],
            target_video_N=ids[owner_b],
            query_group_M=groups[owner_a],
            target_group_N=groups[owner_b],
            negatives="other_videos",
        )


build_objective.register(ConstClObjective, ConstCl)
