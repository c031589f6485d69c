"""Slow twins of the systems beside SCALE: loops over videos, crops and pairs, as their papers write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.nn import functional

from aggregate import ScaleModel
from aggregate.data.batch import in_stream
from aggregate.data.sets import disjoint_sets
from aggregate.objectives import ObjectiveInput, build_objective
from aggregate.objectives.carl import mid_times
from aggregate.objectives.relations import box_overlap, drawn_pairs, overlap_bin, time_overlap
from aggregate.training.encode import encode_sets
from pipeline.recipe import ObjectiveSpec
from tests.support.set_batches import TINY, set_batch
from tests.support.slow_order import slow_order_contrast  # noqa: F401  (one of the twins)

PARSE = TypeAdapter(ObjectiveSpec).validate_python
BLIND = TINY.model_copy(update={"geometry": "none"})
ONE = ("vicreg", "barlow_twins", "carl", "vicc", "concur", "cvrl", "stor", "speed", "teg", "svt", "const_cl",
       "stc_mix", "order_contrast")  # fmt: skip
SEES_TIME = ("order_contrast",)
TWO = ("coclr", "maclr", "mscl", "iboot")
SPECS: dict[str, dict[str, Any]] = {
    "vicc": {"prototypes": 7, "queue": 8, "queue_from": 0.5},
    "speed": {"speeds": [4, 8]},
    "stor": {"pairs": 12},
    "svt": {"num_local": 2, "window": 0.6},
    "teg": {"window": 0.7},
    "coclr": {"top_k": 2},
    "const_cl": {"local_weight": 0.5, "heads": 2},
}


class World:
    """A batch of sets in one or two streams, the networks that see it, and an objective."""

    def __init__(self, kind: str, *, seed: int = 0, share_valid: float = 0.9, progress: float = 0.0, **fields: Any):
        self.spec = PARSE({"kind": kind, **SPECS.get(kind, {}), **fields})
        torch.manual_seed(seed)
        self.objective = build_objective(self.spec)
        self.models = {"main": ScaleModel(8, TINY if kind in SEES_TIME else BLIND).eval()}
        if self.objective.num_streams == 2:
            self.models["stream1"] = ScaleModel(5, BLIND).eval()
        for model in self.models.values():
            torch.nn.init.normal_(model.set_cls_token)
        self.objective.expect(10)
        self.objective.bind(self.models)
        splitter = self.objective.splitter(3) or disjoint_sets(3)
        self.batch = set_batch(
            6, 8, seed=seed, share_valid=share_valid, num_groups=4, mask_ratio=0.0, splitter=splitter
        )
        stored = self.batch.stored_raw_geometry
        stored[..., 7] = torch.where(torch.rand(stored.shape[:2]) < 0.5, 4.0, 8.0)
        tokens = self.objective.needs_tokens
        self.online = {"main": encode_sets(self.models["main"], self.batch, tokens=tokens)}
        if self.objective.num_streams == 2:
            other = in_stream(self.batch, torch.randn(*stored.shape[:2], 5))
            self.online["stream1"] = encode_sets(self.models["stream1"], other, tokens=tokens)
        negatives = None
        if self.objective.needs_negatives:
            turned = in_stream(self.batch, torch.randn(*stored.shape[:2], 5))
            negatives = encode_sets(self.models["stream1"], turned, tokens=tokens)
        teacher = {"main": encode_sets(self.models["main"], self.batch, tokens="all", masked=False)}
        taught = teacher if self.objective.needs_teacher else {}
        self.inputs = ObjectiveInput(self.online, taught, 3, progress, negatives)

    def loss(self) -> float:
        return float(self.objective(self.inputs).loss.detach())

    def usable(self) -> list[int]:
        return [b for b in range(self.batch.shape[0]) if bool(self.batch.set_valid[b, :2].all())]

    def z(self, stream: str = "main") -> torch.Tensor:
        encoded = self.online[stream]
        return functional.normalize(encoded.model.set_head(encoded.set_tokens), dim=-1).detach().double()

    def tokens(self, stream: str = "main") -> torch.Tensor:
        encoded = self.online[stream]
        return functional.normalize(encoded.model.dense_pred_head(encoded.tokens), dim=-1).detach().double()


def log_softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    total = math.log(sum(math.exp(s - top) for s in scores)) + top
    return [s - total for s in scores]


def nce(rows: list[torch.Tensor], keys: list[torch.Tensor], tau: float) -> float:
    return -np.mean([log_softmax([float(r @ k) / tau for k in keys])[i] for i, r in enumerate(rows)])


def both_ways(x, y, tau):
    return (nce(x, y, tau) + nce(y, x, tau)) / 2


def slow_vicreg(w: World) -> float:
    encoded = w.online["main"]
    z = encoded.model.set_head(encoded.set_tokens).detach().double()[w.usable()]
    n, _, d = z.shape
    loss = 25 * np.mean([float((z[b, 0, j] - z[b, 1, j]) ** 2) for b in range(n) for j in range(d)])
    for v in (0, 1):
        c = np.cov(z[:, v].numpy().T)
        loss += 25 * np.mean([max(0.0, 1 - math.sqrt(c[j, j] + 1e-4)) for j in range(d)]) / 2
        loss += sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return loss


def slow_barlow_twins(w: World) -> float:
    encoded = w.online["main"]
    z = encoded.model.set_head(encoded.set_tokens).detach().double()[w.usable()].numpy()
    x, y = ((z[:, v] - z[:, v].mean(0)) / np.sqrt(z[:, v].var(0) + 1e-5) for v in (0, 1))
    c = x.T @ y / len(x)
    d = len(c)
    off = sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j)
    return sum((1 - c[i, i]) ** 2 for i in range(d)) + 5e-3 * off


def slow_carl(w: World) -> float:
    z, times, valid = w.tokens(), mid_times(w.batch.raw_geometry).double(), w.batch.valid
    total, count = 0.0, 0
    for b in range(w.batch.shape[0]):
        seen = [float(times[b, s, v]) for s in (0, 1) for v in range(3) if valid[b, s, v]]
        sigma = (max(seen) - min(seen)) / max(len(seen) - 1, 1) if len(seen) > 1 else 1.0
        for s in (0, 1):
            others = [v for v in range(3) if valid[b, 1 - s, v]]
            for i in range(3):
                if not valid[b, s, i] or not others:
                    continue
                apart = [float(times[b, s, i] - times[b, 1 - s, j]) / sigma for j in others]
                p = log_softmax([-(x**2) / 2 for x in apart])
                q = log_softmax([float(z[b, s, i] @ z[b, 1 - s, j]) / 0.1 for j in others])
                total += sum(math.exp(a) * (a - c) for a, c in zip(p, q, strict=True))
                count += 1
    return total / count


def slow_sinkhorn(scores: np.ndarray, epsilon: float = 0.05, iterations: int = 3) -> np.ndarray:
    q = np.exp((scores - scores.max()) / epsilon)
    q /= q.sum()
    n, k = q.shape
    for _ in range(iterations):
        for c in range(k):
            q[:, c] /= q[:, c].sum() * k
        for r in range(n):
            q[r] /= q[r].sum() * n
    return q * n


def slow_vicc(w: World) -> float:
    streams = list(w.online)
    turn = w.objective.turn(w.inputs.progress)
    views = [
        w.z(s)[w.usable(), v] for s in (streams[turn], *(x for x in streams if x != streams[turn])) for v in (0, 1)
    ]
    prototypes = functional.normalize(w.objective.prototypes[turn].detach().double(), dim=-1)
    scores = [(v @ prototypes.T).numpy() for v in views]
    q = [slow_sinkhorn(s) for s in scores]
    total = 0.0
    for v in range(len(views)):
        for u in range(len(views)):
            if u != v:
                rows = [-sum(q[v][n] * log_softmax((scores[u][n] / 0.1).tolist())) for n in range(len(scores[u]))]
                total += np.mean(rows) / (len(views) - 1)
    return total / len(views)


def slow_coclr(w: World) -> float:
    turn = 0
    streams = list(w.online)
    z, other = w.z(streams[turn])[w.usable()], w.z(streams[1 - turn])[w.usable()]
    keys = functional.normalize(other[:, :2].sum(1), dim=-1)
    groups = w.batch.group_ids[w.usable()].tolist()
    n = len(groups)
    losses = []
    for i in range(n):
        ranked = sorted((j for j in range(n) if groups[j] != groups[i]), key=lambda j: -float(keys[i] @ keys[j]))
        positives = {i, *ranked[:2]}
        for s in (0, 1):
            scores = {(j, t): float(z[i, s] @ z[j, t]) / 0.07 for j in range(n) for t in (0, 1) if (j, t) != (i, s)}
            top = sum(math.exp(v) for (j, _), v in scores.items() if j in positives)
            losses.append(-math.log(top / sum(math.exp(v) for v in scores.values())))
    return float(np.mean(losses))


def slow_maclr(w: World) -> float:
    z, m = w.z()[w.usable()], w.z("stream1")[w.usable()]
    return (both_ways(z[:, 0], z[:, 1], 0.1) + both_ways(z[:, 0], m[:, 0], 0.1)) / 2


def slow_mscl(w: World) -> float:
    first = [b for b in range(w.batch.shape[0]) if w.batch.set_valid[b, 0]]
    whole = both_ways(w.z()[first, 0], w.z("stream1")[first, 0], 0.07)
    z, m, valid = w.tokens(), w.tokens("stream1"), w.batch.valid
    turned = None
    if w.inputs.negatives is not None:
        beside = w.inputs.negatives
        turned = functional.normalize(beside.model.dense_pred_head(beside.tokens), dim=-1).detach().double()
    losses = []
    for b in range(valid.shape[0]):
        for s in range(valid.shape[1]):
            kept = [v for v in range(valid.shape[2]) if valid[b, s, v]]
            for a, c, more in ((z, m, turned), (m, z, None)):
                for i, v in enumerate(kept):
                    scores = [float(a[b, s, v] @ c[b, s, u]) / 0.07 for u in kept]
                    scores += [] if more is None else [float(a[b, s, v] @ more[b, s, u]) / 0.07 for u in kept]
                    losses.append(-log_softmax(scores)[i])
    return (whole + float(np.mean(losses))) / 2


def slow_iboot(w: World) -> float:
    total = 0.0
    for head, source, target in zip(w.objective.heads, ("main", "stream1"), ("stream1", "main"), strict=True):
        sets = [(b, s) for b in range(6) for s in range(2) if w.batch.valid[b, s].any()]
        x = w.online[target].batch.features
        pooled = torch.stack([x[b, s][w.batch.valid[b, s]].mean(0) for b, s in sets])
        wanted = functional.normalize(pooled - pooled.mean(0), dim=-1)
        token = w.online[source].set_tokens
        made = [functional.normalize(head(token[b, s]), dim=-1) for b, s in sets]
        total += float(np.mean([float((a - c).square().sum()) for a, c in zip(made, wanted, strict=True)])) / 2
    return total


def shares(w: World) -> list[float]:
    raw, out = w.batch.stored_raw_geometry.double(), []
    for b in w.usable():
        stored = mid_times(raw[b])
        means = [float(mid_times(w.batch.raw_geometry[b, s].double())[w.batch.valid[b, s]].mean()) for s in (0, 1)]
        out.append(abs(means[0] - means[1]) / float(stored.max() - stored.min()))
    return out


def weighted(w: World, weights: list[float], tau: float = 0.1) -> float:
    z = w.z()[w.usable()]
    n = len(z)
    total = 0.0
    for i in range(n):
        for s in (0, 1):
            keys = [(j, t) for j in range(n) for t in (0, 1) if (j, t) != (i, s)]
            log_p = log_softmax([float(z[i, s] @ z[j, t]) / tau for j, t in keys])
            total -= weights[i] * log_p[keys.index((i, 1 - s))]
    return total / (2 * sum(weights))


def slow_cvrl(w: World) -> float:
    a = w.spec.exponent
    return weighted(w, [(a + 1) / a * (1 - u**a) / (2 * (1 - u)) for u in shares(w)])


def slow_concur(w: World) -> float:
    contrast = weighted(w, [float(u <= w.objective.span(w.inputs.progress)) for u in shares(w)])
    z = w.z()[w.usable()].float()
    losses = []
    for b, u in enumerate(shares(w)):
        scores = w.objective.head(torch.cat((z[b, 0], z[b, 1], (z[b, 0] - z[b, 1]).abs()))).tolist()
        losses.append(-log_softmax(scores)[min(int(u * 4), 3)])
    return (contrast + float(np.mean(losses))) / 2


def slow_stor(w: World) -> float:
    video, first, second = drawn_pairs(w.batch.valid.flatten(1), 12, 3)
    raw, h = w.batch.raw_geometry.flatten(1, 2), w.online["main"].tokens.flatten(1, 2)
    total = 0.0
    for head, overlap in zip(w.objective.heads, (time_overlap, box_overlap), strict=True):
        by_class: dict[int, list[float]] = {}
        for b, i, j in zip(video.tolist(), first.tolist(), second.tolist(), strict=True):
            truth = int(overlap_bin(overlap(raw[b, i], raw[b, j]), 5))
            scores = head(torch.cat((h[b, i], h[b, j]))).tolist()
            by_class.setdefault(truth, []).append(-log_softmax(scores)[truth])
        total += float(np.mean([np.mean(v) for v in by_class.values()])) / 2
    return total


def slow_speed(w: World) -> float:
    valid, stride = w.batch.valid.flatten(1), w.batch.raw_geometry[..., 7].flatten(1)
    h = w.online["main"].tokens.flatten(1, 2)
    one = [
        -log_softmax(w.objective.classify(h[b, v]).tolist())[[4, 8].index(int(stride[b, v]))]
        for b in range(valid.shape[0])
        for v in range(valid.shape[1])
        if valid[b, v]
    ]
    two = []
    for b, i, j in zip(*(x.tolist() for x in drawn_pairs(valid, valid.shape[1], 3)), strict=True):
        if stride[b, i] != stride[b, j]:
            scores = w.objective.sort(torch.cat((h[b, i], h[b, j]))).tolist()
            two.append(-log_softmax(scores)[int(stride[b, i] > stride[b, j])])
    return (float(np.mean(one)) + float(np.mean(two))) / 2


def slow_teg(w: World) -> float:
    z = w.z()[w.usable()]
    whole = both_ways(z[:, 0], z[:, 1], 0.1)
    t, valid, raw, crops = w.tokens(), w.batch.valid, w.batch.raw_geometry, w.batch.crops
    keys = [(b, v) for b in range(6) for v in range(valid.shape[2]) if valid[b, 0, v]]
    losses = []
    for b in range(6):
        for v in range(valid.shape[2]):
            if not valid[b, 1, v]:
                continue
            scores, hits = [], []
            for c, u in keys:
                if c == b and crops[b, 1, v] == crops[b, 0, u]:
                    continue
                scores.append(float(t[b, 1, v] @ t[c, 0, u]) / 0.1)
                hits.append(c == b and float(time_overlap(raw[b, 1, v], raw[c, 0, u])) > 0)
            if any(hits):
                top = sum(math.exp(s) for s, hit in zip(scores, hits, strict=True) if hit)
                losses.append(-math.log(top / sum(math.exp(s) for s in scores)))
    return (whole + float(np.mean(losses))) / 2


def slow_svt(w: World) -> float:
    encoded = w.online["main"]
    out = encoded.model.set_head(encoded.set_tokens).detach().double()
    if w.objective.outputs is not None:
        named = [row / row.norm() for row in w.objective.outputs.detach().double()]
        out = torch.stack([(out * row).sum(-1) / out.norm(dim=-1) for row in named], dim=-1)
    there = w.batch.set_valid
    losses = []
    for b in range(6):
        for u in range(2):
            for v in range(4):
                if u != v and there[b, u] and there[b, v]:
                    q = (out[b, u] / 0.04).softmax(-1)
                    losses.append(-float((q * (out[b, v] / 0.1).log_softmax(-1)).sum()))
    return float(np.mean(losses))


def nt_xent(z, tau: float) -> float:
    """Every set against all others, its own left out."""
    n = len(z)
    keys = [(j, t) for j in range(n) for t in (0, 1)]
    losses = []
    for i, s in keys:
        others = [key for key in keys if key != (i, s)]
        losses.append(-log_softmax([float(z[i, s] @ z[j, t]) / tau for j, t in others])[others.index((i, 1 - s))])
    return float(np.mean(losses))


def slow_const_cl(w: World) -> float:
    videos, valid, encoded = w.usable(), w.batch.valid, w.online["main"]
    model, x = encoded.model, w.batch.features
    sides = []
    for a, b in ((0, 1), (1, 0)):
        targets = {
            (v, j): functional.normalize(model.targets(x[v, b, j]), dim=-1).detach().double()
            for v in videos for j in range(3) if valid[v, b, j]
        }  # fmt: skip
        losses = []
        for v in videos:
            ask, tell = encoded.tokens[v, a][valid[v, a]], encoded.tokens[v, b][valid[v, b]]
            made = functional.normalize(model.dense_pred_head(w.objective.decoder(ask[None], tell[None])[0]), dim=-1)
            mine = [j for j in range(3) if valid[v, b, j]]
            for i, r in zip([i for i in range(3) if valid[v, a, i]], made.detach().double(), strict=True):
                best = max(mine, key=lambda j: float(functional.cosine_similarity(x[v, a, i], x[v, b, j], dim=0)))
                keys = [(v, best), *(key for key in targets if key[0] != v)]
                losses.append(-log_softmax([float(r @ targets[key]) / 0.2 for key in keys])[0])
        sides.append(np.mean(losses))
    return nt_xent(w.z()[videos], 0.1) + 0.5 * float(np.mean(sides))


def slow_stc_mix(w: World) -> float:
    videos, valid, encoded = w.usable(), w.batch.valid, w.online["main"]
    model, raw, n = encoded.model, w.batch.raw_geometry, len(w.usable())
    source = w.online["stream1" if w.objective.num_streams == 2 else "main"]
    g = torch.Generator().manual_seed(3)
    shift = int(torch.randint(1, n, (1,), generator=g))
    number = int(torch.randint(1, 2, (1,), generator=g))  # half of a set of three
    first = int(torch.randint(0, 4 - number, (1,), generator=g))
    z = w.z()[videos]
    in_time = {v: sorted((j for j in range(3) if valid[v, 0, j]), key=lambda j: float(raw[v, 0, j, :2].sum()))
               for v in videos}  # fmt: skip
    losses = []
    for at, v in enumerate(videos):
        partner = (at - shift) % n
        tokens = {j: model.project(w.batch.features[v, 0, j]) for j in in_time[v]}
        pasted = [r for r in range(first, first + number) if r < min(len(in_time[v]), len(in_time[videos[partner]]))]
        for r in pasted:
            theirs = source.batch.features[videos[partner], 0, in_time[videos[partner]][r]]
            tokens[in_time[v][r]] = source.model.project(theirs)
        order = list(tokens)
        cls, _ = model.contextualise(torch.stack([tokens[j] for j in order])[None], w.batch.geometry[v, 0][order][None])
        mixed = functional.normalize(model.set_head(cls)[0], dim=-1).detach().double()
        log_p = log_softmax([float(mixed @ z[k, 1]) / 0.1 for k in range(n)])
        kept = 1 - len(pasted) / len(in_time[v])
        losses.append(-kept * log_p[at] - (1 - kept) * log_p[partner])
    return (both_ways(z[:, 0], z[:, 1], 0.1) + float(np.mean(losses))) / 2


TWINS = {name.removeprefix("slow_"): twin for name, twin in list(globals().items()) if name.startswith("slow_")}
