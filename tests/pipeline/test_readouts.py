"""Readouts that need no training against slow twins, and what they promise on irregular, missing and flipped crops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.linalg

from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError
from pipeline.readouts.fitting import FittedReadout, fit_readout, part_weights
from pipeline.readouts.joining import fit_joined, unit_rows
from pipeline.readouts.moments import crop_times, moments, signed_sqrt, take_parts
from pipeline.readouts.paired_views import choose_agreeing_strength, fit_agreeing, halves
from pipeline.readouts.whitening import choose_strength, fit_whitening, group_folds
from pipeline.recipe import ReadoutSpec
from pipeline.storage.schema import GEOMETRY_COLUMNS

RNG = np.random.default_rng(0)


def grid_geometry(num_videos: int, times: np.ndarray, places: int = 1, span: float = 0.1) -> np.ndarray:
    """Crop v at time ``v // places`` and place ``v % places``."""
    out = np.zeros((num_videos, len(times) * places, len(GEOMETRY_COLUMNS)), np.float32)
    out[..., 0] = np.repeat(times, places)
    out[..., 1] = out[..., 0] + span
    out[..., 3] = np.tile(np.arange(places) * 10, len(times))
    out[..., 4:6] = 100
    out[..., 7] = 1
    return out


def slow_moments(x, valid, geometry, num_cosines=2):
    """One video, loops and `lstsq`."""
    times = crop_times(geometry[None].astype(np.float64))[0]
    keys = [tuple(row) for row in geometry[:, [2, 3, 4, 5, 6, 7]]]
    kept = [v for v in range(len(x)) if valid[v]]
    sizes = {k: sum(keys[v] == k for v in kept) for k in set(keys)}
    if 2 * sum(s for s in sizes.values() if s > 1) < len(kept):
        keys = ["one"] * len(x)
    places = sorted({keys[v] for v in kept}, key=str)
    columns = [[np.cos(k * np.pi * times[v]) for v in kept] for k in range(1, num_cosines + 1)]
    columns += [[float(keys[v] == place) for v in kept] for place in places]
    solution = np.linalg.lstsq(np.array(columns).T, x[kept].astype(np.float64), rcond=None)[0]
    residuals = [x[v] - np.mean([x[w] for w in kept if keys[w] == keys[v]], axis=0) for v in kept]
    return {
        "mean": np.mean(x[kept], axis=0),
        **{f"cos{k + 1}": solution[k] for k in range(num_cosines)},
        "std": np.sqrt(np.mean(np.square(residuals), axis=0)),
    }


@pytest.mark.parametrize("kind", ["regular", "places", "irregular", "missing", "random boxes"])
def test_moments_equal_their_slow_twin(kind):
    times = np.sort(RNG.random(9)) * 7 if kind == "irregular" else np.arange(9) * 0.25
    geometry = grid_geometry(4, times, places=3 if kind in ("places", "missing") else 1)
    if kind == "random boxes":
        geometry[..., 2:6] = RNG.integers(0, 200, (*geometry.shape[:2], 4))
    x = RNG.normal(size=(*geometry.shape[:2], 5)).astype(np.float32)
    valid = np.ones(x.shape[:2], bool)
    if kind == "missing":
        valid = RNG.random(valid.shape) > 0.3
        x[~valid] = np.nan
    fast = moments(x, valid, geometry)
    for n in range(len(x)):
        for name, value in slow_moments(x[n], valid[n], geometry[n]).items():
            np.testing.assert_allclose(fast[name][n], value, atol=1e-5, err_msg=f"{kind} {name}")


def test_on_regular_times_cosines_are_the_dct():
    geometry = grid_geometry(3, np.arange(8) / 8)
    x = RNG.normal(size=(3, 8, 4)).astype(np.float32)
    found = moments(x, np.ones((3, 8), bool), geometry, num_cosines=3)
    dct = scipy.fft.dct(x.astype(np.float64), type=2, axis=1) / 8
    for k in (1, 2, 3):
        np.testing.assert_allclose(found[f"cos{k}"], dct[:, k], atol=1e-6)


def test_a_slow_signal_is_read_exactly_whatever_is_missing():
    """Every signal that the cosines can write gives its coefficients, with gaps or with an unplanned tail."""
    times = np.arange(12) * 0.2
    full = grid_geometry(1, times, places=2)
    u = crop_times(full.astype(np.float64))[0]
    offset = np.tile([[3.0, -1.0], [-2.0, 5.0]], (12, 1))  # places differ: no matter to what changes in time
    signal = offset + np.cos(np.pi * u)[:, None] * [1.5, -0.5] + np.cos(2 * np.pi * u)[:, None] * [0.25, 2.0]
    valid = np.ones((1, 24), bool)
    valid[0, [0, 1, 2, 7, 12, 13, 20]] = False
    found = moments(signal[None].astype(np.float32), valid, full)
    np.testing.assert_allclose(found["cos1"][0], [1.5, -0.5], atol=1e-5)
    np.testing.assert_allclose(found["cos2"][0], [0.25, 2.0], atol=1e-5)
    padded = np.concatenate([full, np.zeros((1, 9, full.shape[2]), np.float32)], axis=1)
    longer = np.concatenate([signal, np.full((9, 2), np.nan)])[None].astype(np.float32)
    again = moments(longer, np.concatenate([valid, np.zeros((1, 9), bool)], axis=1), padded)
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6)


