"""Pages of which a row logs one place."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

from causal.balance import balance
from causal.diagnostics import unseen_mass
from causal.mips import Clusters, learned_marginal_weight, marginal_weight
from causal.mrdr import robust
from causal.pages import marginals_at, pages_of
from causal.propensity import cross_fit_propensity
from causal.rewards import cross_fit
from causal.rounds import rounds
from causal.sklearn_propensity import SklearnPropensity
from causal.sklearn_reward import SklearnReward
from simlab.errors import BadInput
from simlab.slates import PlackettLuce
from tests.worlds import Softmax, bandit_world


def test_the_places_of_a_page() -> None:
    log = replace(bandit_world().listed().draw(4, 1), position=torch.tensor([0, 2, 0, 1]))
    assert pages_of(log) == 3
    assert pages_of(log, 5) == 5
    assert pages_of(replace(log, position=None)) == 1


def test_marginals_at_places_are_those_rows_of_the_table() -> None:
    page = PlackettLuce(torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.5]], dtype=torch.float64), 2)
    table = page.slot_marginals()
    assert torch.equal(marginals_at(page), table)
    found = marginals_at(page, torch.tensor([[1], [0]]))
    assert torch.equal(found[:, 0], torch.stack([table[0, 1], table[1, 0]]))


def test_every_builder_refuses_a_position_that_is_off_the_page() -> None:
    world = bandit_world()
    log = world.listed().draw(60, 1)
    log = replace(log, user=torch.arange(60), position=torch.arange(60) % 3)
    target, logger = Softmax(world.target.log()), Softmax(world.logger.log())
    seen = torch.zeros(60, 1, dtype=torch.long)
    even = rounds(log, target)
    model = SklearnReward(LinearRegression())
    builders: list[Callable[..., object]] = [
        lambda log, **how: rounds(log, target, **how),
        lambda log, **how: balance(log, target, LogisticRegression(), **how),
        lambda log, **how: marginal_weight(
            log, target, logger, Clusters(torch.arange(3)), check=False, **how
        ),
        lambda log, **how: learned_marginal_weight(log, target, seen, LinearRegression(), **how),
        lambda log, **how: robust(even, log, target, model, **how),
    ]
    for build in builders:
        with pytest.raises(BadInput, match="position 2 is off a page of 2 slots: positions count from 0"):
            build(log, page_slots=2)
        with pytest.raises(BadInput, match="page_slots is for logs with a position, and this one has none"):
            build(replace(log, position=None), page_slots=3)
        build(log, page_slots=3)
    with pytest.raises(BadInput, match="position 2 is off a page of 2 slots"):
        unseen_mass(log, target, page_slots=2)
    with pytest.raises(BadInput, match="position 2 is off a page of 2 slots"):
        cross_fit(log, model, slots=2)
    with pytest.raises(BadInput, match="position 2 is off a page of 2 slots"):
        cross_fit_propensity(log, SklearnPropensity(LogisticRegression()), slots=2)
