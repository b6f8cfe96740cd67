"""Cascading bandits: the user reads from the top to the first click, and what is below was not seen."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from agents.bandits._counts import Counting
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.slates import Ranked, SlateDistribution

BOUNDS = ("ucb1", "kl")


@dataclass(eq=False)
class CascadeUcb(Counting):
    """Rank by an upper confidence bound of each item's attraction ŵ_i = S_i / N_i; unseen items first.

    - `ucb1`: U_i = ŵ_i + √(1.5 · log t / N_i)                                     (CascadeUCB1)
    - `kl`: U_i = the largest q with N_i · KL(ŵ_i, q) ≤ log t + 3 log log t        (CascadeKL-UCB)

    N_i counts the showings at or above the first click of a slate (all, if nothing was clicked), S_i the
    first clicks, t the slates. The world's θ is not used: in a cascade who sees a slot depends on the items.

    Source: Kveton, Szepesvári, Wen and Ashkan (2015), "Cascading bandits: learning to rank in the cascade
    model", ICML, algorithm 1 and equations 5 and 6. Differences: statistics are updated once for a batch of
    users; N starts at 0 and not at a first observation of each item; in worlds with several clicks all below
    the first is dropped, as if the user had stopped there; the slate is in descending order of U.

    Attributes:
        bound: "kl" or "ucb1".

    Raises:
        BadInput: for another bound.
    """

    bound: str = "kl"

    def __post_init__(self) -> None:
        if self.bound not in BOUNDS:
            raise BadInput(f"bound is ucb1 or kl, not {self.bound}{nearest(self.bound, BOUNDS)}")

    def counted(self, click: Float[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 at and above the first click, 0 below."""
        return ((click.cumsum(1) - click) == 0).to(click.dtype)

    def index(self) -> Float[Tensor, " item"]:
        """Return the upper confidence bounds; infinite where nothing was seen."""
        state = self.ready()
        seen, log_t = state["shown"], state["rounds"].clamp(min=1).log()
        mean = state["clicks"] / seen.clamp(min=1)
        if self.bound == "ucb1":
            bound = mean + (1.5 * log_t / seen.clamp(min=1)).sqrt()
        else:
            budget = log_t + 3 * log_t.clamp(min=1).log()  # log log t is below zero before e rounds
            bound = kl_bound(mean, budget / seen.clamp(min=1))
        return torch.where(seen > 0, bound, torch.inf)

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the ranking by index; ties in random order."""
        return Ranked(self.of_candidates(self.index(), context), slots, context.mask)


def kl_bound(mean: Float[Tensor, " item"], budget: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Return the largest q in [mean, 1] with KL(Bernoulli(mean), Bernoulli(q)) ≤ budget, by 60 bisections."""
    low, high = mean.clone(), torch.ones_like(mean)
    for _ in range(60):
        q = (low + high) / 2
        # xlogy(0, 0) = 0; at q = 1 the second term is infinite, as it must be unless the mean is 1.
        gain = torch.xlogy(mean, mean / q.clamp(min=1e-300)) + torch.xlogy(1 - mean, (1 - mean) / (1 - q))
        fine = gain <= budget
        low, high = torch.where(fine, q, low), torch.where(fine, high, q)
    return low
