"""Ranking: how well scores put the right items first."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from simlab.errors import BadInput


def ndcg(
    scores: Float[Tensor, "user item"], relevance: Float[Tensor, "user item"], k: int
) -> Float[Tensor, " user"]:
    """Return NDCG@k of each user, with equal scores in random order: the exact mean over their orders.

    DCG@k = Σ_{slot<k} g_slot / log2(slot + 2), with linear gain g (Järvelin and Kekäläinen 2002), divided by
    the DCG of the best order. A tied group takes the mean gain of its items at each of its slots (McSherry
    and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of
    tied scores", section 2.6). A user for whom nothing is relevant gets 0.

    Args:
        scores: higher is better; no NaN.
        relevance: gains of at least 0.
        k: how many slots count.

    Raises:
        BadInput: for a k below 1, a NaN score or a negative relevance.
    """
    if k < 1:
        raise BadInput(f"NDCG needs at least one slot, not {k}")
    if bool(scores.isnan().any()) or not bool((relevance >= 0).all()):
        raise BadInput("NDCG needs scores that are numbers and relevance of at least 0")
    k = min(k, scores.shape[1])
    ordered, order = scores.sort(dim=1, descending=True)
    gain = relevance.double().gather(1, order)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = fresh.long().cumsum(1) - 1
    size = torch.zeros_like(gain).scatter_add_(1, group, torch.ones_like(gain))
    total = torch.zeros_like(gain).scatter_add_(1, group, gain)
    mean = (total / size.clamp(min=1)).gather(1, group[:, :k])
    discount = torch.arange(2, k + 2, dtype=torch.float64, device=scores.device).log2().reciprocal()
    dcg = (mean * discount).sum(1)
    best = (relevance.double().topk(k, dim=1).values * discount).sum(1)
    return torch.where(best > 0, dcg / best.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def auc(scores: Float[Tensor, " example"], positive: Bool[Tensor, " example"]) -> float:
    """Return P(score of a positive > score of a negative) + ½ P(equal): the area under the ROC curve.

    Source: Mann and Whitney (1947); Hanley and McNeil (1982).

    Raises:
        BadInput: if one of the two classes is empty.
    """
    above = scores[positive]
    below = scores[~positive].sort().values
    if len(above) == 0 or len(below) == 0:
        raise BadInput("AUC needs examples of both classes")
    worse = torch.searchsorted(below, above.contiguous())
    not_better = torch.searchsorted(below, above.contiguous(), right=True)
    return float((worse + not_better).double().sum()) / (2 * len(above) * len(below))
