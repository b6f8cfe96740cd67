"""What an uplift run leaves behind: a table on the screen, files, and a page."""

import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from simlab.lab.figures import COLOURS, forest, mark
from simlab.lab.markup import number
from simlab.lab.report import Section, write_report
from simlab.lab.runs import Run, resolved, versions
from simlab.lab.uplift_budget import Budget, budget_frame, budget_sentence
from simlab.lab.uplift_figures import (
    cost_curve,
    driver_plot,
    group_plot,
    overlap_plot,
    return_curve,
    toc_curve,
    uplift_curves,
)
from simlab.lab.uplift_work import Arm, Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from simlab.lab.uplift import UpliftConfig

_TONES: dict[str, Literal["good", "warn", "bad"]] = {"ok": "good", "caution": "warn", "refused": "bad"}
_WORDS = {
    "ok": "The trial can answer.",
    "caution": "Read the effects with care.",
    "refused": "The trial cannot answer. The numbers below were asked for with --force; do not act on them.",
}

_SCREEN = {
    "ATE": ("ate", 3),
    "se": ("ate_stderr", 2),
    "AUTOC": ("autoc", 3),
    "low": ("autoc_low", 2),
    "high": ("autoc_high", 2),
    "behind": ("behind", 2),
    "Qini": ("qini", 3),
    "AUUC": ("auuc", 3),
    "slope": ("slope", 2),
}
"""Columns on the screen, which has 80 characters, and their digits."""

_TABLE = (
    "ATE is the learner's own average effect, fitted on all rows. The rest is measured on rows that the "
    "learner has not seen. AUTOC is the area under the TOC by doubly robust scores (0: the order says "
    "nothing), and orders the table; behind is the best one's AUTOC less this one's, paired row by row. "
    "AUUC is the area under the uplift curve, outcomes gained a row; Qini is the Qini coefficient (0: "
    "random, 1: knows the outcomes). The slope is that of the best linear predictor: 1 where effects "
    "are as large as predicted, 0 where the prediction says nothing. The best of several looks a little "
    "better than it is; the verdict counts that."
)

_BUDGET = (
    "Whom each learner would treat if treating all judged rows might cost no more than the budget: those "
    "whose effect is worth most for its cost, and nobody whose effect is worth less than it. Sums are of all "
    "judged rows, in the unit of --value times outcome. Promised is what the learner's own effects say is "
    "gained; the gain is what doubly robust scores say, against treating nobody; the return is the gain less "
    "what was spent. Beyond random is the gain less that of treating as many rows at random. The shadow "
    "price is what one more unit of budget would return beyond itself, by the learner's effects: 0 where the "
    "budget is not used up. effects.parquet says who is treated by the first of them, in column treat."
)

_DRIVERS = (
    "Importance is permutation importance of the best learner's effect, fitted on all rows: the share "
    "of the effect's variance that a feature takes part in, where features are independent (else it may "
    "pass 1). It says what the learner uses. The contrast says it without the learner: the mean doubly "
    "robust score of rows above the feature's median (with 1, where it is 0 or 1) less that of the "
    "others."
)


