"""Do intervals of effects hold, and does uplift beat probability, in a world whose truth is known?

Logs come from `Promotion-v0`: coverage of average effects and of effects by decile, what confounding does,
and whom two policies treat, all beside the truth. Logs are kept in a folder as they are made, so a run that
was stopped goes on where it was.

    python benchmarks/uplift_promotion.py --markdown docs/uplift-promotion.md    # an hour of one core
    python benchmarks/uplift_promotion.py --quick
    python benchmarks/uplift_promotion.py --minutes 10    # begins nothing new after ten minutes
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._promotion_cells import CELLS, GROUPS, SETTINGS, SLOTS, STEPS, USERS, Array, Found
from benchmarks.harness import Row, finish, machine, write_page
from simlab.files import write_whole
from simlab.statistics import Summary, mean_interval

LOW, HIGH = 0.92, 0.98
CONFOUNDED = ("observed confounding", "heavy confounding")
CHUNK = 10
"""Logs that a process makes at once."""


@dataclass(frozen=True)
class Plan:
    """One cell of the page: which logs, and how many.

    Attributes:
        cell: name in `CELLS`.
        setting: name in `SETTINGS`.
        n: rows of a log.
        logs: how many.
    """

    cell: str
    setting: str
    n: int
    logs: int

    @property
    def file(self) -> str:
        """The name of the file that keeps its logs."""
        return f"{self.cell}-{self.setting.replace(',', '').replace(' ', '-')}-{self.n}.json"


PLANS = (
    *(Plan("scores", s, 3000, 1000) for s in SETTINGS),
    *(Plan("fresh", s, 3000, 600) for s in SETTINGS),
    Plan("slates", "experiment, chances estimated", 20_000, 40),
    Plan("slates", "observed confounding", 20_000, 40),
    Plan("clustered", "experiment", 3000, 600),
    *(Plan("learners", s, 3000, 300) for s in SETTINGS),
    *(Plan("dear", s, 3000, 60) for s in ("experiment", *CONFOUNDED)),
)


def made(plan: Plan, logs: Sequence[int]) -> tuple[Plan, list[int], list[Found]]:
    """Make some logs of a plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of EconML's habits
        return plan, list(logs), [CELLS[plan.cell](plan.setting, plan.n, log) for log in logs]


def read(folder: Path, plan: Plan) -> dict[int, Found]:
    """Return the logs that are there, by their number."""
    path = folder / plan.file
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {int(log): found for log, found in kept.items() if int(log) < plan.logs}


def run(plans: Sequence[Plan], folder: Path, processes: int, minutes: float) -> None:
    """Make the logs that are not there yet, in turns of all plans; keep each piece as it comes."""
    kept = {plan: read(folder, plan) for plan in plans}
    until = time.monotonic() + 60 * minutes
    waiting: list[tuple[float, Plan, list[int]]] = []
    for plan in plans:
        rest = [log for log in range(plan.logs) if log not in kept[plan]]
        for i in range(0, len(rest), CHUNK):
            waiting.append((rest[i] / plan.logs, plan, rest[i : i + CHUNK]))
    waiting.sort(key=lambda piece: piece[0])  # all plans grow alike, so a stopped run still says something

    if not waiting:
        return

    def pieces() -> Iterator[tuple[Plan, list[int]]]:
        for _, plan, logs in waiting:
            if time.monotonic() < until:
                yield plan, logs

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # of the processes, which are the parallel part
        os.environ[name] = "1"
    # This folder's coverage.py would hide the package `coverage` that EconML's numba looks for.
    here = Path(__file__).resolve().parent
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]
    with multiprocessing.get_context("spawn").Pool(processes) as pool, Progress() as progress:
        bar = progress.add_task("logs", total=sum(len(logs) for *_, logs in waiting))
        running: list[multiprocessing.pool.AsyncResult[tuple[Plan, list[int], list[Found]]]] = []
        left = pieces()
        while True:
            while len(running) < 2 * processes and (piece := next(left, None)) is not None:
                running.append(pool.apply_async(made, piece))
            if not running:
                break
            plan, logs, found = running.pop(0).get()
            kept[plan] |= dict(zip(logs, found, strict=True))
            write_whole(folder / plan.file, json.dumps(kept[plan]).encode())
            progress.update(bar, advance=len(logs), description=f"{plan.cell}, {plan.setting}")


