"""A Markov decision process so small that every trajectory can be listed, so the truth is a sum."""

from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Trajectories
from tests.worlds import table

END = -1
"""The state in which nothing happens any more."""


@dataclass(frozen=True)
class Listed:
    """Every trajectory that can happen under the logger, each once; -1 where it has ended."""

    state: Int[Tensor, "round step"]
    action: Int[Tensor, "round step"]
    reward: Float[Tensor, "round step"]
    probability: Float[Tensor, " round"]

    def pick(self, n: int, seed: int) -> Int[Tensor, " row"]:
        """Draw which trajectories happen."""
        generator = torch.Generator().manual_seed(seed)
        return torch.multinomial(self.probability, n, replacement=True, generator=generator)


@dataclass(frozen=True)
class Chain:
    """Two states, two actions, rewards of 0 or 1; whatever the move does not say ends the trajectory.

    Attributes:
        first: P(s_0).
        move: P(s' | s, a); a row sums to less than one, and the rest is the end.
        mean: P(r = 1 | s, a).
        logger: π_0(a|s).
        target: π(a|s).
        horizon: steps at most.
        discount: γ.
    """

    first: Float[Tensor, " state"]
    move: Float[Tensor, "state action next"]
    mean: Float[Tensor, "state action"]
    logger: Float[Tensor, "state action"]
    target: Float[Tensor, "state action"]
    horizon: int = 3
    discount: float = 0.9

    def q(self) -> Float[Tensor, "step state action"]:
        """Return Q_t of the target, by dynamic programming."""
        value, out = torch.zeros(len(self.first), dtype=torch.float64), []
        for _ in range(self.horizon):
            out.append(self.mean + self.discount * self.move @ value)
            value = (self.target * out[-1]).sum(1)
        return torch.stack(out[::-1])

    def value(self) -> float:
        """Return the target's true value."""
        return float((self.first * (self.target * self.q()[0]).sum(1)).sum())

    def share(self, policy: Float[Tensor, "state action"]) -> Float[Tensor, "step state"]:
        """Return P(state at step); the last column is the end."""
        here, out = self.first, []
        for _ in range(self.horizon):
            out.append(torch.cat([here, 1 - here.sum(0, keepdim=True)]))
            here = torch.einsum("s,sa,san->n", here, policy, self.move)
        return torch.stack(out)

    def listed(self) -> Listed:
        """List every trajectory, in plain loops."""
        found: list[tuple[list[int], list[int], list[float], float]] = []

        def grow(s: int, chance: float, states: list[int], actions: list[int], rewards: list[float]) -> None:
            if s == END or len(states) == self.horizon:
                pad = self.horizon - len(states)
                padded = states + [END] * pad, actions + [END] * pad, rewards + [0.0] * pad
                found.append((*padded, chance))
                return
            for a, r in product((0, 1), (0, 1)):
                mean = float(self.mean[s, a])
                here = chance * float(self.logger[s, a]) * (mean if r else 1 - mean)
                after = [*states, s], [*actions, a], [*rewards, float(r)]
                if len(after[0]) == self.horizon:
                    grow(END, here, *after)
                    continue
                stay = self.move[s, a].tolist()
                for following, p in enumerate(stay):
                    grow(following, here * p, *after)
                grow(END, here * (1 - sum(stay)), *after)

        for s, p in enumerate(self.first.tolist()):
            grow(s, p, [], [], [])
        states, actions, rewards, chances = zip(*found, strict=True)
        return Listed(
            torch.tensor(states),
            torch.tensor(actions),
            torch.tensor(rewards, dtype=torch.float64),
            torch.tensor(chances, dtype=torch.float64),
        )

    def trajectories(
        self,
        every: Listed,
        q: Float[Tensor, "step state action"] | None = None,
        *,
        target: Float[Tensor, "state action"] | None = None,
        claimed: Float[Tensor, "state action"] | None = None,
        shares: Float[Tensor, "step state"] | None = None,
    ) -> Trajectories:
        """Return trajectories as estimators see them, with exact marginal ratios.

        Args:
            every: some trajectories.
            q: the Q-model; the truth by default.
            target: the target policy; the chain's by default.
            claimed: what the log claims of its logger; the truth by default.
            shares: what is claimed of the logger's P(state at step); the truth by default.
        """
        q = self.q() if q is None else q
        pi = self.target if target is None else target
        logger = self.logger if claimed is None else claimed
        valid = every.state != END
        s, a = every.state.clamp(min=0), every.action.clamp(min=0)
        step = torch.arange(self.horizon)
        below = self.share(self.logger) if shares is None else shares
        # No trajectory has ended before the first step, so that ratio is never looked at.
        odds = self.share(pi) / below.clamp(min=1e-300)
        where = torch.where(valid, s, 2)
        ratio = torch.where(valid, pi[s, a] / logger[s, a], 1.0)
        state = odds[step, where]
        return Trajectories(
            reward=every.reward,
            ratio=ratio,
            valid=valid,
            discount=self.discount,
            q_logged=torch.where(valid, q[step, s, a], 0.0),
            v_target=torch.where(valid, (pi[s] * q[step, s]).sum(2), 0.0),
            state=state,
            state_action=state * ratio,
        )


def chain() -> Chain:
    return Chain(
        first=table([0.4, 0.6])[0],
        move=torch.stack([table([0.5, 0.2], [0.3, 0.6]), table([0.1, 0.5], [0.7, 0.3])]),
        mean=table([0.2, 0.7], [0.9, 0.4]),
        logger=table([0.6, 0.4], [0.3, 0.7]),
        target=table([0.3, 0.7], [0.6, 0.4]),
    )


def wrong(q: Float[Tensor, "step state action"]) -> Float[Tensor, "step state action"]:
    """Return a Q-model that is wrong."""
    return 1 - 0.5 * q**2


def bare(data: Trajectories) -> Trajectories:
    """Return trajectories without any model or marginal ratio."""
    return replace(data, q_logged=None, v_target=None, state=None, state_action=None)
