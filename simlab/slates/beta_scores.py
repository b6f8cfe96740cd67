"""Which of independent Beta scores are the largest: integrals over the scores, nothing simulated.

Scores are handled as y = logit(score), where a Beta density is smooth with exponential tails. One grid of
pieces, each with Gauss–Legendre nodes, serves every candidate and every slot.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc, betaincinv, betaln, expit, log_expit

TAIL = 1e-16
"""The mass of a score that may lie outside the grid, at either end."""
SMALLEST = 0.05
"""The smallest parameter: below it the tail of log-scores leaves double precision."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def _to_the_right() -> Float[np.ndarray, "node node"]:
    """Return the matrix that turns values at the nodes into integrals from each node to 1, on [-1, 1].

    The interpolant is Σ_n c_n P_n with c_n = (n + ½) Σ_j w_j P_n(x_j) f_j, and
    ∫_x^1 P_n = (P_{n-1}(x) - P_{n+1}(x)) / (2n + 1).
    """
    m = len(_NODES)
    legendre = np.polynomial.legendre.legvander(_NODES, m)  # [node degree], one degree more than needed
    odd = 2.0 * np.arange(m) + 1
    integral = np.empty((m, m))
    integral[:, 0] = 1 - _NODES
    integral[:, 1:] = (legendre[:, : m - 1] - legendre[:, 2:]) / odd[1:]
    return integral @ (legendre[:, :m].T * _WEIGHTS * (odd / 2)[:, None])


_RIGHT = _to_the_right()


class Grid(NamedTuple):
    """Everything that is known of the scores, at the nodes of all pieces, in y = logit(score)."""

    half: Float[np.ndarray, " piece"]  # half of the piece's width: dy = half · dx
    density: Float[np.ndarray, "cand piece node"]  # of y
    log_below: Float[np.ndarray, "cand piece node"]  # log P(Y < y)
    above: Float[np.ndarray, "cand piece node"]  # P(Y > y)


def _sides(
    alpha: Float[np.ndarray, " cand"], beta: Float[np.ndarray, " cand"], y: Float[np.ndarray, " point"]
) -> tuple[Float[np.ndarray, "cand point"], Float[np.ndarray, "cand point"]]:
    """Return P(Y < y) and P(Y > y), each exact where it is small, on either side of a half."""
    a, b = alpha[:, None], beta[:, None]
    below, above = np.empty((len(alpha), len(y))), np.empty((len(alpha), len(y)))
    low = y < 0
    below[:, low], above[:, low] = betainc(a, b, expit(y[low])), betaincc(a, b, expit(y[low]))
    below[:, ~low], above[:, ~low] = betaincc(b, a, expit(-y[~low])), betainc(b, a, expit(-y[~low]))
    return below, above


@lru_cache(maxsize=16)
def lay_grid(alpha_: tuple[float, ...], beta_: tuple[float, ...]) -> Grid:
    """Lay the grid: halve a piece until its nodes give the integrals that are known without them.

    Those are, over each piece, the mass of every candidate (its distribution function at the two edges)
    and the mass of the largest score (the product of all distribution functions).
    """
    alpha, beta = np.array(alpha_), np.array(beta_)
    # log(p) is below logit(p), so these ends are safe; p itself must not underflow: see SMALLEST.
    low = float(np.log(betaincinv(alpha, beta, TAIL)).min())
    high = float(-np.log(betaincinv(beta, alpha, TAIL)).min())
    # The exponent a·log(x) is a difference of large numbers: no sharper than its own rounding.
    rounding = 16 * np.finfo(float).eps * float(np.max(alpha * -log_expit(np.log(alpha / beta)) + 1))
    tolerance = max(1e-13, rounding)
    edges = np.union1d(np.linspace(low, high, 9), [0.0] if low < 0 < high else [])
    left, right = edges[:-1], edges[1:]
    done: list[tuple[np.ndarray, ...]] = []
    while len(left):
        half = (right - left) / 2
        y = (left[:, None] + half[:, None] * (_NODES + 1)).ravel()
        shape = (len(alpha), len(half), len(_NODES))
        below, above = (side.reshape(shape) for side in _sides(alpha, beta, y))
        exponent = (
            alpha[:, None] * log_expit(y) + beta[:, None] * log_expit(-y) - betaln(alpha, beta)[:, None]
        )
        density = np.exp(exponent).reshape(shape)
        with np.errstate(divide="ignore"):
            log_below = np.maximum(np.log(below), -800.0)  # finite, so that it can be subtracted again
        at = [_sides(alpha, beta, end)[0] for end in (left, right)]
        error = np.abs((density @ _WEIGHTS) * half - (at[1] - at[0])).max(0)
        largest = (density * np.exp(log_below.sum(0) - log_below)).sum(0) @ _WEIGHTS * half
        error = np.maximum(error, np.abs(largest - (at[1].prod(0) - at[0].prod(0))))
        good = (error <= tolerance) | (half < 1e-6)
        done.append((left[good], half[good], density[:, good], log_below[:, good], above[:, good]))
        middle = left + half
        left, right = (
            np.concatenate([left[~good], middle[~good]]),
            np.concatenate([middle[~good], right[~good]]),
        )
    order = np.argsort(np.concatenate([d[0] for d in done]))
    half = np.concatenate([d[1] for d in done])[order]
    density, log_below, above = (np.concatenate([d[i] for d in done], axis=1)[:, order] for i in (2, 3, 4))
    # What rounding is left is mostly in log B(a, b), one constant a candidate: the mass must be one.
    density /= ((density @ _WEIGHTS) @ half)[:, None, None]
    return Grid(half, density, log_below, above)


