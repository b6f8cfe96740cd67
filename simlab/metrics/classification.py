"""Clicks told from non-clicks: AUC, AUC within users, log-loss."""

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from simlab.errors import BadInput
from simlab.metrics.means import PerUser, linear
from simlab.statistics import Summary


def auc(scores: Float[Tensor, " example"], positive: Bool[Tensor, " example"]) -> float:
    """Return P(score of a positive > score of a negative) + ½ P(equal): the area under the ROC curve.

    Source: Mann and Whitney (1947); Hanley and McNeil (1982). Equal scores count half, which is the mean over
    their orders.

    Raises:
        BadInput: if one of the two classes is empty, or a score is NaN.
    """
    return float(_placements(scores, positive)[positive].mean())


def auc_summary(
    scores: Float[Tensor, " example"],
    positive: Bool[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return the AUC with the standard error of DeLong, DeLong and Clarke-Pearson (1988).

    With v_i the share of the other class that example i is on the right side of (½ for equal scores),
    se² = var(v over the m positives) / m + var(v over the n negatives) / n, variances with m - 1 and n - 1;
    O(N log N) by ranks (Sun and Xu 2014). With groups (users), whose examples depend on each other, the same
    terms are summed by group first (Obuchowski 1997). The interval is Student's, N - 1 degrees of freedom.
    It is 0 wide where the classes are apart (an AUC of 0 or 1).

    Raises:
        BadInput: for fewer than two examples of a class, or a score that is NaN.
    """
    v = _placements(scores, positive)
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise BadInput(f"a standard error of AUC needs two examples of each class, not {min(m, n)}")
    value = float(v[positive].mean())
    total = m + n
    # The factors turn the one variance over all examples, with N - 1, into DeLong's two.
    scale = [total / size * (size / (size - 1) * (total - 1) / total) ** 0.5 for size in (n, m)]
    if groups is not None:
        scale = [total / n, total / m]
    factor = torch.tensor(scale, dtype=torch.float64, device=v.device)[positive.long()]
    return linear(value, factor * (v - value), level, groups)


def gauc(
    scores: Float[Tensor, " example"], positive: Bool[Tensor, " example"], user: Int[Tensor, " example"]
) -> PerUser:
    """Return each user's AUC, weighted in the mean by the user's impressions: GAUC.

    Σ_u n_u AUC_u / Σ_u n_u over users with both classes (Zhu et al. 2017, "Optimized cost per click in
    Taobao display advertising", eq. 13; Zhou et al. 2018, DIN). Users with one class have no AUC: they are
    skipped, with their impressions, and counted. Users are in the order of their ids.

    Raises:
        BadInput: for no examples, or a score that is NaN.
    """
    scores = scores.detach()
    _numbers(scores)
    if len(scores) == 0:
        raise BadInput("AUC within users needs examples")
    ids, who = torch.unique(user, return_inverse=True)
    order = scores.argsort(stable=True)
    order = order[who[order].argsort(stable=True)]
    who, score, hit = who[order], scores[order], positive[order].double()
    fresh = torch.ones_like(who, dtype=torch.bool)
    fresh[1:] = (who[1:] != who[:-1]) | (score[1:] != score[:-1])
    group = fresh.cumsum(0) - 1
    tied = torch.bincount(group)
    middle = (tied.cumsum(0).double() - (tied.double() - 1) / 2)[group]
    shown = torch.bincount(who, minlength=len(ids)).double()
    rank = middle - (shown.cumsum(0) - shown)[who]

    def by_user(x: Tensor) -> Tensor:
        return torch.zeros_like(shown).scatter_add_(0, who, x)

    m = by_user(hit)
    counts = (m > 0) & (m < shown)
    area = (by_user(rank * hit) - m * (m + 1) / 2) / (m * (shown - m))
    return PerUser(area.masked_fill(~counts, torch.nan), counts, shown)


def log_loss(
    logits: Float[Tensor, " example"],
    positive: Bool[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return the mean of log(1 + e^z) - y z, in nats: the cross-entropy of the probability σ(z).

    From logits nothing has to be clipped: a sure mistake costs |z|, however large.

    Raises:
        BadInput: for a logit that is not finite, or fewer than two examples or groups.
    """
    z = logits.detach().double()
    if not bool(z.isfinite().all()):
        row = int((~z.isfinite()).nonzero()[0])
        raise BadInput(f"example {row} has logit {float(z[row])}, which is not finite")
    return _mean(softplus(z) - positive * z, level, groups)


def log_loss_of(
    probability: Float[Tensor, " example"],
    positive: Bool[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return the mean of -log of the probability given to what happened, in nats.

    Probabilities are clipped to [ε, 1 - ε], ε being the smallest step of their type at 1 (scikit-learn does
    the same), so a sure mistake costs 36 in float64 and 16 in float32. Logits need no such choice.

    Raises:
        BadInput: for a probability outside [0, 1], or fewer than two examples or groups.
    """
    p = probability.detach()
    unit(p)
    tiny = torch.finfo(p.dtype).eps
    p = p.clamp(tiny, 1 - tiny).double()
    return _mean(-torch.where(positive, p.log(), (-p).log1p()), level, groups)


def unit(probability: Float[Tensor, " example"]) -> None:
    """Refuse what is no probability.

    Raises:
        BadInput: naming the first.
    """
    wrong = ~((probability >= 0) & (probability <= 1))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"example {row} has probability {float(probability[row])}, which is not in [0, 1]")


def _mean(each: Float[Tensor, " example"], level: float, groups: ArrayLike | None) -> Summary:
    """Return the mean loss."""
    if len(each) == 0:
        raise BadInput("a loss needs at least one example")
    mean = each.mean()
    return linear(float(mean), each - mean, level, groups)


def _placements(
    scores: Float[Tensor, " example"], positive: Bool[Tensor, " example"]
) -> Float[Tensor, " example"]:
    """Return the share of the other class that each example is on the right side of, equal scores half."""
    scores = scores.detach()
    _numbers(scores)
    above, below = scores[positive].sort().values, scores[~positive].sort().values
    if len(above) == 0 or len(below) == 0:
        raise BadInput("AUC needs examples of both classes")

    def beaten(x: Tensor, others: Tensor) -> Tensor:
        """Twice the number of others below x, equal ones counting once."""
        x = x.contiguous()
        return (torch.searchsorted(others, x) + torch.searchsorted(others, x, right=True)).double()

    found = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    found[positive] = beaten(scores[positive], below) / (2 * len(below))
    found[~positive] = 1 - beaten(scores[~positive], above) / (2 * len(above))
    return found


def _numbers(scores: Float[Tensor, " example"]) -> None:
    """Refuse NaN."""
    if bool(scores.isnan().any()):
        row = int(scores.isnan().nonzero()[0])
        raise BadInput(f"AUC needs scores that are numbers, and that of example {row} is not")
