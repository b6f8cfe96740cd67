"""A finite mixture of rankings: one for each of M draws from a posterior."""

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Generator, uniforms
from simlab.slates import SlateDistribution
from simlab.slates.contract import check_slots, masked

APART = 1e-9
"""Equal scores are set apart by this share of a row's largest score: ties go to the lower column."""


class Ensemble(SlateDistribution):
    """Pick one of M draws for each user, evenly, and rank by it: P(slate) = share of draws that rank so.

    This is Thompson sampling with M posterior draws in place of a fresh one (ensemble sampling, Lu and Van
    Roy 2017, NeurIPS). The draws are fixed, so every probability is exact, a multiple of 1/M; with fresh
    draws it would be an integral over the posterior that has no closed form. As M grows it becomes that
    integral. A slate that no draw ranks so has probability zero.

    The score of column c for row u under draw m is ⟨x_u, w_{m, candidates[u, c]}⟩. A sample costs one
    ranking a user; probabilities rank all users by all draws once, and keep [draw, user, slot].

    Args:
        users: x, float64.
        weights: w, float64.
        candidates: item ids.
        mask: True where a candidate may be shown.
        slots: K.

    Raises:
        BadInput: if a row has fewer candidates than slots.
    """

    def __init__(
        self,
        users: Float[Tensor, "user dim"],
        weights: Float[Tensor, "draw item dim"],
        candidates: Int[Tensor, "user cand"],
        mask: Bool[Tensor, "user cand"],
        slots: int,
    ) -> None:
        check_slots(mask, slots)
        self.users, self.weights = users, weights
        self.candidates, self.mask = candidates, mask
        self.slots = slots

    @property
    def draws(self) -> int:
        """M."""
        return self.weights.shape[0]

    def ranked(self, draw: int, rows: Int[Tensor, " row"] | slice) -> Int[Tensor, "row slot"]:
        """Return the slates that one draw gives to some users."""
        scores = (self.users[rows] @ self.weights[draw].T).gather(1, self.candidates[rows])
        # Twins among the items must not change places with the rounding of a matrix product.
        order = torch.linspace(0, APART, scores.shape[1], dtype=scores.dtype, device=scores.device)
        scores -= scores.abs().amax(1, keepdim=True) * order
        return masked(scores, self.mask[rows]).topk(self.slots, dim=1).indices

    @cached_property
    def slates(self) -> Int[Tensor, "draw user slot"]:
        """The slates of all users by all draws."""
        return torch.stack([self.ranked(m, slice(None)) for m in range(self.draws)])

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Pick a draw for each user, and rank the users of each draw together."""
        device, rows = self.users.device, len(self.users)
        luck = uniforms(generator, "ensemble", rows, 1, device).squeeze(1)
        which = (luck * self.draws).long()
        order = which.argsort()
        groups = torch.split(order, torch.bincount(which, minlength=self.draws).tolist())
        out = torch.empty(rows, self.slots, dtype=torch.long, device=device)
        for m, group in enumerate(groups):
            if len(group):
                out[group] = self.ranked(m, group)
        return out

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the slate that most draws give; ties to the lower columns, the top slot first."""
        votes = torch.stack([(self.slates == s).all(2).sum(0) for s in self.slates])  # [draw user]
        leading = votes == votes.amax(0)
        for k in range(self.slots):
            column = self.slates[:, :, k].masked_fill(~leading, torch.iinfo(torch.long).max)
            leading = leading & (column == column.amin(0))
        best = leading.to(torch.uint8).argmax(0)
        return self.slates[best, torch.arange(len(self.users), device=best.device)]

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return the log of the share of draws that give this slate; -inf for none."""
        return (self.slates == columns).all(2).double().mean(0).log()

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return the share of draws that show each candidate at each slot."""
        rows, cands = self.candidates.shape
        out = torch.zeros(rows, self.slots, cands, dtype=torch.float64, device=self.users.device)
        share = torch.full((rows, self.slots, self.draws), 1 / self.draws, dtype=out.dtype, device=out.device)
        return out.scatter_add_(2, self.slates.permute(1, 2, 0), share)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the share of draws that show this candidate at this slot."""
        return (self.slates == columns).double().mean(0)
