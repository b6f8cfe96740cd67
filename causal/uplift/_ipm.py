"""Distances between two weighted samples, to train through (integral probability metrics).

Each is 0 for two equal samples and has a gradient. Samples are [row dim] with weights of any positive sum.

Source: Shalit, Johansson and Sontag (2017), "Estimating individual treatment effect", ICML, appendix; Gretton
et al. (2012), "A kernel two-sample test", JMLR; Cuturi (2013), "Sinkhorn distances", NeurIPS; Feydy et al.
(2019), "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS.
"""

import torch
from jaxtyping import Float
from torch import Tensor

NOTHING = -60.0
"""A logarithm that counts as 0; below -87 a float32's exponential is denormal, a hundred times as slow."""


def mmd_linear(
    a: Float[Tensor, "row dim"],
    b: Float[Tensor, "other dim"],
    u: Float[Tensor, " row"],
    v: Float[Tensor, " other"],
) -> Float[Tensor, ""]:
    """Return ‖mean of a − mean of b‖²."""
    return ((u / u.sum()) @ a - (v / v.sum()) @ b).square().sum()


def mmd_rbf(
    a: Float[Tensor, "row dim"],
    b: Float[Tensor, "other dim"],
    u: Float[Tensor, " row"],
    v: Float[Tensor, " other"],
    bandwidth: float = 1.0,
) -> Float[Tensor, ""]:
    """Return E k(a, a') + E k(b, b') − 2 E k(a, b) with k = exp(−‖x − y‖² / 2 bandwidth²).

    Pairs of a row with itself count. The paper's code leaves them out, which is unbiased but below 0 for
    equal samples.
    """
    points, mass = torch.cat([a, b]), torch.cat([u / u.sum(), -v / v.sum()])
    square = points.square().sum(1)
    apart = (square[:, None] + square - 2 * points @ points.T).clamp(min=0)
    return mass @ (apart / (-2 * bandwidth**2)).exp() @ mass


def sinkhorn(
    a: Float[Tensor, "row dim"],
    b: Float[Tensor, "other dim"],
    u: Float[Tensor, " row"],
    v: Float[Tensor, " other"],
    blur: float = 0.05,
    steps: int = 10,
) -> Float[Tensor, ""]:
    """Return the Sinkhorn divergence OT(a, b) − ½ OT(a, a) − ½ OT(b, b) with the distance ‖x − y‖ as cost.

    It tends to the Wasserstein-1 distance as the blur tends to 0. The paper's code returns the cost of the
    blurred plan, which is not 0 for equal samples; taking off the two halves makes it so.

    Args:
        a: one sample.
        b: the other.
        u: weights of a.
        v: weights of b.
        blur: ε, the entropic regularisation, in units of the distance.
        steps: rounds of scaling at most; ε is annealed to its value in the first half of them.
    """
    n = max(len(a), len(b))
    (a, u), (b, v) = (_padded(points, mass / mass.sum(), n) for points, mass in ((a, u), (b, v)))
    both, own, other = _transport(
        torch.stack([a, a, b]),
        torch.stack([b, a, b]),
        torch.stack([u, u, v]),
        torch.stack([v, u, v]),
        blur,
        steps,
    )
    debiased: Tensor = both - 0.5 * (own + other)
    return debiased


def _log_sum(x: Tensor, axis: int) -> Tensor:
    """Return log Σ exp(x), without the exponents that a sum of thousands cannot feel."""
    top = x.amax(axis, keepdim=True)
    return top + x.sub_(top).clamp_(min=NOTHING).exp_().sum(axis, keepdim=True).log_()


def _padded(points: Tensor, mass: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return as many rows as asked for: the first again, which weighs nothing."""
    short = rows - len(points)
    if not short:
        return points, mass
    return torch.cat([points, points[:1].expand(short, -1)]), torch.cat([mass, mass.new_zeros(short)])


def _transport(a: Tensor, b: Tensor, u: Tensor, v: Tensor, blur: float, steps: int) -> Tensor:
    """Return the entropic costs of transports, side by side; the gradient is the plan's (envelope theorem).

    Points are [pair row dim] and weights [pair row]: many small operations cost their start, not their work.
    """
    with torch.no_grad():
        cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        log_u, log_v = u.log().unsqueeze(2), v.log().unsqueeze(1)
        f, g = torch.zeros_like(log_u), torch.zeros_like(log_v)
        top = cost.amax((1, 2), keepdim=True).clamp(min=blur)
        for step in range(steps):  # ε goes from the largest cost down to the blur in the first half
            eps = (top * (blur / top) ** (2 * step / steps)).clamp(min=blur)
            kernel = cost / -eps
            f = -eps * _log_sum(kernel + (log_v + g / eps), 2)
            g = -eps * _log_sum(kernel + (log_u + f / eps), 1)
        plan = (kernel + (log_u + f / eps) + (log_v + g / eps)).clamp_(min=NOTHING).exp_()
        # The dual, where g fits f exactly and the plan sums to 1.
        dual = (f.squeeze(2) * u).sum(1) + (g.squeeze(1) * v).sum(1)
        pull = torch.where(cost > 0, plan / cost, 0)  # the gradient of ‖x − y‖ is (x − y) / ‖x − y‖
        to_a = pull.sum(2, keepdim=True) * a - pull @ b
        to_b = pull.sum(1).unsqueeze(2) * b - pull.mT @ a
    moved = (a - a.detach()) * to_a + (b - b.detach()) * to_b  # zeros, with that gradient
    return dual + moved.sum((1, 2))


DISTANCES = {"linear": mmd_linear, "rbf": mmd_rbf, "wasserstein": sinkhorn}
"""By name."""
