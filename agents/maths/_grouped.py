"""Compiled loops of Plackett–Luce with groups, one row at a time: see `agents.maths.grouped`."""

import math
from typing import no_type_check

import numpy as np

from agents.maths._kernels import (
    ANY_ORDER,
    GOLDEN,
    IN_ORDER,
    LOWEST,
    NOTHING,
    S11,
    UNIT,
    ZERO,
    exponential,
    inline,
    kernel,
    mixed,
    weigh,
)

FAINT = 1e-3
"""Mass beside the best candidate below which what is left is measured by its own best. Penalties move groups
at most 40 apart, so what is taken for nothing at e^-80 has at most e^-33 of the chance."""
FLOOR = -1e30


@inline()
@no_type_check
def best_left(row):
    """Return the highest number of a row."""
    high = NOTHING
    for i in range(len(row)):
        high = row[i] if row[i] > high else high
    return high


@kernel()
@no_type_check
def sorted_by_group(group, members, ends):
    """Write the candidates group by group, and where each group ends."""
    ends[:] = 0
    for i in range(len(group)):
        ends[group[i]] += 1
    for g in range(1, len(ends)):
        ends[g] += ends[g - 1]
    for i in range(len(group) - 1, -1, -1):
        ends[group[i]] -= 1
        members[ends[group[i]]] = i
    for g in range(len(ends) - 1):  # these were the beginnings
        ends[g] = ends[g + 1]
    ends[len(ends) - 1] = len(group)


@inline()
@no_type_check
def summed(weight, members, begin, end):
    """Return the mass of a group."""
    mass = 0.0
    for n in range(begin, end):
        mass += np.float64(weight[members[n]])
    return mass


@kernel()
@no_type_check
def draw(begin, end, logits, highest, group, penalty, worth, first, key, columns, log_prob):
    """Draw slates slot by slot: a group by its mass less its penalty, then an item of it.

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand], -inf where a candidate may not be shown.
        highest: [row].
        group: [row cand], or one row for all.
        penalty: [row group slot], φ.
        worth: [row group slot], e^-φ.
        first: number of row 0 among all; it and the key say what is drawn.
        key: of the luck.
        columns: [row slot], to be written.
        log_prob: [row slot], to be written.

    Returns:
        A row that cannot be drawn from, or -1.
    """
    cands, slots, groups = logits.shape[1], columns.shape[1], penalty.shape[1]
    weight, rest = np.empty(cands, np.float32), np.empty(cands, np.float32)
    members, ends = np.empty(cands, np.int64), np.empty(groups, np.int64)
    mass, count = np.empty(groups), np.empty(groups, np.int64)
    for r in range(begin, end):
        if r == begin or len(group) > 1:
            sorted_by_group(group[r if len(group) > 1 else 0], members, ends)
        top = highest[r]
        if not -np.inf < top < np.inf:
            return r
        rest[:] = logits[r]
        weigh(rest, top, weight)
        for g in range(groups):
            mass[g] = summed(weight, members, ends[g - 1] if g else 0, ends[g])
        count[:] = 0
        luck = mixed(key + np.uint64(first + r) * GOLDEN)
        for k in range(slots):
            if mass.sum() < FAINT:
                top = best_left(rest)
                if top == NOTHING:
                    return r
                weigh(rest, top, weight)
                for g in range(groups):
                    mass[g] = summed(weight, members, ends[g - 1] if g else 0, ends[g])
            total = 0.0
            for g in range(groups):
                total += mass[g] * worth[r, g, count[g]]
            if not 0.0 < total < np.inf:
                return r
            luck += GOLDEN
            point = np.float64(mixed(luck) >> S11) * UNIT * total
            of = -1
            for g in range(groups):
                if mass[g] > 0:
                    of = g
                    if point < mass[g] * worth[r, g, count[g]]:
                        break
                    point -= mass[g] * worth[r, g, count[g]]
            point /= worth[r, of, count[of]]
            i = -1
            start = ends[of - 1] if of else 0
            for n in range(start, ends[of]):
                w = np.float64(weight[members[n]])
                if w > 0:
                    i = members[n]
                    if point < w:
                        break
                    point -= w
            columns[r, k] = i
            log_prob[r, k] = np.float64(rest[i]) - top - penalty[r, of, count[of]] - math.log(total)
            weight[i], rest[i] = ZERO, NOTHING
            mass[of] = summed(weight, members, start, ends[of])
            count[of] = min(count[of] + 1, slots - 1)
    return -1


@kernel()
@no_type_check
def taken_from(row, members, out):
    """Write the numbers of a row in the order of members."""
    for n in range(len(members)):
        out[n] = row[members[n]]


