"""AUC, GAUC, log-loss, calibration and rating errors against slow formulas and scikit-learn."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as their_log_loss
from sklearn.metrics import roc_auc_score
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics import ranking
from simlab.metrics.calibration import ece
from simlab.metrics.classification import auc, auc_summary, gauc, log_loss, log_loss_of
from simlab.metrics.rating import mae, rmse
from simlab.statistics import Summary, mean_interval

CASES = Path(__file__).parents[2] / "../shared/cases/rank/metrics"


def tied(n: int = 60, seed: int = 0, levels: int = 9) -> tuple[Tensor, Tensor]:
    """Scores with many ties, and labels that they say something about."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (n,), generator=g).double()
    return scores, torch.rand(n, generator=g) < (scores + 1) / (levels + 1)


def calibrated(n: int = 4000, seed: int = 1, shift: float = 0.1) -> tuple[Tensor, Tensor]:
    """Probabilities that are too high by `shift`, and what happened."""
    g = torch.Generator().manual_seed(seed)
    truth = 0.1 + 0.7 * torch.rand(n, generator=g).double()
    return truth + shift, torch.rand(n, generator=g).double() < truth


def test_auc_is_scikit_learns() -> None:
    scores, positive = tied(500, levels=30)
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive.numpy(), scores.numpy()), abs=1e-12)
    assert auc(torch.tensor([1.0, 2.0]), torch.tensor([False, True])) == 1
    assert auc(torch.tensor([1.0, 1.0]), torch.tensor([False, True])) == 0.5
    assert ranking.auc is auc
    with pytest.raises(BadInput, match="both classes"):
        auc(scores, torch.ones(500, dtype=torch.bool))
    with pytest.raises(BadInput, match="example 1 is not"):
        auc(torch.tensor([1.0, torch.nan]), torch.tensor([False, True]))


@pytest.mark.parametrize("seed", range(4))
def test_delong_against_all_pairs(seed: int) -> None:
    """Equations 4 to 6 of DeLong, DeLong and Clarke-Pearson (1988), pair by pair."""
    scores, positive = tied(seed=seed)
    x, y = scores[positive].tolist(), scores[~positive].tolist()
    psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
    v10, v01 = psi.mean(1), psi.mean(0)
    theta = psi.mean()
    s10 = ((v10 - theta) ** 2).sum() / (len(x) - 1)
    s01 = ((v01 - theta) ** 2).sum() / (len(y) - 1)
    found = auc_summary(scores, positive)
    assert found.mean == pytest.approx(theta, abs=1e-12)
    assert found.stderr == pytest.approx((s10 / len(x) + s01 / len(y)) ** 0.5, abs=1e-12)
    assert found.n == len(scores)
    wide = auc_summary(scores, positive, level=0.99)
    assert wide.low < found.low < theta < found.high < wide.high


def test_delong_covers() -> None:
    """95 % of intervals hold P(X > Y) = Φ(1 / √2): 400 draws, so within 3 standard errors of 0.95."""
    g = torch.Generator().manual_seed(3)
    truth = NormalDist().cdf(0.5**0.5)
    positive = torch.arange(150) < 60
    inside = 0
    for _ in range(400):
        found = auc_summary(torch.randn(150, generator=g).double() + positive.double(), positive)
        inside += found.low <= truth <= found.high
    assert abs(inside / 400 - 0.95) < 0.033


def test_examples_of_one_user_widen_the_interval() -> None:
    """Every example four times over: by user the error is that of the examples once."""
    scores, positive = tied(200, seed=5)
    once = auc_summary(scores, positive, groups=np.arange(200))
    copied = auc_summary(scores.repeat(4), positive.repeat(4), groups=np.tile(np.arange(200), 4))
    assert copied.stderr == pytest.approx(once.stderr, rel=1e-9)
    assert auc_summary(scores.repeat(4), positive.repeat(4)).stderr < 0.6 * once.stderr
    assert once.stderr == pytest.approx(auc_summary(scores, positive).stderr, rel=0.02)


def test_delong_needs_two_of_each_class() -> None:
    with pytest.raises(BadInput, match="two examples of each class, not 1"):
        auc_summary(torch.arange(3.0), torch.tensor([True, False, False]))


