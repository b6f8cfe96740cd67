"""Empirical likelihood: the values that the rows, weighed a little differently, would have given.

Give row i the weight p_i ≥ 0 with Σ p_i = 1. The likelihood ratio of such weights to equal ones is
Π N p_i. The interval is {V(p) : -2 Σ log(N p_i) ≤ c}: its ends are the largest and the smallest value on a
ball around equal weights. Nothing is assumed of the shape, so the interval leans into the long tail, stays
within what rows can give (a mean of clicks never below 0), and is the same after any change of unit.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Scores

_ROUNDS = 50
"""Linearisations of one end. A ratio takes three to five; a sum of ratios a few more."""
_STEPS = 200
"""Newton steps of one linear problem; five or six are taken."""
_NARROW = 600.0
"""The largest exponent w: exp(-600) of weight is left for all rows but the largest."""


def likelihood_ends(scores: Scores, reach: float) -> tuple[float, float]:
    """Return the smallest and largest value with -2 log(likelihood ratio) ≤ reach.

    The value Σ mean(numerator) / mean(denominator) is linearised at the present weights, the linear problem
    is solved exactly (`furthest`), and again from there: V(p) then rises step by step to the end of the ball.
    For a plain mean one step is exact. For one ratio the limit is the root of the likelihood ratio of
    numerator - V · denominator, Owen's estimating equation. For a sum of ratios it is the profile likelihood
    of a smooth function of means, not only its linearisation or its jackknife.

    Where some weights within reach give a denominator of zero, or a single row carries it all, the data
    cannot say: both ends are infinite.

    Args:
        scores: of finite numbers.
        reach: c, above 0: a quantile of chi-square or F.

    Source: Owen (1990), "Empirical likelihood ratio confidence regions", Annals of Statistics 18(1); Owen
    (2001), "Empirical likelihood", chapters 2 and 3; Wood, Do and Broom (1996), "Sequential linearization of
    empirical likelihood constraints with application to U-statistics", JCGS 5(4).

    Differs: Jing, Yuan and Zhou (2009), "Jackknife empirical likelihood", put pseudo-values in place of the
    sum of ratios. That is the first of our steps to order 1/N; the others keep the ratios' curvature.
    """
    for score in scores:
        below = score.denominator * score.denominator.sum().sign()
        if len(below) > 1 and int(below.count_nonzero()) < 2:
            return -math.inf, math.inf
        if bool((below < 0).any()) and float((furthest(-below, reach) * below).sum()) <= 0:
            return -math.inf, math.inf
    return -_largest(_flipped(scores), reach), _largest(scores, reach)


def furthest(x: Float[Tensor, " round"], reach: float) -> Float[Tensor, " round"]:
    """Return the weights p that make Σ p x largest while -2 Σ log(N p_i) ≤ reach.

    The conditions of Karush, Kuhn and Tucker say p_i ∝ 1 / (η - x_i) for some η > max x. Write y_i for
    (max x - x_i) over its mean, and η so that p_i ∝ 1 / (e + y_i) with e = 1 / (exp(w) - 1). The likelihood
    ratio then falls steadily from w = 0 (equal weights) to w = ∞ (all on the largest row), so the one unknown
    is found by Newton steps on the root of -2 log ratio, which is nearly a line in w, between brackets.

    Args:
        x: finite numbers.
        reach: above 0.
    """
    n = len(x)
    gap = x.max() - x
    middle = float(gap.mean())
    if not middle > 0:
        return torch.full_like(x, 1 / n)
    y = gap / middle
    aim = math.sqrt(reach)
    low, high = 0.0, _NARROW
    # -2 log ratio ≈ N var(y) w² for small w.
    w = min(aim / (math.sqrt(n) * float(y.std(correction=0))), 1.0)
    for _ in range(_STEPS):
        e = 1 / math.expm1(w)
        part = (e + y) / (e + 1)
        apart = (y - 1) / (e + 1)  # part - 1: its mean is 0
        inverse = part.reciprocal()
        # Both sums are written so that nothing of the size of N cancels.
        above = float((apart.square() * inverse).mean())  # mean(1 / part) - 1
        apart = part.log() - apart
        far = math.sqrt(max(2 * float(apart.sum()) + 2 * n * math.log1p(above), 0.0))
        if abs(far - aim) <= 1e-11 * aim:
            break
        low, high = (w, high) if far < aim else (low, w)
        if high - low <= 1e-15 * high:
            break
        # d(-2 log ratio)/dw = 2 e (e + 1) N (Σu² / Σu - Σu / N) with u = 1 / (e + y) = inverse / (e + 1).
        mean = 1 + above
        spread = float((inverse - mean).square().mean())
        slope = e * n * spread / mean / max(far, 1e-300)
        step = w + (aim - far) / slope if slope > 0 else math.nan
        w = step if low < step < high else (low + high) / 2
    return inverse / inverse.sum()


def _largest(scores: Scores, reach: float) -> float:
    """Return the largest value of weights within reach."""
    p = torch.full_like(scores[0].numerator, 1 / len(scores[0].numerator))
    best = _value(scores, p)
    for _ in range(_ROUNDS):
        slope = torch.zeros_like(p)
        for s in scores:
            below = (p * s.denominator).sum()
            slope += (s.numerator - (p * s.numerator).sum() / below * s.denominator) / below
        aim = furthest(slope, reach)
        # The ball is convex, so half-way points are within reach too; going there is uphill at first.
        found = _value(scores, aim)
        for _ in range(_ROUNDS):
            if found >= best:
                break
            aim = (p + aim) / 2
            found = _value(scores, aim)
        if not found > best:
            break
        done = found - best <= 1e-13 * max(abs(found), abs(best))
        p, best = aim, found
        if done:
            break
    return best


def _value(scores: Scores, p: Float[Tensor, " round"]) -> float:
    return sum(float((p * s.numerator).sum() / (p * s.denominator).sum()) for s in scores)


def _flipped(scores: Scores) -> Scores:
    return tuple(type(s)(-s.numerator, s.denominator) for s in scores)
