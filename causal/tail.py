"""How heavy a tail is: a generalised Pareto fit to the largest values."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

MIN_DISTINCT = 10
"""Different values above the threshold that a fit needs. A logger without context has one weight for each
item, so a tail of 300 rows may hold three values, and a density fitted to three atoms says nothing."""


def pareto_shape(x: Float[Tensor, " round"]) -> float:
    """Return the shape k of a generalised Pareto distribution fitted above a high threshold.

    The tail is the largest min(n/5, 3√n) values, as in Vehtari, Simpson, Gelman, Yao and Gabry (2024),
    "Pareto smoothed importance sampling". The fit is the quasi-Bayesian one of Zhang and Stephens (2009), "A
    new and efficient estimation method for the generalized Pareto distribution", section 2. Moments of an
    order above 1/k do not exist.

    Returns:
        k, or NaN where the tail has fewer than `MIN_DISTINCT` different values.
    """
    n = len(x)
    size = int(min(n / 5, 3 * math.sqrt(n)))
    if size < MIN_DISTINCT:
        return math.nan
    top = x.double().topk(size + 1).values
    y = (top[:-1] - top[-1]).flip(0)
    y = y[y > 0]
    if len(torch.unique(y)) < MIN_DISTINCT:
        return math.nan
    m = len(y)
    grid = 30 + int(math.sqrt(m))
    step = torch.arange(1, grid + 1, dtype=torch.float64, device=y.device)
    quarter = float(y[int(m / 4 + 0.5) - 1])
    theta = 1 / float(y[-1]) + (1 - (grid / (step - 0.5)).sqrt()) / (3 * quarter)
    shape = torch.log1p(-theta.unsqueeze(1) * y).mean(1)
    profile = m * ((-theta / shape).log() - shape - 1)
    chance = profile.softmax(0)
    best = float((chance * theta).sum())
    k = float(torch.log1p(-best * y).mean())
    # A weak prior of ten values at 1/2 steadies short tails (Vehtari et al.).
    return (m * k + 10 * 0.5) / (m + 10)
