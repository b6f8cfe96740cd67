"""Loops over rows of candidates, compiled for the processor: draws, and sums over what is not shown.

A row of 1,000 candidates fits the first-level cache, so all that is asked of it is done before the next one
is read. Tensor operations would go over the whole table for every step. What is here is for logits in single
precision on a CPU; `agents.maths.plackett_luce` says when it is used, and works by tensors elsewhere.

Compiled code is kept in `__pycache__` between runs, or in the user's cache where that may not be written to.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor


def kernel(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function when it is first called, and keeps the code if it can."""
    options = {"nogil": True, "error_model": "numpy", **options}

    def compiled(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's may be written to
            return njit(**options)(function)

    return compiled


inline = partial(kernel, inline="always")

# Sums may be made in any order. Nothing may be rearranged in the exponential: it rounds on purpose.
ANY_ORDER = {"reassoc", "nsz", "contract", "nnan"}
IN_ORDER = {"nsz", "contract", "nnan"}

FULL = 0.9
"""Share of the mass that is drawn, beyond which what is left is weighed anew: no difference is imprecise."""
LINEAR = 64
"""Columns of 64 up to which all their sums are compared, rather than found by halving."""
FAINT = 1e-12
"""Mass of what is never shown, beside the best candidate, below which it is measured by its own best."""
PER_THREAD = 32
"""Rows below which another thread is not worth its start."""

_single = np.float32
LOWEST, ZERO, ONE = _single(-80.0), _single(0.0), _single(1.0)
LOG2_E, LN2_HIGH, LN2_LOW = _single(1.4426950408889634), _single(0.693359375), _single(-2.12194440e-4)
ROUND = _single(1.5 * 2**23)
E0, E1, E2 = _single(1.9875691500e-4), _single(1.3981999507e-3), _single(8.3334519073e-3)
E3, E4, E5 = _single(4.1665795894e-2), _single(1.6666665459e-1), _single(5.0000001201e-1)
BIAS, MANTISSA, NOTHING = np.int32(127), np.int32(23), _single(-np.inf)
GOLDEN, MIX1, MIX2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
S30, S27, S31, S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
UNIT, BELOW_ONE = 2.0**-53, 1 - 2.0**-53


@inline(fastmath=IN_ORDER)
@no_type_check
def exponential(x):
    """Return e^x to 3 units in the last place, for -87 < x < 88 (the polynomial of Cephes' expf)."""
    k = _single(x * LOG2_E + ROUND) - ROUND
    r = x - k * LN2_HIGH
    r = r - k * LN2_LOW
    p = E0
    p = p * r + E1
    p = p * r + E2
    p = p * r + E3
    p = p * r + E4
    p = p * r + E5
    p = p * (r * r) + r + ONE
    return p * np.int32((np.int32(k) + BIAS) << MANTISSA).view(np.float32)


@kernel(fastmath=IN_ORDER)
@no_type_check
def weigh(x, shift, weight):
    """Write e^(x - shift), 0 from -80 down."""
    for i in range(len(x)):
        d = x[i] - shift
        weight[i] = exponential(d) if d > LOWEST else ZERO


@kernel(fastmath=ANY_ORDER)
@no_type_check
def by_eight(weight, groups, out):
    """Write the sums of groups of eight: of j, j + groups, j + 2 · groups and so on."""
    for j in range(groups):
        out[j] = ((weight[j] + weight[groups + j]) + (weight[2 * groups + j] + weight[3 * groups + j])) + (
            (weight[4 * groups + j] + weight[5 * groups + j])
            + (weight[6 * groups + j] + weight[7 * groups + j])
        )


@kernel(fastmath=ANY_ORDER)
@no_type_check
def by_sixty_four(sums, columns, upto, total):
    """Write the running sums of eight groups each, and of all columns, 0 first; return the sum."""
    for h in range(columns):
        upto[h] = 0.0
    for s in range(8):
        for h in range(columns):
            upto[(s + 1) * columns + h] = upto[s * columns + h] + sums[s * columns + h]
    mass = 0.0
    for h in range(columns):
        total[h] = mass
        mass += upto[8 * columns + h]
    total[columns] = mass
    return mass


@inline()
@no_type_check
def found(point, weight, sums, upto, total):
    """Return the candidate at a point of the mass: of 64, then of 8, then itself; none that has no weight.

    What is compared are sums in double, and inside a group shares of its sum, so that a candidate is as
    likely as its weight says, however light beside the others.
    """
    groups, columns = len(sums), len(total) - 1
    low = 0
    if columns <= LINEAR:
        for h in range(1, columns):
            low += total[h] <= point
    else:
        low = np.searchsorted(total[1:columns], point, side="right")
    point -= total[low]
    place = 0
    for s in range(1, 8):
        place += upto[s * columns + low] <= point
    while place and sums[place * columns + low] == ZERO:  # a point that rounding pushed over the end
        place -= 1
    group = place * columns + low
    point -= upto[group]
    # All eight are read, and no branch is taken: which one it is cannot be foreseen.
    c0 = np.float64(weight[group])
    c1 = c0 + weight[group + groups]
    c2 = c1 + weight[group + 2 * groups]
    c3 = c2 + weight[group + 3 * groups]
    c4 = c3 + weight[group + 4 * groups]
    c5 = c4 + weight[group + 5 * groups]
    c6 = c5 + weight[group + 6 * groups]
    c7 = c6 + weight[group + 7 * groups]
    point *= c7 / np.float64(sums[group])
    i = (c0 <= point) + (c1 <= point) + (c2 <= point) + (c3 <= point)
    i += (c4 <= point) + (c5 <= point) + (c6 <= point) + (c7 <= point)
    i = group + min(i, 7) * groups
    while weight[i] == ZERO:  # the same
        i -= groups
    return i


@inline()
@no_type_check
def mixed(z):
    """Return what SplitMix64 makes of a counter."""
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


@kernel()
@no_type_check
def draw(begin, end, logits, highest, first, key, columns, gap, left):
    """Draw slates with replacement, each candidate kept once: Plackett–Luce.

    Where what is drawn already is nearly all, the rest is weighed anew, so few draws are in vain, and what is
    left at a slot is never the small difference of large sums.

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand], -inf where a candidate may not be shown.
        highest: [row].
        first: number of row 0 among all; it and the key say what is drawn.
        key: of the luck.
        columns: [row slot], to be written: the slates.
        gap: [row slot], to be written: ℓ of what is shown, less the highest that was left.
        left: [row slot], to be written: Σ e^(ℓ - the highest) of what was left.

    Returns:
        A row with too few candidates or whose highest logit is not finite, or -1.
    """
    cands, slots = logits.shape[1], columns.shape[1]
    wide = (cands + 63) // 64
    weight = np.zeros(64 * wide, np.float32)
    sums, upto, total = np.empty(8 * wide, np.float32), np.empty(9 * wide), np.empty(wide + 1)
    rest, taken = np.empty(cands, np.float32), np.zeros(cands, np.bool_)
    for r in range(begin, end):
        row, top = logits[r], highest[r]
        if not -np.inf < top < np.inf:
            return r
        weigh(row, top, weight)
        by_eight(weight, 8 * wide, sums)
        mass = by_sixty_four(sums, wide, upto, total)
        seen, have = 0.0, 0
        luck = mixed(key + np.uint64(first + r) * GOLDEN)
        while have < slots:
            if seen > FULL * mass:
                rest[:] = row
                for k in range(have):
                    rest[columns[r, k]] = NOTHING
                top = NOTHING
                for i in range(cands):
                    top = rest[i] if rest[i] > top else top
                if top == NOTHING:
                    return r
                weigh(rest, top, weight)
                by_eight(weight, 8 * wide, sums)
                mass, seen = by_sixty_four(sums, wide, upto, total), 0.0
            luck += GOLDEN
            point = np.float64(mixed(luck) >> S11) * UNIT * BELOW_ONE
            i = found(point * mass, weight, sums, upto, total)
            if not taken[i]:
                taken[i] = True
                columns[r, have] = i
                gap[r, have] = row[i] - top
                left[r, have] = mass - seen
                seen += weight[i]
                have += 1
        for k in range(slots):
            taken[columns[r, k]] = False
    return -1


@kernel(fastmath=ANY_ORDER)
@no_type_check
def moments(x, shift, weight):
    """Return Σ w and Σ w (x - shift)."""
    mass = ZERO
    mean = ZERO
    for i in range(len(x)):
        d = x[i] - shift
        d = d if d > LOWEST else LOWEST
        mass += weight[i]
        mean += weight[i] * d
    return mass, mean


@kernel()
@no_type_check
def unshown(begin, end, logits, columns, top, mass, mean):
    """Measure what is never shown: Σ e^(ℓ - top), and Σ e^(ℓ - top) (ℓ - top).

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand], -inf where a candidate may not be shown.
        columns: [row slot], what is shown.
        top: [row], the highest logit. Where what is never shown is faint beside it, its own highest is
            written there; -1e30, with a mass of 1, if there is none.
        mass: [row], to be written.
        mean: [row], to be written.
    """
    cands, slots = logits.shape[1], columns.shape[1]
    weight, rest = np.empty(cands, np.float32), np.empty(cands, np.float32)
    for r in range(begin, end):
        row = logits[r]
        weigh(row, top[r], weight)
        for k in range(slots):
            weight[columns[r, k]] = ZERO
        mass[r], mean[r] = moments(row, top[r], weight)
        if not mass[r] > FAINT:
            rest[:] = row
            for k in range(slots):
                rest[columns[r, k]] = NOTHING
            high = _single(-1e30)
            for i in range(cands):
                high = rest[i] if rest[i] > high else high
            top[r] = high
            weigh(rest, high, weight)
            mass[r], mean[r] = moments(rest, high, weight)
            if high == _single(-1e30):
                mass[r], mean[r] = ONE, ZERO


@kernel(fastmath=IN_ORDER)
@no_type_check
def slope_of(x, top, level, slope, out):
    """Write e^(x - top) (level + slope (x - top))."""
    for i in range(len(x)):
        d = x[i] - top
        out[i] = exponential(d) * (level + slope * d) if d > LOWEST else ZERO


@kernel()
@no_type_check
def pulled(begin, end, logits, columns, top, level, slope, of_shown, out):
    """Write the gradient of the logits: where shown `of_shown`, else e^(ℓ - top) (level + slope (ℓ - top)).

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand].
        columns: [row slot], what is shown.
        top: [row], from `unshown`.
        level: [row].
        slope: [row].
        of_shown: [row slot].
        out: [row cand], to be written; it may be the logits.
    """
    for r in range(begin, end):
        slope_of(logits[r], top[r], level[r], slope[r], out[r])
        for k in range(columns.shape[1]):
            out[r, columns[r, k]] = of_shown[r, k]


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="simlab-kernel")


def each(run: Callable[..., Any], rows: int, *arguments: Any) -> list[Any]:
    """Run a kernel over all rows, cut among as many threads as torch has; tensors are handed over as arrays.

    No row knows of another, so the cut does not matter.
    """
    given = [x.numpy() if isinstance(x, Tensor) else x for x in arguments]
    count = max(1, min(torch.get_num_threads(), rows // PER_THREAD))
    if count == 1:
        return [run(0, rows, *given)]
    ends = [rows * i // count for i in range(count + 1)]
    pool = _threads(os.getpid(), count)
    jobs = [pool.submit(run, a, b, *given) for a, b in pairwise(ends)]
    return [job.result() for job in jobs]
