"""Which of independent exponential clocks ring first: Plackett–Luce slot marginals by integrals.

Give candidate i a clock that rings after an exponential time of rate w_i = exp(ℓ_i). The order in which the
clocks ring is a Plackett–Luce order, so

    P(i at slot k) = ∫ w_i e^{-w_i t} P(exactly k of the others rang before t) dt,    k from 0,

and the number that rang is Poisson–binomial: the coefficients of Π_j (e^{-w_j t} + (1 - e^{-w_j t}) z). All
polynomials are cut at z^{K-1}. Nothing is simulated and nothing that may be small is divided out.

The integral is the trapezoidal rule in s with t = exp(s - e^{-s}) / W, which meets both ends doubly or singly
exponentially, and so it converges exponentially: the error is near 1e-14, and 1e-12 is tested.

Source: the race is Yellott (1977), "The relationship between Luce's choice axiom, Thurstone's theory of
comparative judgment, and the double exponential distribution"; the substitution Takahasi and Mori (1974),
"Double exponential formulas for numerical integration".
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

STEP = 0.2
"""Distance of nodes in s, for up to nine slots; it shrinks with 1/√slots, as the integrands' widths do."""
LOW = -3.75
"""The first s: there t W is below 1e-19."""
GONE = 42.0
"""-log of what may be left out: e^-42 is 6e-19."""
GAP = 45.0
"""The widest gap of logits that is told from a wider one, where some are very wide: e^-45 is 3e-20."""
LIGHT = math.log(2)
"""Light candidates have w t below this at every node that counts: they rang with a chance below a half."""
_CELLS = 1 << 22
"""Cells of [row, slot, node] or [row, cand, node] held at once: 32 MB."""


class Nodes(NamedTuple):
    """Where the integrand is looked at, and how much each node counts."""

    time: Float[Tensor, "row node"]
    weight: Float[Tensor, "row node"]


