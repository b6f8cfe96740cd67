"""Let a policy act in a world, and keep what happened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envs.market import MarketState
from envs.world import SlateWorld
from simlab.context import PAD, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import SlateDistribution


@dataclass(frozen=True)
class Trajectories:
    """What happened to one shard of users, step by step.

    Attributes:
        user: id of each user.
        slate: item ids shown.
        click: what was clicked.
        reward: what each step was worth, in the world's unit.
        active: whether the user was there. Elsewhere clicks and rewards are 0, and slates and propensities
            are of nobody: leave those rows out.
        terminated: the user left for good after this step.
        truncated: the user's time was up after this step.
        features: what the policy saw of the user, if asked for.
        candidates: what could have been shown, padded with -1, where it was not always the whole catalogue;
            kept with the propensities.
        propensity: probability of the whole slate, if asked for.
        slot_propensity: probability of each item at its slot, if asked for.
        popularity_first: popularity at the start.
        popularity_last: popularity at the end.
        market: the market at the end: who and what is still there.
        policy: the policy's name.
    """

    user: Int[Tensor, " user"]
    slate: Int[Tensor, "step user slot"]
    click: Float[Tensor, "step user slot"]
    reward: Float[Tensor, "step user"]
    active: Bool[Tensor, "step user"]
    terminated: Bool[Tensor, "step user"]
    truncated: Bool[Tensor, "step user"]
    features: Float[Tensor, "step user feat"] | None
    candidates: Int[Tensor, "step user cand"] | None
    propensity: Float[Tensor, "step user"] | None
    slot_propensity: Float[Tensor, "step user slot"] | None
    popularity_first: Float[Tensor, " item"]
    popularity_last: Float[Tensor, " item"]
    market: MarketState
    policy: str

    def log(self, world: SlateWorld[Any]) -> Log:
        """Return the rounds in which a user was there, ordered by user and step.

        Raises:
            BadInput: if the propensities were not kept.
        """
        if self.propensity is None:
            raise BadInput("a log needs propensities: roll with propensities=True")
        steps, n = self.reward.shape
        there = self.active.T.reshape(-1)  # [user step]

        def rounds(x: Tensor) -> Tensor:
            return x.transpose(0, 1).reshape(steps * n, *x.shape[2:])[there].cpu()

        step = torch.arange(steps, device=self.user.device).unsqueeze(1).expand(steps, n)
        return Log(
            user=rounds(self.user.expand(steps, n)),
            step=rounds(step),
            session=torch.zeros(int(there.sum()), dtype=torch.long),
            slate=rounds(self.slate),
            propensity=rounds(self.propensity),
            slot_propensity=None if self.slot_propensity is None else rounds(self.slot_propensity),
            click=rounds(self.click).double(),
            reward=rounds(self.reward).double(),
            features=None if self.features is None else rounds(self.features).double(),
            candidates=None if self.candidates is None else rounds(self.candidates),
            terminated=rounds(self.terminated),
            truncated=rounds(self.truncated),
            n_items=world.catalog.n_items,
            policy=(self.policy,),
        )


@torch.no_grad()
def roll(
    world: SlateWorld[Any],
    policy: Policy,
    n: int,
    seed: Seed,
    *,
    first_user: int = 0,
    steps: int | None = None,
    propensities: bool = False,
    slot_propensities: bool = False,
    features: bool = False,
    tick: Callable[[], None] | None = None,
) -> Trajectories:
    """Let a policy act for one shard of new users who share a market.

    Two policies rolled with the same seed and users meet the same users, noise and luck.

    Args:
        world: where.
        policy: who chooses; a policy with `privileged = True` is shown the world's state.
        n: users of the shard.
        seed: of the users and of all luck.
        first_user: id of the first user.
        steps: how many steps at most, the world's horizon by default; it ends when nobody is left.
        propensities: keep the probability of each slate, which makes a valid log.
        slot_propensities: keep the probability of each item at its slot too: dear for many candidates.
        features: keep what the policy saw of the user; with `propensities` they are always kept.
        tick: called after each step, for a progress bar.

    Raises:
        BadInput: for less than one user or step.
    """
    steps = world.horizon if steps is None else steps
    if steps < 1 or n < 1:
        raise BadInput(f"a roll-out has at least one user and one step, not {n} and {steps}")
    world_seed, policy_seed = seed.split("world"), seed.split("policy")
    state = world.reset(n, world_seed, first_user)
    first = state.popularity
    kept: dict[str, list[Tensor]] = {}
    for t in range(steps):
        if t and not bool(state.active.any()):
            break
        context = world.privileged(state) if getattr(policy, "privileged", False) else world.observe(state)
        chosen = policy.distribution(context, world.slots)
        columns = chosen.sample(policy_seed.at(state.user, state.step))
        slate = context.slate(columns)
        row: dict[str, Tensor] = {"slate": slate}
        if features or propensities:
            row["features"] = context.features
        if propensities:
            row["propensity"] = chosen.log_prob(columns).double().exp()
            if state.candidates is not None or state.market.available is not None:
                row["candidates"] = _offered(context)
        if slot_propensities:
            row["slot_propensity"] = _slot_propensity(chosen, columns)
        state, response = world.step(state, slate, world_seed)
        row |= {
            "click": response.click,
            "reward": response.reward,
            "active": response.active,
            "terminated": response.terminated,
            "truncated": response.truncated,
        }
        for name, value in row.items():
            kept.setdefault(name, []).append(value)
        if tick is not None:
            tick()
    done = {name: torch.stack(values) for name, values in kept.items()}
    return Trajectories(
        user=torch.arange(first_user, first_user + n, device=world.device),
        features=done.pop("features", None),
        candidates=done.pop("candidates", None),
        propensity=done.pop("propensity", None),
        slot_propensity=done.pop("slot_propensity", None),
        popularity_first=first,
        popularity_last=state.popularity,
        market=state.market,
        policy=policy.name,
        **done,
    )


def _offered(context: Context) -> Tensor:
    """Return the candidates that may be shown, first those, then -1."""
    allowed = context.mask
    last = (~allowed).to(torch.uint8).argsort(dim=1, stable=True)
    return context.candidates.masked_fill(~allowed, PAD).gather(1, last)


def _slot_propensity(chosen: SlateDistribution, columns: Tensor) -> Tensor:
    """Return the slot marginals, never above 1 by rounding."""
    return chosen.marginals(columns).double().clamp(max=1.0)