def test_order_of_storage_never_matters_and_time_backwards_turns_odd_cosines():
    geometry = grid_geometry(2, np.sort(RNG.random(7)), places=2)
    x = RNG.normal(size=(2, 14, 3)).astype(np.float32)
    valid = RNG.random((2, 14)) > 0.2
    found = moments(x, valid, geometry)
    order = RNG.permutation(14)
    for name, value in moments(x[:, order], valid[:, order], geometry[:, order]).items():
        np.testing.assert_allclose(value, found[name], atol=1e-5)
    backwards = geometry.copy()
    backwards[..., 0], backwards[..., 1] = 1.0 - geometry[..., 1], 1.0 - geometry[..., 0]
    turned = moments(x, valid, backwards)
    np.testing.assert_allclose(turned["cos1"], -found["cos1"], atol=1e-4)
    np.testing.assert_allclose(turned["cos2"], found["cos2"], atol=1e-4)


def test_a_flipped_copy_is_a_place_of_its_own():
    """Mirrored crops differ by a constant; that says nothing of time, and is no deviation over time."""
    geometry = np.concatenate([grid_geometry(1, np.arange(6) / 6)] * 2, axis=1)
    geometry[:, 6:, 6] = 1
    slow = np.cos(np.pi * crop_times(geometry[:, :6].astype(np.float64))[0])[:, None]
    x = np.concatenate([slow, slow + 10.0])[None].astype(np.float32)
    found = moments(x, np.ones((1, 12), bool), geometry)
    alone = moments(x[:, :6], np.ones((1, 6), bool), geometry[:, :6])
    for name in ("cos1", "cos2", "std"):
        np.testing.assert_allclose(found[name], alone[name], atol=1e-5)


@pytest.mark.parametrize("num_times", [1, 2])
def test_few_times_say_little_instead_of_much(num_times):
    geometry = grid_geometry(1, np.arange(num_times) * 1e-4)
    found = moments(RNG.normal(size=(1, num_times, 3)).astype(np.float32), np.ones((1, num_times), bool), geometry)
    assert all(np.isfinite(part).all() and np.abs(part).max() < 10 for part in found.values())
    if num_times == 1:
        assert not found["cos1"].any()
        assert not found["std"].any()


def test_near_equal_times_are_not_amplified():
    geometry = grid_geometry(1, np.array([0.0, 1.0, 1.0001, 1.0002, 1.0003]))
    x = RNG.normal(size=(1, 5, 50)).astype(np.float32)
    found = moments(x, np.ones((1, 5), bool), geometry)
    assert max(np.abs(found["cos1"]).max(), np.abs(found["cos2"]).max()) < 5 * np.abs(x).max()


def test_a_video_without_valid_crops_is_zero():
    found = moments(np.full((1, 3, 2), np.nan, np.float16), np.zeros((1, 3), bool), grid_geometry(1, np.arange(3.0)))
    assert all(not part.any() for part in found.values())


def test_shapes_are_checked():
    with pytest.raises(ShapeMismatchError, match="geometry"):
        moments(np.zeros((2, 3, 4)), np.ones((2, 3), bool), np.zeros((2, 4, 9)))


def test_parts_are_taken_in_their_order():
    parts = {"mean": np.array([[-4.0, 9.0]]), "cos1": np.ones((1, 2)), "cos2": np.zeros((1, 2)), "std": np.ones((1, 2))}
    assert len(take_parts(parts, ("std", "cosines", "sqrt"))) == 4
    np.testing.assert_allclose(take_parts(parts, ("sqrt",))[0], signed_sqrt(parts["mean"]))
    np.testing.assert_allclose(signed_sqrt(parts["mean"]), [[-2.0, 3.0]])
    spec = ReadoutSpec.model_validate({"of": [{"crops": "a", "backbone": "b", "weight": 2}], "cosines": 3})
    assert part_weights(spec) == [2.0] * 5


