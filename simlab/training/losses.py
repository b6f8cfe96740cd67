"""Losses: pure functions of logits, targets and weights.

Each returns (Σ w ℓ, Σ w), so that batches can be added up and the loss of a data set is the ratio. A row is
a context, its columns are the examples that share it. An example of weight zero has no influence at all.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
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
    positive = torch.where(target > 0, weight, 0).unsqueeze(2)
    negative = torch.where(target > 0, 0, weight).unsqueeze(1)
    pair = positive * negative  # [row pick pick]
    gap = logits.unsqueeze(2) - logits.unsqueeze(1)
    return (pair * functional.softplus(-gap)).sum(), pair.sum()


LOSSES: dict[str, Loss] = {"bce": bce, "bpr": bpr, "mse": mse}
"""By the name in `FitSettings.loss`."""
