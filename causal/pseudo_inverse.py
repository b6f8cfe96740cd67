"""Weights of the pseudo-inverse estimator, w = q_πᵀ Γ⁺ 1_s: exact, and in closed form where there is one.

A slate is a vector 1_s of [slot cand] zeros and ones; q_π = E_π[1_s] are the target's slot marginals, and
Γ = E_0[1_s 1_sᵀ] the logger's chances of pairs of items at slots.

Source: Swaminathan, Krishnamurthy, Agarwal, Dudík, Langford, Jose and Zitouni (2017), "Off-policy evaluation
for slate recommendation", section 3.
"""

from math import perm

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.prefixes import LISTED, candidates, listed
from simlab.errors import BadInput
from simlab.slates import SlateDistribution

CELLS = 200
"""Slots times candidates up to which Γ is inverted."""
LONG = 1 << 23
"""Rounds times slates above which listing takes longer than a user expects."""
RTOL = 1e-10
"""Eigenvalues of Γ below this share of the largest are zero."""


def product_weights(marginal: Float[Tensor, "round slot"]) -> Float[Tensor, " round"]:
    """Return Σ_k w_k - K + 1: the closed form where the logger fills each slot independently of the others.

    So a slate may hold an item twice, or each slot has candidates of its own.

    Args:
        marginal: w_k = π(a_k at k) / π_0(a_k at k).
    """
    return marginal.sum(1) - (marginal.shape[1] - 1)


def uniform_weights(
    placed: Float[Tensor, "round slot pick"], count: Int[Tensor, " round"]
) -> Float[Tensor, " round"]:
    """Return the closed form where every ordered slate of different items is equally likely to be logged.

    Γ = I/m + (J - I) ⊗ (J - I) / (m (m - 1)) over slots and items, J all ones, has the eigenvalues K/m (all
    cells alike), (m - K) / (m (m - 1)) (an item's total over slots), 1/(m - 1) (an item's slots against its
    total) and 0 (a slot's total). So with c(a) = Σ_k π(a at k) and t = (Σ_k c(a_k) - K²/m) / K,

        w = 1 + t · m (m - 1) / (m - K) + (m - 1) (Σ_k π(a_k at k) - K/m - t),

    without the term that divides by zero where m = K.

    Args:
        placed: π(item of slot `pick` at `slot`).
        count: m, how many candidates the logger chose from.
    """
    slots = placed.shape[1]
    m = count.double()
    total = (placed.sum((1, 2)) - slots**2 / m) / slots
    own = placed.diagonal(dim1=1, dim2=2).sum(1)
    free = m > slots
    spread = torch.where(free, m * (m - 1) / (m - slots).clamp(min=1), 0.0)
    return 1 + total * spread + (m - 1) * (own - slots / m - total)


def general_weights(
    logger: SlateDistribution,
    target: Float[Tensor, "round slot cand"],
    columns: Int[Tensor, "round slot"],
) -> Float[Tensor, " round"]:
    """Return q_πᵀ Γ⁺ 1_s with Γ from the list of all slates; rows with the same logger share its inverse.

    Args:
        logger: of each row.
        target: q_π, the target's slot marginals.
        columns: what was logged.

    Raises:
        BadInput: where there are too many slates to list, or too many cells to invert.
    """
    slots, cands = target.shape[1:]
    if not listable(logger):
        raise BadInput(
            f"pseudo-inverse weights list all slates and invert a matrix of slots times candidates: {slots} "
            f"of {cands} are {perm(cands, slots)} slates (at most {LISTED}) and {slots * cands} cells "
            f"(at most {CELLS})"
        )
    slates, chance = listed(logger)
    laws, which = torch.unique(chance, dim=0, return_inverse=True)
    cell = torch.arange(slots, device=columns.device) * cands
    out = torch.empty(len(columns), dtype=torch.float64, device=columns.device)
    aim, shown = target.double().flatten(1), columns + cell
    block = max(1, (1 << 22) // (slots * cands) ** 2)
    for start in range(0, len(laws), block):
        inverse = torch.linalg.pinv(
            gamma(slates, laws[start : start + block], cands), rtol=RTOL, hermitian=True
        )
        mine = ((which >= start) & (which < start + len(inverse))).nonzero().squeeze(1)
        for rows in mine.split(block):
            seen = inverse[which[rows] - start].gather(
                2, shown[rows].unsqueeze(1).expand(-1, slots * cands, -1)
            )
            out[rows] = (aim[rows].unsqueeze(2) * seen).sum((1, 2))
    return out


def gamma(
    slates: Int[Tensor, "slate slot"], chance: Float[Tensor, "law slate"], cands: int
) -> Float[Tensor, "law cell cell"]:
    """Return Γ = Σ_s P(s) 1_s 1_sᵀ, cells in the order [slot cand]."""
    slots = slates.shape[1]
    cells = slots * cands
    cell = slates + torch.arange(slots, device=slates.device) * cands
    out = torch.zeros(len(chance), cells * cells, dtype=torch.float64, device=chance.device)
    for j in range(slots):
        for k in range(slots):
            out.index_add_(1, cell[:, j] * cells + cell[:, k], chance)
    return out.view(-1, cells, cells)


def listable(logger: SlateDistribution, rounds: int = 0) -> bool:
    """Tell whether `general_weights` can do it, and for so many rounds in seconds."""
    cands = candidates(logger)
    many = perm(cands, logger.slots)
    return many <= LISTED and cands * logger.slots <= CELLS and many * rounds <= LONG
