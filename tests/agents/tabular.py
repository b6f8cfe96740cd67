"""Tiny slate MDPs as tables, many at once: exact dynamic programming, and SlateQ's fixed point and learner.

Axes: mdp M, state S, item I, slate A. One item of the slate is chosen, or none (the null item, index I), and
reward and next state depend on nothing else.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from agents.maths.best_slate import dinkelbach
from agents.maths.slateq import chosen_value, slate_value, slateq_target


@dataclass(frozen=True)
class Slates:
    """M random MDPs; the last item of reward and follow is the null item."""

    odds: Tensor  # [mdp state item]
    null_odds: Tensor  # [mdp state]
    reward: Tensor  # [mdp state item+1]
    follow: Tensor  # [mdp state item+1 state]: P(s' | s, chosen)
    slots: int
    discount: float

    @property
    def slates(self) -> Tensor:
        """Every slate: [slate slot]."""
        return torch.tensor(list(combinations(range(self.odds.shape[2]), self.slots)))


def random_mdps(
    mdps: int,
    generator: torch.Generator,
    states: int = 4,
    items: int = 5,
    slots: int = 2,
    discount: float = 0.9,
) -> Slates:
    """Log-normal odds, uniform rewards of clicks, none of no click, and Dirichlet(½) next states."""
    double = torch.float64
    normal = torch.randn(mdps, states, items + 1, states, generator=generator, dtype=double)
    follow = normal.square()  # χ² with one degree of freedom is twice a Gamma(½)
    reward = torch.rand(mdps, states, items + 1, generator=generator, dtype=double)
    reward[:, :, -1] = 0
    odds = torch.randn(mdps, states, items, generator=generator, dtype=double).exp()
    return Slates(
        odds,
        torch.ones(mdps, states, dtype=double),
        reward,
        follow / follow.sum(-1, keepdim=True),
        slots,
        discount,
    )


def _chances(mdp: Slates) -> Tensor:
    """P(chosen | s, A), written out: [mdp state slate item+1]."""
    shown = torch.zeros(len(mdp.slates), mdp.odds.shape[2], dtype=torch.float64).scatter_(1, mdp.slates, 1.0)
    mass = torch.cat(
        [mdp.odds.unsqueeze(2) * shown, mdp.null_odds[:, :, None, None].expand(-1, -1, len(shown), 1)], dim=3
    )
    return mass / mass.sum(-1, keepdim=True)


def full_slate_q(mdp: Slates) -> Tensor:
    """Q(s, A) by value iteration over whole slates, which knows of no decomposition: [mdp state slate]."""
    chance = _chances(mdp)
    reward = (chance * mdp.reward.unsqueeze(2)).sum(-1)
    follow = torch.einsum("msai,msit->msat", chance, mdp.follow)
    q = torch.zeros_like(reward)
    for _ in range(2000):
        new = reward + mdp.discount * torch.einsum("msat,mt->msa", follow, q.amax(2))
        done = float((new - q).abs().max()) < 1e-13
        q = new
        if done:
            break
    return q


def policy_value(mdp: Slates, slate: Tensor) -> Tensor:
    """V(s) of the policy that shows slate [mdp state] always, by a linear system."""
    chance = (
        _chances(mdp).gather(2, slate[:, :, None, None].expand(-1, -1, 1, mdp.reward.shape[2])).squeeze(2)
    )
    follow = torch.einsum("msi,msit->mst", chance, mdp.follow)
    reward = (chance * mdp.reward).sum(-1)
    one = torch.eye(follow.shape[-1], dtype=torch.float64)
    value: Tensor = torch.linalg.solve(one - mdp.discount * follow, reward)
    return value


def best_values(mdp: Slates, q: Tensor, null: bool) -> Tensor:
    """max_A Q(s, A) from Q̄ [mdp state item+1], by Dinkelbach over all mdps and states: [mdp state]."""
    none = q[:, :, -1] if null else torch.zeros_like(q[:, :, -1])
    best = dinkelbach(
        mdp.odds.flatten(0, 1), q[:, :, :-1].flatten(0, 1), mdp.null_odds.flatten(), none.flatten(), mdp.slots
    )
    return best[1].view_as(none)


def slateq_fixed_point(mdp: Slates, null: bool = True) -> Tensor:
    """Q̄ [mdp state item+1] of r + γ Σ P max_A Q(s', A); without `null`, no click counts as worth 0."""
    q = torch.zeros_like(mdp.reward)
    never = torch.zeros(q.shape, dtype=torch.bool)
    for _ in range(2000):
        later = torch.einsum("msit,mt->msi", mdp.follow, best_values(mdp, q, null))
        new = slateq_target(mdp.reward, later, never, mdp.discount)
        done = float((new - q).abs().max()) < 1e-13
        q = new
        if done:
            break
    return q


def slate_q(mdp: Slates, q: Tensor, null: bool = True) -> Tensor:
    """Q(s, A) of every slate from Q̄: [mdp state slate]."""
    none = (q[:, :, -1] if null else torch.zeros_like(q[:, :, -1])).unsqueeze(2)
    count = len(mdp.slates)
    return slate_value(
        mdp.odds[:, :, mdp.slates],
        q[:, :, mdp.slates],
        mdp.null_odds.unsqueeze(2).expand(-1, -1, count),
        none.expand(-1, -1, count),
    )


def learn(mdp: Slates, steps: int, generator: torch.Generator) -> Tensor:
    """Stochastic SlateQ: show a random slate in every state of every mdp, sample a choice and a next state.

    Q̄ of what was chosen moves towards its target by n^-0.8, with n its updates so far (Robbins and Monro ask
    for a power in (½, 1]). Copies of one mdp are separate learners.
    """
    mdps, states, items = mdp.odds.shape
    rows, slates = mdps * states, mdp.slates
    q = torch.zeros(rows, items + 1, dtype=torch.float64)
    seen = torch.zeros_like(q)
    odds, null_odds = mdp.odds.flatten(0, 1), mdp.null_odds.flatten()
    reward, follow = mdp.reward.flatten(0, 1), mdp.follow.flatten(0, 1)
    row, first = torch.arange(rows), torch.arange(mdps).repeat_interleave(states) * states
    for _ in range(steps):
        slate = slates[torch.randint(len(slates), (rows,), generator=generator)]
        mass = torch.cat([odds.gather(1, slate), null_odds.unsqueeze(1)], dim=1)
        picked = torch.multinomial(mass, 1, generator=generator)
        click = torch.zeros(rows, mdp.slots + 1, dtype=torch.float64).scatter_(1, picked, 1.0)[:, :-1]
        chosen = torch.cat([slate, torch.full((rows, 1), items)], dim=1).gather(1, picked).squeeze(1)
        after = torch.multinomial(follow[row, chosen], 1, generator=generator).squeeze(1)
        best = dinkelbach(odds, q[:, :-1], null_odds, q[:, -1], mdp.slots)[1]
        goal = slateq_target(
            reward[row, chosen], best[first + after], torch.zeros(rows, dtype=torch.bool), mdp.discount
        )
        old = chosen_value(click, q.gather(1, slate), q[:, -1])
        seen[row, chosen] += 1
        q[row, chosen] += (goal - old) * seen[row, chosen] ** -0.8
    return q.view(mdps, states, items + 1)
