"""What is wrong with a trial before anything is learned from it: leaks, missing overlap, arms too small.

Nothing here refuses: a sentence says what was seen, with the column and the numbers, and whether it is grave.
A leak is a feature that knows the outcome or the arm: it was written after the treatment. No check of the
data can prove that a feature is older than the treatment; these find the ones that show.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from causal.targeting.overlap import Overlap, overlap
from causal.uplift.contract import Array, Trial
from simlab.errors import BadInput
from simlab.seeds import Seed

_WORDS = (
    "visit visits visited conversion conversions converted spend spent exposure exposed click clicks clicked "
    "purchase purchased outcome outcomes response responded revenue sales churned y y0 y1 y_factual "
    "y_cfactual mu0 mu1 ite cate effect uplift treatment treated treat arm group segment assignment "
    "propensity pscore re78"
)
_AFTER = frozenset(_WORDS.split())
"""Names of outcomes, arms and truths in the well-known files, and their kin."""

_BINS = 200
_FEW_IDS = 100
"""With fewer rows than this, ages and amounts may well all differ."""
_EXPLAINED = 0.99
_CHANCE = 1e-9


@dataclass(frozen=True)
class Finding:
    """One thing that a guard saw.

    Attributes:
        kind: "leak", "name", "id", "balance", "overlap", "arm" or "constant".
        column: the feature, arm or column that it is about.
        text: one sentence with the numbers.
        grave: whether estimates that ignore it are likely wrong, rather than only uncertain.
    """

    kind: str
    column: str
    text: str
    grave: bool = False


def check(
    trial: Trial,
    *,
    seed: Seed = Seed(0),
    bound: float = 0.05,
    few: int = 100,
    seen: Overlap | None = None,
) -> tuple[Finding, ...]:
    """Return what is wrong with a trial, the grave findings first.

    Args:
        trial: any.
        seed: of the folds in which chances of arms are estimated.
        bound: chances below it count as missing overlap; at most half of 1 / arms is taken.
        few: an arm with fewer rows, or fewer outcomes of either kind where they are 0 and 1, is too small.
        seen: what `overlap` gave, if it was asked for already.
    """
    found = [
        *names(trial),
        *_ids(trial),
        *leaks(trial),
        *balance(trial),
        *arms(trial, few),
        *_constant(trial),
    ]
    if seen is None:
        try:
            seen = overlap(trial, seed=seed, bound=min(bound, 0.5 / len(trial.arms)))
        except BadInput as error:
            found.append(Finding("overlap", "treatment", f"overlap cannot be estimated: {error}"))
    if seen is not None:
        found += _missing_overlap(trial, seen)
    return tuple(sorted(found, key=lambda finding: not finding.grave))


def names(trial: Trial) -> list[Finding]:
    """Return features whose names are those of outcomes, arms or truths."""
    told = []
    for name in trial.names:
        plain = re.split(r"[=:]", name)[0].lower()
        if plain in _AFTER or plain.removesuffix("_outcome") in _AFTER:
            told.append(
                Finding(
                    "name",
                    name,
                    f"feature {name} has the name of an outcome or a treatment: if it was written after the "
                    "treatment it must not be a feature",
                )
            )
    return told


def leaks(trial: Trial) -> list[Finding]:
    """Return features that are the outcome or the arm, tell it, or settle it for some of their values.

    Each feature is cut to at most 200 steps of about equal size (its own values if there are no more). It
    tells the outcome if steps explain 99 % of the outcome's variance. It settles an outcome of 0 and 1 if
    in some step, of what would be a chance below 1e-9 with the mean outcome, all rows are alike; so a
    purchase settles a visit (the rows of a user count once). That is a hint and not grave: a rule that was
    there before may do so, too.
    """
    told: list[Finding] = []
    flags = [(f"arm {trial.arms[k]!r}", (trial.arm == k).astype(np.float64)) for k in range(len(trial.arms))]
    targets = [("the outcome", trial.y), *(flags[1:] if len(flags) == 2 else flags)]
    units = len(trial) if trial.user is None else len(np.unique(trial.user))
    for i, name in enumerate(trial.names):
        x = trial.x[:, i]
        step, many = _steps(x, units)
        if many < 2:
            continue
        count = np.bincount(step, minlength=many)
        people = count if trial.user is None else _users(step, trial.user, many)
        for what, target in targets:
            if np.ptp(target) == 0:
                continue
            if np.array_equal(x, target):
                told.append(Finding("leak", name, f"feature {name} equals {what} in every row", True))
                break
            total = np.bincount(step, target, many)
            mean = target.mean()
            explained = float(
                ((total - count * mean) ** 2 / np.maximum(count, 1)).sum() / ((target - mean) ** 2).sum()
            )
            if explained >= _EXPLAINED:
                told.append(
                    Finding(
                        "leak",
                        name,
                        f"feature {name} tells {what}: its values explain {100 * explained:.1f} % of it",
                        True,
                    )
                )
                break
            if what == "the outcome" and not trial.binary:
                continue
            told += _settled(name, what, x, step, count, people, total, float(mean), len(trial.names))
    return told


def _settled(
    name: str,
    what: str,
    x: Float[Array, " round"],
    step: Int[Array, " round"],
    count: Int[Array, " step"],
    people: Int[Array, " step"],
    total: Float[Array, " step"],
    mean: float,
    features: int,
) -> list[Finding]:
    """Return a finding if all rows of a step have the same 0 or 1, though that is no chance."""
    with np.errstate(divide="ignore"):
        odds = np.where(total == count, people * np.log(mean), people * np.log1p(-mean))
    rare = odds < np.log(_CHANCE / (len(count) * features))
    alike = (count > 0) & ((total == count) | (total == 0)) & rare
    if not alike.any():
        return []
    best = int(np.where(alike, odds, 0.0).argmin())
    inside = x[step == best]
    low, high = float(inside.min()), float(inside.max())
    span = f"is {low:g}" if low == high else f"is from {low:g} to {high:g}"
    value = int(total[best] > 0)
    if what == "the outcome":
        always = f"the outcome is {value} in all {count[best]:,} rows whose {name} {span}"
        usual = f"though its mean is {mean:.4g}"
    else:
        always = f"{'all' if value else 'none'} of the {count[best]:,} rows whose {name} {span} got {what}"
        usual = f"though {100 * mean:.3g} % of all rows did"
    text = f"{always}, {usual}: was it written after the treatment, or is it a rule?"
    return [Finding("leak", name, text, what != "the outcome")]


def balance(trial: Trial, *, level: float = 1e-6) -> list[Finding]:
    """Return features whose means differ between arms of a trial whose chances are known and equal for all.

    In an experiment features do not know the arm; one that does was written afterwards, or the experiment
    was not random. The test is Welch's, clustered by user where there are users, at the level divided by the
    number of tests.
    """
    if trial.propensity is None or np.ptp(trial.propensity, axis=0).max() > 1e-9:
        return []
    told = []
    tests = len(trial.names) * (len(trial.arms) - 1)
    for k in range(1, len(trial.arms)):
        side = [trial.arm == arm for arm in (0, k)]
        if min(rows.sum() for rows in side) < 20:
            continue
        control, treated = (trial.x[rows].mean(0) for rows in side)
        gap, variance = treated - control, _variance(trial, side)
        z = np.divide(gap, np.sqrt(variance), out=np.zeros_like(gap), where=variance > 0)
        for i in np.flatnonzero(np.abs(z) > norm.isf(level / tests / 2)):
            told.append(
                Finding(
                    "balance",
                    trial.names[i],
                    f"feature {trial.names[i]} has mean {treated[i]:.4g} in arm {trial.arms[k]!r} "
                    f"and {control[i]:.4g} in control (z = {z[i]:.1f}), though chances of arms are "
                    "known and equal for all: it was written after the treatment, or arms were not random",
                    True,
                )
            )
    return told


def _variance(trial: Trial, side: list[Bool[Array, " round"]]) -> Float[Array, " feat"]:
    """Return the variance of the difference of two arms' means of each feature."""
    if trial.user is None:
        return sum((trial.x[rows].var(0, ddof=1) / rows.sum() for rows in side), np.zeros(trial.x.shape[1]))
    where, many = trial.user, int(trial.user.max()) + 1
    told = np.zeros(trial.x.shape[1])
    for i, x in enumerate(trial.x.T):
        low, high = (rows * (x - x[rows].mean()) / rows.sum() for rows in side)
        each = high - low
        told[i] = (np.bincount(where, each, many) ** 2).sum()
    return told