# What the logs say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one interval did in many logs.

    Attributes:
        name: of the estimator.
        logs: how many.
        bias: mean estimate less the truth.
        bias_stderr: its standard error, over logs.
        spread: standard deviation of estimates.
        stderr: mean of the standard errors that were claimed.
        population: share of 95 % intervals that hold the mean effect of all users there could be.
        sample: share that hold the mean effect of the log's own users.
    """

    name: str
    logs: int
    bias: float
    bias_stderr: float
    spread: float
    stderr: float
    population: float
    sample: float

    @classmethod
    def of(cls, name: str, value: Array, stderr: Array, sample: Array, population: float) -> "Cell":
        """Count."""
        z = float(stats.norm.ppf(0.975))
        many = len(value)
        spread = float(value.std(ddof=1)) if many > 1 else math.nan
        return cls(
            name,
            many,
            float(value.mean()) - population,
            spread / math.sqrt(many),
            spread,
            float(stderr.mean()),
            float((np.abs(value - population) <= z * stderr).mean()),
            float((np.abs(value - sample) <= z * stderr).mean()),
        )


def averages(found: dict[int, Found], population: float) -> list[Cell]:
    """Return a cell for each estimator of the average effect."""
    logs = list(found.values())
    out = []
    for name in logs[0]["found"] if logs else ():
        value, stderr = np.array([log["found"][name] for log in logs]).T
        out.append(Cell.of(name, value, stderr, np.array([log["truth"] for log in logs]), population))
    return out


@dataclass(frozen=True)
class Deciles:
    """What intervals of effects by decile did.

    Attributes:
        name: of the learner.
        logs: how many.
        truth: mean true effect of each decile.
        bias: mean estimate less the truth of the same rows.
        spread: standard deviation of that difference.
        stderr: mean of the standard errors that were claimed.
        covered: share of intervals that hold the mean true effect of the decile's rows.
    """

    name: str
    logs: int
    truth: Array
    bias: Array
    spread: Array
    stderr: Array
    covered: Array


def deciles(found: dict[int, Found]) -> list[Deciles]:
    """Return the deciles of each learner."""
    logs = list(found.values())
    out = []
    for name in logs[0]["deciles"] if logs else ():
        effect, stderr, truth = np.array([log["deciles"][name] for log in logs]).transpose(1, 0, 2)
        off = effect - truth
        held = (np.abs(off) <= float(stats.norm.ppf(0.975)) * stderr).mean(0)
        spread = off.std(0, ddof=1) if len(logs) > 1 else np.full(GROUPS, math.nan)
        out.append(Deciles(name, len(logs), truth.mean(0), off.mean(0), spread, stderr.mean(0), held))
    return out


@dataclass(frozen=True)
class Gap:
    """The gain of treating by effect above treating by probability, in purchases a user.

    Attributes:
        name: of the learner.
        logs: how many.
        truth: true gain, with its interval over logs.
        won: share of logs in which it is above 0.
        estimate: mean of the doubly robust estimates.
        stderr: mean of their standard errors.
        covered: share of 95 % intervals that hold the true gain of the log's two rules.
        sure: share of intervals that are above 0.
    """

    name: str
    logs: int
    truth: Summary
    won: float
    estimate: float
    stderr: float
    covered: float
    sure: float


def gaps(found: dict[int, Found]) -> list[Gap]:
    """Return the gap of each learner."""
    logs = list(found.values())
    out = []
    for name in logs[0]["gaps"] if len(logs) > 1 else ():
        value, stderr, truth = np.array([log["gaps"][name] for log in logs]).T
        half = float(stats.norm.ppf(0.975)) * stderr
        held = float((np.abs(value - truth) <= half).mean())
        true = mean_interval(truth)
        mean = (float(value.mean()), float(stderr.mean()))
        out.append(
            Gap(name, len(logs), true, float((truth > 0).mean()), *mean, held, float((value > half).mean()))
        )
    return out


def gains(found: dict[int, Found]) -> dict[str, Summary]:
    """Return what each policy gains above treating nobody, in purchases a user, over logs."""
    logs = [log["gains"] for log in found.values()]
    return {name: mean_interval([log[name] for log in logs]) for name in (logs[0] if len(logs) > 1 else ())}


# The page --------------------------------------------------------------------------------------


def text(words: str) -> list[str]:
    """Wrap a paragraph."""
    return [*textwrap.wrap(words, 118, break_on_hyphens=False), ""]


def percent(share: float) -> str:
    """Return a coverage, marked where it is out of the band."""
    said = f"{100 * share:.1f}"
    return f"**{said}**" if share < LOW else f"*{said}*" if share > HIGH else said


def lines(cells: Sequence[Cell]) -> list[str]:
    """Return the rows of a table of averages."""
    return [
        f"| {c.name} | {c.logs:,} | {c.bias:+.4f} ± {1.96 * c.bias_stderr:.4f} | {c.spread:.4f} | "
        f"{c.stderr:.4f} | {percent(c.population)} | {percent(c.sample)} |"
        for c in cells
    ]


def interval(s: Summary, digits: int = 4) -> str:
    """Return a mean with its interval."""
    return f"{s.mean:.{digits}f} ({s.low:.{digits}f} to {s.high:.{digits}f})"


HEAD = (
    "| estimator | logs | bias ± 95 % | spread | claimed | population | sample |",
    "|---|---:|---:|---:|---:|---:|---:|",
)
POPULATION = 0.075
"""The mean effect of all users there could be, effect · (1 - sleeping dogs); `Promotion.ate()`."""


def page(plans: Sequence[Plan], folder: Path, command: str) -> list[str]:
    """Write the page from the logs that are there."""
    found = {(p.cell, p.setting): read(folder, p) for p in plans}

    def of(cell: str, setting: str) -> dict[int, Found]:
        return found.get((cell, setting), {})

    out = ["# Uplift in a world whose truth is known", ""]
    out += text(
        f"Made by `{command}` ({machine()}). Logs are trials of 3,000 fresh users of "
        "`Promotion-v0` at its default settings, item 0: 19 of 100 users buy if it is not shown, the mean "
        "effect of showing it is exactly .075 purchases a user, and effects run from -.15 to .30: 41 of 100 "
        "users are put off. Numbers are of this world alone."
    )
    out += text(WORDS)
    for s in SETTINGS.values():
        out += [f"- **{s.name}**: {s.words}" if len(s.words) < 90 else _bullet(s.name, s.words)]
    out += ["", "## Average effect", "", *text(AVERAGE_WORDS)]
    for name in SETTINGS:
        cells = [c for kind in ("scores", "learners", "dear") for c in averages(of(kind, name), POPULATION)]
        out += [f"### {name.capitalize()}", "", *HEAD, *lines(cells), ""]
        out += text(NOTES[name])
    some = averages(of("clustered", "experiment"), POPULATION)
    out += ["### Users with several rows", "", *text(CLUSTERED), *HEAD, *lines(some), ""]
    out += ["## Effects by decile", "", *text(DECILE_WORDS)]
    out += [f"| setting | learner | logs | {' | '.join(map(str, range(1, 11)))} | mean |"]
    out += ["|---|---|---:|" + "---:|" * (GROUPS + 1)]
    for name in SETTINGS:
        for d in deciles(of("fresh", name)):
            each = " | ".join(percent(c) for c in d.covered)
            out += [f"| {name} | {d.name} | {d.logs:,} | {each} | {percent(float(d.covered.mean()))} |"]
    out += ["", *text(DECILE_NOTES), "## Whom to treat", "", *text(POLICY_WORDS)]
    out += ["| setting | random | by probability | by effect, T | by effect, linear DR | oracle |"]
    out += ["|---|---:|---:|---:|---:|---:|"]
    for name in SETTINGS:
        g = gains(of("fresh", name))
        order = ("random", "probability", "T-learner", "linear DR", "oracle")
        if g:
            out += [f"| {name} | " + " | ".join(f"{g[k].mean:.4f}" for k in order) + " |"]
    out += ["", *text(GAP_WORDS)]
    out += ["| setting | learner | true gap (95 %) | won | estimate | claimed | coverage | surely above 0 |"]
    out += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for name in SETTINGS:
        for gap in gaps(of("fresh", name)):
            out += [
                f"| {name} | {gap.name} | {interval(gap.truth)} | {100 * gap.won:.1f} | {gap.estimate:.4f} | "
                f"{gap.stderr:.4f} | {percent(gap.covered)} | {100 * gap.sure:.0f} |"
            ]
    out += ["", *text(POLICY_NOTES), "## Slates", "", *text(SLATE_WORDS)]
    out += [
        "| learned from | policy | logs | purchases a step above random | exact |",
        "|---|---|---:|---:|---:|",
    ]
    for p in plans:
        if p.cell == "slates":
            out += slate_lines(p.setting, of("slates", p.setting))
    return [*out, "", *text(SLATE_NOTES)[:-1]]


def _bullet(name: str, words: str) -> str:
    return "\n".join(textwrap.wrap(f"- **{name}**: {words}", 118, subsequent_indent="  "))


def slate_lines(setting: str, found: dict[int, Found]) -> list[str]:
    """Return the rows of the table of slates: gains above random, and the gap of effect over probability."""
    logs, out = list(found.values()), []
    if len(logs) < 2:
        return []
    pairs = [(name, "random") for name in ("probability", "effect", "oracle")]
    for first, second in [*pairs, ("effect", "probability")]:
        each = [
            interval(mean_interval([log[kind][first] - log[kind][second] for log in logs]), 3)
            for kind in ("returns", "exact")
        ]
        name = f"**{first} less {second}**" if second == "probability" else first
        out.append(f"| {setting} | {name} | {len(logs)} | {each[0]} | {each[1]} |")
    return out


def rows(plans: Sequence[Plan], folder: Path) -> list[Row]:
    """Return the numbers for the table on the screen and for JSON."""
    out = []
    for p in plans:
        found = read(folder, p)
        where = {"setting": p.setting, "rows": p.n, "logs": len(found)}
        if p.cell == "slates" and len(found) > 1:
            apart = [log["exact"]["effect"] - log["exact"]["probability"] for log in found.values()]
            s = mean_interval(apart)
            settings = where | {"low": s.low, "high": s.high, "users": USERS, "steps": STEPS, "slots": SLOTS}
            out.append(Row(f"slates by effect, {p.setting}", s.mean, "purchases a step", settings=settings))
        elif p.cell == "fresh":
            for d in deciles(found):
                settings = where | {"each": d.covered.tolist()}
                name = f"deciles, {d.name}, {p.setting}"
                out.append(Row(name, 100 * float(d.covered.mean()), "% held", settings=settings))
            for g in gaps(found):
                settings = where | {"low": g.truth.low, "high": g.truth.high, "coverage": g.covered}
                out.append(Row(f"gap, {g.name}, {p.setting}", g.truth.mean, "purchases", settings=settings))
        elif p.cell != "slates":
            for c in averages(found, POPULATION):
                settings = where | {"bias": c.bias, "claimed": c.stderr, "spread": c.spread}
                out.append(Row(f"{c.name}, {p.setting}", 100 * c.population, "% held", settings=settings))
    return out


WORDS = (
    "Learners and scores see six covariates, who was shown the item and who bought it. They never see the "
    "hidden inclination, which moves purchases in all settings but exposure only in the last. Nuisances "
    "are fast ones: logistic regression, cross-fitted in three folds by learners and in five by the "
    "scores. For the chances that is nearly the truth; for outcomes it is near, but not it."
)
AVERAGE_WORDS = (
    "*Bias* is the mean estimate less .075, with its 95 % interval over logs; *spread* the standard "
    "deviation of estimates; *claimed* the mean standard error. *Population* is how often, in per cent, "
    "the 95 % interval holds the mean effect of all users there could be, and *sample* how often it holds "
    "the mean effect of the log's own users. Wanted are 92 to 98; **bold** is below, *italic* above. A "
    "coverage of 95 is known to ± 0.7 from 1,000 logs, ± 1.3 from 300 and ± 2.8 from 60 (one standard "
    "deviation). The standard error of EconML's linear fits (`linear DR`, `linear DML`) takes the users as "
    "given, and is for the sample; all others are for the population. Here that is hardly a difference: "
    "effects vary by .165 between users, and a user's score by .8. *No outcome model* is a model that says "
    "the same for every user: the T-learner is then the difference of means."
)
NOTES = {
    "experiment": "All hold. Covariates narrow the difference of means a little, and no learner is better.",
    "experiment, chances estimated": "Nothing changes where chances are estimated that were known.",
    "observed confounding": (
        "The naive difference of means finds more than twice the effect, with a narrow interval that never "
        "holds it. With chances or outcomes of users, learners repair it. Where outcomes are wrong (no "
        "outcome model), the T-learner is naive again, and DR, R and DML repair it by chances alone. "
        "Intervals that hold too often are of learners that claim the standard error of doubly robust "
        "scores, and are steadier than those: means of plain outcome models are, until the model is wrong, "
        "and so are weights by chances that were estimated."
    ),
    "heavy confounding": (
        "A few users of small chances carry the scores, so their standard error doubles; it is still "
        "honest. The R-learner and linear DML give such users little weight: they are twice as sharp, and "
        "right here because the effect is near a line of the covariates. The X-learner carries each arm's "
        "straight line over to users of the other arm, and is off; the standard error that it claims is of "
        "the scores, and does not know. Where outcomes are wrong, too, chances must do all, and a chance "
        "below .01 counts as .01, which costs DR some bias."
    ),
    "hidden confounding": (
        "All are wrong by half of the effect and more, all are sure of it, and no column of the table "
        "could have told: spread and claimed agree. The doubly robust repair is one for what can be seen. "
        "Only an experiment, or knowing who decided on the exposure, helps."
    ),
}
"""What to see in each table. Read it again when the table is made again."""

CLUSTERED = (
    "An experiment on users: each has six rows, of six items, all shown or none. The hidden inclination is "
    "three times as strong here, so a user's rows are alike. Give `user=`, and the standard error counts "
    "users; rows taken as independent claim too little."
)
DECILE_WORDS = (
    "A learner sees 3,000 users; 3,000 fresh ones are put into tenths by its effect, and `group_effects` "
    "of their doubly robust scores says what treatment did in each. The truth is the mean true effect of "
    "the tenth's own 300 users. Coverage in per cent, the lowest tenth first."
)
DECILE_NOTES = (
    "The mean over tenths is what a whole chart of deciles promises. With hidden confounding every tenth "
    "is off, and their order is still about right: the hidden inclination moves purchases, not the effect."
)
POLICY_WORDS = (
    "Three of ten users may be treated. A campaign that treats who is most likely to buy when treated "
    "(logistic regression on the treated users of the training log) is set against one that treats by "
    "effect. Mean gain above treating nobody, in purchases for each user of all, counted on 100,000 users "
    "by their true effects:"
)
GAP_WORDS = (
    "The gap of the two policies. *True* is counted on the 100,000, with its interval over training logs; "
    "*won*, in how many per cent of them uplift is ahead. *Estimate* is what 3,000 fresh users of the same "
    "kind of log say: `value(by effect).minus(value(by probability))` of `causal/targeting/value.py`, "
    "doubly robust and paired row by row. *Coverage* is how often its 95 % interval holds the true gap of "
    "its two rules, and the last column how often it is above 0, in per cent."
)
POLICY_NOTES = (
    "Treating by probability spends on who would have bought anyway, and on who is put off. The better "
    "policy is certain over many campaigns; one log of 3,000 users shows it about every second time."
)
SLATE_WORDS = (
    f"In a shop of 50 items each user sees a slate of {SLOTS} for {STEPS} steps; slot k is examined with "
    "probability 1/k. Learned from 20,000 single offers of items drawn at random (`trial(item=None)`), on "
    "products of the user's covariates with the item's two directions: `linear DR` for the effect of each "
    "item on each user, logistic regression on shown rows for the probability. Each slate is sorted by one "
    f"of them. {USERS} users of each training log meet both, with the same luck (common random numbers); "
    "intervals are over training logs, pairs of one log together. *Exact* is the world's expected reward "
    "of the same slates, without luck."
)
SLATE_NOTES = (
    "Sorting by effect comes within a hundredth of a purchase of the oracle, which sorts by the true "
    "effect. Sorting by probability is worse where exposure in the log was confounded: the shown rows that "
    "it learns from are then mostly of users who buy anyway. All of it is a small part of what is bought: "
    "some ten purchases a step come without any promotion, and clicks on the slate cannot tell which."
)


def main() -> None:
    """Make the logs, print the table, write the page."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="under a minute: a few logs of each cell")
    ask.add_argument("--json", type=Path, help="write the rows to this file")
    ask.add_argument("--markdown", type=Path, help="write the page here")
    ask.add_argument(
        "--device", default="cpu", choices=["cpu"], help="logs are small: there is nothing for a GPU"
    )
    ask.add_argument(
        "--out", type=Path, default=Path("runs/uplift-promotion"), help="folder of finished logs"
    )
    ask.add_argument("--processes", type=int, default=1)
    ask.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many")
    given = ask.parse_args()
    few = {"scores": 20, "fresh": 10, "slates": 2, "clustered": 10, "learners": 4, "dear": 1}
    plans = [Plan(p.cell, p.setting, p.n, few[p.cell]) for p in PLANS] if given.quick else PLANS
    run(plans, given.out, given.processes, given.minutes)
    finish("uplift in the promotion world", rows(plans, given.out), given.json)
    if given.markdown:
        write_page(given.markdown, page(plans, given.out, "python benchmarks/uplift_promotion.py"))


if __name__ == "__main__":
    main()
