"""Ranking: how well scores put the right items first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor
from torch.nn.functional import pad

from simlab.errors import BadInput
from simlab.metrics._slots import Slots, top_slots
from simlab.metrics.classification import auc as auc
from simlab.metrics.means import PerUser, join, per_user

CELLS = 1 << 21
"""How many (user, item) scores are worked on at once."""

Relevance = Num[Tensor, "user item"] | Bool[Tensor, "user item"]
Gain = Literal["linear", "exponential"]
MapNorm = Literal["relevant", "min"]


def ranking(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int | Sequence[int],
    *,
    seen: Bool[Tensor, "user item"] | None = None,
    gain: Gain = "linear",
    map_norm: MapNorm = "relevant",
) -> dict[str, PerUser]:
    """Return precision, recall, f1, hit, mrr, map and ndcg of each user, at one k or at several.

    An item is relevant where its relevance is above 0; N is how many are, h how many of them are in the
    first k slots. Rank 1 is the top.

    - precision h / k (also where fewer than k items are left), recall h / N, f1 2 h / (k + N), which is the
      harmonic mean of the two; hit is 1 where h > 0 (van Rijsbergen 1979). Torch-RecHub's "Hit" is another
      mean of recall: all users' h over all users' N.
    - mrr: 1 / rank of the first relevant item, 0 where it is beyond k (Voorhees 1999). pytrec_eval's
      recip_rank has no k: pass the number of items.
    - map: Σ_{s ≤ k} [item at s relevant] h_s / s, over N: TREC's map_cut, also that of ranx and pytrec_eval.
      `map_norm="min"` divides by min(k, N) (RecBole), so that a perfect ranking has 1. torchmetrics
      divides by h: then a second hit can lower it, so we do not follow.
    - ndcg: Σ_{s ≤ k} g_s / log2(s + 1) over that of the best order (Järvelin and Kekäläinen 2002), with
      linear gain g (trec_eval, ranx, torchmetrics, scikit-learn) or 2^g - 1 (Burges et al. 2005;
      "ndcg_burges" of ranx).

    Equal scores come in random order, and each metric is its exact expected value over all orders (McSherry
    and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of
    tied scores"): sums over slots by the group's mean, hit and mrr by the hypergeometric chance that no
    relevant item came yet, map by the chance that two slots of a group are both relevant. Libraries break
    ties by whatever order their sort leaves, apart from NDCG in scikit-learn and torchmetrics.

    What a user has seen is no candidate: it takes no slot, and it is not relevant. A user for whom nothing
    is relevant is skipped and counted (ranx, pytrec_eval, torchmetrics with "skip"); Torch-RecHub and
    torchmetrics' default give 0.

    Args:
        scores: higher is better; no NaN. An infinite score is a score; -inf and the dtype's least number tie.
        relevance: at least 0; bool is the fastest.
        k: how many slots count. For a number the keys are plain ("ndcg"); for several, "ndcg@10" and so on.
        seen: what must not be ranked.
        gain: of NDCG.
        map_norm: what MAP is divided by.

    Raises:
        BadInput: for a k below 1, a NaN score, or a relevance that is negative or NaN.
    """
    ks = (k,) if isinstance(k, int) else tuple(k)
    _check(scores, relevance, ks, gain, map_norm)
    size = max(1, CELLS // max(1, scores.shape[1]))
    rows = (slice(at, at + size) for at in range(0, max(1, len(scores)), size))
    found = join(
        _Tables.of(scores[r], relevance[r], None if seen is None else seen[r], max(ks), gain).at(ks, map_norm)
        for r in rows
    )
    return {name.split("@")[0]: value for name, value in found.items()} if isinstance(k, int) else found


def precision(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
) -> PerUser:
    """Return the share of the first k slots that hold a relevant item, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen)["precision"]


def recall(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
) -> PerUser:
    """Return the share of the relevant items that are in the first k slots, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen)["recall"]


def f1(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
) -> PerUser:
    """Return the harmonic mean of each user's precision@k and recall@k, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen)["f1"]


def hit(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
) -> PerUser:
    """Return the chance that a relevant item is in the first k slots, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen)["hit"]


def mrr(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
) -> PerUser:
    """Return 1 / rank of the first relevant item if it is in the first k slots, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen)["mrr"]


