"""Bernoulli Thompson sampling: obp's policy at its priors, exact updates, simulated slot probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.bandits._ensemble import Ensemble
from agents.bandits.bernoulli_ts import BernoulliTS
from agents.contract import Agent
from envs.contract import Response
from envs.users.feed import STILL, Feed, FeedSpec
from simlab.context import Context
from simlab.datasets.open_bandit import BernoulliTS as Logger
from simlab.errors import BadInput
from simlab.seeds import Seed
from simlab.slates import OrderStatistics

CASE = Path(__file__).parents[2] / "../shared/cases/ope/obd_random_to_bts_men.npz"


def from_priors(campaign: str) -> BernoulliTS:
    alpha, beta = Logger(campaign).priors()
    return BernoulliTS(alpha=tuple(alpha.tolist()), beta=tuple(beta.tolist()))


def simulated(alpha: np.ndarray, beta: np.ndarray, slots: int, draws: int) -> np.ndarray:
    """Return the share of Beta draws in which each item is at each slot, as obp computes it."""
    best = np.argsort(-Seed(11).numpy().beta(alpha, beta, size=(draws, len(alpha))), axis=1)[:, :slots]
    return np.stack([np.bincount(best[:, k], minlength=len(alpha)) for k in range(slots)]) / draws


def agree(share: np.ndarray, chance: np.ndarray, draws: int) -> None:
    common = chance * draws > 20  # rarer cells are far from normal
    z = ((share - chance) / np.sqrt(chance * (1 - chance) / draws))[common]
    assert np.abs(z).max() < 4.5
    # As large as luck makes it: the mean of z² is 1, and cells of one simulation go together.
    low, high = (0.8, 1.2) if len(z) > 60 else (0.4, 1.9)
    assert low < np.sqrt((z**2).mean()) < high
    assert np.abs(share - chance)[~common].sum() < 1e-2


@pytest.mark.skipif(not CASE.is_file(), reason="the reference case is not here")
def test_at_obps_priors_it_is_obps_policy() -> None:
    """The reference is obp 0.5.7's own simulation with 100,000 draws."""
    with np.load(CASE) as case:
        share = case["action_dist_one_round"][0].T
    table = from_priors("men").distribution(Context.of(torch.arange(1), 34), 3).slot_marginals()[0]
    agree(share, table.numpy(), 100_000)


@pytest.mark.parametrize("campaign", ["men", "women"])
def test_at_the_priors_it_is_the_logger(campaign: str) -> None:
    agent = from_priors(campaign)
    assert isinstance(agent, Agent)
    context = Context.of(torch.arange(2), len(agent.state["alpha"]))
    mine, logger = (p.distribution(context, 3).slot_marginals() for p in (agent, Logger(campaign)))
    assert torch.equal(mine, logger)
    alpha, beta = (p.numpy() for p in Logger(campaign).priors())
    agree(simulated(alpha, beta, 3, 50_000), mine[0].numpy(), 50_000)


def world(**more: Any) -> Feed:
    given: dict[str, Any] = {
        "items": 8,
        "slots": 3,
        "horizon": 60,
        "slope": 0.0,
        "base": -1.0,
        "quality": 1.0,
    }
    return Feed(FeedSpec(**STILL | given | more))


def hand_made(agent: BernoulliTS, here: Feed) -> None:
    slate = torch.tensor([[0, 1, 2], [2, 0, 4], [0, 4, 5]])
    click = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    there, none = torch.tensor([True, True, False]), torch.zeros(3, dtype=torch.bool)
    context = here.observe(here.reset(3, Seed(0)))
    agent.begin(here, context, Seed(0))
    agent.update(context, slate, Response(click, click.sum(1), none, none, there))


def test_without_position_bias_the_posterior_is_exact() -> None:
    for agent, here in (
        (BernoulliTS(2, 3), world(position_bias=0.0)),
        (BernoulliTS(2, 3, corrected=False), world()),
    ):
        hand_made(agent, here)
        assert agent.state["alpha"].tolist() == [3, 2, 3, 2, 3, 2, 2, 2]
        assert agent.state["beta"].tolist() == [4, 4, 4, 3, 3, 3, 3, 3]


