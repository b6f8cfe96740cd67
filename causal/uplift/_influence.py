"""Average effects from means and chances: augmented inverse weighting, targeting, and clustered errors."""

from collections.abc import Hashable

import numpy as np
import torch
from jaxtyping import Float, Int

from causal.uplift._outcomes import Outcome
from causal.uplift.contract import Array, Average

NEWTON = 50
"""Steps of Newton's method at most; a one-dimensional convex problem takes about five."""


def scores(
    y: Float[Array, " round"],
    arm: Int[Array, " round"],
    mean: Float[Array, "round arm"],
    chance: Float[Array, "round arm"],
) -> Float[Array, "round treated"]:
    """Return each row's estimate of each effect: μ_a − μ_0 + (1_a/e_a)(y − μ_a) − (1_0/e_0)(y − μ_0).

    Source: Robins, Rotnitzky and Zhao (1994), "Estimation of regression coefficients when some regressors are
    not always observed", JASA.
    """
    rows = np.arange(len(y))
    value = mean.copy()
    value[rows, arm] += (y - mean[rows, arm]) / chance[rows, arm]
    found: Float[Array, "round treated"] = value[:, 1:] - value[:, :1]
    return found


def targeted(
    y: Float[Array, " round"],
    arm: Int[Array, " round"],
    mean: Float[Array, "round arm"],
    chance: Float[Array, "round arm"],
    weight: Float[Array, " round"],
    kind: Outcome,
) -> tuple[Float[Array, "round arm"], Float[Array, " arm"]]:
    """Return the means moved along link(μ_a) + ε_a / e_a to where Σ w 1_a (y − μ_a) / e_a = 0, and ε.

    After it the mean correction of `scores` is zero, so the plain mean of μ_a − μ_0 is doubly robust.

    Source: van der Laan and Rubin (2006), "Targeted maximum likelihood learning", International Journal of
    Biostatistics.
    """
    moved, epsilon = mean.copy(), np.zeros(mean.shape[1])
    for a in range(mean.shape[1]):
        here = arm == a
        slope = 1 / chance[:, a]
        eta = kind.link(torch.from_numpy(mean[:, a])).numpy()
        epsilon[a] = _shift(y[here], eta[here], slope[here], weight[here], kind)
        moved[:, a] = kind.inverse(torch.from_numpy(eta + epsilon[a] * slope)).numpy()
    return moved, epsilon


def _shift(y: Array, eta: Array, slope: Array, weight: Array, kind: Outcome) -> float:
    """Return ε with Σ w h (y − inverse(η + ε h)) = 0, by Newton's method with halving.

    An arm without any (or with only) outcomes of 1 has its ε at infinity: steps end where means do.
    """

    def loss(epsilon: float) -> float:
        said = kind.loss(torch.from_numpy(eta + epsilon * slope), torch.from_numpy(y)).numpy()
        return float(weight @ said)

    epsilon, now = 0.0, loss(0.0)
    for _ in range(NEWTON):
        mean = kind.inverse(torch.from_numpy(eta + epsilon * slope)).numpy()
        bend = {"number": np.ones_like(mean), "binary": mean * (1 - mean), "count": mean}[kind.name]
        down = float((weight * slope) @ (y - mean))
        step = down / max(float((weight * slope**2) @ bend), 1e-12)
        step = float(np.clip(step, -1 / slope.mean(), 1 / slope.mean())) if kind.name != "number" else step
        after = loss(epsilon + step)
        while after > now + 1e-12 * abs(now) and abs(step) > 1e-12:
            step, after = step / 2, loss(epsilon + step / 2)
        epsilon, now = epsilon + step, after
        if abs(step) < 1e-13 * (1 + abs(epsilon)):
            break
    return epsilon


def average(
    score: Float[Array, "round treated"],
    weight: Float[Array, " round"] | None,
    user: Int[Array, " round"] | None,
    arms: tuple[Hashable, ...],
    how: str,
) -> Average:
    """Return the weighted mean of rows' estimates; its standard error is clustered where there are users.

    The error is √(C/(C−1) Σ_c (Σ_{i in c} w_i (s_i − v))²) / Σ w, with C clusters.
    """
    w = np.ones(len(score)) if weight is None else weight
    value = w @ score / w.sum()
    residual = w[:, None] * (score - value)
    if user is not None:
        cluster = np.unique(user, return_inverse=True)[1]
        residual = np.stack([np.bincount(cluster, r) for r in residual.T], 1)
    count = len(residual)
    error = np.sqrt((residual**2).sum(0) * count / max(count - 1, 1)) / w.sum()
    how += ", clustered by user" if user is not None else ""
    return Average(tuple(map(float, value)), tuple(map(float, error)), arms[1:], how)
