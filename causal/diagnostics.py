"""Can this log answer the question? Signs of weights that must not be trusted, and a verdict in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from causal.calibration import Calibration, calibrate
from causal.contract import Rounds
from causal.evaluation import effective, largest_share
from causal.pages import marginals_at, places
from causal.rewards import positions
from causal.tail import pareto_shape
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy

QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Where the weights' distribution is reported."""

REFUSE_ESS = 30.0
"""Below this many effective rows the central limit theorem that every interval leans on is not to be had."""
CAUTION_ESS = 200.0
"""Below this, the weights' own sample mean and deviation still move by about a tenth."""
REFUSE_SHARE = 0.2
"""One row with a fifth of the weight *is* the estimate; no resampling can see what is beside it."""
CAUTION_SHARE = 0.05
"""A row with a twentieth of the weight moves the estimate by up to a twentieth of the reward's range."""
CAUTION_Z = 3.0
"""E[w] = 1 where the target stays on what the logger could do; three standard errors off is no accident."""
REFUSE_MEAN = 0.1
"""A mean weight that is significantly off by more than this biases IPS by about as much: a tenth."""
REFUSE_Z = 6.0
"""How sure we want to be before refusing for the mean: weights are skewed, so z is rougher than it looks."""
CAUTION_UNSEEN = 0.01
"""Above this share of the target's mass, what it does there is a guess of the reward model, if any."""
REFUSE_UNSEEN = 0.2
"""With a fifth of the target never tried, no weight can tell its value."""
UNSEEN_ROUNDS = 2000
"""Rounds on which the unseen mass is measured, at most."""
CAUTION_P = 1e-4
"""Below this, the logged propensities are not those that the items were drawn with. Small, since with many
items and a plug-in variance the chi-square is approximate."""
HEAVY_TAIL = 0.7
"""Pareto shape above which means of weights converge too slowly to use (Vehtari, Simpson, Gelman, Yao and
Gabry 2024, "Pareto smoothed importance sampling"). Ties make the fit rough, so it only adds to
other signs and never decides."""


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What the weights and propensities of a log look like.

    Attributes:
        n: number of rounds.
        ess: effective number of rounds, (Σw)² / Σw².
        max_weight_share: the largest weight over the sum.
        mean_weight: should be 1.
        mean_weight_z: (mean - 1) over its standard error; ±inf where all weights are the same and not 1.
        weight_quantiles: at `QUANTILES`, then the maximum.
        zero_share: share of rounds that the target would never log.
        clip: where `clipped_share` cuts.
        clipped_share: share of the total weight that lies above the clip and clipped IPS would lose.
        tail_index: Pareto shape k of the largest weights, or NaN where ties or few rows forbid a fit.
        unseen_mass: share of what the target shows that the log never shows at all; None without a policy.
        bias_bound: how far the value can be off for that share alone, the share times the range of the
            reward; None where the share is.
        deterministic: whether the logger chose every row for sure, so that nothing was tried; None without a
            log.
        calibration: whether items are as frequent as their propensities say, or None without a log.
    """

    n: int
    ess: float
    max_weight_share: float
    mean_weight: float
    mean_weight_z: float
    weight_quantiles: tuple[float, ...]
    zero_share: float
    clip: float
    clipped_share: float
    tail_index: float
    unseen_mass: float | None
    calibration: Calibration | None
    bias_bound: float | None = None
    deterministic: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether to print the estimates, and why.

    Attributes:
        level: "ok", "caution" or "refused".
        sentences: the reasons, worst first; one sentence of the plain figures where all is well.
    """

    level: Literal["ok", "caution", "refused"]
    sentences: tuple[str, ...]