def placements(
    logits: Float[Tensor, "row cand"], picks: Int[Tensor, "row pick"], slots: int
) -> Float[Tensor, "row slot pick"]:
    """Return P(pick at slot) of a few candidates of each row at every slot, float64; picks may repeat."""
    blocks = _blocks(logits, picks, slots, slots * (picks.shape[1] + 4), _CELLS // 4)
    return _joined(
        [_placements(rate, picked, slots) for rate, picked in blocks], logits, slots, picks.shape[1]
    )


def at_slots(logits: Float[Tensor, "row cand"], picks: Int[Tensor, "row slot"]) -> Float[Tensor, "row slot"]:
    """Return P(pick k at slot k) of each row, float64; picks may repeat."""
    slots = picks.shape[1]
    blocks = _blocks(logits, picks, slots, slots * (slots + 4), _CELLS // 4)
    parts = [_placements(rate, picked, slots, own=True).diagonal(dim1=1, dim2=2) for rate, picked in blocks]
    return _joined(parts, logits, slots)


def table(logits: Float[Tensor, "row cand"], slots: int) -> Float[Tensor, "row slot cand"]:
    """Return P(candidate at slot) of all candidates, float64."""
    none = torch.zeros(len(logits), 0, dtype=torch.long, device=logits.device)
    cells = min(logits.shape[1], heavies(slots)) * slots + 4 * logits.shape[1]
    blocks = _blocks(logits, none, slots, cells, _CELLS)
    return _joined([_table(rate, slots) for rate, _ in blocks], logits, slots, logits.shape[1])


def _joined(parts: list[Tensor], logits: Tensor, *shape: int) -> Tensor:
    """Put blocks together, of no rows too; rounding above 1 is cut."""
    return torch.cat([logits.new_zeros(0, *shape, dtype=torch.float64), *parts]).clamp_(max=1.0)


def _blocks(
    logits: Float[Tensor, "row cand"], picks: Int[Tensor, "row pick"], slots: int, cells: int, room: int
) -> Iterator[tuple[Float[Tensor, "row cand"], Int[Tensor, "row pick"]]]:
    """Yield the rates and picks of so few rows that `cells` numbers a row and node take about `room`."""
    wide = max(1, _CELLS // logits.shape[1])
    for start in range(0, len(logits), wide):
        rate, picked = rates(logits[start : start + wide], slots), picks[start : start + wide]
        size = max(1, room // (_count(float(_end(rate, slots).max()), slots) * cells))
        for at in range(0, len(rate), size):
            yield rate[at : at + size], picked[at : at + size]


def rates(logits: Float[Tensor, "row cand"], slots: int) -> Float[Tensor, "row cand"]:
    """Return w in float64, the largest of a row 1.

    Where logits are so far apart that w would underflow, a gap between neighbours in order is cut to `GAP`:
    what is below a gap rings after what is above it but for e^-GAP, whether it is that wide or wider. With
    more than fifteen such gaps among the first K, they are cut to 650 / (K - 1), which leaves an error of
    e^(-650 / (K - 1)): 1e-14 for 20 slots, 1e-6 for 48.
    """
    logits = logits.double()
    below = logits - logits.amax(1, keepdim=True)
    if float(below.masked_fill(below.isneginf(), 0.0).min()) < -2 * GAP:
        value, where = below.sort(dim=1, descending=True)
        gap = (value[:, :-1] - value[:, 1:]).nan_to_num(nan=torch.inf)
        depth = gap[:, : slots - 1].clamp(max=GAP).sum(1, keepdim=True)
        most = torch.where(depth > 650, 650 / max(slots - 1, 1), GAP)
        fell = torch.minimum(gap, most).cumsum(1)
        cut = torch.cat([torch.zeros_like(fell[:, :1]), -fell], 1).masked_fill(value.isneginf(), -torch.inf)
        below = torch.empty_like(below).scatter_(1, where, cut)
    return below.exp()


def _end(rate: Float[Tensor, "row cand"], slots: int) -> Float[Tensor, " row"]:
    """Return the last s of each row: by then all slots are filled but for a chance of e^-GONE.

    If fewer than K clocks rang, more than L of the K + L fastest are silent, so the chance is at most
    C(K + L, L + 1) exp(-(L + 1) w t) with w the slowest of them; the best L counts.
    """
    cands = rate.shape[1]
    spare = min(cands - slots, 4 * slots + 16)
    fastest = rate.topk(slots + spare, dim=1).values[:, slots - 1 :]
    left = torch.arange(1, spare + 2, dtype=torch.float64, device=rate.device)
    ways = torch.tensor(
        [math.log(math.comb(slots + extra, extra + 1)) for extra in range(spare + 1)],
        dtype=torch.float64,
        device=rate.device,
    )
    ends = (GONE + ways) / (left * fastest.clamp(min=torch.finfo(torch.float64).tiny))
    slowest = torch.where(rate > 0, rate, torch.inf).amin(1)
    end = torch.minimum(ends.amin(1), (GONE + math.log(cands)) / slowest)
    high = (end * rate.sum(1)).log()
    return high + torch.exp(-high)  # t = exp(s - e^-s) / W has reached `end` there


def _count(high: float, slots: int) -> int:
    """Return how many nodes reach so far."""
    return 2 + math.ceil((high - LOW) / (STEP * min(1.0, 3 / math.sqrt(slots))))


def nodes(rate: Float[Tensor, "row cand"], slots: int) -> Nodes:
    """Lay the same number of nodes in each row, each from `LOW` to its own end."""
    high = _end(rate, slots)
    count = _count(float(high.max()), slots)
    wide = (high - LOW).unsqueeze(1)
    s = LOW + wide * torch.linspace(0, 1, count, dtype=torch.float64, device=rate.device)
    bend = (-s).exp()
    time = (s - bend).exp() / rate.sum(1, keepdim=True)
    return Nodes(time, wide / (count - 1) * time * (1 + bend))


@lru_cache(maxsize=32)
def heavies(slots: int) -> int:
    """Return how many coins must be tossed so that fewer than K heads have a chance below e^-GONE."""
    count = 2 * slots
    while stats.binom.logcdf(slots - 1, count, 0.5) > -GONE:
        count += 4
    return count


@lru_cache(maxsize=32)
def _powers(slots: int) -> Float[np.ndarray, "power moment"]:
    """Return c with (e^u - 1)^m = Σ_r c[m, r] u^r for m < K: m! S(r, m) / r!, by u-derivatives."""
    terms = 8
    reach = max(slots - 1, 1) * LIGHT
    while terms * math.log(reach) - math.lgamma(terms + 1) > -GONE:
        terms += 4
    one = np.array([0.0] + [math.exp(-math.lgamma(r + 1)) for r in range(1, terms)])
    out = np.zeros((slots, terms))
    out[0, 0] = 1.0
    for m in range(1, slots):
        out[m] = np.convolve(out[m - 1], one)[:terms]
    return out


def _light(
    rate: Float[Tensor, "row cand"], time: Float[Tensor, "row node"], slots: int
) -> Float[Tensor, "row count node"]:
    """Return Π (e^{-u} + (1 - e^{-u}) z) over light candidates, from sums of powers of their rates.

    With x = e^u - 1 the product is e^{-Σu} Σ_k e_k(x) z^k, and Newton's identities give the elementary
    symmetric e_k from Σ_j x_j^m. They are stable here, for x is at most 1. Nodes at which the heaviest has
    u > log 2 have zeros: by then the heavier ones have rung, but for e^-GONE.
    """
    top = rate.amax(1, keepdim=True)
    share = rate / top.clamp(min=torch.finfo(torch.float64).tiny)
    series = torch.as_tensor(_powers(slots), device=rate.device)
    terms = series.shape[1]
    moment = torch.empty(len(rate), terms, dtype=torch.float64, device=rate.device)
    running = (rate > 0).double()
    for r in range(terms):
        moment[:, r] = running.sum(1)
        running = running * share
    reach = (top * time).clamp(max=LIGHT)  # u of the heaviest
    scaled = moment.unsqueeze(2) * reach.unsqueeze(1) ** torch.arange(terms, device=rate.device)[:, None]
    sums = torch.einsum("mr,irn->imn", series, scaled)  # Σ_j x_j^m
    out = torch.empty(len(rate), slots, time.shape[1], dtype=torch.float64, device=rate.device)
    out[:, 0] = 1.0
    sign = torch.tensor([(-1.0) ** m for m in range(slots)], dtype=torch.float64, device=rate.device)
    for k in range(1, slots):
        out[:, k] = (sign[:k, None] * sums[:, 1 : k + 1] * out[:, :k].flip(1)).sum(1) / k
    out *= (-rate.sum(1, keepdim=True) * time).exp().unsqueeze(1)
    return out.clamp(min=0) * (top * time <= LIGHT).unsqueeze(1)


def _one_more(
    count: Float[Tensor, "row count node"], rang: Float[Tensor, "row node"], silent: Float[Tensor, "row node"]
) -> Float[Tensor, "row count node"]:
    """Add one candidate to the distribution of how many rang."""
    out = count * silent.unsqueeze(1)
    out[:, 1:] += count[:, :-1] * rang.unsqueeze(1)
    return out


def _chances(
    rate: Float[Tensor, "row cand"], time: Float[Tensor, "row node"]
) -> tuple[Float[Tensor, "row cand node"], Float[Tensor, "row cand node"]]:
    """Return P(rang) and P(silent)."""
    u = rate.unsqueeze(2) * time.unsqueeze(1)
    return -torch.expm1(-u), torch.exp(-u)


def _split(
    rate: Float[Tensor, "row cand"], slots: int
) -> tuple[Float[Tensor, "row heavy"], Int[Tensor, "row heavy"], Float[Tensor, "row cand"] | None]:
    """Return the heavy rates, where they are, and the rates without them (None if nothing is left)."""
    many = min(rate.shape[1], heavies(slots))
    heavy, where = rate.topk(many, dim=1)
    if many == rate.shape[1]:
        return heavy, where, None
    return heavy, where, rate.scatter(1, where, 0.0)


def _start(
    light: Float[Tensor, "row cand"] | None, time: Float[Tensor, "row node"], slots: int
) -> Float[Tensor, "row count node"]:
    """Return the distribution of how many light candidates rang; of none, without any."""
    if light is not None:
        return _light(light, time, slots)
    out = torch.zeros(len(time), slots, time.shape[1], dtype=torch.float64, device=time.device)
    out[:, 0] = 1.0
    return out


def _together(
    one: Float[Tensor, "row count node"], two: Float[Tensor, "row count node"], k: int
) -> Float[Tensor, "row node"]:
    """Return P(k rang) of two groups together."""
    return (one[:, : k + 1] * two[:, : k + 1].flip(1)).sum(1)


def _placements(
    rate: Float[Tensor, "row cand"], picks: Int[Tensor, "row pick"], slots: int, own: bool = False
) -> Float[Tensor, "row slot pick"]:
    """Return P(pick at slot), or with `own` only the diagonal of it.

    The others' counts: all but the picks once, then the picks once from the left and once from the right.
    """
    time, weight = nodes(rate, slots)
    first = (picks.unsqueeze(2) == picks.unsqueeze(1)).to(torch.uint8).argmax(2)
    chosen = rate.gather(1, picks)
    # A pick that comes again is no further clock.
    again = first != torch.arange(picks.shape[1], device=picks.device)
    rang, silent = _chances(chosen.masked_fill(again, 0.0), time)
    heavy, _, light = _split(rate.scatter(1, picks, 0.0), slots)
    count = _start(light, time, slots)
    there = (heavy > 0).any(0)  # rates of zero never ring
    for j in there.nonzero().squeeze(1).tolist():
        u = heavy[:, j, None] * time
        count = _one_more(count, -torch.expm1(-u), torch.exp(-u))
    left = []
    for i in range(picks.shape[1]):
        left.append(count)
        count = _one_more(count, rang[:, i], silent[:, i])
    right = _start(None, time, slots)
    out = torch.zeros(len(rate), slots, picks.shape[1], dtype=torch.float64, device=rate.device)
    for i in reversed(range(picks.shape[1])):
        if bool(again[:, i].all()):
            continue
        flow = weight * chosen[:, i, None] * torch.exp(-chosen[:, i, None] * time)
        for k in (i,) if own and not bool(again.any()) else range(slots):
            out[:, k, i] = (flow * _together(left[i], right, k)).sum(1)
        right = _one_more(right, rang[:, i], silent[:, i])
    return out.gather(2, first.unsqueeze(1).expand(-1, slots, -1))


def _table(rate: Float[Tensor, "row cand"], slots: int) -> Float[Tensor, "row slot cand"]:
    """Return P(candidate at slot): heavy ones left out by products, light ones by a stable division."""
    time, weight = nodes(rate, slots)
    heavy, where, light = _split(rate, slots)
    count = _start(light, time, slots)
    rang, silent = _chances(heavy, time)
    left = []
    for i in range(heavy.shape[1]):
        left.append(count)
        count = _one_more(count, rang[:, i], silent[:, i])
    out = torch.zeros(len(rate), slots, rate.shape[1], dtype=torch.float64, device=rate.device)
    if light is not None:
        # Leave one out of the product: others_k = (count_k - P(rang) others_{k-1}) / P(silent). As a light
        # one is silent with at least a half, no error grows; beyond that the count is zero.
        u = (light.unsqueeze(2) * time.unsqueeze(1)).clamp_(max=LIGHT)
        odds = torch.expm1(u, out=u).neg_()
        flow = torch.zeros_like(u)  # P(silent) times others
        for k in range(slots):
            flow.mul_(odds).addcmul_(light.unsqueeze(2), (weight * count[:, k]).unsqueeze(1))
            out[:, k] = flow.sum(2).clamp(min=0)
    right = _start(None, time, slots)
    total = torch.arange(slots, device=rate.device).unsqueeze(1) + torch.arange(slots, device=rate.device)
    fits = (total < slots).flatten()
    value = torch.zeros(len(rate), slots, heavy.shape[1], dtype=torch.float64, device=rate.device)
    for i in reversed(range(heavy.shape[1])):
        flow = weight * heavy[:, i, None] * silent[:, i]
        both = torch.bmm(left[i] * flow.unsqueeze(1), right.transpose(1, 2)).flatten(1)
        value[:, :, i].index_add_(1, total.flatten()[fits], both[:, fits])
        right = _one_more(right, rang[:, i], silent[:, i])
    out.scatter_(2, where.unsqueeze(1).expand(-1, slots, -1), value)
    return out
