"""Policy trees: a known rule is found, costs move it, its value is the truth's, and they are EconML's."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from econml.policy import DRPolicyForest, DRPolicyTree
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from causal.targeting import policy_tree
from causal.targeting.policies import Assignment
from causal.targeting.policy_tree import PolicyForest, PolicyTree
from causal.targeting.scores import nuisances
from causal.targeting.value import value
from causal.uplift._nuisance import KnownChance, without
from causal.uplift.contract import Trial
from simlab.adapters.nuisance import RankerRegressor
from simlab.errors import BadInput

KINDS = (PolicyTree, PolicyForest)


def world(n: int, seed: int) -> tuple[Trial, Any]:
    """Arm 2 is best at x0 > .2 and x1 > -.3, arm 1 at x0 > .2 else, and none where x0 <= .2."""
    luck = np.random.default_rng(seed)
    x = luck.uniform(-1, 1, size=(n, 3))
    chance = np.array([0.5, 0.3, 0.2])
    arm = luck.choice(3, n, p=chance)
    right, up = x[:, 0] > 0.2, x[:, 1] > -0.3
    effect = np.column_stack([np.where(right, 0.6, -0.5), np.where(right & up, 1.5, -0.6)])
    mean = x[:, 2:] + np.column_stack([np.zeros(n), effect])
    labels = np.array(["none", "mail", "call"])[arm]
    y = mean[np.arange(n), arm] + 0.5 * luck.normal(size=n)
    given: dict[str, Any] = {"control": "none", "names": ("age", "visits", "spend")}
    trial = Trial.of(x, labels, y, propensity=np.tile(chance[[0, 2, 1]], (n, 1)), **given)
    return trial, mean[:, [0, 2, 1]]  # arms are sorted: none, call, mail


def best(trial: Trial) -> Any:
    right, up = trial.x[:, 0] > 0.2, trial.x[:, 1] > -0.3
    return np.where(right, np.where(up, "call", "mail"), "none")


@pytest.mark.parametrize("kind", KINDS)
def test_the_known_rule_is_found_and_its_value_is_the_truth_s(kind: Any) -> None:
    (train, _), (test, mean) = world(4000, 0), world(4000, 1)
    made = kind(LinearRegression()).learn(train)
    said = made.recommend(test.x)
    assert np.mean(said == best(test)) > 0.95
    assigned = made.assign(test.x)
    assert np.array_equal(np.array(test.arms)[assigned.chance.argmax(1)], said)
    truth = (assigned.chance * mean).sum(1).mean()
    found = made.value(test)
    assert abs(found.value - truth) < 4 * found.stderr
    assert found.stderr < 0.05
    # The regions' own gains are means of the half that did not choose the splits.
    gain = made.gain(test.x)
    assert (gain[:, 0] == 0).all()
    assert np.sqrt(np.mean((gain - (mean - mean[:, :1])) ** 2)) < 0.35
    chances = made.chances(test.x)
    assert chances.sum(1) == pytest.approx(np.ones(4000))
    assert np.isin(chances, (0, 1)).all() == (kind is PolicyTree)


def test_the_rule_can_be_read() -> None:
    tree = PolicyTree(LinearRegression(), random_state=1).learn(world(6000, 2)[0])
    lines = tree.rules().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("if age <= 0.")
    assert "none (" in lines[0]
    cut = float(lines[0].split("<= ")[1].split(":")[0])
    assert abs(cut - 0.2) < 0.03
    assert [line.split(": ")[1].split(",")[0] for line in lines[1:]] == ["mail", "call"]
    assert all("visits" in line for line in lines[1:])
    # What a line says is the mean of its leaf.
    call = float(lines[2].split("call, ")[1].split(" a row")[0])
    assert call == pytest.approx(tree.gain([[0.9, 0.9, 0.0]])[0, 1], rel=1e-3)
    shares = [float(line.rsplit("(", 1)[1].split("%")[0]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert PolicyTree(cost=9.0).learn(world(800, 3)[0]).rules() == "always: none (100.0% of rows)"


@pytest.mark.parametrize("kind", KINDS)
def test_costs_and_worth_decide(kind: Any) -> None:
    luck = np.random.default_rng(4)
    x, arm = luck.normal(size=(1200, 2)), luck.integers(0, 3, 1200)
    y = np.array([0.0, 0.5, 1.0])[arm] + 0.1 * luck.normal(size=1200)
    trial = Trial.of(x, arm, y, propensity=np.full((1200, 3), 1 / 3))
    for settings, wanted in (
        ({}, 2),
        ({"cost": [0.0, 0.8]}, 1),
        ({"cost": 1.5}, 0),
        ({"cost": [3.0, 7.0], "worth": 10.0}, 2),
        ({"cost": [3.0, 9.0], "worth": 10.0}, 1),
        ({"worth": -1.0}, 0),
    ):
        made = kind(LinearRegression(), **settings).learn(trial)
        assert np.mean(made.recommend(x) == wanted) > 0.98, settings
    # A gain is net of its cost.
    made = kind(LinearRegression(), cost=[0.2, 0.3]).learn(trial)
    assert made.gain(x).mean(0) == pytest.approx([0, 0.3, 0.7], abs=0.03)
    net = made.value(trial)
    assert net.value == pytest.approx(0.7, abs=4 * net.stderr + 0.01)


def test_the_trees_are_econml_s() -> None:
    """With the scores of its `DRPolicyTree` and `DRPolicyForest` we grow the same ones."""
    trial, _ = world(600, 5)
    assert trial.propensity is not None
    fold = np.arange(600) % 2
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in (0, 1)]
    told = np.eye(3)[:, 1:]
    mu = np.zeros((600, 3))
    for train, held in splits:
        given = np.column_stack([trial.x, told[trial.arm]])
        model = LinearRegression().fit(given[train], trial.y[train])
        for a in range(3):
            mu[held, a] = model.predict(np.column_stack([trial.x[held], np.tile(told[a], (300, 1))]))
    rows = np.arange(600)
    each = mu.copy()
    each[rows, trial.arm] += (trial.y - mu[rows, trial.arm]) / trial.propensity[rows, trial.arm]
    how: dict[str, Any] = {
        "model_regression": without(LinearRegression(), 3, 3),
        "model_propensity": KnownChance(3),
        "cv": splits,
        "min_samples_leaf": 20,
        "random_state": 0,
    }
    theirs = (DRPolicyTree(max_depth=2, **how), DRPolicyForest(n_estimators=20, n_jobs=1, **how))
    ours = (PolicyTree(), PolicyForest(trees=20))
    with patch.object(policy_tree, "aipw", return_value=each[:, 1:] - each[:, :1]):
        for their, our in zip(theirs, ours, strict=True):
            their.fit(trial.y, trial.arm, X=trial.x, W=trial.propensity)
            our.learn(trial)
            assert np.array_equal(their.predict(trial.x), our.chances(trial.x).argmax(1))
            assert their.predict_value(trial.x) == pytest.approx(our.gain(trial.x)[:, 1:], abs=1e-9)


@pytest.mark.parametrize("kind", [PolicyTree, PolicyForest])
def test_crossed_arms_are_judged_honestly(kind: Any) -> None:
    """Nothing works: rows that a rule was grown on flatter it, and rows of other users do not."""
    luck = np.random.default_rng(6)
    settings: dict[str, Any] = {"leaf": 5, "depth": 4} | ({"trees": 10} if kind is PolicyForest else {})
    user = np.repeat(np.arange(200), 3)
    flattered: list[float] = []
    honest: list[float] = []
    for _ in range(8):
        own, arm = luck.normal(size=200)[user], luck.integers(0, 2, 200)[user]  # a user's rows are alike
        x, y = np.column_stack([user, luck.normal(size=600)]), own + 0.1 * luck.normal(size=600)
        trial = Trial.of(x, arm, y, user=user, propensity=0.5)
        made = kind(LinearRegression(), **settings)
        crossed = made.crossed(trial, folds=3)
        assert len(crossed) == 600
        assert crossed.name == made.name
        found, nobody = nuisances(trial), Assignment.of(np.zeros(600))
        for rule, judged in ((made.learn(trial).assign(x), flattered), (crossed, honest)):
            gap = value(rule, trial, found).minus(value(nobody, trial, found))
            judged.append(gap.value / gap.stderr)
    assert np.mean(flattered) > 1
    assert abs(np.mean(honest)) < 4 / np.sqrt(8)
    assert np.mean(flattered) > np.mean(honest) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_clones_weights_and_rankers(kind: Any) -> None:
    trial, _ = world(500, 7)
    made = kind(LinearRegression(), leaf=5)
    one, two = (clone(made).learn(trial).gain(trial.x) for _ in range(2))
    assert np.array_equal(one, two)
    # Weights are who counts: the half where the treatment harms rules.
    luck = np.random.default_rng(8)
    x, arm = luck.normal(size=(800, 1)), luck.integers(0, 2, 800)
    helped = luck.random(800) < 0.5
    y = arm * np.where(helped, 1.0, -1.0)
    for weight, wanted in ((np.where(helped, 9.0, 1.0), 1), (np.where(helped, 1.0, 9.0), 0)):
        found = clone(made).fit(x, arm, y, sample_weight=weight, propensity=0.5).recommend(x)
        assert np.mean(found == wanted) > 0.95
    lost = clone(made).fit(x, arm, y, sample_weight=helped * 1.0, propensity=0.5)
    rows = clone(made).fit(x[helped], arm[helped], y[helped], propensity=0.5)
    assert np.array_equal(lost.gain(x), rows.gain(x))
    ranked = kind(RankerRegressor("mlp", epochs=2), folds=2).learn(trial)
    assert np.isfinite(ranked.gain(trial.x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_refusals(kind: Any) -> None:
    trial, _ = world(300, 9)
    fresh = kind(LinearRegression())
    for ask in (fresh.recommend, fresh.chances, fresh.assign, fresh.gain):
        with pytest.raises(NotFittedError):
            ask(trial.x)
    with pytest.raises(NotFittedError):
        fresh.value(trial)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"depth": 0}, "depth is at least 1, or None for any, not 0"),
        ({"leaf": 0}, "leaf is at least 1 row, not 0"),
        ({"leaf": 200}, "the trial has 300 rows, too few for honest leaves of 200 rows"),
        ({"cost": -1.0}, "cost: -1 is negative"),
        ({"cost": [1.0, 2.0, 3.0]}, r"cost has shape \(3,\)"),
        ({"worth": np.inf}, "worth is inf, not a finite number"),
        ({"folds": 1}, "folds is 1"),
    )
    for settings, words in wrong:
        with pytest.raises(BadInput, match=words):
            kind(LinearRegression(), **settings).learn(trial)
    fresh.learn(trial)
    with pytest.raises(BadInput, match=f"{fresh.name} was grown on 3 features, and these are 2"):
        fresh.recommend(trial.x[:, :2])
    with pytest.raises(BadInput, match="feature spend, row 0: the value is missing or not finite"):
        fresh.recommend([[0.0, 0.0, np.nan]])
    other = Trial.of(trial.x, np.arange(300) % 2, trial.y)
    with pytest.raises(BadInput, match="grown on the arms 'none', 'call', 'mail', and this trial has 0, 1"):
        fresh.value(other)
    with pytest.raises(BadInput, match="trees is at least 1, not 0"):
        PolicyForest(trees=0).learn(trial)