@kernel(fastmath=ANY_ORDER)
@no_type_check
def sums_of(x, top, weight):
    """Return Σ w and Σ w (x - top)."""
    mass, moment = ZERO, ZERO
    for i in range(len(x)):
        d = x[i] - top
        d = d if d > LOWEST else LOWEST
        mass += weight[i]
        moment += weight[i] * d
    return mass, moment


@kernel()
@no_type_check
def unshown(begin, end, logits, columns, group, top, mass, moment):
    """Measure what is never shown of each group: M = Σ e^(ℓ - top), and S = Σ e^(ℓ - top) (ℓ - top).

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand], -inf where a candidate may not be shown.
        columns: [row slot], what is shown.
        group: [row cand], or one row for all.
        top: [row], the highest logit. Where what is never shown is faint beside it, its own highest is
            written there; -1e30 if there is none.
        mass: [row group], to be written.
        moment: [row group], to be written.
    """
    cands, slots, groups = logits.shape[1], columns.shape[1], mass.shape[1]
    weight, own = np.empty(cands, np.float32), np.empty(cands, np.float32)
    members, ends, place = np.empty(cands, np.int64), np.empty(groups, np.int64), np.empty(cands, np.int64)
    for r in range(begin, end):
        if r == begin or len(group) > 1:
            sorted_by_group(group[r if len(group) > 1 else 0], members, ends)
            for n in range(cands):
                place[members[n]] = n
        taken_from(logits[r], members, own)
        high = top[r]
        for again in range(2):
            weigh(own, high, weight)
            for k in range(slots):
                weight[place[columns[r, k]]] = ZERO
            start = 0
            for g in range(groups):
                part = slice(start, ends[g])
                mass[r, g], moment[r, g] = sums_of(own[part], high, weight[part])
                start = ends[g]
            if again or mass[r].sum() >= FAINT:
                break
            for k in range(slots):
                own[place[columns[r, k]]] = NOTHING
            high = top[r] = max(best_left(own), np.float32(FLOOR))


@kernel()
@no_type_check
def by_slot(x, of, penalty, worth, top, mass, moment, count, level, total, entropy):
    """Write of each slot, from the last up: how many of each group stand above, level, log total and entropy.

    With λ_k the highest logit left at slot k (what is shown there or below, and what never is),

        T_k = Σ_g e^{-φ_g} (M_g e^{top - λ_k} + Σ_{j ≥ k of g} e^{ℓ_j - λ_k}),
        H_k = log T_k - Σ_g e^{-φ_g} (Σ e^{ℓ - λ_k} (ℓ - λ_k - φ_g)) / T_k.

    Args:
        x: [slot], ℓ of what is shown.
        of: [slot], its group.
        penalty: [group slot], φ.
        worth: [group slot], e^-φ.
        top: as `unshown` has it.
        mass: [group].
        moment: [group].
        count: [slot group], to be written.
        level: [slot], to be written: λ.
        total: [slot], to be written: log T.
        entropy: [slot], to be written: H.
    """
    slots, groups = len(x), len(mass)
    shown, spread = np.zeros(groups), np.zeros(groups)  # Σ e^(ℓ - λ), Σ e^(ℓ - λ) (ℓ - λ) of slots from k on
    now = np.zeros(groups, np.int64)
    for k in range(slots):
        count[k] = now
        now[of[k]] += 1
    high, never = np.float64(top), 1.0
    for k in range(slots - 1, -1, -1):
        if x[k] > high:
            fall = high - x[k]
            scale = math.exp(fall)
            for g in range(groups):
                spread[g] = scale * (spread[g] + shown[g] * fall)
                shown[g] *= scale
            never *= scale
            high = np.float64(x[k])
        w = math.exp(x[k] - high)
        shown[of[k]] += w
        spread[of[k]] += w * (x[k] - high)
        away = top - high
        t, mean = 0.0, 0.0
        for g in range(groups):
            f = np.float64(worth[g, count[k, g]])
            a = f * (mass[g] * never + shown[g])
            t += a
            mean += f * (never * (moment[g] + mass[g] * away) + spread[g]) - penalty[g, count[k, g]] * a
        level[k], total[k] = high, math.log(t)
        entropy[k] = total[k] - mean / t


@kernel()
@no_type_check
def slots_of(begin, end, picked, of, penalty, worth, top, mass, moment, log_prob, entropies):
    """Write log P(a_k | above) and H_k.

    Args:
        begin: the first row to do.
        end: the last but one.
        picked: [row slot], ℓ of what is shown, -1e30 where it may not be.
        of: [row slot], its group.
        penalty: [row group slot], φ.
        worth: [row group slot], e^-φ.
        top: [row], from `unshown`.
        mass: [row group].
        moment: [row group].
        log_prob: [row slot], to be written.
        entropies: [row slot], to be written.
    """
    slots, groups = picked.shape[1], mass.shape[1]
    count = np.empty((slots, groups), np.int64)
    level, total, entropy = np.empty(slots), np.empty(slots), np.empty(slots)
    for r in range(begin, end):
        by_slot(
            picked[r], of[r], penalty[r], worth[r], top[r], mass[r], moment[r], count, level, total, entropy
        )
        for k in range(slots):
            g = of[r, k]
            log_prob[r, k] = picked[r, k] - level[k] - penalty[r, g, count[k, g]] - total[k]
            entropies[r, k] = entropy[k]


