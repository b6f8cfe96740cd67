"""The normalised score of a policy in a world: random = 0, the far-sighted oracle = 1.

Returns of different worlds cannot be compared (clicks, minutes, purchases); their scores can. The oracle of
each world is its own `foresight`, whose docstring says how it was found; where that is a heuristic, a policy
may score above 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from envs.oracles import FarSighted
from envs.rollout import roll
from envs.world import SlateWorld
from simlab.errors import BadInput
from simlab.policies.random import Random
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.statistics import mean_interval


@dataclass(frozen=True)
class NormalisedScore:
    """Where a policy stands between the random policy and the oracle.

    Attributes:
        policy: the policy's name.
        value: (V - V_random) / (V_oracle - V_random), V being mean returns of the same users.
        stderr: its standard error; users who share a market's clicks or luck count as one observation, and
            of one observation it is nan.
        mean: V, the mean return of a user, in the world's unit.
        random: V_random.
        oracle: V_oracle.
        users: how many users the means are of.
    """

    policy: str
    value: float
    stderr: float
    mean: float
    random: float
    oracle: float
    users: int


def normalised_scores(
    world: SlateWorld[Any],
    policies: Sequence[Policy],
    seed: Seed,
    *,
    users: int = 1000,
    shard: int = 250,
    tick: Callable[[], None] | None = None,
) -> list[NormalisedScore]:
    """Score policies on the same users under the same luck as the random policy and the oracle.

    The standard error is that of a ratio of means, by its influence (D_i - S·O_i) / mean(O), where D_i is
    what user i returns more than under the random policy, and O_i the same of the oracle.

    >>> from envs.registry import make_world
    >>> world = make_world("Static-v0", items=50, slots=5)
    >>> both = normalised_scores(world, [Random(), FarSighted(world)], Seed(0), users=50, shard=50)
    >>> [s.value for s in both]
    [0.0, 1.0]

    Args:
        world: where.
        policies: who.
        seed: of users and luck.
        users: how many users.
        shard: users who share a market.
        tick: called after each step of each shard, for a progress bar.

    Raises:
        BadInput: for users that are no multiple of the shard, and for a world in which the oracle earns no
            more than the random policy.
    """
    if users < 1 or shard < 1 or users % shard:
        raise BadInput(f"users is {users}, but it is a multiple of the shard, {shard}")

    def returns(policy: Policy) -> Float[Tensor, " user"]:
        parts = [
            roll(world, policy, shard, seed, first_user=first, tick=tick).reward.double().sum(0)
            for first in range(0, users, shard)
        ]
        return torch.cat(parts)

    floor = returns(Random())
    top = returns(FarSighted(world)) - floor
    span = float(top.mean())
    if span <= 0:
        raise BadInput(f"{world.name}: the oracle earns no more than random, so there is nothing to score by")
    found = []
    for policy in policies:
        gain = returns(policy) - floor
        value = float(gain.mean()) / span
        influence = (gain - value * top) / span
        units = torch.arange(users) // (shard if world.market.shared else 1)
        alone = int(units[-1]) == 0
        stderr = float("nan") if alone else mean_interval(influence.cpu(), groups=units).stderr
        base, mean = float(floor.mean()), float((gain + floor).mean())
        found.append(NormalisedScore(policy.name, value, stderr, mean, base, base + span, users))
    return found