def print_result(result: Result, folder: Path, config: "UpliftConfig") -> None:
    """Print a table of learners for each arm, the verdict and where the report lies."""
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for arm in result.arms:
        table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column("learner", no_wrap=True)
        for title in _SCREEN:
            table.add_column(title, justify="right", no_wrap=True)
        frame = result.frame[result.frame["arm"] == arm.label]
        for row in frame.to_dict("records"):
            table.add_row(str(row["learner"]), *(number(row[c], d) for c, d in _SCREEN.values()))
        control = result.given.trial.arms[0]
        title = f"{arm.label} against {control}: effect on {result.given.outcome}, {result.rows:,} rows"
        console.print(Text(title, style="bold"))
        console.print(table)
    for sentence in (
        *result.notes,
        *map(_sentence, (*result.verdict.sentences, *_bought(result, config.level))),
    ):
        console.print(sentence, markup=False)
    console.print(f"Report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def write(run: Run, result: Result, config: "UpliftConfig") -> None:
    """Write the run's tables, metrics and report."""
    run.table("results.parquet", result.frame)
    run.table("effects.parquet", result.effects)
    if result.budget is not None:
        run.table("budget.parquet", budget_frame(result.budget, config.level))
    run.json("metrics.json", _metrics(result, config.level))
    settings, made = resolved("uplift", config), versions()
    trial = result.given.trial
    write_report(
        run.folder / "report.html",
        f"Whom {' or '.join(arm.label for arm in result.arms)} moves",
        sections(result, config),
        {
            "summary": f"{len(trial):,} rows, {trial.x.shape[1]} features, effect on {result.given.outcome}, "
            f"seed {config.seed}, simlab {made['simlab']}",
            "command": shlex.join(["simlab", *sys.argv[1:]])
            if sys.argv[1:2] == ["uplift"]
            else "simlab uplift",
            "settings": settings,
            "versions": made,
        },
    )


def sections(result: Result, config: "UpliftConfig") -> list[Section]:
    """Return the page's sections."""
    said = (*result.verdict.sentences, *_bought(result, config.level))
    verdict = [_WORDS[result.verdict.level], *map(_sentence, said)]
    found = [Section("Verdict", "\n\n".join([*verdict, *result.notes]), tone=_TONES[result.verdict.level])]
    level = f"{config.level:.0%}"
    trial, seen = result.given.trial, result.given.overlap
    if result.budget is not None:
        found.append(
            Section(
                "Budget",
                f"{_BUDGET} Intervals are {level}.",
                table=_spent(budget_frame(result.budget, config.level)),
            )
        )
    for k, arm in enumerate(result.arms):
        of = f": {arm.label}" if len(result.arms) > 1 else ""
        frame = result.frame[result.frame["arm"] == arm.label]
        curves = [uplift_curves(arm, config.level, result.given.outcome), toc_curve(arm, config.level)]
        money = [return_curve(arm, config.level, config.cost)]
        if config.cost != 0:
            money.append(cost_curve(arm, config.level))
        best = arm.judged[0].name
        found += [
            Section(
                f"Learners{of}",
                f"{_TABLE} Intervals are {level}.",
                table=_shown(frame),
                figures=[_ates(arm, frame, level), _autocs(frame, level)],
            ),
            Section(
                f"Curves{of}",
                "The uplift curve is of differences of means of treated and control rows"
                + ("" if result.given.random else ", weighted by estimated chances")
                + "; the TOC is of doubly robust scores.",
                figures=curves,
            ),
        ]
        if arm.groups is None:
            found.append(Section(f"Groups{of}", f"{best} gives all rows the same effect: there are none."))
        else:
            title = "Deciles" if config.groups == 10 else "Groups"
            figure = group_plot(arm, config.level)
            found.append(Section(f"{title}{of}", table=_groups(arm, config.level), figures=[figure]))
        found += [
            Section(f"Return{of}", _money(arm, config), table=_returns(arm, config.level), figures=money),
            Section(f"Drivers{of}", _DRIVERS, table=_driven(arm), figures=[driver_plot(arm)]),
            Section(f"Overlap{of}", _overlap(result), figures=[overlap_plot(trial, seen, k + 1)]),
        ]
    return found


def _ates(arm: Arm, frame: pd.DataFrame, level: str) -> "go.Figure":
    figure = forest(
        frame["learner"],
        frame["ate"],
        frame["ate_low"],
        frame["ate_high"],
        title="Average effect",
        axis=f"average effect, {level} interval",
        alt="Each learner's average effect with its interval, and the mean of the doubly robust scores.",
    )
    mark(figure, arm.average.value[0], "mean of scores", COLOURS[6])
    if arm.truth is not None:
        mark(figure, arm.truth, "truth", COLOURS[1])
    return figure


def _autocs(frame: pd.DataFrame, level: str) -> "go.Figure":
    figure = forest(
        frame["learner"],
        frame["autoc"],
        frame["autoc_low"],
        frame["autoc_high"],
        title="Does the order say whom the treatment moves?",
        axis=f"AUTOC, {level} interval",
        alt="Each learner's AUTOC with its interval; 0 is an order that says nothing.",
    )
    mark(figure, 0.0, "no order", COLOURS[6])
    return figure


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the page, with words for columns."""
    shown: dict[str, Any] = {"learner": frame["learner"], "ATE": frame["ate"], "± se": frame["ate_stderr"]}
    for name, word in (
        ("autoc", "AUTOC"),
        ("behind", "behind"),
        ("qini", "Qini"),
        ("auuc", "AUUC"),
        ("uplift_at_30", "uplift at 30 %"),
        ("slope", "slope"),
        ("root_pehe", "√PEHE"),
    ):
        if name in frame:
            ends = zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
            shown[word] = frame[name]
            shown[f"{word}, interval"] = [f"{number(a, 3)} … {number(b, 3)}" for a, b in ends]
    return pd.DataFrame(shown)


def _groups(arm: Arm, level: float) -> pd.DataFrame:
    assert arm.groups is not None
    low, high = arm.groups.interval(level)
    return pd.DataFrame(
        {
            "group, lowest first": range(1, len(low) + 1),
            "predicted": arm.said,
            "effect": arm.groups.effect,
            "± se": arm.groups.stderr,
            "low": low,
            "high": high,
        }
    )


def _returns(arm: Arm, level: float) -> pd.DataFrame:
    low, high = arm.returns.interval(level)
    chosen = slice(1, None, 2)
    return pd.DataFrame(
        {
            "treated": [f"{u:.0%}" for u in arm.returns.share],
            "gained a row": arm.returns.gain,
            "gained a treated row": arm.returns.per_treated,
            "cost a row": arm.returns.cost,
            "return a row": arm.returns.net,
            "low": low,
            "high": high,
        }
    )[chosen]


def _bought(result: Result, level: float) -> tuple[str, ...]:
    if result.budget is None:
        return ()
    return (budget_sentence(result.budget, level),)


def _spent(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the budget, with words for columns."""

    def ends(name: str) -> list[str]:
        return [
            f"{number(a, 3)} … {number(b, 3)}"
            for a, b in zip(frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        ]

    return pd.DataFrame(
        {
            "learner": frame["learner"],
            "rows treated": frame["treated"].round(1),
            "spent": frame["spend"],
            "promised": frame["promised"],
            "gain": frame["gain"],
            "gain, interval": ends("gain"),
            "return": frame["return"],
            "return, interval": ends("return"),
            "beyond random": frame["beyond_random"],
            "beyond random, interval": ends("beyond_random"),
            "shadow price": frame["price"],
        }
    )


def _money(arm: Arm, config: "UpliftConfig") -> str:
    if config.cost == 0:
        return "No --cost was given, so treating is free; the return is --value times the outcome gained."
    return (
        f"Treating a row costs {number(config.cost)}, and one unit of the outcome is worth "
        f"{number(config.value)}. Return and cost are a row of the population, treating those first whom "
        f"{arm.judged[0].name} puts first."
    )


def _driven(arm: Arm) -> pd.DataFrame:
    words = {"stderr": "importance ± se", "contrast_stderr": "contrast ± se"}
    return arm.drivers.rename(columns=words)


def _overlap(result: Result) -> str:
    seen = result.given.overlap
    said = "Every row should have had a fair chance of each arm; where it had none, an effect is a guess."
    if seen.trimmed == 0:
        return f"{said} No row's chance of an arm is below {seen.bound:g}."
    return f"{said} {seen.trimmed:.2%} of the rows have a chance below {seen.bound:g} of some arm."


def _metrics(result: Result, level: float) -> dict[str, Any]:
    trial, seen = result.given.trial, result.given.overlap
    return {
        "rows": len(trial),
        "judged": result.rows,
        "features": list(trial.names),
        "arms": [str(a) for a in trial.arms],
        "outcome": result.given.outcome,
        "random": result.given.random,
        "verdict": asdict(result.verdict),
        "findings": [asdict(f) for f in result.given.findings],
        "notes": result.notes,
        "overlap": {
            "known": seen.known,
            "bound": seen.bound,
            "trimmed": seen.trimmed,
            "lowest": seen.lowest,
            "highest": seen.highest,
        },
        "effects": {arm.label: _arm(arm, result) for arm in result.arms},
        **({} if result.budget is None else {"budget": _budget(result.budget, level)}),
    }


def _budget(found: Budget, level: float) -> dict[str, Any]:
    rows = budget_frame(found, level).to_dict("records")
    return {
        "budget": found.budget,
        "learners": {
            str(row["learner"]): {str(k): _json(v) for k, v in row.items() if k != "learner"} for row in rows
        },
    }


def _arm(arm: Arm, result: Result) -> dict[str, Any]:
    frame = result.frame[result.frame["arm"] == arm.label]
    records = frame.drop(columns="arm").to_dict("records")
    groups = arm.groups
    curve = arm.returns
    return {
        "average": {"value": arm.average.value[0], "stderr": arm.average.stderr[0], "how": arm.average.how},
        "truth": arm.truth,
        "best": arm.judged[0].name,
        "learners": {
            str(row["learner"]): {str(k): _json(v) for k, v in row.items() if k != "learner"}
            for row in records
        },
        "groups": None
        if groups is None
        else {
            "predicted": arm.said.tolist(),
            "effect": groups.effect.tolist(),
            "stderr": groups.stderr.tolist(),
            "difference": groups.difference.value,
            "difference_stderr": groups.difference.stderr,
        },
        "toc": {
            "share": arm.toc.share.tolist(),
            "value": arm.toc.value.tolist(),
            "stderr": arm.toc.stderr.tolist(),
        },
        "return": {
            "share": curve.share.tolist(),
            "value": curve.net.tolist(),
            "stderr": curve.net_stderr.tolist(),
        },
        "drivers": [{str(k): _json(v) for k, v in r.items()} for r in arm.drivers.to_dict("records")],
    }


def _json(value: Any) -> Any:
    """Return a value as JSON has it: there is no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
