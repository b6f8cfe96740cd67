"""Distances between two weighted samples, to train through (integral probability metrics).

Each is 0 for two equal samples and has a gradient. Samples are [row dim] with weights of any positive sum.

Source: Shalit, Johansson and Sontag (2017), "Estimating individual treatment effect", ICML, appendix; Gretton
et al. (2012), "A kernel two-sample test", JMLR; Cuturi (2013), "Sinkhorn distances", NeurIPS; Feydy et al.
(2019), "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS.
"""

import torch
from jaxtyping import Float
from torch import Tensor


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
    u, v = u / u.sum(), v / v.sum()
    return _transport(a, b, u, v, blur, steps) - 0.5 * (
        _transport(a, a, u, u, blur, steps) + _transport(b, b, v, v, blur, steps)
    )


def _transport(a: Tensor, b: Tensor, u: Tensor, v: Tensor, blur: float, steps: int) -> Tensor:
    """Return the entropic cost of transport; its gradient is the plan's (envelope theorem)."""
    cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    with torch.no_grad():
        c, log_u, log_v = cost.detach(), u.log().unsqueeze(1), v.log()
        f, g = torch.zeros_like(u), torch.zeros_like(v)
        for eps in _annealed(c, blur, steps):
            f = -eps * torch.logsumexp(log_v + (g - c) / eps, 1)
            g = -eps * torch.logsumexp(log_u + (f.unsqueeze(1) - c) / eps, 0)
        plan = (log_u + log_v + (f.unsqueeze(1) + g - c) / blur).exp()
        # The dual, where g fits f exactly and the plan sums to 1; less what the gradient goes through.
        dual = f @ u + g @ v - (plan * c).sum()
    return dual + (plan * cost).sum()


def _annealed(cost: Tensor, blur: float, steps: int) -> list[float]:
    """Return ε of each round: from the largest cost down to the blur in the first half of them."""
    top = max(float(cost.max()), blur)
    return [max(blur, top * (blur / top) ** (2 * step / steps)) for step in range(steps)]


DISTANCES = {"linear": mmd_linear, "rbf": mmd_rbf, "wasserstein": sinkhorn}
"""By name."""
