"""Losses: pure functions of logits, targets and weights.

Each returns (Σ w ℓ, Σ w), so that batches can be added up and the loss of a data set is the ratio. A row is
a context, its columns are the examples that share it. An example of weight zero has no influence at all.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits, target, weight), each [row pick], to (Σ w ℓ, Σ w)."""


def bce(
    logits: Float[Tensor, "row pick"], target: Float[Tensor, "row pick"], weight: Float[Tensor, "row pick"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return Σ w [log(1 + e^z) - y z]: the cross-entropy of a probability σ(z).

    It is linear in y, so an unbiased target gives an unbiased loss: with y = click / examination, which may
    be above 1, it is the unbiased loss of Saito et al. (2020), "Unbiased recommender learning from
    missing-not-at-random implicit feedback", WSDM, written in logits.
    """
    return (weight * (functional.softplus(logits) - target * logits)).sum(), weight.sum()


def mse(
    logits: Float[Tensor, "row pick"], target: Float[Tensor, "row pick"], weight: Float[Tensor, "row pick"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return Σ w (z - y)²: the ranker's output is read as a value, not as a logit."""
    return (weight * (logits - target).square()).sum(), weight.sum()


def bpr(
    logits: Float[Tensor, "row pick"], target: Float[Tensor, "row pick"], weight: Float[Tensor, "row pick"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return Σ over pairs of one row, i with y_i > 0 and j with y_j ≤ 0, of -w_i w_j log σ(z_i - z_j).

    Source: Rendle et al. (2009), "BPR: Bayesian personalized ranking from implicit feedback", UAI, section
    4.1; weighted by the positive as in Saito (2020), "Unbiased pairwise learning from biased implicit
    feedback", ICTIR, without its correction of the negative.
    """
    if logits.shape[1] == 2:  # a click and one drawn item: one pair, whichever stands first
        sign = (target[:, 0] > 0).to(logits.dtype) - (target[:, 1] > 0).to(logits.dtype)
        pair = sign.abs() * weight[:, 0] * weight[:, 1]
        gap = sign * (logits[:, 0] - logits[:, 1])
        return (pair * functional.softplus(-gap)).sum(), pair.sum()
    positive = torch.where(target > 0, weight, 0).unsqueeze(2)
    negative = torch.where(target > 0, 0, weight).unsqueeze(1)
    pair = positive * negative  # [row pick pick]
    gap = logits.unsqueeze(2) - logits.unsqueeze(1)
    return (pair * functional.softplus(-gap)).sum(), pair.sum()


def softmax(
    logits: Float[Tensor, "row pick"], target: Float[Tensor, "row pick"], weight: Float[Tensor, "row pick"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return -Σ w y log softmax z, the softmax over the columns of each row, and Σ w y.

    What the columns are decides its name: the whole catalogue, the full softmax; a positive beside drawn
    negatives, the sampled softmax; a slate, the top-one listwise loss (Cao et al. 2007, "Learning to rank:
    from pairwise approach to listwise approach", ICML, definition 4 with targets instead of their softmax).
    A column is left out of the sum by a weight of 0 or a logit of -inf. For drawn columns the caller
    subtracts log(n q) from their logits, n columns drawn with probability q each (Bengio and Senécal 2008,
    "Adaptive importance sampling to accelerate training of a neural probabilistic language model", eq. 8).
    """
    worth = weight * target
    some = (weight != 0).any(1, keepdim=True)  # a row that is left out whole: any finite logits will do
    total = logits.masked_fill((weight == 0) & some, -torch.inf).logsumexp(1, keepdim=True)
    inside = logits.where(worth != 0, 0)  # what is left out has no target, and -inf · 0 is no number
    above = worth * (total - inside)
    return above.sum(), worth.sum()


def softmax_at(
    logits: Float[Tensor, "row item"], column: Int[Tensor, " row"], weight: Float[Tensor, " row"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the softmax loss where each row has one positive, without laying out its targets."""
    each = functional.cross_entropy(logits, column, reduction="none")
    return (weight * each).sum(), weight.sum()


def gbce(
    logits: Float[Tensor, "row pick"],
    target: Float[Tensor, "row pick"],
    weight: Float[Tensor, "row pick"],
    rate: float = 0.0,
    calibration: float = 0.75,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the binary cross-entropy whose positive probability is σ(z)^β: less sure of what was not drawn.

    ℓ = -β log σ(z) for a positive and -log(1 - σ(z)) for a negative, with β = α (t (1 - 1/α) + 1/α); α is the
    sampling rate of the negatives, t the calibration: 0 is plain BCE, 1 is fully calibrated.

    Source: Petrov and Macdonald (2023), "gSASRec: reducing overconfidence in sequential recommendation
    trained with negative sampling", RecSys, equations 8 and 21. Their sum over a row's negatives is ours too.

    Args:
        logits: of each example.
        target: above 0 for a positive.
        weight: of each example.
        rate: α, negatives drawn over items that could have been; 0 is read as 1 (plain BCE).
        calibration: t.
    """
    alpha = rate or 1.0
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    positive = target > 0
    each = torch.where(positive, beta * functional.softplus(-logits), functional.softplus(logits))
    return (weight * each).sum(), weight.sum()


def infonce(
    logits: Float[Tensor, "row pick"], target: Float[Tensor, "row pick"], weight: Float[Tensor, "row pick"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the softmax loss whose scores are left as they are: no correction by log q.

    Its optimum is a density ratio, log p(i | u) / q(i), and not the preference itself: with negatives drawn
    by popularity it takes the popularity out of the scores.

    Source: van den Oord, Li and Vinyals (2018), "Representation learning with contrastive predictive
    coding", equations 4 and 5.
    """
    return softmax(logits, target, weight)


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "bpr": bpr,
    "gbce": gbce,
    "infonce": infonce,
    "listwise": softmax,
    "mse": mse,
    "softmax": softmax,
}
"""By the name in `FitSettings.loss`."""
