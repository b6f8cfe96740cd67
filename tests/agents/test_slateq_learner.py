"""SlateQ's own networks: the best slate by brute force, and the loss by the formulas that are proved."""

import itertools
from typing import Any

import pytest
import torch

from agents.value.slateq import SlateQ
from envs.sb3 import make_sb3
from simlab.context import Context

SMALL: dict[str, Any] = {"items": 30, "slots": 3, "candidates": 6}


def learner(**options: Any) -> SlateQ:
    return SlateQ(env=make_sb3("simlab/InterestEvolution-v0", 4, **SMALL), options=options)


def context(rows: int) -> Context:
    return Context.of(
        torch.zeros(rows, dtype=torch.long), 30, features=torch.zeros(rows, 20),
        candidates=torch.arange(6).expand(rows, 6),
    )  # fmt: skip


@pytest.mark.parametrize("clicks", ["one", "many"])
def test_the_best_slate_is_the_best_of_all(clicks: str) -> None:
    policy = learner(clicks=clicks).policy
    luck = torch.Generator().manual_seed(0)
    with torch.no_grad():
        policy.slot.copy_(torch.tensor([2.0, -1.0, 0.5]))
    rows = 200
    value, odds = (torch.randn(rows, 6, generator=luck) for _ in range(2))
    null = torch.randn(rows, generator=luck)
    slates = torch.tensor(list(itertools.permutations(range(6), 3)))
    every = torch.stack([policy.value_of(s.expand(rows, -1), value, null, odds) for s in slates])
    chosen = policy.best(context(rows).mask, value, null, odds)
    torch.testing.assert_close(policy.value_of(chosen, value, null, odds), every.amax(0), atol=1e-5, rtol=0)


def test_the_learning_rate_stays_within_its_ends() -> None:
    """The last roll-out goes beyond the budget, the rate does not."""
    model = SlateQ(
        env=make_sb3("simlab/InterestEvolution-v0", 4, **SMALL),
        learning_rate=1e-3, final_learning_rate=1e-4, learning_starts=0, batch_size=8,
    )  # fmt: skip
    model.learn(10)
    assert model.num_timesteps == 12
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
