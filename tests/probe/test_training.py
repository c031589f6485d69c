"""Trained probes: the grid equals its points trained alone, test is never looked at, scikit-learn agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.errors import NoDataError, ShapeMismatchError, TrainingError
from probe.maths.statistics import bootstrap_interval
from probe.trained.heads import AttentiveHead, GridAdamW, HeadKind, LinearHead, MlpHead, Slope
from probe.trained.inputs import Input, prepare
from probe.trained.training import GridSpec, train_grid

CPU = torch.device("cpu")


def blobs(
    seed: int, num: int, num_classes: int = 4, dim: int = 20, spread: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes around fixed centres."""
    centres = np.random.default_rng(99).standard_normal((num_classes, dim))
    rng = np.random.default_rng(seed)
    classes = np.arange(num) % num_classes
    return (centres[classes] + spread * rng.standard_normal((num, dim))).astype(np.float32), classes


def one_hot(classes: np.ndarray, num: int = 4) -> np.ndarray:
    return np.eye(num, dtype=bool)[classes]


def alone(num: int) -> list[str]:
    return [str(i) for i in range(num)]


def softmax_slope(classes: torch.Tensor) -> Slope:
    """Derivative of the mean cross entropy, by torch."""

    def slope(logits: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = logits.clone().requires_grad_()
            wanted = classes[:, None].expand(leaf.shape[:2]).flatten()
            torch.nn.functional.cross_entropy(leaf.flatten(0, 1), wanted, reduction="sum").div(len(leaf)).backward()
        assert leaf.grad is not None
        return leaf.grad

    return slope


FAST = GridSpec(learning_rates=(1e-3, 1e-2), weight_decays=(0.0, 0.5), epochs=15, batch_size=64)


class TestHeads:
    def heads(self, seeds: list[int]) -> list[LinearHead | MlpHead | AttentiveHead]:
        return [LinearHead(6, 3, seeds, CPU), MlpHead(6, 5, 3, seeds, CPU), AttentiveHead(6, 3, seeds, CPU)]

    @pytest.mark.parametrize("at", range(3))
    def test_a_probe_in_a_grid_is_the_probe_alone(self, at: int) -> None:
        """Same start, same gradient, same AdamW step as torch's own on one probe."""
        rng = torch.Generator().manual_seed(0)
        features, classes = torch.randn(30, 4, 6, generator=rng), torch.randint(0, 3, (30,), generator=rng)
        valid = torch.rand(30, 4, generator=rng) < 0.7
        valid[:, 0] = True
        grid = self.heads([5, 7])[at]
        single = self.heads([7])[at]
        optimizer = GridAdamW(grid, [1e-2, 3e-2], [0.0, 0.3])
        groups = [{"params": [p], "weight_decay": 0.0 if p.ndim == 2 else 0.3} for p in single.parameters]
        theirs = torch.optim.AdamW(groups, lr=3e-2)
        for parameter in single.parameters:
            parameter.requires_grad_()
        for _ in range(5):
            grid.learn(features, valid, softmax_slope(classes))
            optimizer.step(1.0)
            theirs.zero_grad()
            torch.nn.functional.cross_entropy(single(features, valid)[:, 0], classes).backward()
            theirs.step()
        for mine, their in zip(grid.parameters, single.parameters, strict=True):
            torch.testing.assert_close(mine[1], their[0], rtol=1e-4, atol=1e-5)

    def test_a_part_of_a_linear_head_learns_into_the_same_memory(self) -> None:
        features, classes = torch.randn(9, 6), torch.arange(9) % 3
        whole, pieces = LinearHead(6, 3, [1, 2, 3], CPU), LinearHead(6, 3, [1, 2, 3], CPU)
        whole.learn(features, None, softmax_slope(classes))
        for probes in (slice(0, 1), slice(1, 3)):
            pieces.part(probes).learn(features, None, softmax_slope(classes))
        for mine, their in zip(pieces.parameters, whole.parameters, strict=True):
            torch.testing.assert_close(mine.grad, their.grad)
        torch.testing.assert_close(pieces.part(slice(1, 3))(features, None), whole(features, None)[:, 1:])

    @pytest.mark.parametrize("at", range(3))
    def test_invalid_crops_do_not_matter(self, at: int) -> None:
        head = self.heads([0])[at]
        with torch.no_grad():
            for parameter in head.parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        features = torch.randn(4, 3, 6)
        valid = torch.tensor([[True, True, False]] * 4)
        changed = features.clone()
        changed[:, 2] = 1e3
        torch.testing.assert_close(head(features, valid), head(changed, valid))
        torch.testing.assert_close(head(features, valid), head(features[:, :2], valid[:, :2]))

    def test_the_attentive_head_starts_as_the_mean(self) -> None:
        features = torch.randn(5, 4, 6)
        head = AttentiveHead(6, 3, [0], CPU)
        expected = torch.einsum("bd,pcd->bpc", features.mean(dim=1), head.weight_PCD)
        torch.testing.assert_close(head(features, None), expected, atol=1e-4, rtol=1e-2)


class TestInputs:
    def test_standardised_by_the_train_rows(self) -> None:
        rng = np.random.default_rng(0)
        values = (rng.standard_normal((50, 3)) * [1, 5, 0] + [10, -3, 2]).astype(np.float32)
        train, _ = prepare(Input.of(values), Input.of(values[:3]))
        taken, _ = train.take(torch.arange(50))
        np.testing.assert_allclose(taken[:, :2].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(taken[:, :2].std(0), 1, atol=0.05)
        assert (taken[:, 2].abs() < 1e-4).all()  # a constant channel is not blown up

    def test_invalid_crops_do_not_enter_the_statistics(self) -> None:
        values = np.ones((4, 2, 3), np.float16)
        values[:, 1] = 1000
        mask = np.array([[True, False]] * 4)
        train, _ = prepare(Input.of(values, mask), Input.of(values, mask))
        np.testing.assert_allclose(train.mean_D, 1.0)

    def test_one_valid_crop_a_video_in_random_order(self) -> None:
        mask = np.array([[True, False, False], [False, True, True], [True, True, True]] * 20)
        inputs = Input.of(np.zeros((60, 3, 2), np.float16), mask)
        rows, crops = inputs.shuffled(torch.Generator().manual_seed(0), by_crop=True)
        assert crops is not None
        assert sorted(rows.tolist()) == list(range(60))
        assert mask[rows, crops].all()
        assert set(crops.tolist()) == {0, 1, 2}

    @pytest.mark.parametrize("shapes", [((3,), None), ((3, 2, 4), None), ((3, 2, 4), (3, 4)), ((3, 4), (3, 4))])
    def test_shapes_that_do_not_fit_are_refused(self, shapes: tuple[tuple[int, ...], tuple[int, ...] | None]) -> None:
        mask = None if shapes[1] is None else np.ones(shapes[1], bool)
        with pytest.raises(ShapeMismatchError):
            Input.of(np.zeros(shapes[0], np.float32), mask)


class TestGrid:
    def test_learns_and_is_within_the_interval_of_logistic_regression(self) -> None:
        (x, y), (x_test, y_test) = blobs(0, 400), blobs(1, 300)
        found = train_grid(GridSpec(), Input.of(x), one_hot(y), alone(400), Input.of(x_test))[0]
        hits = found.selected_scores_QC.argmax(1) == y_test
        scaler = StandardScaler().fit(x)
        oracle = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(x), y)
        theirs = oracle.score(scaler.transform(x_test), y_test)
        low, high = bootstrap_interval(hits, alone(300))
        assert low <= theirs <= high
        assert (found.last_scores_QC.argmax(1) == y_test).mean() > 0.6

    @pytest.mark.parametrize("kind", ["linear", "mlp", "attentive"])
    def test_every_kind_learns_from_crops(self, kind: str) -> None:
        (x, y), (x_test, y_test) = blobs(0, 200), blobs(1, 100)
        rng = np.random.default_rng(0)
        crops, test_crops = (
            (v[:, None] + 0.5 * rng.standard_normal((len(v), 5, 20))).astype(np.float16) for v in (x, x_test)
        )
        mask, test_mask = rng.random((200, 5)) < 0.8, rng.random((100, 5)) < 0.8
        mask[:, 0] = test_mask[:, 0] = True
        spec = GridSpec(kind=kind, epochs=20, hidden_dim=16, learning_rates=(1e-2,), weight_decays=(0.1,))  # type: ignore[arg-type]
        found = train_grid(spec, Input.of(crops, mask), one_hot(y), alone(200), Input.of(test_crops, test_mask))[0]
        assert (found.selected_scores_QC.argmax(1) == y_test).mean() > 0.6

    @pytest.mark.parametrize("kind", ["linear", "mlp", "attentive"])
    @pytest.mark.parametrize("is_multilabel", [False, True])
    def test_a_grid_is_its_points_trained_alone(self, kind: HeadKind, is_multilabel: bool) -> None:
        """Beside points that explode the only sane one is chosen, and is what it is without them."""
        (x, y), (x_test, _) = blobs(0, 83), blobs(1, 20)
        targets = one_hot(y)
        targets[::5, 0] |= is_multilabel
        one = GridSpec(kind=kind, learning_rates=(1e-2,), weight_decays=(0.5,), epochs=6, batch_size=40, hidden_dim=8)
        many = replace(one, learning_rates=(1e-2, 1e38), weight_decays=(0.5, 1e38))
        found, alone_ = (
            train_grid(spec, Input.of(x), targets, alone(83), Input.of(x_test), is_multilabel=is_multilabel)[0]
            for spec in (many, one)
        )
        assert (found.learning_rate, found.weight_decay, found.epoch) == (1e-2, 0.5, alone_.epoch)
        np.testing.assert_allclose(found.heldout_curve, alone_.heldout_curve, atol=1e-6)
        np.testing.assert_allclose(found.selected_scores_QC, alone_.selected_scores_QC, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.last_scores_QC, alone_.last_scores_QC, rtol=1e-4, atol=1e-4)

    def test_products_a_fold_and_one_product_for_all_give_the_same(self) -> None:
        (x, y), (x_test, _) = blobs(0, 90), blobs(1, 20)
        found = []
        for width in (1, 1 << 30):
            made = train_grid(FAST, Input.of(x), one_hot(y), alone(90), Input.of(x_test), min_fold_width=width)
            found.append(made[0])
        assert found[0].heldout_curve == found[1].heldout_curve
        np.testing.assert_allclose(found[0].selected_scores_QC, found[1].selected_scores_QC, rtol=1e-4, atol=1e-4)

    def test_a_batch_of_held_out_rows_alone_teaches_nothing(self) -> None:
        """33 rows in batches of 32 leave one row to the last batch, held out or not."""
        x, y = blobs(0, 33)
        found = train_grid(FAST, Input.of(x), one_hot(y), alone(33), Input.of(x))[0]
        assert np.isfinite(found.last_scores_QC).all()
        assert found.heldout_top1 is not None

    def test_test_rows_do_not_influence_what_is_chosen(self) -> None:
        """Other test rows, in another number: same choice, and the same scores of the rows they share."""
        (x, y), (x_test, _) = blobs(0, 80), blobs(1, 40)
        one = train_grid(FAST, Input.of(x), one_hot(y), alone(80), Input.of(x_test))[0]
        two = train_grid(FAST, Input.of(x), one_hot(y), alone(80), Input.of(x_test[:7]))[0]
        assert (one.learning_rate, one.weight_decay, one.epoch) == (two.learning_rate, two.weight_decay, two.epoch)
        np.testing.assert_allclose(one.selected_scores_QC[:7], two.selected_scores_QC, rtol=1e-4, atol=1e-4)

    def test_held_out_rows_teach_nothing(self) -> None:
        """Features that only name the group: nothing carries over to a held-out group, so accuracy there is chance."""
        rng = np.random.default_rng(0)
        groups = np.arange(60) // 2
        x = np.eye(30, dtype=np.float32)[groups] * 5
        y = rng.integers(0, 4, 30)[groups]
        found = train_grid(FAST, Input.of(x), one_hot(y), [str(g) for g in groups], Input.of(x))[0]
        assert found.heldout_top1 is not None
        assert found.heldout_top1 < 0.5
        assert (found.last_scores_QC.argmax(1) == y).mean() == 1.0  # the same rows, seen in training

    def test_runs_repeat_and_seeds_differ(self) -> None:
        (x, y), (x_test, _) = blobs(0, 60), blobs(1, 20)
        spec = GridSpec(kind="mlp", learning_rates=(1e-2,), weight_decays=(0.0,), seeds=(3, 4), epochs=6, hidden_dim=8)
        first = train_grid(spec, Input.of(x), one_hot(y), alone(60), Input.of(x_test))
        again = train_grid(spec, Input.of(x), one_hot(y), alone(60), Input.of(x_test))
        assert [f.seed for f in first] == [3, 4]
        np.testing.assert_array_equal(first[0].last_scores_QC, again[0].last_scores_QC)
        assert not np.allclose(first[0].last_scores_QC, first[1].last_scores_QC)

    def test_a_rate_that_explodes_is_not_chosen(self) -> None:
        (x, y), (x_test, _) = blobs(0, 60), blobs(1, 10)
        spec = GridSpec(learning_rates=(1e-2, 1e38), weight_decays=(0.0,), epochs=5)
        assert train_grid(spec, Input.of(x), one_hot(y), alone(60), Input.of(x_test))[0].learning_rate == 1e-2
        with pytest.raises(TrainingError, match="finite loss"):
            train_grid(
                GridSpec(learning_rates=(1e38,), weight_decays=(1e38,), epochs=5),
                Input.of(x), one_hot(y), alone(60), Input.of(x_test),
            )  # fmt: skip

    def test_without_held_out_rows_the_middle_of_the_grid_is_used(self) -> None:
        x, y = blobs(0, 4)
        found = train_grid(FAST, Input.of(x), one_hot(y), alone(4), Input.of(x))[0]
        assert (found.learning_rate, found.weight_decay, found.epoch) == (1e-2, 0.5, FAST.epochs)
        assert found.chosen_on.startswith("nothing was chosen")
        assert found.heldout_top1 is None

    def test_several_labels_are_learned_as_independent_ones(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((300, 8)).astype(np.float32)
        targets = x[:, :3] > 0
        spec = GridSpec(learning_rates=(1e-2,), weight_decays=(0.0,), epochs=40)
        found = train_grid(spec, Input.of(x[:200]), targets[:200], alone(200), Input.of(x[200:]), is_multilabel=True)[0]
        assert ((found.selected_scores_QC > 0) == targets[200:]).mean() > 0.9

    def test_one_class_and_no_test_rows(self) -> None:
        x, _ = blobs(0, 12)
        found = train_grid(FAST, Input.of(x), np.ones((12, 1), bool), alone(12), Input.of(x[:0]))[0]
        assert found.selected_scores_QC.shape == (0, 1)

    def test_no_train_rows(self) -> None:
        x, y = blobs(0, 4)
        with pytest.raises(NoDataError):
            train_grid(FAST, Input.of(x[:0]), one_hot(y)[:0], [], Input.of(x))
        with pytest.raises(ShapeMismatchError):
            train_grid(FAST, Input.of(x), one_hot(y), ["a"], Input.of(x))