def _users(step: Int[Array, " round"], user: Int[Array, " round"], many: int) -> Int[Array, " step"]:
    """Return how many users have rows in each step."""
    pairs = np.unique(step * (int(user.max()) + 1) + user)
    return np.bincount(pairs // (int(user.max()) + 1), minlength=many)


def arms(trial: Trial, few: int = 100) -> list[Finding]:
    """Return arms with too few rows, or too few outcomes of either kind where they are 0 and 1."""
    told = []
    counted = trial.weight > 0 if trial.weight is not None else np.ones(len(trial), dtype=bool)
    count = np.bincount(trial.arm[counted], minlength=len(trial.arms))
    for k, label in enumerate(trial.arms):
        y = trial.y[counted & (trial.arm == k)]
        share = 100 * count[k] / max(count.sum(), 1)
        if count[k] < few:
            text = f"arm {label!r} has {count[k]:,} rows ({share:.2g} %), too few to learn effects from"
            told.append(Finding("arm", str(label), text, bool(count[k] < 20)))
        elif trial.binary and min(y.sum(), len(y) - y.sum()) < few:
            rare = int(y.sum() * 2 < len(y))
            number = int((y == rare).sum())
            text = f"arm {label!r} has {number:,} rows with outcome {rare} of {count[k]:,}: effects are vague"
            told.append(Finding("arm", str(label), text))
    return told


def _ids(trial: Trial) -> list[Finding]:
    """Return features that number the rows: whole numbers, all different, most numbers between them taken."""
    n = len(trial)
    if n < _FEW_IDS:
        return []
    told = []
    for i in np.flatnonzero((np.ptp(trial.x, axis=0) < 2 * n) & (np.ptp(trial.x, axis=0) >= n - 1)):
        x = trial.x[:, i]
        if (x == np.floor(x)).all() and len(np.unique(x)) == n:
            text = (
                f"feature {trial.names[i]} is another whole number in each row, from {x.min():.0f} to "
                f"{x.max():.0f}: if it numbers the rows it says nothing of others, and must not be a feature"
            )
            told.append(Finding("id", trial.names[i], text))
    return told


def _constant(trial: Trial) -> list[Finding]:
    """Return an outcome and features that do not vary."""
    told = []
    if np.ptp(trial.y) == 0:
        text = f"the outcome is {trial.y[0]:g} in every row, so every effect is 0"
        told.append(Finding("constant", "outcome", text, True))
    for i in np.flatnonzero(np.ptp(trial.x, axis=0) == 0):
        text = f"feature {trial.names[i]} is {trial.x[0, i]:g} in every row and tells nothing"
        told.append(Finding("constant", trial.names[i], text))
    return told


def _missing_overlap(trial: Trial, seen: Overlap) -> list[Finding]:
    """Return a finding if some rows could hardly get some arm."""
    if seen.trimmed == 0:
        return []
    k = int(np.argmin(seen.lowest))
    how = "known" if seen.known else "estimated"
    text = (
        f"{100 * seen.trimmed:.3g} % of the rows had a chance below {seen.bound:g} of some arm: the {how} "
        f"chance of arm {trial.arms[k]!r} goes from {seen.lowest[k]:.2g} to {seen.highest[k]:.2g}; effects "
        "there are guesses of the model"
    )
    return [Finding("overlap", str(trial.arms[k]), text, seen.trimmed > 0.05)]


def _steps(x: Float[Array, " round"], units: int) -> tuple[Int[Array, " round"], int]:
    """Cut a feature to steps: its values if they are few, else about 200 of equal size, of 10 units or more.

    Steps of a row or two would tell everything by chance.
    """
    level, most = np.unique(x), max(2, min(_BINS, units // 10))
    if len(level) > most:
        level = np.unique(np.quantile(x, np.linspace(0, 1, most + 1)[1:], method="higher"))
    return np.searchsorted(level, x), len(level)


def sentences(found: Sequence[Finding]) -> list[str]:
    """Return one line for each finding, with "grave: " before the grave ones."""
    return [("grave: " if finding.grave else "") + finding.text for finding in found]
