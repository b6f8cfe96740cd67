"""The logging Thompson sampler: exact probabilities against simulation, and against the logger's own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from simlab.context import Context
from simlab.datasets.open_bandit import BernoulliTS, OpenBandit
from simlab.errors import BadInput
from simlab.policy import Policy
from simlab.seeds import Seed

CASE = Path(__file__).parents[2] / "../shared/cases/ope/obd_random_to_bts_men.npz"
ITEMS = {"all": 80, "men": 34, "women": 46}


def exact(campaign: str) -> torch.Tensor:
    users = Context.of(torch.arange(2), ITEMS[campaign])
    table: torch.Tensor = BernoulliTS(campaign).distribution(users, 3).slot_marginals()
    assert table.shape == (2, 3, ITEMS[campaign])
    return table[1]


def errors(share: np.ndarray, chance: np.ndarray, draws: int) -> np.ndarray:
    """Return differences in standard errors of a share of so many draws."""
    out: np.ndarray = (share - chance) / np.sqrt(chance * (1 - chance) / draws)
    return out


@pytest.mark.skipif(not CASE.is_file(), reason="the reference case is not here")
def test_men_agrees_with_the_reference_simulation() -> None:
    with np.load(CASE) as case:
        share = case["action_dist_one_round"][0].T
    z = errors(share, exact("men").numpy(), 100_000)
    assert np.abs(z).max() < 4.5  # 102 cells
    assert 0.8 < np.sqrt((z**2).mean()) < 1.2  # as large as luck makes it, no larger


@pytest.mark.parametrize("campaign", list(ITEMS))
def test_agrees_with_a_simulation_in_numpy(campaign: str) -> None:
    draws, luck = 100_000, Seed(11).numpy()
    alpha, beta = (p.numpy() for p in BernoulliTS(campaign).priors())
    best = np.argsort(-luck.beta(alpha, beta, size=(draws, len(alpha))), axis=1)[:, :3]
    share = np.stack([np.bincount(best[:, k], minlength=len(alpha)) for k in range(3)]) / draws
    chance = exact(campaign).numpy()
    assert np.abs(chance.sum(1) - 1).max() < 1e-10
    assert (chance.sum(0) <= 1).all()
    common = chance * draws > 20  # rarer cells are far from normal
    z = errors(share, chance, draws)[common]
    assert np.abs(z).max() < 4.5
    assert 0.8 < np.sqrt((z**2).mean()) < 1.2
    assert np.abs(share - chance)[~common].sum() < 1e-2


def test_the_logger_began_here() -> None:
    """The first rounds of women carry these probabilities, as the data's authors simulated them.

    Their propensities are multiples of 1/200,000, so they are shares of that many draws. Round 0 is a
    uniform draw, and learning starts within minutes, so a few of the first 14 rounds differ; a wrong prior,
    slot order or item order would leave no match.
    """
    log = OpenBandit("bts", "women").load()
    assert log.position is not None
    chance = exact("women")[log.position, log.slate[:, 0]].numpy()
    assert np.isclose(log.propensity[0], 1 / 46)
    z = errors(log.propensity.numpy(), chance, 200_000)[:14]
    cells = {(int(i), int(k)) for i, k in zip(log.slate[:14, 0], log.position[:14], strict=True)}
    assert len(cells) >= 8
    assert (np.abs(z) < 3).sum() == 12


@pytest.mark.parametrize("campaign", list(ITEMS))
def test_the_logger_left_these_probabilities_as_it_learnt(campaign: str) -> None:
    log = OpenBandit("bts", campaign).load()
    assert log.position is not None
    chance = exact(campaign)[log.position, log.slate[:, 0]].numpy()
    near = [np.corrcoef(chance[s], log.propensity.numpy()[s])[0, 1] for s in (slice(200), slice(-200, None))]
    assert near[0] > 0.93
    assert near[1] < 0.75


def test_policy() -> None:
    policy = BernoulliTS("men")
    assert isinstance(policy, Policy)
    assert policy.name == "bernoulli-ts"
    whole = Context.of(torch.arange(3), 34)
    some = Context.of(torch.arange(3), 34, candidates=torch.tensor([[5, 2, 13]]).expand(3, 3))
    assert policy.distribution(whole, 3).mode().tolist() == [[23, 13, 6]] * 3
    # Among a few, the same scores compete: item 13's best prior wins, in whatever column it stands.
    table = policy.distribution(some, 3).slot_marginals()
    alpha, beta = policy.priors()
    assert table.sum(1).allclose(torch.ones(3, 3, dtype=torch.float64))
    assert int(table[0, 0].argmax()) == int((alpha / (alpha + beta))[[5, 2, 13]].argmax())


def test_what_it_cannot_do_is_said() -> None:
    mixed = Context.of(torch.arange(2), 34, candidates=torch.tensor([[5, 2, 13], [5, 2, 14]]))
    with pytest.raises(BadInput, match="row 1: bernoulli-ts chooses from one list"):
        BernoulliTS("men").distribution(mixed, 3)
    with pytest.raises(
        BadInput, match="candidates go up to item 79, but the priors of campaign men are for 34"
    ):
        BernoulliTS("men").distribution(Context.of(torch.arange(2), 80), 3)
    with pytest.raises(BadInput, match=r"no priors for campaign woman; did you mean women\?"):
        BernoulliTS("woman").priors()