def test_joined_parts_have_the_say_that_is_asked_for():
    big, small = RNG.normal(size=(30, 6)) * 1e4 + 7, RNG.normal(size=(30, 4)) * 1e-3
    joined = fit_joined([big, small])([big, small])
    expected = np.concatenate([unit_rows(big - big.mean(0)), unit_rows(small - small.mean(0))], 1) / np.sqrt(2)
    np.testing.assert_allclose(joined, expected, atol=1e-5)
    heavier = fit_joined([big, small], weights=[1.0, 3.0])([big, small])
    np.testing.assert_allclose((heavier[:, 6:] ** 2).sum(1), 0.9, atol=1e-5)
    with pytest.raises(NoDataError):
        fit_joined([big[:0]])
    with pytest.raises(InvalidInputError, match="weights"):
        fit_joined([big, small], weights=[1.0])
    with pytest.raises(ShapeMismatchError, match="channels"):
        fit_joined([big])([small])


@pytest.mark.parametrize("shape", [(20, 50), (200, 12)])
@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_whitening_equals_the_matrix_root(shape, strength):
    x = RNG.normal(size=shape) @ np.diag(np.linspace(0.1, 3, shape[1]))
    found = fit_whitening(x, strength)(x)
    covariance = np.cov(x.T)
    added = strength * np.trace(covariance) / shape[1]
    root = scipy.linalg.fractional_matrix_power(covariance + added * np.eye(shape[1]), -0.5) * np.sqrt(added)
    np.testing.assert_allclose(found, (x - x.mean(0)) @ root, atol=2e-4)


def test_parts_are_whitened_one_by_one_and_keep_their_say():
    parts = [RNG.normal(size=(40, d)) @ np.diag(np.linspace(0.1, 3, d)) + 5 for d in (12, 50)]
    found = fit_joined(parts, weights=[1.0, 3.0], strength=2.0, by_part=True)(parts)
    expected = []
    for part, weight in zip(parts, (1.0, 3.0), strict=True):
        x = unit_rows(part - part.mean(0)).astype(np.float64)
        covariance = np.cov(x.T)
        added = 2.0 * np.trace(covariance) / len(covariance)
        root = scipy.linalg.fractional_matrix_power(covariance + added * np.eye(len(covariance)), -0.5)
        expected.append(weight * unit_rows((x - x.mean(0)) @ root))
    np.testing.assert_allclose(found, np.concatenate(expected, 1) / np.sqrt(10), atol=1e-4)


def test_strong_shrinkage_changes_nothing():
    x = RNG.normal(size=(30, 8)).astype(np.float32)
    np.testing.assert_allclose(fit_whitening(x, 1e9)(x), x - x.mean(0), atol=1e-5)
    with pytest.raises(InvalidInputError, match="strength"):
        fit_whitening(x, 0)
    with pytest.raises(NoDataError):
        fit_whitening(x[:1], 1.0)


def test_strength_is_chosen_where_a_nuisance_decides():
    """A common direction of large variance hides the class: whitening is chosen; one group alone chooses nothing."""
    labels = np.repeat(np.arange(4), 15)
    targets = np.eye(4, dtype=bool)[labels]
    x = RNG.normal(size=(60, 10)) * 0.3
    x[np.arange(60), labels] += 1.5
    x[:, 9] += RNG.normal(size=60) * 12
    strength, accuracy = choose_strength(x, targets, [str(i) for i in range(60)])
    assert strength is not None
    assert accuracy[strength] > accuracy[None] + 0.2
    assert choose_strength(x, targets, ["one"] * 60) == (10.0, {})
    alone = choose_strength(x, targets, [str(i) for i in range(60)], dims=[10])
    assert alone == (strength, accuracy)  # one part alone is the whole
    twice, noise = np.concatenate([x, x], 1), RNG.normal(size=(60, 10))
    assert choose_strength(twice, targets, [str(i) for i in range(60)], dims=[10, 10])[1] == pytest.approx(accuracy)
    both = choose_strength(np.concatenate([x, noise], 1), targets, [str(i) for i in range(60)], dims=[10, 10])
    assert both[0] is not None


def test_folds_keep_groups_together():
    groups = [f"g{i // 3}" for i in range(30)]
    fold = group_folds(groups)
    assert all(len(set(fold[np.array(groups) == g])) == 1 for g in set(groups))
    assert np.bincount(fold).tolist() == [6] * 5


def test_agreeing_directions_solve_the_eigenproblem():
    shared = RNG.normal(size=(80, 3)) @ RNG.normal(size=(3, 9)) * 2
    first, second = shared + RNG.normal(size=(80, 9)), shared + RNG.normal(size=(80, 9))
    found = fit_agreeing(first, second, outputs=3, strength=0.5)
    both = np.concatenate([first, second])
    centred = both - both.mean(0)
    total = centred.T @ centred / (len(both) - 1)
    between = (centred[:80].T @ centred[80:] + centred[80:].T @ centred[:80]) / 2 / (80 - 0.5)
    rho = scipy.linalg.eigh(between, total + 0.5 * np.trace(total) / 9 * np.eye(9), eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.agreement, rho[:3], rtol=1e-5)
    z = (centred @ found.matrix).T @ (centred @ found.matrix)
    assert abs(z[0, 1]) / z[0, 0] < 0.2  # near-orthogonal outputs
    with pytest.raises(ShapeMismatchError):
        fit_agreeing(first, second[:5], outputs=3, strength=0.5)
    with pytest.raises(InvalidInputError):
        fit_agreeing(first, second, outputs=0, strength=0.5)


