"""Roll-outs on tensors for actor-critics: what was seen, shown and earned, and the values around it."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.core.algorithm import SlateAlgorithm
from agents.core.choice import Choice
from agents.core.inner import Scorer, drawn
from agents.core.networks import SlateNetwork
from agents.core.policy import SlateActorCriticPolicy
from agents.core.rows import stacked
from agents.maths.returns import gae
from simlab.context import Context
from simlab.errors import BadInput
from simlab.slates import SlateDistribution
from simlab.slates.contract import check_slots

AT_ONCE = 2048
"""Rows whose values are asked for together on a CPU."""


class Nothing:
    """A rollout buffer that holds nothing: roll-outs are tensors of their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.observations = np.zeros(0)

    def reset(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Rollout:
    """T steps of B users, flat: step by step.

    Attributes:
        context: what was seen.
        columns: what was shown.
        log_prob: of each slot, given what stands above it, when it was shown.
        earned: what each slot earned, scaled.
        advantage: A, of the whole slate.
        returns: A + V, what the values learn.
    """

    context: Context
    columns: Int[Tensor, "row slot"]
    log_prob: Float[Tensor, "row slot"]
    earned: Float[Tensor, "row slot"]
    advantage: Float[Tensor, " row"]
    returns: Float[Tensor, " row"]

    def __len__(self) -> int:
        """Return how many user-steps there are."""
        return len(self.columns)

    def rows(self, index: Int[Tensor, " pick"]) -> "Rollout":
        """Return some of the user-steps."""
        parts = (self.columns, self.log_prob, self.earned, self.advantage, self.returns)
        return Rollout(self.context.rows(index), *(x.index_select(0, index) for x in parts))


class SlateOnPolicy(SlateAlgorithm, OnPolicyAlgorithm):
    """Collects roll-outs as `OnPolicyAlgorithm` does, on tensors; what is learned from them is the learner's.

    Attributes:
        reward_scale: rewards are multiplied by it before anything is learned.
        rollout: the last roll-out.
    """

    policy: SlateActorCriticPolicy
    reward_scale: float = 1.0
    rollout: Rollout | None = None

    @property
    def network(self) -> SlateNetwork:
        """The actor and its critics."""
        return self.policy.network

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return Plackett–Luce over the actor's logits, with its groups if it has any."""
        self.check_fits(context)
        self.policy.set_training_mode(False)
        with torch.no_grad():
            check_slots(context.mask, slots)
            return replace(self.network.choice(context), slots=slots).distribution()

    def draw(self, choice: Choice) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
        """Return slates to learn from, and the log-probability of each slot given those above it."""
        return drawn(choice, self.luck)

    def _drawn(self, choice: Choice) -> tuple[Int[Tensor, "user slot"], Float[Tensor, "user slot"]]:
        """Return what `draw` does; stop as at a bad loss where weights that blew up left nothing to draw."""
        try:
            return self.draw(choice)
        except (BadInput, RuntimeError):
            penalty = choice.penalty
            whole = penalty is None or bool(penalty.isfinite().all())
            if not (whole and bool((choice.logits < torch.inf).all())):
                self.check_finite(math.nan)
            raise

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Act for some steps and keep what happened; False if a callback says stop.

        A user's end by time alone is no end: the value of what was last seen is added. These values are
        asked for once, for all steps together.
        """
        rows = self.begin(self.network.ranker.past)
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        context = self._context
        assert context is not None
        check_slots(context.mask, self.policy.slots)
        seen, slates, chances, steps, ends = [], [], [], [], []
        scorer = Scorer(self.network)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                columns, log_prob = self._drawn(scorer.choice(context))
            step = self.tallied(context, columns, rows.step(columns))
            seen.append(context)
            slates.append(columns)
            chances.append(log_prob)
            steps.append(step)
            ends.append(self.count_reward(step.reward, step.done))
            self.num_timesteps += rows.num_envs
            context = self._context = step.context
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        reward = torch.stack([s.reward for s in steps])
        if not bool(reward.isfinite().all()):
            t, row = (int(i) for i in (~reward.isfinite()).nonzero()[0])
            raise BadInput(f"step {t} of a roll-out: the reward of row {row} is {float(reward[t, row])}")
        with torch.no_grad():
            whole = stacked(seen)
            value = self._values(whole).view(reward.shape)
            terminated = torch.stack([s.terminated for s in steps])
            truncated = torch.stack([s.truncated for s in steps])
            follow = torch.cat([value[1:], self.network.values(context).unsqueeze(0)])
            follow = self._bootstrap([s.last for s in steps], truncated, follow)
            advantage = gae(
                reward * self.reward_scale, value, follow, terminated, truncated, self.gamma, self.gae_lambda
            )
        self.rollout = Rollout(
            whole,
            torch.cat(slates),
            torch.cat(chances),
            torch.cat([s.earned for s in steps]) * self.reward_scale,
            advantage.reshape(-1),
            (advantage + value).reshape(-1),
        )
        self.note_ends(ends)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _values(self, context: Context) -> Float[Tensor, " row"]:
        """Return V; on a CPU so many rows at a time that the layers stay in its cache."""
        if self.device.type != "cpu" or len(context) <= AT_ONCE:
            return self.network.values(context)
        parts = (context.rows(slice(at, at + AT_ONCE)) for at in range(0, len(context), AT_ONCE))
        return torch.cat([self.network.values(part) for part in parts])

    def _bootstrap(
        self, last: list[Context], truncated: Bool[Tensor, "step user"], follow: Float[Tensor, "step user"]
    ) -> Float[Tensor, "step user"]:
        """Put the values of what was last seen where time alone ended an episode."""
        some = truncated.any(1).nonzero().squeeze(1).tolist()
        if not some:
            return follow
        picked = [last[t].rows(truncated[t].nonzero().squeeze(1)) for t in some]
        values = self.network.values(stacked(picked))
        return follow.masked_scatter(truncated, values)