def test_gauc_is_the_auc_of_each_user_weighted() -> None:
    g = torch.Generator().manual_seed(4)
    scores, positive = tied(400, seed=4)
    user = torch.randint(0, 40, (400,), generator=g) * 7 + 3
    positive &= user != 10
    positive |= user == 24
    found = gauc(scores, positive, user)
    ids = torch.unique(user)
    weight, areas = [], []
    for u, value, counts in zip(ids, found.value, found.counts, strict=True):
        mine = user == u
        assert bool(counts) == (0 < int(positive[mine].sum()) < int(mine.sum()))
        if counts:
            expected = roc_auc_score(positive[mine].numpy(), scores[mine].numpy())
            assert float(value) == pytest.approx(expected, abs=1e-12)
            weight.append(int(mine.sum()))
            areas.append(expected)
        else:
            assert value.isnan()
    assert found.skipped == len(ids) - len(areas) >= 2
    assert found.summary().mean == pytest.approx(np.average(areas, weights=weight), abs=1e-12)


def test_gauc_when_nobody_has_both_classes() -> None:
    found = gauc(torch.arange(4.0), torch.tensor([True, True, False, False]), torch.tensor([0, 0, 1, 1]))
    assert found.skipped == 2
    with pytest.raises(BadInput):
        found.summary()


def same(found: Summary, values: np.ndarray) -> None:
    plain = mean_interval(values)
    assert (found.mean, found.stderr, found.low, found.high, found.n) == pytest.approx(
        (plain.mean, plain.stderr, plain.low, plain.high, plain.n), abs=1e-12
    )


def test_log_loss_is_scikit_learns() -> None:
    p, positive = calibrated(300)
    each = np.where(positive.numpy(), -np.log(p.numpy()), -np.log(1 - p.numpy()))
    for found in (log_loss(p.logit(), positive), log_loss_of(p, positive)):
        assert found.mean == pytest.approx(their_log_loss(positive.numpy(), p.numpy()), abs=1e-12)
        same(found, each)
    user = np.arange(300) // 10
    assert log_loss(p.logit(), positive, groups=user).stderr == pytest.approx(
        mean_interval(each, groups=user).stderr
    )


def test_log_loss_of_large_logits_is_exact() -> None:
    z = torch.tensor([1000.0, -1000.0, 40.0, -40.0], dtype=torch.float64)
    wrong = torch.tensor([False, True, False, True])
    assert log_loss(z, wrong).mean == pytest.approx((1000 + 1000 + 40 + 40) / 4, abs=1e-12)
    small = log_loss(z[2:], ~wrong[2:]).mean  # log(1 + e^-40) is e^-40 to the last digit
    assert small == pytest.approx(np.exp(-40.0), rel=1e-9)


def test_log_loss_refuses() -> None:
    positive = torch.tensor([True, False])
    with pytest.raises(BadInput, match=r"example 1 has probability 1\.5"):
        log_loss_of(torch.tensor([0.5, 1.5]), positive)
    with pytest.raises(BadInput, match="example 0 has probability nan"):
        log_loss_of(torch.tensor([torch.nan, 0.5]), positive)
    with pytest.raises(BadInput, match="example 1 has logit inf"):
        log_loss(torch.tensor([0.5, torch.inf]), positive)


def slow_ece(p: np.ndarray, y: np.ndarray, place: np.ndarray) -> float:
    total = 0.0
    for b in np.unique(place):
        mine = place == b
        total += mine.mean() * abs(p[mine].mean() - y[mine].mean())
    return total


@pytest.mark.parametrize("bins", [1, 7, 20])
def test_ece_bin_by_bin(bins: int) -> None:
    p, positive = calibrated(700, shift=0.2)
    p[:3] = torch.tensor([0.0, 1.0, 1 / 7], dtype=torch.float64)
    x, y = p.numpy(), positive.numpy().astype(float)
    width = np.minimum(np.digitize(x, np.arange(1, bins) / bins), bins - 1)
    assert ece(p, positive, bins).mean == pytest.approx(slow_ece(x, y, width), abs=1e-12)
    mass = np.argsort(np.argsort(x)) * bins // len(x)
    assert ece(p, positive, bins, by="mass").mean == pytest.approx(slow_ece(x, y, mass), abs=1e-12)