def test_a_showing_that_may_not_have_been_seen_counts_for_less() -> None:
    agent = BernoulliTS(2, 3)
    hand_made(agent, world())
    theta, mean = [1.0, 0.5, 1 / 3], 0.4
    seen = [t * (1 - mean) / (1 - t * mean) for t in theta]  # P(examined | not clicked), by Bayes
    want = [3 + seen[1], 3 + seen[1], 3 + seen[0], 3, 3, 3, 3, 3]
    np.testing.assert_allclose(agent.state["beta"], want, rtol=1e-6)  # the world's θ is float32
    assert agent.state["alpha"].tolist() == [3, 2, 3, 2, 3, 2, 2, 2]


def test_the_correction_finds_the_click_rate_of_an_item_that_is_seen() -> None:
    """Under position bias the uncorrected rates of what is shown low are too low."""
    here = world()
    truth = here.relevance(here.reset(1, Seed(0)))[0].double()
    error = {}
    for corrected in (True, False):
        agent = BernoulliTS(corrected=corrected)
        agent.learn(here, 100, 60, Seed(1))
        # Everything that was shown a thousand times, at whatever slot.
        known = agent.state["alpha"] + agent.state["beta"] > 1000
        assert int(known.sum()) >= 3
        error[corrected] = float((agent.means() - truth)[known].abs().max())
    assert error[True] < 0.05
    assert error[False] > 0.1


def test_slot_probabilities_after_learning_are_those_of_its_posterior() -> None:
    agent, here = BernoulliTS(), world()
    agent.learn(here, 10, 5, Seed(2))
    chosen = agent.distribution(here.observe(here.reset(2, Seed(0))), 3)
    assert isinstance(chosen, OrderStatistics)
    share = simulated(agent.state["alpha"].numpy(), agent.state["beta"].numpy(), 3, 50_000)
    agree(share, chosen.slot_marginals()[0].numpy(), 50_000)


def test_where_rows_differ_it_is_an_ensemble_of_the_same_posterior() -> None:
    m = 20_000
    agent, here = BernoulliTS(draws=m), world()
    agent.learn(here, 10, 5, Seed(2))
    items = torch.tensor([[5, 1, 2, 7], [0, 3, 4, 6]])
    context = Context.of(torch.arange(2), 8, candidates=items)
    chosen = agent.distribution(context, 2)
    assert isinstance(chosen, Ensemble)
    for row in range(2):
        exact = agent.distribution(context.rows(slice(row, row + 1)), 2)
        assert isinstance(exact, OrderStatistics)
        agree(chosen.slot_marginals()[row].numpy(), exact.slot_marginals()[0].numpy(), m)


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"alpha of item 1 is 0\.01, but it must be at least 0\.05"):
        BernoulliTS(alpha=(1.0, 0.01))
    with pytest.raises(BadInput, match="beta of item 0 is inf"):
        BernoulliTS(beta=float("inf"))
    with pytest.raises(BadInput, match="alpha and beta are of 2 and 3 items"):
        BernoulliTS(alpha=(1.0, 1.0), beta=(1.0,) * 3)
    with pytest.raises(BadInput, match="alpha is of 2 items, but the world has 8"):
        BernoulliTS(alpha=(1.0, 1.0)).learn(world(), 2, 1, Seed(0))
    with pytest.raises(BadInput, match="draws is at least 1, not 0"):
        BernoulliTS(draws=0)
    with pytest.raises(BadInput, match="bernoulli_ts has not learned yet"):
        BernoulliTS().distribution(Context.of(torch.arange(2), 8), 3)
    with pytest.raises(BadInput, match="the catalogue has items 0 to 1"):
        BernoulliTS(alpha=(1.0, 1.0)).distribution(Context.of(torch.arange(2), 8), 1)
