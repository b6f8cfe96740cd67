"""The best slate of each row by Newton's steps, compiled: what `best_slate.dinkelbach` does on a CPU."""

import math
from typing import no_type_check

import numpy as np

from agents.maths._kernels import ANY_ORDER, IN_ORDER, inline, kernel

GUESSES = 4
"""Looks at the whole row for a first guess."""


@kernel(fastmath=ANY_ORDER)
@no_type_check
def above(odds, value, mask, rate, low):
    """Return how many have v (q - λ) > low, and the sums of that and of v over them."""
    number = odds.dtype.type  # of one type throughout: mixed loops are not made wide
    one, none = number(1), number(0)
    count, index, weight = none, none, none
    for i in range(len(odds)):
        x = odds[i] * (value[i] - rate)
        y = one if x > low else none
        if mask is not None:
            y = y if mask[i] else none
        count += y
        index += y * x
        weight += y * odds[i]
    return count, index, weight


@kernel()
@no_type_check
def guessed(odds, value, mask, null_odds, null_value, slots):
    """Return a λ near the best value, and a number that some K candidates are above, as a rule.

    As if what is above a bar were exponential: then K are above the bar + mean excess · log(count / K).
    Nothing is lost where it is wrong, but time.
    """
    number = odds.dtype.type
    rate, low = null_value, number(0)
    for _ in range(GUESSES):
        count, index, weight = above(odds, value, mask, rate, low)
        if count < 1:
            return rate, number(0)
        some = min(1.0, slots / count)
        new = rate + (null_odds * (null_value - rate) + index * some) / (null_odds + weight * some)
        excess = number(index / count - low)
        bar = low + excess * math.log(count / slots) - weight / count * (new - rate)
        low, rate = number(max(bar, 0.0)), number(new)
    return rate, low


@inline(fastmath=IN_ORDER)
@no_type_check
def larger(a, b):
    """Return the larger of two numbers."""
    return a if a > b else b


@kernel(fastmath=IN_ORDER)
@no_type_check
def scored(odds, value, mask, rate, index):
    """Write v (q - λ), -inf where masked."""
    for i in range(len(odds)):
        index[i] = odds[i] * (value[i] - rate)
    if mask is not None:
        never = odds.dtype.type(-np.inf)
        for i in range(len(odds)):
            index[i] = index[i] if mask[i] else never


@kernel(fastmath=IN_ORDER)
@no_type_check
def peaks(index, groups, peak):
    """Write the largest of each group of eight: of j, j + groups, and so on."""
    for j in range(groups):
        a = larger(larger(index[j], index[groups + j]), larger(index[2 * groups + j], index[3 * groups + j]))
        b = larger(
            larger(index[4 * groups + j], index[5 * groups + j]),
            larger(index[6 * groups + j], index[7 * groups + j]),
        )
        peak[j] = larger(a, b)


@inline()
@no_type_check
def least(score):
    """Return the place of the smallest."""
    place = 0
    for k in range(1, len(score)):
        place = k if score[k] < score[place] else place
    return place


@kernel()
@no_type_check
def largest(index, groups, peak, low, score, item, have, taken):
    """Take into a list, in any order, what is larger; return how long it is, and whether it changed.

    A list that is not full takes what is above `low`.
    """
    changed, slots = False, len(score)
    for k in range(have):
        taken[item[k]] = True
    place = least(score) if have == slots else 0
    if have == slots:
        low = score[place]
    for j in range(groups):
        if peak[j] > low:
            for i in range(j, len(index), groups):
                if index[i] > low and not taken[i]:
                    changed = taken[i] = True
                    if have == slots:
                        taken[item[place]] = False
                        score[place], item[place] = index[i], i
                    else:
                        score[have], item[have] = index[i], i
                        have += 1
                    if have == slots:
                        place = least(score)
                        low = score[place]
    for k in range(have):
        taken[item[k]] = False
    return have, changed


@kernel()
@no_type_check
def rescored(odds, value, rate, score, item, have, ordered):
    """Score a list at this λ, and sort it if asked for, the largest first."""
    for n in range(have):
        i = item[n]
        x, k = odds[i] * (value[i] - rate), n
        while ordered and k > 0 and score[k - 1] < x:
            score[k], item[k] = score[k - 1], item[k - 1]
            k -= 1
        score[k], item[k] = x, i


@kernel()
@no_type_check
def raised(odds, weight, rate, score, item, have, exactly, null_odds, null_value):
    """Return Newton's next λ: λ + F(λ) / D."""
    above, below = np.float64(null_odds) * (np.float64(null_value) - np.float64(rate)), np.float64(null_odds)
    for k in range(have):
        if exactly or score[k] > 0:
            above += np.float64(weight[k]) * score[k]
            below += np.float64(weight[k]) * odds[item[k]]
    return rate + above / max(below, 1e-38)


@kernel()
@no_type_check
def best_slates(
    begin, end, odds, value, mask, null_odds, null_value, weight, exactly, iterations, columns, best
):
    """Write the best slates and their values.

    A first guess saves steps and cannot change the result: from the second step on λ rises, until nothing
    larger than the least of the slate is left, or the value rises no more.

    Args:
        begin: the first row to do.
        end: the last but one.
        odds: [row cand], v.
        value: [row cand], q.
        mask: [row cand], False where a candidate may not be shown; or None.
        null_odds: [row], v_0.
        null_value: [row], q_0.
        weight: [slot], falling.
        exactly: K items, or at most K.
        iterations: bound on the steps after the guess.
        columns: [row slot], to be written, by falling v (q - λ); -1 where there are too few candidates, and
            unless `exactly` where an item would lower the value.
        best: [row], to be written.
    """
    cands, slots = odds.shape[1], columns.shape[1]
    score, item = np.empty(slots, odds.dtype), np.empty(slots, np.int64)
    groups = (cands + 7) // 8
    taken, peak = np.zeros(cands, np.bool_), np.empty(groups, odds.dtype)
    index = np.full(8 * groups, -np.inf, odds.dtype)
    even = weight[0] == weight[slots - 1]  # only which items they are matters
    settled = even and exactly
    kept, many = np.empty(slots, np.int64), 0
    for r in range(begin, end):
        v, q, shown = odds[r], value[r], None if mask is None else mask[r]
        rate, low = guessed(v, q, shown, null_odds[r], null_value[r], slots)
        best[r] = rate
        have = 0
        for step in range(iterations + 1):
            rate = best[r]
            rescored(v, q, rate, score, item, have, False)
            scored(v, q, shown, rate, index)
            peaks(index, groups, peak)
            have, changed = largest(index, groups, peak, low, score, item, have, taken)
            if have < slots:  # the guess was too high, or there are too few
                have, _ = largest(index, groups, peak, -np.inf, score, item, have, taken)
            if (step and settled and not changed) or (exactly and have < slots):
                break
            if not even:
                rescored(v, q, rate, score, item, have, True)
            best[r] = raised(v, weight, rate, score, item, have, exactly, null_odds[r], null_value[r])
            if step and not best[r] > rate:  # to rounding as good, or worse: the slate before stays
                best[r] = rate
                have = many
                item[:have] = kept[:have]
                break
            many = have
            kept[:have] = item[:have]
        rescored(v, q, best[r], score, item, have, True)
        for k in range(slots):
            columns[r, k] = item[k] if k < have and (exactly or score[k] > 0) else -1
