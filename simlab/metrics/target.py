"""One relevant item a user (leave-one-out): its rank is enough, and needs no sort of the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.means import PerUser, per_user

CELLS = 1 << 21
"""How many (user, item) scores are worked on at once."""


@dataclass(frozen=True)
class TargetRank:
    """Where each user's target stands.

    Attributes:
        better: how many items are scored higher.
        tied: how many other items are scored the same.
        counts: whether the user has a target that may be ranked.
    """

    better: Int[Tensor, " user"]
    tied: Int[Tensor, " user"]
    counts: Bool[Tensor, " user"]

    def hit(self, k: int) -> PerUser:
        """Return P(rank ≤ k); recall is the same, precision the k-th part of it."""
        return self._mean(torch.ones(k, dtype=torch.float64, device=self.better.device))

    def mrr(self, k: int) -> PerUser:
        """Return 1 / rank where rank ≤ k, else 0; MAP is the same."""
        return self._mean(1 / self._ranks(k))

    def ndcg(self, k: int) -> PerUser:
        """Return 1 / log2(1 + rank) where rank ≤ k, else 0."""
        return self._mean(1 / (1 + self._ranks(k)).log2())

    def metrics(self, ks: Sequence[int] = (10,)) -> dict[str, PerUser]:
        """Return what `simlab.metrics.ranking.ranking` does, for the one relevant item."""
        found: dict[str, PerUser] = {}
        for k in ks:
            if k < 1:
                raise BadInput(f"a ranking metric needs at least one slot, not {k}")
            hit, mrr = self.hit(k), self.mrr(k)
            found |= {
                f"precision@{k}": per_user(hit.value / k, self.counts),
                f"recall@{k}": hit,
                f"f1@{k}": per_user(2 * hit.value / (k + 1), self.counts),
                f"hit@{k}": hit,
                f"mrr@{k}": mrr,
                f"map@{k}": mrr,
                f"ndcg@{k}": self.ndcg(k),
            }
        return found

    def _ranks(self, k: int) -> Float[Tensor, " slot"]:
        return torch.arange(1, k + 1, dtype=torch.float64, device=self.better.device)

    def _mean(self, gain: Float[Tensor, " slot"]) -> PerUser:
        """Return the mean gain of the ranks better + 1 … better + tied + 1, those beyond k having none."""
        total = torch.cat([gain.new_zeros(1), gain.cumsum(0)])
        k = len(gain)
        first, last = self.better.clamp(max=k), (self.better + self.tied + 1).clamp(max=k)
        return per_user((total[last] - total[first]) / (self.tied + 1), self.counts)


def target_rank(
    scores: Float[Tensor, "user item"],
    target: Int[Tensor, " user"],
    seen: Bool[Tensor, "user item"] | None = None,
) -> TargetRank:
    """Return how many items are better than each user's target, and how many are as good.

    Two passes over the scores in pieces of `CELLS`, no sort. Items that the user has seen are not ranked;
    a score of -inf is a score. A user without a target (-1), or who has seen it, is skipped and counted.
    With every item scored this is the full ranking of Krichene and Rendle (2020); `scores` of a few
    candidates, `target` being a column of them, is the sampled one, whose metrics are not comparable.

    Args:
        scores: higher is better.
        target: a column of `scores`, or -1.
        seen: what must not be ranked.

    Raises:
        BadInput: for a target that is no column, or a score that is NaN.
    """
    wrong = (target < -1) | (target >= scores.shape[1])
    if bool(wrong.any()):
        user = int(wrong.nonzero()[0])
        raise BadInput(
            f"target of user {user} is {int(target[user])}, which is none of the {scores.shape[1]} items"
        )
    size = max(1, CELLS // max(1, scores.shape[1]))
    parts = []
    for at in range(0, max(1, len(scores)), size):
        rows = slice(at, at + size)
        parts.append(_rank(scores[rows].detach(), target[rows], None if seen is None else seen[rows], at))
    better, tied, counts = (torch.cat(x) for x in zip(*parts, strict=True))
    return TargetRank(better, tied, counts)


def _rank(scores: Tensor, target: Tensor, seen: Tensor | None, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return better, tied and counts of some users."""
    if scores.shape[1] == 0:
        nothing = torch.zeros_like(target)
        return nothing, nothing, nothing > 0
    # One NaN makes the sum NaN; infinities of both signs do too, so only then is it looked at closely.
    if bool(scores.sum().isnan()) and bool(scores.isnan().any()):
        user, item = (int(x) for x in scores.isnan().nonzero()[0])
        raise BadInput(
            f"a ranking needs scores that are numbers, and that of user {user + first}, item {item} is not"
        )
    column = target.clamp(min=0).unsqueeze(1)
    own = scores.gather(1, column)
    counts = target >= 0
    better, tied = scores > own, scores == own
    if seen is not None:
        counts &= ~seen.gather(1, column)[:, 0]
        better, tied = better & ~seen, tied & ~seen
    return better.sum(1), (tied.sum(1) - 1).clamp(min=0), counts
