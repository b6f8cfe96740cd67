"""SlateQ as pure functions: the value of a slate from the values of its items, and what a click teaches.

If there is one click at most (the paper's assumption SC), and rewards and next states depend on nothing but
what was chosen (RTDS), then the action value of a slate is exactly

    Q(s, A) = Σ_{i ∈ A ∪ {null}} P(i | s, A) Q̄(s, i),
    Q̄(s, i) = r(s, i) + γ Σ_{s'} P(s' | s, i) max_A Q(s', A).

The null item's Q̄ is one of them: no click leads to a next state like any click. Where it is left out, as in
the authors' code, a slate is valued as if nothing came after no click, and another slate looks best.

With several clicks there is no such identity. Approximations, both with at most one click that matters:

- *first*: only the first click moves the user, so
  Q(s, A) = Σ_k P(first click at k) Q̄(s, a_k) + P(no click) Q̄(s, null). Exact in a cascade:
  `best_slate.by_cascade` with q_i = Q̄(s, i) and q_0 = Q̄(s, null).
- *additive*: each click adds its own change, so with p_k = P(click at k)
  Q(s, A) = Q̄(s, null) + Σ_k p_k (Q̄(s, a_k) − Q̄(s, null)), which is exact up to p² (two clicks in a step).
  Under position bias p_k = θ_k α_i: `best_slate.by_position` with x_i = α_i (Q̄(s, i) − Q̄(s, null)).

Source: Ie et al. (2019), "SlateQ: a tractable decomposition for reinforcement learning with recommendation
sets", IJCAI (extended: arXiv:1905.12767), section 4.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.maths.returns import td_target


def choice_probs(
    odds: Float[Tensor, "*row slot"], null_odds: Float[Tensor, "*row"]
) -> tuple[Float[Tensor, "*row slot"], Float[Tensor, "*row"]]:
    """Return P(i | s, A) of each shown item, and the null item's: v / (v_0 + Σ_A v).

    Args:
        odds: v ≥ 0 of what is shown.
        null_odds: v_0 > 0.

    >>> choice_probs(torch.tensor([[1.0, 2.0]]), torch.tensor([1.0]))
    (tensor([[0.2500, 0.5000]]), tensor([0.2500]))
    """
    total = null_odds + odds.sum(-1)
    return odds / total.unsqueeze(-1), null_odds / total


def slate_value(
    odds: Float[Tensor, "*row slot"],
    value: Float[Tensor, "*row slot"],
    null_odds: Float[Tensor, "*row"],
    null_value: Float[Tensor, "*row"],
) -> Float[Tensor, "*row"]:
    """Return Q(s, A) = Σ_{i ∈ A ∪ {null}} P(i | s, A) Q̄(s, i) of what is shown.

    Args:
        odds: v of what is shown.
        value: Q̄(s, i) of what is shown.
        null_odds: v_0.
        null_value: Q̄(s, null).
    """
    chosen, none = choice_probs(odds, null_odds)
    return (chosen * value).sum(-1) + none * null_value


def slateq_target(
    reward: Float[Tensor, "*row"],
    next_slate_value: Float[Tensor, "*row"],
    terminated: Bool[Tensor, "*row"],
    discount: Float[Tensor, "*row"] | float | int,
) -> Float[Tensor, "*row"]:
    """Return r + γ (1 − terminated) max_A Q(s', A): the target of Q̄(s, i) for what was chosen, item or null.

    Args:
        reward: r of the step.
        next_slate_value: max_A Q(s', A), of the **next** state with the next state's choice model, as from
            `best_slate.dinkelbach`; for double Q-learning the target network's value of the online
            network's slate.
        terminated: true ends; a time limit is none.
        discount: γ.
    """
    return td_target(reward, next_slate_value, terminated, discount)


def chosen_slot(click: Float[Tensor, "*row slot"]) -> Int[Tensor, "*row"]:
    """Return the slot whose Q̄ a step updates: that of the first click; K, the null item, without a click.

    >>> chosen_slot(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    tensor([1, 3])
    """
    clicked = click > 0
    return clicked.to(torch.uint8).argmax(-1).where(clicked.any(-1), click.shape[-1])


def chosen_value(
    click: Float[Tensor, "*row slot"], value: Float[Tensor, "*row slot"], null_value: Float[Tensor, "*row"]
) -> Float[Tensor, "*row"]:
    """Return the Q̄ that a step updates: the first clicked item's, or the null item's without a click.

    Args:
        click: above 0 where a shown item was clicked.
        value: Q̄(s, i) of what was shown.
        null_value: Q̄(s, null).
    """
    every = torch.cat([value, null_value.unsqueeze(-1)], dim=-1)
    return every.gather(-1, chosen_slot(click).unsqueeze(-1)).squeeze(-1)