def test_strength_of_agreement_is_its_own_choice_and_not_too_little():
    """Few videos in many channels of noise: with little shrinkage each has directions that no other video shares."""
    rng = np.random.default_rng(3)
    labels = np.arange(48) % 4
    common = np.zeros((48, 120))
    common[np.arange(48), labels] = 4.0
    own = rng.normal(size=(48, 120))  # of the video, so of both its halves, and of no other
    views = [(common + own + 0.1 * rng.normal(size=(48, 120))).astype(np.float32) for _ in range(2)]
    targets = np.eye(4, dtype=bool)[labels]
    groups = [str(i) for i in range(48)]
    strength, accuracy = choose_agreeing_strength(
        (views[0], views[1]), (views[0] + views[1]) / 2, targets, groups, outputs=40, strengths=(0.01, 30.0)
    )
    assert strength == 30.0
    assert accuracy[30.0] > accuracy[0.01] + 0.1
    assert choose_agreeing_strength(
        (views[0], views[1]), views[0], targets, ["one"] * 48, outputs=4
    ) == (10.0, {})  # fmt: skip


def test_a_chosen_strength_is_part_of_what_decides():
    part = {"of": [{"crops": "c", "backbone": "b"}]}
    plain, chosen = (ReadoutSpec.model_validate(part | more) for more in ({}, {"project": "vicreg"}))
    assert plain.decides() == plain.model_dump(mode="json")  # what was written before keeps its fingerprint
    assert "choice" in chosen.decides()
    assert "choice" not in chosen.model_copy(update={"strength": 3.0}).decides()


def test_vicreg_outputs_minimise_disagreement_among_linear_maps():
    """No random whitened map of as many outputs has its views closer together."""
    shared = RNG.normal(size=(300, 2)) @ RNG.normal(size=(2, 6)) * 2
    views = [shared + RNG.normal(size=(300, 6)) for _ in range(2)]
    found = fit_agreeing(*views, outputs=2, strength=1e-6)

    def disagreement(matrix):
        z = [(v - found.mean) @ matrix for v in views]
        return np.mean((z[0] - z[1]) ** 2)

    both = np.concatenate(views) - found.mean
    root = scipy.linalg.fractional_matrix_power(both.T @ both / (len(both) - 1), -0.5)
    best = disagreement(found.matrix)
    for _ in range(20):
        turn = np.linalg.qr(RNG.normal(size=(6, 2)))[0]
        assert best <= disagreement(root @ turn) + 1e-6


def test_halves_take_every_other_time():
    geometry = grid_geometry(2, np.arange(5) / 5, places=2)
    valid = np.ones((2, 10), bool)
    first, second = halves(valid, geometry)
    assert first[0].tolist() != second[0].tolist()
    assert (first ^ second).all()
    assert [first[0, 2 * t] for t in range(5)] == [first[0, 2 * t + 1] for t in range(5)]
    assert [first[0, 2 * t] for t in range(5)] in ([True, False] * 2 + [True], [False, True] * 2 + [False])
    one_time = grid_geometry(1, np.zeros(1), places=4)
    first, second = halves(np.ones((1, 4), bool), one_time)
    assert first.sum() == second.sum() == 2


@pytest.mark.parametrize("project", ["none", "whitened", "whitened_parts", "vicreg"])
def test_a_fitted_readout_is_kept_and_read_again(project):
    spec = ReadoutSpec.model_validate(
        {"of": [{"crops": "c", "backbone": "b", "take": ["mean", "std"]}], "project": project, "outputs": 4}
    )
    parts = [RNG.normal(size=(40, 7)), RNG.random(size=(40, 7))]
    views = ([p[:20] for p in parts], [p[:20] + 0.1 * RNG.normal(size=(20, 7)) for p in parts])
    labels = [(str(i % 3),) if i % 5 else () for i in range(40)]
    fitted = fit_readout(parts, spec, labels=labels, groups=[str(i) for i in range(40)], views=views)
    again = FittedReadout.decode(spec, fitted.encode())
    np.testing.assert_array_equal(fitted(parts), again(parts))
    assert fitted(parts).shape == (40, fitted.dim)
    np.testing.assert_allclose(np.linalg.norm(fitted(parts), axis=1), 1, atol=1e-5)
    assert again.strength == fitted.strength
    if project == "vicreg":
        with pytest.raises(NoDataError, match="vicreg"):
            fit_readout(parts, spec)