def diagnose(
    rounds: Rounds,
    log: Log | None = None,
    target: Policy | None = None,
    *,
    clip: float = 10.0,
    past: int = 0,
    page_slots: int | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Diagnostics:
    """Measure weights, overlap and propensities.

    Args:
        rounds: the weights.
        log: to check the propensities against what was shown.
        target: to see, with the log, how much of it was never tried.
        clip: where to cut weights for `clipped_share`.
        past: how many items of history the target wants.
        page_slots: places of a page, for a log with a position.
        reward_range: the lowest and the highest reward that there can be; by default what the rounds show.

    Raises:
        BadInput: for a reward outside its declared range.
    """
    w = rounds.weight
    total = float(w.sum())
    spread = float(w.std()) / len(w) ** 0.5 if len(w) > 1 else 0.0
    off = float(w.mean()) - 1
    sure = abs(off) < 1e-6  # propensities may have been float32
    levels = np.quantile(w.cpu().numpy(), QUANTILES)
    unseen = None if log is None or target is None else unseen_mass(log, target, past, page_slots)
    low, high = (float(x) for x in rounds.reward.aminmax()) if reward_range is None else reward_range
    check_range(rounds.reward, low, high)
    return Diagnostics(
        n=len(w),
        ess=effective(w),
        max_weight_share=largest_share(w),
        mean_weight=off + 1,
        mean_weight_z=0.0 if sure else off / spread if spread > 0 else float("inf") * off,
        weight_quantiles=(*levels.tolist(), float(w.max())),
        zero_share=float((w == 0).double().mean()),
        clip=clip,
        clipped_share=float((w - clip).clamp(min=0).sum()) / total if total > 0 else 0.0,
        tail_index=pareto_shape(w),
        unseen_mass=unseen,
        calibration=None if log is None else calibrate(log),
        bias_bound=None if unseen is None else unseen * (high - low),
        deterministic=None if log is None else bool((log.propensity == 1).all()),
    )


def check_range(reward: Float[Tensor, " round"], low: float, high: float) -> None:
    """Refuse rewards outside the range that they are declared to have.

    Raises:
        BadInput: naming the row, its value and the range; or for a range whose ends are swapped.
    """
    if not low <= high:
        raise BadInput(f"reward range is {low:g} … {high:g}, but the lowest reward comes first")
    wrong = ~((reward >= low) & (reward <= high))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        value = float(reward[row])
        raise BadInput(
            f"column reward, row {row}: {value:g} is outside the declared range {low:g} … {high:g}"
        )


def unseen_mass(log: Log, target: Policy, past: int = 0, page_slots: int | None = None) -> float:
    """Return the share of the target's shown items that the log never shows, at any slot or to anyone.

    It counts what *this log* never tried, whether the logger could have or not.

    Raises:
        BadInput: for a position that is off a page of `page_slots`; they are not looked at where the log has
            no position.
    """
    place = positions(log)
    pages = places(log, None if log.position is None else page_slots)
    context = log.context(past)
    # A share needs few rounds: some, evenly spaced, say it to about a hundredth.
    some = torch.arange(0, len(log), max(1, -(-len(log) // UNSEEN_ROUNDS)), device=log.slate.device)
    context, place = context.rows(some), place[some]
    seen = torch.zeros(log.n_items, dtype=torch.bool, device=log.slate.device)
    seen[log.slate.reshape(-1)] = True
    size = max(1, (1 << 21) // (pages * context.candidates.shape[1]))
    missed = 0.0
    with torch.no_grad():
        for start in range(0, len(some), size):
            part = context.rows(slice(start, start + size))
            where = None if log.position is None else place[start : start + size]
            table = marginals_at(target.distribution(part, pages), where)
            missed += float((table.mean(1) * ~seen[part.candidates]).sum())
    return missed / len(some)


def verdict(d: Diagnostics) -> Verdict:
    """Judge by the named thresholds of this file."""
    found: list[tuple[int, str]] = []

    def note(bad: bool, worse: bool, sentence: str) -> None:
        if worse:
            found.append((2, f"{sentence}: refused; use --force to print it anyway"))
        elif bad:
            found.append((1, f"{sentence}: caution"))

    level_of_size, size = share_sentence(d.ess, d.n, d.max_weight_share)
    if level_of_size:
        found.append((level_of_size, size))
    if d.unseen_mass is not None:
        note(
            d.unseen_mass > CAUTION_UNSEEN,
            d.unseen_mass > REFUSE_UNSEEN,
            f"the log never shows items that make up {_percent(d.unseen_mass)} of what the target shows"
            + (f", worth up to {d.bias_bound:.3g} of the value" if d.bias_bound else ""),
        )
    if d.deterministic:
        note(
            False,
            abs(d.mean_weight - 1) > 1e-6,
            "the logger chose every row for sure (all propensities are 1): nothing else was ever tried",
        )
    level_of_mean, mean = mean_sentence(d.mean_weight, d.mean_weight_z)
    if level_of_mean:
        found.append((level_of_mean, mean))
    c = d.calibration
    if c is not None and c.p_value is not None:
        note(
            c.p_value < CAUTION_P,
            False,
            f"items are not shown as often as their propensities say (p = {c.p_value:.1g}, "
            f"worst is item {c.worst_item} with z = {c.worst_z:.1f})",
        )
    if c is not None and c.excess > 1e-3:
        note(True, False, f"the propensities of one slot sum to {1 + c.excess:.3f}, more than 1")
    if found and d.tail_index > HEAVY_TAIL:
        note(True, False, f"the weights' tail is heavy (Pareto shape {d.tail_index:.2f} > {HEAVY_TAIL})")
    if not found:
        return Verdict("ok", (f"{size}, the mean weight is {d.mean_weight:.3f}: ok",))
    found.sort(key=lambda pair: -pair[0])
    level: Literal["caution", "refused"] = "refused" if found[0][0] == 2 else "caution"
    return Verdict(level, tuple(sentence for _, sentence in found))


def share_sentence(ess: float, n: int, share: float, before: str = "") -> tuple[int, str]:
    """Judge by effective rows and the largest share of the weight alone.

    Args:
        ess: effective number of rows.
        n: number of rows.
        share: the largest weight over the sum.
        before: what the sentence begins with.

    Returns:
        0 with the plain figures, 1 for caution or 2 for a refusal, with the sentence.
    """
    size = f"{before}ESS {_number(ess)} of {n:,}, one row holds {_percent(share)} of the weight"
    if ess < REFUSE_ESS or share > REFUSE_SHARE:
        return 2, f"{size}: refused; use --force to print it anyway"
    if ess < CAUTION_ESS or share > CAUTION_SHARE:
        return 1, f"{size}: caution"
    return 0, size


def mean_sentence(mean: float, z: float, tests: int = 1, before: str = "") -> tuple[int, str]:
    """Judge by the mean weight, which should be 1.

    Args:
        mean: of the weights.
        z: (mean - 1) over its standard error.
        tests: of how many means this is the worst, for then a far one is less of a surprise (Bonferroni).
        before: what the sentence begins with.

    Returns:
        0, 1 for caution or 2 for a refusal, with the sentence.
    """
    limit, far = (float(norm.isf(norm.sf(x) / tests)) for x in (CAUTION_Z, REFUSE_Z))
    said = (
        f"{before}the mean weight is {mean:.3f} where right propensities and full overlap give 1 "
        f"(z = {z:.1f})"
    )
    if abs(z) > far and abs(mean - 1) > REFUSE_MEAN:
        return 2, f"{said}: refused; use --force to print it anyway"
    return (1, f"{said}: caution") if abs(z) > limit else (0, said)


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}"


def _percent(x: float) -> str:
    return f"{100 * x:.0f} %" if x >= 0.1 else f"{100 * x:.2g} %"


def weight_table(d: Diagnostics) -> dict[str, float]:
    """Return the weights' quantiles by name, for a report."""
    return dict(zip([*(f"{100 * q:g} %" for q in QUANTILES), "max"], d.weight_quantiles, strict=True))
