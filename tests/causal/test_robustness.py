"""What theory promises, to 1e-10, on worlds that can be listed."""

import pytest
import torch

from causal.bandit.clipped_ips import ClippedIPS
from causal.bandit.dm import DM
from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds
from simlab.errors import BadInput
from tests.worlds import bandit_world, population_value, slate_world, table

EXACT = 1e-10
WRONG_LOGGER = table([0.2, 0.5, 0.3], [0.4, 0.1, 0.5])


@pytest.mark.parametrize("estimator", [DR(), SNDR()], ids=lambda e: e.name)
def test_right_model_saves_wrong_propensities(estimator: Estimator[Rounds]) -> None:
    world = bandit_world()
    rounds, probability = world.rounds(propensity=WRONG_LOGGER)
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT
    # Without a model, the same propensities mislead: the check above is not for free.
    for bare in (IPS(), SNIPS()):
        assert abs(population_value(bare.score(rounds), probability) - world.value()) > 0.02


@pytest.mark.parametrize("estimator", [DR(), SNDR()], ids=lambda e: e.name)
@pytest.mark.parametrize("wrong", [0.0, 5.0])
def test_right_propensities_save_a_wrong_model(estimator: Estimator[Rounds], wrong: float) -> None:
    world = bandit_world()
    q = torch.full_like(world.reward, wrong) + 0.3 * (1 - world.reward)
    rounds, probability = world.rounds(q=q)
    assert abs(population_value(estimator.score(rounds), probability) - world.value()) < EXACT
    assert abs(population_value(DM().score(rounds), probability) - world.value()) > 0.02


def test_both_wrong_is_wrong() -> None:
    world = bandit_world()
    rounds, probability = world.rounds(q=1 - world.reward, propensity=WRONG_LOGGER)
    assert abs(population_value(DR().score(rounds), probability) - world.value()) > 0.02


def test_the_bias_of_clipping_is_what_was_cut() -> None:
    world = bandit_world()
    rounds, probability = world.rounds()
    cut = float((probability * (rounds.weight - 2).clamp(min=0) * rounds.reward).sum())
    found = population_value(ClippedIPS(2.0).score(rounds), probability)
    assert cut > 0.01
    assert abs(found + cut - world.value()) < EXACT
    with pytest.raises(BadInput, match="clip is 0"):
        ClippedIPS(0.0)


def test_the_slate_world_is_a_distribution() -> None:
    world = slate_world()
    every = world.listed()
    assert len(every.log) == 2 * 12 * 4
    assert abs(float(every.probability.sum()) - 1) < EXACT
    # The logger's own value, from the list and from the closed form.
    mean = float((every.probability * every.log.reward).sum())
    assert abs(mean - world.value(world.logger)) < EXACT
    assert abs(world.value(world.logger) - world.value()) > 0.05