def test_equal_probabilities_share_a_bin() -> None:
    """The order of the examples does not matter, also where a bin of equal mass would cut a tie."""
    g = torch.Generator().manual_seed(0)
    p = torch.randint(0, 6, (200,), generator=g).double() / 5
    positive = torch.rand(200, generator=g) < 0.5
    turned = torch.randperm(200, generator=g)
    for by in ("width", "mass"):
        first = ece(p, positive, 4, by=by).mean
        assert ece(p[turned], positive[turned], 4, by=by).mean == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("by", ["width", "mass"])
def test_the_error_of_ece_is_that_of_the_jackknife(by: str) -> None:
    """40 blocks, deleted one after the other; a jackknife of 40 blocks is itself off by about 11 %."""
    p, positive = calibrated(20_000)
    found = ece(p, positive, 10, by=by)  # type: ignore[arg-type]
    block = torch.arange(len(p)) % 40
    without = np.array([ece(p[block != b], positive[block != b], 10, by=by).mean for b in range(40)])  # type: ignore[arg-type]
    jackknife = (39 / 40 * np.square(without - without.mean()).sum()) ** 0.5
    assert found.stderr == pytest.approx(jackknife, rel=0.35)
    assert abs(found.mean - 0.1) < 4 * found.stderr
    assert found.floor < 0.3 * found.mean


def test_a_calibrated_model_shows_the_floor() -> None:
    p, positive = calibrated(20_000, shift=0.0)
    found = ece(p, positive, 10)
    assert 0.4 * found.floor < found.mean < 1.8 * found.floor


def test_ece_refuses() -> None:
    p, positive = calibrated(10)
    with pytest.raises(BadInput, match="at least one bin, not 0"):
        ece(p, positive, 0)
    with pytest.raises(BadInput, match="not in"):
        ece(p.logit() * 9, positive)


def test_rating_errors() -> None:
    g = torch.Generator().manual_seed(6)
    actual = torch.randint(1, 6, (200,), generator=g).float()
    predicted = actual + torch.randn(200, generator=g)
    e = (predicted.double() - actual.double()).numpy()
    same(mae(predicted, actual), np.abs(e))
    found, square = rmse(predicted, actual), mean_interval(e**2)
    assert found.mean == pytest.approx(np.sqrt(np.mean(e**2)), abs=1e-12)
    assert found.stderr == pytest.approx(square.stderr / (2 * found.mean), abs=1e-12)
    user = np.arange(200) // 8
    assert rmse(predicted, actual, groups=user).stderr == pytest.approx(
        mean_interval(e**2, groups=user).stderr / (2 * found.mean)
    )
    exact = rmse(actual, actual)
    assert (exact.mean, exact.stderr, exact.n) == (0, 0, 200)
    with pytest.raises(BadInput, match="example 1"):
        mae(torch.tensor([1.0, torch.nan]), torch.ones(2))


def test_the_error_of_rmse_is_the_spread_over_samples() -> None:
    """500 samples of 400 uniform errors: the spread of the RMSE against its mean standard error."""
    g = torch.Generator().manual_seed(8)
    found = [rmse(torch.rand(400, generator=g).double(), torch.zeros(400).double()) for _ in range(500)]
    spread = np.std([x.mean for x in found])
    assert np.mean([x.stderr for x in found]) == pytest.approx(spread, rel=0.1)


def test_reference_values_of_a_click_log() -> None:
    if not CASES.is_dir():
        pytest.skip("the reference cases are not here")
    case = np.load(CASES / "E_ctr.npz")
    theirs = json.loads((CASES / "ref_misc.json").read_text())["E_ctr"]
    p, positive = torch.from_numpy(case["prob"]), torch.from_numpy(case["label"]).bool()
    assert auc(p, positive) == pytest.approx(theirs["auc"], abs=1e-9)
    assert auc_summary(p.logit(), positive).mean == pytest.approx(theirs["torchmetrics_auroc"], abs=1e-6)
    assert log_loss(p.logit(), positive).mean == pytest.approx(theirs["logloss"], abs=1e-9)
    assert log_loss_of(p, positive).mean == pytest.approx(theirs["logloss"], abs=1e-9)
    by_user = gauc(p, positive, torch.from_numpy(case["group"])).summary()
    assert by_user.mean == pytest.approx(theirs["gauc_weighted_by_impressions"], abs=1e-9)
    assert rmse(p, positive.double()).mean == pytest.approx(theirs["rmse"], abs=1e-9)
    assert mae(p, positive.double()).mean == pytest.approx(theirs["mae"], abs=1e-9)
