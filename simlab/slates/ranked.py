"""Ranked: best score first, and equal scores in uniformly random order."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Generator, uniforms
from simlab.slates.contract import SlateDistribution, check_slots, repeated, top


class Ranked(SlateDistribution):
    """The limit of Plackett–Luce at temperature zero, built exactly.

    Let v_1 ≥ v_2 ≥ … be the sorted scores. A slate is possible if its scores are v_1 … v_K, and then

        P(slate) = Π_k 1 / (n(v_k) - #{m < k : v_m = v_k}),    n(v) = number of candidates with score v.

    So distinct scores give one slate with probability one, and tied scores share it evenly: a policy that
    ranks new items, all alike, does not always show the first columns. A small temperature in float would
    split near-ties too and round the probabilities of ties; this does neither.

    Args:
        scores: no NaN; -inf counts as the lowest finite score.
        slots: K.
        mask: True where a candidate may be shown; all by default.

    Raises:
        BadInput: if a row has fewer candidates than slots.
    """

    def __init__(
        self, scores: Float[Tensor, "user cand"], slots: int, mask: Bool[Tensor, "user cand"] | None = None
    ) -> None:
        if mask is None:
            mask = torch.ones(1, 1, dtype=torch.bool, device=scores.device).expand(scores.shape)
        check_slots(mask, slots)
        lowest = torch.finfo(scores.dtype).min
        # What may be shown stays above what may not.
        self.scores = scores.clamp(min=lowest).masked_fill(~mask, -torch.inf)
        self.slots = slots
        self.best = self.scores.topk(slots, dim=1).values  # v_1 … v_K

    def ties(self) -> Int[Tensor, "user slot"]:
        """Return n(v_k): how many candidates have the score that slot k must have."""
        inside = (self.best.unsqueeze(2) == self.best.unsqueeze(1)).sum(2)
        # Only the last value can have candidates that are not on the slate.
        last = (self.scores == self.best[:, -1:]).sum(1, keepdim=True)
        return torch.where(self.best == self.best[:, -1:], last, inside)

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Keep what is above v_K, fill up from the ties at v_K at random, and sort with random ties."""
        rows, cands = self.scores.shape
        noise = uniforms(generator, "plackett-luce", rows, cands, self.scores.device)
        edge = self.best[:, -1:]
        key = torch.where(self.scores == edge, noise, torch.where(self.scores > edge, 2.0, -1.0))
        columns = key.topk(self.slots, dim=1).indices
        columns = columns.gather(1, noise.gather(1, columns).argsort(dim=1, descending=True))
        order = self.scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
        return columns.gather(1, order)

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the items by descending score, ties to the lower column."""
        return top(self.scores, self.slots)

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return -Σ_k log of the choices that slot k had left, or -inf for a slate out of order."""
        slot = torch.arange(self.slots, device=columns.device)
        above = slot.unsqueeze(0) < slot.unsqueeze(1)  # [slot slot]: the second is above the first
        gone = ((self.best.unsqueeze(2) == self.best.unsqueeze(1)) & above).sum(2)
        value = -(self.ties() - gone).double().log().sum(1)
        possible = (self.scores.gather(1, columns) == self.best).all(1) & ~repeated(columns)
        return value.masked_fill(~possible, -torch.inf)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return 1 / n(v_k) for the candidates with score v_k."""
        here = self.scores.unsqueeze(1) == self.best.unsqueeze(2)
        return here.double() / self.ties().unsqueeze(2)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return 1 / n(v_k) where the slot's item has score v_k."""
        return (self.scores.gather(1, columns) == self.best).double() / self.ties()
