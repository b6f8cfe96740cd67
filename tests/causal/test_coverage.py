"""95 % intervals hold the truth in 92 to 98 of 100 logs: 400 logs, so three binomial deviations."""

from functools import cache

import pytest
import torch

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds
from causal.intervals import interval
from simlab.seeds import Seed
from tests.worlds import bandit_world, take

LOGS = 400
UNBIASED = [IPS(), SNIPS(), DR(), SNDR()]


def logs(n: int, per_user: int = 1) -> tuple[list[Rounds], float]:
    """Draw logs; a user's rounds share the context, the luck of the action and so the reward's mean.

    With several rounds a user, half of a user's rounds repeat the first one: rows are far from independent.
    """
    world = bandit_world()
    rounds, probability = world.rounds(q=1 - world.reward)
    generator = torch.Generator().manual_seed(n + per_user)
    out = []
    for _ in range(LOGS):
        pick = torch.multinomial(probability, n * per_user, replacement=True, generator=generator)
        pick = pick.view(n, per_user)
        copy = torch.rand(n, per_user, generator=generator) < (0.5 if per_user > 1 else 0.0)
        pick = torch.where(copy, pick[:, :1], pick).reshape(-1)
        users = torch.arange(n).repeat_interleave(per_user)
        one = take(rounds, pick)
        out.append(Rounds(one.reward, one.weight, one.q_logged, one.q_target, users))
    return out, world.value()


@cache
def independent() -> tuple[list[Rounds], float]:
    return logs(400)


@cache
def repeated() -> tuple[list[Rounds], float]:
    return logs(300, per_user=4)


def covered(
    estimator: Estimator[Rounds], kind: str, made: tuple[list[Rounds], float], replicates: int
) -> float:
    every, truth = made
    hits = 0
    for number, rounds in enumerate(every):
        group = rounds.group if kind == "cluster" else None
        scores = estimator.score(rounds)
        found = interval(scores, kind, group=group, seed=Seed(number), replicates=replicates)
        hits += found.low <= truth <= found.high
    return hits / LOGS


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["normal", "student-t", "bca"])
def test_independent_rounds(estimator: Estimator[Rounds], kind: str) -> None:
    assert 0.92 <= covered(estimator, kind, independent(), replicates=400) <= 0.98


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
def test_users_with_several_rounds(estimator: Estimator[Rounds]) -> None:
    assert 0.92 <= covered(estimator, "cluster", repeated(), replicates=2) <= 0.98
    # Taken as independent, the same rounds promise too much.
    assert covered(estimator, "student-t", repeated(), replicates=2) < 0.92


@pytest.mark.slow
@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("kind", ["bootstrap", "poisson"])
@pytest.mark.parametrize("n", [400, 2000])
def test_bootstraps(estimator: Estimator[Rounds], kind: str, n: int) -> None:
    assert 0.92 <= covered(estimator, kind, logs(n), replicates=1000) <= 0.98


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
def test_bernstein_is_on_the_safe_side(estimator: Estimator[Rounds]) -> None:
    assert covered(estimator, "bernstein", independent(), replicates=2) >= 0.99