def map(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
    map_norm: MapNorm = "relevant",
) -> PerUser:
    """Return average precision at k, over N or ("min") over min(k, N), as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen, map_norm=map_norm)["map"]


def ndcg(
    scores: Float[Tensor, "user item"],
    relevance: Relevance,
    k: int,
    *,
    seen: Bool[Tensor, "user item"] | None = None,
    gain: Gain = "linear",
) -> PerUser:
    """Return NDCG@k, as `ranking` defines it."""
    return ranking(scores, relevance, k, seen=seen, gain=gain)["ndcg"]


@dataclass(frozen=True)
class _Tables:
    """Sums over the first 0 … K slots, from which the metrics at any k are read off.

    Attributes:
        n: relevant items of each user.
        hits: expected relevant items.
        hit: chance of at least one.
        mrr: expected reciprocal rank of the first.
        precisions: expected sum of the precisions at relevant items.
        dcg: expected DCG.
        ideal: DCG of the best order.
    """

    n: Float[Tensor, " user"]
    hits: Float[Tensor, "user first"]
    hit: Float[Tensor, "user first"]
    mrr: Float[Tensor, "user first"]
    precisions: Float[Tensor, "user first"]
    dcg: Float[Tensor, "user first"]
    ideal: Float[Tensor, "user first"]

    @staticmethod
    def of(scores: Tensor, relevance: Tensor, seen: Tensor | None, k: int, gain: Gain) -> "_Tables":
        """Rank these users."""
        relevant = relevance > 0
        if seen is not None:
            # a score of -inf stands before what is masked: a relevant item with it is missed, not forgotten
            scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(seen, -torch.inf)
            relevant &= ~seen
        n = relevant.sum(1).double()
        k = min(k, scores.shape[1])
        rank = torch.arange(1, k + 1, dtype=torch.float64, device=scores.device)
        discount = (rank + 1).log2().reciprocal()
        if relevance.dtype == torch.bool:
            slots = top_slots(scores, relevant, relevant, k)
            ideal = (rank <= n.unsqueeze(1)) * discount
        else:
            worth = relevance if relevance.is_floating_point() else relevance.double()
            if gain == "exponential":
                worth = worth.double().exp2() - 1
            worth = worth * relevant
            slots = top_slots(scores, relevant, worth, k)
            ideal = worth.topk(k, dim=1).values * discount
        miss = _no_hit(slots)
        return _Tables(
            n=n,
            hits=_sums(slots.relevant / slots.size),
            hit=1 - miss,
            mrr=_sums((miss[:, :-1] - miss[:, 1:]) / rank),
            precisions=_sums(_precision_at_hit(slots) / rank),
            dcg=_sums(slots.gain * discount),
            ideal=_sums(ideal),
        )

    def at(self, ks: Sequence[int], map_norm: MapNorm) -> dict[str, PerUser]:
        """Return every metric at every k."""
        found: dict[str, PerUser] = {}
        for k in ks:
            last = min(k, self.hits.shape[1] - 1)
            hits = self.hits[:, last]
            over = self.n if map_norm == "relevant" else self.n.clamp(max=k)
            values = {
                "precision": hits / k,
                "recall": hits / self.n,
                "f1": 2 * hits / (k + self.n),
                "hit": self.hit[:, last],
                "mrr": self.mrr[:, last],
                "map": self.precisions[:, last] / over,
                "ndcg": self.dcg[:, last] / self.ideal[:, last],
            }
            found |= {f"{name}@{k}": per_user(value, self.n > 0) for name, value in values.items()}
        return found


def _sums(x: Float[Tensor, "user slot"]) -> Float[Tensor, "user first"]:
    """Return the sums over the first 0, 1, … K slots."""
    return pad(x.cumsum(1), (1, 0))


def _no_hit(slots: Slots) -> Float[Tensor, "user first"]:
    """Return the chance that none of the first 0, 1, … K slots is relevant.

    A slot after i others of its group, none of which was relevant, is not relevant with chance
    (m - r - i) / (m - i); the product over a group's slots is hypergeometric.
    """
    i = slots.place
    stays = (slots.size - slots.relevant - i).clamp(min=0) / (slots.size - i)
    return pad(stays.cumprod(1), (1, 0), value=1.0)


def _precision_at_hit(slots: Slots) -> Float[Tensor, "user slot"]:
    """Return E[item at s relevant · h_s], h_s being the relevant items up to and with slot s.

    The slot is relevant with chance p = r / m, and then so is each of the i before it in its group with
    chance (r - 1) / (m - 1): p (relevant above the group + 1 + i (r - 1) / (m - 1)).
    """
    r, m, i = slots.relevant, slots.size, slots.place
    return r / m * (slots.above + 1 + i * (r - 1) / (m - 1).clamp(min=1))


def _check(scores: Tensor, relevance: Tensor, ks: Sequence[int], gain: str, map_norm: str) -> None:
    """Refuse what has no meaning."""
    if not ks or min(ks) < 1:
        raise BadInput(f"a ranking metric needs at least one slot, not {min(ks, default='no k')}")
    if scores.shape[1] == 0:
        raise BadInput("a ranking needs at least one item")
    if gain not in ("linear", "exponential"):
        raise BadInput(f"gain is linear or exponential, not {gain!r}")
    if map_norm not in ("relevant", "min"):
        raise BadInput(f"map_norm is relevant or min, not {map_norm!r}")
    bad = scores.isnan()
    if bool(bad.any()):
        user, item = (int(x) for x in bad.nonzero()[0])
        raise BadInput(
            f"a ranking needs scores that are numbers, and that of user {user}, item {item} is not"
        )
    if relevance.dtype == torch.bool:
        return
    bad = ~((relevance >= 0) & (relevance < torch.inf))
    if bool(bad.any()):
        user, item = (int(x) for x in bad.nonzero()[0])
        raise BadInput(
            f"relevance is at least 0, and that of user {user}, item {item} is {relevance[user, item].item()}"
        )
