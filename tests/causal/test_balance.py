"""Balanced weights: a classifier's odds are the density ratio of target to logger."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import LinearSVC

from causal.balance import balance
from causal.bandit.balanced_ips import BalancedIPS
from causal.contract import Rounds, value
from causal.evaluation import estimate
from causal.rounds import rounds, tabular
from simlab.adapters.seeding import weight_key
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed
from tests.causal.test_reference import case, same
from tests.worlds import Softmax, bandit_world, slate_world

EXACT = 1e-10
SATURATED = make_pipeline(PolynomialFeatures(2, include_bias=False), LogisticRegression(C=1e4, max_iter=2000))
"""With products of context and item, this knows any ratio of the bandit world."""


def bandit_log(n: int, seed: int = 0) -> Log:
    return replace(bandit_world().listed().draw(n, seed), user=torch.arange(n))


class Bayes(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Knows the world: P(1 | x, a) = π / (π + π₀)."""

    def fit(self, x: object, y: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> "Bayes":
        assert sample_weight is not None
        # Both classes have the same mass: that is what makes odds a ratio.
        assert float(sample_weight[y == 1].sum()) == pytest.approx(float(sample_weight[y == 0].sum()))
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, x: NDArray[Any]) -> NDArray[Any]:
        world = bandit_world()
        c, a = x[:, 0].astype(int), x[:, 1:4].argmax(1)
        pi, logger = world.target.numpy()[c, a], world.logger.numpy()[c, a]
        said: NDArray[Any] = np.stack([logger, pi], 1) / (pi + logger)[:, None]
        return said


def test_the_right_classifier_gives_the_right_weights() -> None:
    log = bandit_log(200)
    target = Softmax(bandit_world().target.log())
    found = balance(log, target, Bayes())
    wanted = rounds(log, target).weight
    assert torch.allclose(found.weight, wanted, atol=EXACT)
    assert not bool(found.capped.any())
    assert found.loss < np.log(2)


@pytest.mark.parametrize("listed", [True, False])
def test_a_saturated_classifier_learns_the_ratio(listed: bool) -> None:
    """All items weighed, or one drawn for each round: both near the truth, and weighing is nearer."""
    world = bandit_world()
    log = bandit_log(6000)
    target = Softmax(world.target.log())
    found = balance(log, target, SATURATED, listed=listed)
    wanted = rounds(log, target).weight
    off = (found.weight - wanted).abs() / wanted
    assert float(off.max()) < (0.25 if listed else 0.5)
    filled = replace(rounds(log, target), balance=found.weight)
    one = estimate(BalancedIPS(), filled)
    assert one.name == "balanced IPS"
    assert abs(one.value - world.value()) < 4 * one.stderr
    if listed:
        drawn = balance(log, target, SATURATED, listed=False)
        assert float(off.mean()) < float(((drawn.weight - wanted).abs() / wanted).mean())


def test_a_linear_classifier_cannot_know_this_ratio() -> None:
    """The documented bias: context and item must enter together."""
    world = bandit_world()
    log = bandit_log(6000)
    target = Softmax(world.target.log())
    linear = balance(log, target, LogisticRegression(C=1e4, max_iter=2000))
    one = estimate(BalancedIPS(), replace(rounds(log, target), balance=linear.weight))
    assert abs(one.value - world.value()) > 4 * one.stderr


def test_target_and_logger_alike_cannot_be_told_apart() -> None:
    world = bandit_world()
    log = bandit_log(4000)
    found = balance(log, Softmax(world.logger.log()), SATURATED)
    assert float((found.weight - 1).abs().max()) < 0.2
    assert found.loss == pytest.approx(np.log(2), abs=0.005)


def test_classifiers_without_weights_draw_more_often() -> None:
    """Nearest neighbours take no weights: with three draws a round the logged rows count three times."""
    world = bandit_world()
    log = bandit_log(900)
    target = Softmax(world.target.log())
    near = KNeighborsClassifier(150)
    assert weight_key(near) is None
    found = balance(log, target, near, draws=3)
    assert float(found.weight.mean()) == pytest.approx(1, abs=0.15)
    with pytest.raises(BadInput, match="KNeighborsClassifier takes no sample_weight, so items must be drawn"):
        balance(log, target, near, listed=True)
    assert weight_key(LogisticRegression()) == "sample_weight"
    assert weight_key(SATURATED) == "logisticregression__sample_weight"
    assert weight_key(make_pipeline(PolynomialFeatures(), near)) is None


