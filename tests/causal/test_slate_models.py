"""Models of what the slots below still bring: unbiased by construction, and refused where they cannot be."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from causal.cascade_reward import AdditiveCascade, SklearnCascade
from causal.contract import stderr
from causal.evaluation import estimate
from causal.sklearn_reward import SklearnReward
from causal.slate.cascade_dr import CascadeDR
from causal.slate.rips import RIPS
from causal.slates import slates
from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.slate_worlds import (
    CANDS,
    EXACT,
    SLOTS,
    cascade_world,
)


def test_the_recursion_finds_the_truth_without_noise() -> None:
    """Where clicks are their means and a tree may grow, Q̂_k is Q_k, out of fold too."""
    world = cascade_world()
    every = world.listed()
    mean = (
        world.mean[every.context]
        .gather(
            1,
            (every.log.slate[:, None] == world.slates())
            .all(2)
            .to(torch.uint8)
            .argmax(1)[:, None, None]
            .expand(-1, 1, SLOTS),
        )
        .squeeze(1)
    )
    log = replace(every.log, click=mean, reward=mean.sum(1))
    for catalog in (None, Catalog(torch.tensor([[0.1, 3.0], [0.4, 1.0], [0.2, 4.0], [0.3, 1.0]]))):
        model = SklearnCascade(DecisionTreeRegressor(), catalog)
        found = slates(log, world.target, logger=world.logger, reward_model=model, folds=2)
        wanted = world.twin()
        assert torch.allclose(found.need("q_logged"), wanted.need("q_logged"), atol=EXACT, rtol=0)
        assert torch.allclose(found.need("q_target"), wanted.need("q_target"), atol=EXACT, rtol=0)
    # Then the estimate has no noise from clicks either: a handful of slates tell the value of their contexts.
    assert stderr(CascadeDR().score(found)) < stderr(RIPS().score(found)) / 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["tree", "linear", "additive"])
def test_models_take_variance_and_leave_the_mean(kind: str, weighted: bool) -> None:
    world = cascade_world()
    every = world.listed()
    log = every.draw(3000, seed=1)
    models: dict[str, Any] = {
        "tree": SklearnCascade(DecisionTreeRegressor(min_samples_leaf=30)),
        "linear": SklearnCascade(LinearRegression()),
        "additive": SklearnReward(LinearRegression()),
    }
    log = replace(log, user=torch.arange(3000) % 1000)
    found = slates(
        log,
        world.target,
        logger=world.logger,
        reward_model=models[kind],
        weighted=weighted,
        fields=["cascade"],
        seed=Seed(3),
    )
    again = slates(
        log, world.target, logger=world.logger, reward_model=models[kind], weighted=weighted, seed=Seed(3)
    )
    assert torch.equal(found.need("q_logged"), again.need("q_logged"))
    one, two = estimate(CascadeDR(), found), estimate(RIPS(), found)
    assert abs(one.value - world.value()) < 4 * one.stderr
    assert one.stderr < 0.9 * two.stderr


def test_what_a_model_cannot_do_is_refused() -> None:
    world = cascade_world()
    log = world.listed().log
    tree = SklearnCascade(DecisionTreeRegressor())
    with pytest.raises(BadInput, match=r"needs cascade weights \(give logger=\)"):
        slates(log, world.target, reward_model=tree)
    with pytest.raises(BadInput, match="needs clicks, and there are none"):
        slates(replace(log, click=None), world.target, logger=world.logger, reward_model=tree)
    with pytest.raises(BadInput, match="its model is a regressor"):
        slates(log, world.target, logger=world.logger, reward_model=SklearnCascade(DecisionTreeClassifier()))
    bare = SklearnCascade(DecisionTreeRegressor(), Catalog.bare(CANDS))
    with pytest.raises(BadInput, match="no item features"):
        slates(log, world.target, logger=world.logger, reward_model=bare)

    @dataclass(frozen=True)
    class Looks(SklearnReward):
        past: int = 3

    with pytest.raises(BadInput, match="cannot look back, and this one wants past=3"):
        AdditiveCascade(Looks(LinearRegression()))
