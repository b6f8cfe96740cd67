"""What every agent is held to: it learns by its seed alone, acts as a policy, and comes back from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.contract import Agent
from envs.rollout import roll
from envs.users.feed import Feed, FeedSpec
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed

WORLD = Feed(FeedSpec(items=12, slots=2, horizon=4))

Make = Callable[[], Any]


def trained(make: Make, seed: int = 1) -> Agent:
    """Return an agent that has seen a few users."""
    agent = make().learn(WORLD, 40, 4, Seed(seed))
    assert isinstance(agent, Agent)
    return agent


def context() -> Context:
    """Return what new users look like after two slates."""
    state = WORLD.reset(5, Seed(9), first_user=10**6)
    for t in range(2):
        slate = torch.tensor([[t, t + 2]]).expand(5, -1)
        state, _ = WORLD.step(state, slate, Seed(9))
    return WORLD.observe(state)


def marginals(agent: Agent) -> torch.Tensor:
    """Return what it would show."""
    return agent.distribution(context(), WORLD.slots).slot_marginals()


def check_it_does_not_act_before_it_learns(make: Make, folder: Path) -> None:
    """One sentence, not a random policy."""
    with pytest.raises(BadInput):
        make().distribution(context(), WORLD.slots)


def check_the_seed_decides(make: Make, folder: Path) -> None:
    """The same seed gives the same agent to the bit; another seed another one."""
    one, again, other = (marginals(trained(make, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def check_it_is_a_policy(make: Make, folder: Path) -> None:
    """Each slot's probabilities sum to one."""
    total = marginals(trained(make)).double().sum(2)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def check_it_comes_back_from_disk(make: Make, folder: Path) -> None:
    """What is loaded acts the same."""
    agent = trained(make)
    agent.save(folder / "agent")
    torch.testing.assert_close(
        marginals(type(agent).load(folder / "agent")), marginals(agent), rtol=0, atol=0
    )


def check_nothing_on_disk_is_code(make: Make, folder: Path) -> None:
    """Only JSON and safetensors are written, and nothing half-written stays."""
    trained(make).save(folder / "agent")
    files = [f for f in (folder / "agent").rglob("*") if f.is_file()]
    assert files
    assert {f.suffix for f in files} <= {".json", ".safetensors"}


def check_a_missing_folder_is_refused(make: Make, folder: Path) -> None:
    """One sentence."""
    with pytest.raises(BadInput):
        type(make()).load(folder / "nothing")


def check_its_rollouts_are_valid_logs(make: Make, folder: Path) -> None:
    """Their propensities are probabilities of what was shown."""
    log = roll(WORLD, trained(make), 30, Seed(4), first_user=10**6, propensities=True).log(WORLD)
    assert float(log.propensity.min()) > 0
    assert float(log.propensity.max()) <= 1


CHECKS = tuple(v for k, v in list(globals().items()) if k.startswith("check_"))