@lru_cache(maxsize=16)
def slot_table(
    alpha: tuple[float, ...], beta: tuple[float, ...], slots: int
) -> Float[np.ndarray, "slot cand"]:
    """Return P(candidate at slot) = ∫ f_i(y) P(exactly k of the others are above y) dy.

    The counts follow the Poisson–binomial recursion, once up and once down the list, so that leaving one
    candidate out is a product of sums of positive terms; nothing is divided out again.
    """
    grid = lay_grid(alpha, beta)
    cands, shape = len(alpha), (slots, *grid.above.shape[1:])
    before = np.zeros((cands, *shape))  # [cand count piece node]: how many of those earlier are above y
    count = np.zeros(shape)
    count[0] = 1.0
    for i in range(cands):
        before[i] = count
        count = _one_more(count, grid.above[i], np.exp(grid.log_below[i]))
    out = np.empty((slots, cands))
    count = np.zeros(shape)
    count[0] = 1.0
    for i in reversed(range(cands)):
        weighted = grid.density[i] * grid.half[:, None] * _WEIGHTS
        for k in range(slots):
            others = np.einsum("mpn,mpn->pn", before[i, : k + 1], count[k::-1])
            out[k, i] = (weighted * others).sum()
        count = _one_more(count, grid.above[i], np.exp(grid.log_below[i]))
    return out


def _one_more(
    count: Float[np.ndarray, "count piece node"],
    above: Float[np.ndarray, "piece node"],
    below: Float[np.ndarray, "piece node"],
) -> Float[np.ndarray, "count piece node"]:
    """Add one candidate to the distribution of how many are above y."""
    out: np.ndarray = count * below
    out[1:] += count[:-1] * above
    return out


def slate_probabilities(grid: Grid, slates: Int[np.ndarray, "slate slot"]) -> Float[np.ndarray, " slate"]:
    """Return P(these are the largest, in this order), by one cumulative integral for each slot but the first.

    With H_1(y) = P(Y_{a_1} > y) and H_k(y) = ∫_y^∞ f_{a_k} H_{k-1}, the probability is
    ∫ f_{a_K} H_{K-1} Π_{others} F_j.
    """
    out = np.empty(len(slates))
    every = grid.log_below.sum(0)
    for start in range(0, len(slates), 256):
        some = slates[start : start + 256]
        ahead = np.ones((len(some), *every.shape))
        for k in range(some.shape[1] - 1):
            if k == 0:
                ahead = grid.above[some[:, 0]]
                continue
            flow = grid.density[some[:, k]] * ahead * grid.half[:, None]
            piece = flow @ _WEIGHTS
            later = piece[:, ::-1].cumsum(1)[:, ::-1] - piece
            ahead = np.maximum(flow @ _RIGHT.T + later[:, :, None], 0.0)
        rest = np.exp(every - grid.log_below[some].sum(1))
        flow = grid.density[some[:, -1]] * ahead * rest * grid.half[:, None]
        out[start : start + len(some)] = (flow @ _WEIGHTS).sum(1)
    return out