def test_the_classifier_has_not_seen_the_row() -> None:
    """Each row its own features and target = logger: a forest that memorises gains nothing, out of fold."""
    g = torch.Generator().manual_seed(0)
    n = 300
    log = Log(
        torch.arange(n),
        torch.randint(0, 3, (n, 1), generator=g),
        torch.full((n,), 1 / 3),
        torch.ones(n),
        3,
        features=torch.rand(n, 2, generator=g),
    )
    uniform = Softmax(torch.zeros(1, 3, dtype=torch.float64))
    forest = RandomForestClassifier(n_estimators=10, bootstrap=False)
    found = balance(log, uniform, CalibratedClassifierCV(forest, cv=2), listed=False)
    # Seen, a row would have odds 0: it is a logged one.
    assert float(found.weight.mean()) == pytest.approx(1, abs=0.2)
    assert found.loss > 0.6
    a, b, c = (balance(log, uniform, forest, seed=Seed(s), listed=False).weight for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_odds_are_cut_where_the_classifier_is_certain() -> None:
    """Item 1 is never logged by these rounds but one: a tree is sure of its fold."""
    log = replace(bandit_log(90), slate=(torch.arange(90) == 4).long()[:, None])
    target = Softmax(torch.tensor([[0.0, 0.0, -50.0], [0.0, 0.0, -50.0]], dtype=torch.float64))
    found = balance(log, target, RandomForestClassifier(n_estimators=5, bootstrap=False, max_features=None))
    assert found.capped.nonzero().flatten().tolist() == [4]
    assert float(found.weight[4]) == pytest.approx(2 * 60 - 1)


def test_positions_features_of_items_and_time_order() -> None:
    log = replace(bandit_log(400), position=torch.arange(400) % 2)
    target = Softmax(bandit_world().target.log())
    catalog = Catalog(torch.tensor([[0.1], [0.2], [0.9]]))
    time = torch.arange(400)
    found = balance(log, target, SATURATED, catalog=catalog, folds=4, order="time", time=time)
    assert bool(found.weight[:80].isnan().all())
    assert bool(found.weight[80:].isfinite().all())
    other = replace(log, slate=torch.where(time[:, None] < 240, log.slate, 0))
    again = balance(other, target, SATURATED, catalog=catalog, folds=4, order="time", time=time)
    assert torch.equal(again.weight[80:240], found.weight[80:240])


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    log = bandit_log(120)
    target = Softmax(bandit_world().target.log())
    whole = balance(log, target, SATURATED, listed=True)
    monkeypatch.setattr("causal.balance.CELLS", 40)
    parts = balance(log, target, SATURATED, listed=True)
    assert torch.allclose(whole.weight, parts.weight, atol=EXACT)
    assert whole.loss == pytest.approx(parts.loss, abs=EXACT)


def test_a_constant_reward_comes_back() -> None:
    found, _ = bandit_world().rounds()
    odd = replace(found, reward=torch.full_like(found.reward, 0.3), balance=torch.rand(len(found)).double())
    assert value(BalancedIPS().score(odd)) == pytest.approx(0.3, abs=EXACT)


def test_refusals() -> None:
    world = slate_world()
    slates = replace(world.listed().draw(30, 1), user=torch.arange(30))
    with pytest.raises(BadInput, match="balanced weights are for one item a row, but slate has 2 slots"):
        balance(slates, world.target, LogisticRegression())
    with pytest.raises(BadInput, match="LinearSVC has no predict_proba, so it gives no odds"):
        balance(bandit_log(30), Softmax(bandit_world().target.log()), LinearSVC())
    with pytest.raises(BadInput, match="draws is 0, but the target needs at least one pair a round"):
        balance(bandit_log(30), Softmax(bandit_world().target.log()), SATURATED, draws=0)
    with pytest.raises(BadInput, match="needs weights estimated by a classifier"):
        BalancedIPS().score(Rounds(torch.ones(3).double(), torch.ones(3).double()))


def test_open_bandit_s_weights() -> None:
    """obp's estimated importance weights in our estimator give obp's answer."""
    z, answer = case("obd_random_to_bts_men")
    target = z["action_dist_one_round"][0].T[z["position"]]
    found = tabular(z["action"], z["reward"], z["pscore"], target)
    found = replace(found, balance=z["estimated_importance_weights"])
    same(BalancedIPS(), found, answer["results"]["bipw"]["value"])