@kernel()
@no_type_check
def slots_back(
    begin, end, picked, of, penalty, worth, top, mass, moment, up, up_entropy,
    level_out, slope_out, of_shown, of_penalty,
):  # fmt: skip
    """Write the gradients of the shown logits and of the penalties, and what `pulled` needs for the others.

    With p_k(i) the chance of i at slot k, and u_k and h_k what comes from above for log P(a_k) and H_k, an
    item that is left up to slot j gets -Σ_{k ≤ j} t_k(i), t_k(i) = p_k(i) (u_k + h_k (log p_k(i) + H_k)), and
    u_j where it is chosen. A penalty gets the sum of t_k over its group at the slots where it counts, less
    u_k where its group is chosen.

    Args:
        begin: the first row to do.
        end: the last but one.
        picked: as for `slots_of`, and so on.
        of: …
        penalty: …
        worth: …
        top: …
        mass: …
        moment: …
        up: [row slot], u; 0 where what is shown may not be.
        up_entropy: [row slot], h.
        level_out: [row group], to be written.
        slope_out: [row group], to be written.
        of_shown: [row slot], to be written.
        of_penalty: [row group slot], to be written.
    """
    slots, groups = picked.shape[1], mass.shape[1]
    count = np.empty((slots, groups), np.int64)
    level, total, entropy = np.empty(slots), np.empty(slots), np.empty(slots)
    for r in range(begin, end):
        by_slot(
            picked[r], of[r], penalty[r], worth[r], top[r], mass[r], moment[r], count, level, total, entropy
        )
        of_penalty[r] = 0.0
        level_out[r], slope_out[r] = 0.0, 0.0
        for k in range(slots):
            u, h, away = np.float64(up[r, k]), np.float64(up_entropy[r, k]), top[r] - level[k] - total[k]
            chance = math.exp(away)
            for g in range(groups):
                if mass[r, g] > 0:
                    log_c = away - penalty[r, g, count[k, g]]
                    c = chance * worth[r, g, count[k, g]]
                    own = u + h * (log_c + entropy[k])
                    level_out[r, g] -= c * own
                    slope_out[r, g] -= c * h
                    of_penalty[r, g, count[k, g]] += c * (mass[r, g] * own + h * moment[r, g])
            of_penalty[r, of[r, k], count[k, of[r, k]]] -= u
        for j in range(slots):
            x, g, gradient = np.float64(picked[r, j]), of[r, j], np.float64(up[r, j])
            for k in range(j + 1):
                log_p = x - level[k] - penalty[r, g, count[k, g]] - total[k]
                t = math.exp(log_p) * (up[r, k] + up_entropy[r, k] * (log_p + entropy[k]))
                gradient -= t
                of_penalty[r, g, count[k, g]] += t
            of_shown[r, j] = gradient


@kernel(fastmath=IN_ORDER)
@no_type_check
def pull_row(row, top, level, slope, out):
    """Write e^(ℓ - top) (level + slope (ℓ - top))."""
    for i in range(len(row)):
        d = row[i] - top
        out[i] = exponential(d) * (level[i] + slope[i] * d) if d > LOWEST else ZERO


@kernel()
@no_type_check
def pulled(begin, end, logits, columns, group, top, level, slope, of_shown, out):
    """Write the gradient of the logits: where shown `of_shown`, else e^(ℓ - top) (level + slope (ℓ - top)).

    Args:
        begin: the first row to do.
        end: the last but one.
        logits: [row cand].
        columns: [row slot], what is shown.
        group: [row cand], or one row for all.
        top: [row], from `unshown`.
        level: [row group].
        slope: [row group].
        of_shown: [row slot].
        out: [row cand], to be written.
    """
    cands = logits.shape[1]
    of_level, of_slope = np.empty(cands, np.float32), np.empty(cands, np.float32)
    for r in range(begin, end):
        of = group[r if len(group) > 1 else 0]
        taken_from(level[r], of, of_level)
        taken_from(slope[r], of, of_slope)
        pull_row(logits[r], top[r], of_level, of_slope, out[r])
        for k in range(columns.shape[1]):
            out[r, columns[r, k]] = of_shown[r, k]
