"""Scikit-learn models inside off-policy evaluation: luck from the seed alone, and weights that arrive."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor

from causal.balance import balance
from causal.cascade_reward import SklearnCascade
from causal.mips import learned_marginal_weight
from causal.mrdr import robust
from causal.rewards import cross_fit
from causal.rounds import rounds
from causal.sklearn_propensity import SklearnPropensity
from causal.sklearn_reward import SklearnReward
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed
from tests.worlds import Softmax, bandit_world

CLASSES = make_pipeline(PolynomialFeatures(2), RandomForestClassifier(n_estimators=3))
VALUES = make_pipeline(PolynomialFeatures(2), RandomForestRegressor(n_estimators=3))
TARGET = Softmax(bandit_world().target.log())
LOGGER = Softmax(bandit_world().logger.log())


def bandit_log(n: int) -> Log:
    """Draw rounds; a column of noise gives each tree something of its own to split."""
    log = replace(bandit_world().listed().draw(n, 1), user=torch.arange(n))
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return replace(log, features=torch.cat([log.context().features.double(), noise], 1))


def place(log: Log) -> Tensor:
    return torch.zeros(len(log), 1, dtype=torch.long)


def by_reward(log: Log, seed: Seed) -> Tensor:
    return SklearnReward(CLASSES).fit(log, 1, seed).predict(log.context(), place(log))


def by_value(log: Log, seed: Seed) -> Tensor:
    return SklearnReward(VALUES).fit(log, 1, seed).predict(log.context(), place(log))


def by_propensity(log: Log, seed: Seed) -> Tensor:
    return SklearnPropensity(CLASSES).fit(log, 1, seed).probabilities(log.context(), place(log)[:, 0])


def by_balance(log: Log, seed: Seed) -> Tensor:
    return balance(log, TARGET, CLASSES, folds=2, seed=seed).weight


def by_class(log: Log, seed: Seed) -> Tensor:
    return learned_marginal_weight(log, TARGET, log.context().features, CLASSES, LOGGER, folds=2, seed=seed)


def by_weight(log: Log, seed: Seed) -> Tensor:
    return learned_marginal_weight(log, TARGET, log.context().features, VALUES, folds=2, seed=seed)


def by_cascade(log: Log, seed: Seed) -> Tensor:
    even = torch.ones(len(log), dtype=torch.float64)
    fitted = SklearnCascade(VALUES).fit_slot(log, 0, log.reward.double(), seed, even)
    return fitted.predict(log.context(), torch.zeros(len(log), 0, dtype=torch.long))


@pytest.mark.parametrize(
    "fit", [by_reward, by_value, by_propensity, by_balance, by_class, by_weight, by_cascade]
)
def test_a_forest_in_a_pipeline_draws_from_the_seed_alone(fit: Callable[[Log, Seed], Tensor]) -> None:
    log, said = bandit_log(80), []
    for state, seed in ((1, 5), (2, 5), (2, 6)):
        np.random.seed(state)
        said.append(fit(log, Seed(seed)))
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def doubled(log: Log) -> tuple[Log, Tensor]:
    """Return rows that are there twice where they would weigh 2, and the weights."""
    weight = torch.where(torch.arange(len(log)) % 3 == 0, 2.0, 1.0).double()
    return log.rows(torch.arange(len(log)).repeat_interleave(weight.long())), weight


def test_weights_reach_the_last_step_of_a_pipeline() -> None:
    """A row of weight 2 is a row that is there twice; products of columns do not look at weights."""
    log = bandit_log(120)
    twice, weight = doubled(log)
    seen, where = log.context(), place(log)
    for model in (LogisticRegression(max_iter=1000, tol=1e-10), Ridge()):
        recipe = SklearnReward(make_pipeline(PolynomialFeatures(2), model))
        found = recipe.fit(log, 1, Seed(0), weight).predict(seen, where)
        assert torch.allclose(found, recipe.fit(twice, 1, Seed(0)).predict(seen, where), atol=1e-4)
        assert not torch.allclose(found, recipe.fit(log, 1, Seed(0)).predict(seen, where), atol=1e-3)
    pipe = make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=1000, tol=1e-10))
    chance = SklearnPropensity(pipe)
    one = chance.fit(log, 1, Seed(0), weight).probabilities(seen, where[:, 0])
    two = chance.fit(twice, 1, Seed(0)).probabilities(seen, where[:, 0])
    assert torch.allclose(one, two, atol=1e-4)
    cascade = SklearnCascade(make_pipeline(PolynomialFeatures(2), Ridge()))
    above = torch.zeros(len(log), 0, dtype=torch.long)
    a = cascade.fit_slot(log, 0, log.reward.double(), Seed(0), weight).predict(seen, above)
    even = torch.ones(len(twice), dtype=torch.float64)
    b = cascade.fit_slot(twice, 0, twice.reward.double(), Seed(0), even).predict(seen, above)
    assert torch.allclose(a, b, atol=1e-9)


def test_mrdr_takes_a_pipeline() -> None:
    log = bandit_log(120)
    found = rounds(log, TARGET)
    filled = robust(found, log, TARGET, SklearnReward(make_pipeline(PolynomialFeatures(2), Ridge())))
    bare = SklearnReward(Ridge())
    assert filled.robust_target is not None
    assert bool(filled.robust_target.isfinite().all())
    plain = cross_fit(log, bare, folds=2, weight=found.weight)
    assert bool(plain.predict(slice(None), log.context(), place(log)).isfinite().all())


def test_a_model_without_weights_is_refused_in_a_sentence() -> None:
    log = bandit_log(60)
    weight = torch.arange(60).double()
    sentence = r"a pipeline that ends in KNeighbors\w+ takes no sample_weight"
    near = make_pipeline(PolynomialFeatures(2), KNeighborsRegressor())
    with pytest.raises(BadInput, match=sentence):
        SklearnReward(near).fit(log, 1, Seed(0), weight)
    with pytest.raises(BadInput, match=sentence):
        SklearnCascade(near).fit_slot(log, 0, log.reward.double(), Seed(0), weight)
    classes = make_pipeline(PolynomialFeatures(2), KNeighborsClassifier())
    with pytest.raises(BadInput, match=sentence):
        SklearnPropensity(classes).fit(log, 1, Seed(0), weight)


def test_designs_beyond_a_size_are_refused_before_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    log = bandit_log(60)  # 2 features, 3 items, 1 place: 5 columns of rewards, 3 of propensities
    even = torch.ones(60, dtype=torch.float64)

    def fits() -> None:
        SklearnReward(Ridge()).fit(log, 1, Seed(0))
        SklearnPropensity(LogisticRegression()).fit(log, 1, Seed(0))
        SklearnCascade(Ridge()).fit_slot(log, 0, log.reward.double(), Seed(0), even)

    monkeypatch.setattr("causal.sklearn_reward.LARGEST", 60 * 5)
    fits()
    monkeypatch.setattr("causal.sklearn_reward.LARGEST", 60 * 5 - 1)
    sentence = "the design of 60 rows and 5 columns would be 0.0 GB, and 0.0 GB is the most that is built"
    with pytest.raises(BadInput, match=sentence):
        SklearnReward(Ridge()).fit(log, 1, Seed(0))
    with pytest.raises(BadInput, match=sentence):
        SklearnCascade(Ridge()).fit_slot(log, 0, log.reward.double(), Seed(0), even)
    with pytest.raises(BadInput, match="the design of 80 rows and 5 columns"):
        balance(log, TARGET, LogisticRegression(), folds=3, listed=False)
    monkeypatch.setattr("causal.sklearn_reward.LARGEST", 60 * 3 - 1)
    with pytest.raises(BadInput, match=r"60 rows and 3 columns .* take a ranker"):
        SklearnPropensity(LogisticRegression()).fit(log, 1, Seed(0))


def test_blocks_of_probabilities_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    log = bandit_log(60)
    fitted = SklearnPropensity(LogisticRegression()).fit(log, 1, Seed(0))
    whole = fitted.probabilities(log.context(), place(log)[:, 0])
    monkeypatch.setattr("causal.sklearn_propensity._CELLS", 21)  # seven rows of three items
    assert torch.equal(fitted.probabilities(log.context(), place(log)[:, 0]), whole)
