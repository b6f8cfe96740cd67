"""What an evaluation leaves behind: a table on the screen, files, and a page."""

import math
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from causal.diagnostics import weight_table
from simlab.lab.evaluation import Result
from simlab.lab.figures import COLOURS, calibration, forest, mark, weight_histogram, weight_share
from simlab.lab.markup import number
from simlab.lab.report import Section, write_report
from simlab.lab.runs import Run, resolved, versions

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from simlab.lab.evaluate import EvaluateConfig

_TONES: dict[str, Literal["good", "warn", "bad"]] = {"ok": "good", "caution": "warn", "refused": "bad"}
_WORDS = {
    "ok": "The log can answer: the weights are even enough for the intervals to be believed.",
    "caution": "Read the estimates with care.",
    "refused": "The log cannot answer. The numbers below were asked for with --force; do not act on them.",
}

PLURAL = {"round": "rounds", "slate": "slates", "trajectory": "trajectories"}

_BEST = (
    " Estimators lean on different weights; these are those of the one with the most effective rows, at its "
    "worst slot or step."
)

DM_NOTE = "DM's interval knows nothing of the reward model's own error, so it is too narrow."


def print_result(result: Result, folder: Path) -> None:
    """Print one row for each estimator, the verdict and where the report lies."""
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    level = f"{result.logged.interval.level:.0%}"
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("estimator", no_wrap=True)
    paired = "versus" in result.frame
    shown = ["value", "se", f"{level} low", "high", "ESS", "max share", "n"]
    if paired:  # a screen has 80 columns
        shown = ["value", f"{level} low", "high", "ESS", "versus", "low", "high"]
    for title in shown:
        table.add_column(title, justify="right")
    for name, row in zip(result.short, result.frame.to_dict("records"), strict=True):
        weighs = row["ess"] == row["ess"]
        ess = number(round(row["ess"]) if row["ess"] >= 100 else row["ess"], 2) if weighs else ""
        value, low, high = (number(row[c], 3) for c in ("value", "low", "high"))
        if paired:
            gain = (number(row[c], 3) for c in ("versus", "versus_low", "versus_high"))
            table.add_row(name, value, low, high, ess, *gain)
            continue
        share = f"{row['max_weight_share']:.2%}" if weighs else ""
        table.add_row(name, value, number(row["stderr"], 3), low, high, ess, share, f"{row['n']:,}")
    console.print(
        Text(f"{result.policy}, evaluated on {result.logged.n:,} {PLURAL[result.unit]}", style="bold")
    )
    if result.read:
        console.print(result.read, markup=False)
    console.print(table)
    console.print(
        f"The log's own mean is {number(result.logged.value)} "
        f"({_interval(result.logged.interval.low, result.logged.interval.high)}).",
        markup=False,
    )
    if result.truth is not None:
        console.print(_truth(result), markup=False)
    if "DM" in set(result.frame["estimator"]):
        console.print(DM_NOTE, markup=False)
    for sentence in (*result.notes, *result.verdict.sentences):
        console.print(sentence, markup=False)
    console.print(f"Report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def write(run: Run, result: Result, config: "EvaluateConfig") -> None:
    """Write the run's table, diagnostics, metrics and report."""
    run.table("results.parquet", result.frame)
    run.json("diagnostics.json", {**_plain_diagnostics(result), "verdict": asdict(result.verdict)})
    run.json(
        "metrics.json",
        {
            "policy": result.policy,
            "logged": {"value": result.logged.value, "stderr": result.logged.stderr, "n": result.logged.n},
            "truth": None if result.truth is None else asdict(result.truth),
            "verdict": result.verdict.level,
            "notes": result.notes,
            **({"stream": dict(result.counts)} if result.counts else {}),
            "estimates": {
                str(row["estimator"]): {k: _json(v) for k, v in row.items() if k != "estimator"}
                for row in result.frame.to_dict("records")
            },
        },
    )
    settings, made = resolved("evaluate", config), versions()
    write_report(
        run.folder / "report.html",
        f"What {result.policy} would have earned on {_short(config)}",
        sections(result),
        {
            "summary": f"{result.logged.n:,} {PLURAL[result.unit]}, seed {config.seed}, "
            f"simlab {made['simlab']}",
            "command": shlex.join(["simlab", *sys.argv[1:]])
            if sys.argv[1:2] == ["evaluate"]
            else "simlab evaluate",
            "settings": settings,
            "versions": made,
        },
    )


def sections(result: Result) -> list[Section]:
    """Return the page's sections."""
    level = f"{result.logged.interval.level:.0%}"
    verdict = [_WORDS[result.verdict.level], *(f"{s[0].upper()}{s[1:]}." for s in result.verdict.sentences)]
    found = [
        Section("Verdict", "\n\n".join([*verdict, *result.notes]), tone=_TONES[result.verdict.level]),
        Section(
            "Estimates",
            _reading(result, level),
            table=_shown(result, level),
            figures=[_forest(result, level)],
        ),
    ]
    about = (
        f"A {result.unit}'s weight says how many times more often the policy would show what it logs "
        f"than the logger did. Estimates can be trusted as far as many {PLURAL[result.unit]} carry the "
        "weight."
    )
    if result.weights is not None:
        found.append(Section("Weights", about, table=_streamed(result.weights)))
        found.append(Section("What was read", result.read))
    if result.rounds is not None and bool((result.rounds.weight > 0).any()):
        weight = result.rounds.weight.numpy()
        found.append(
            Section(
                "Weights",
                about + ("" if result.unit == "round" else _BEST),
                table=_weights(result),
                figures=[weight_histogram(weight), weight_share(weight)],
            )
        )
    checked = None if result.diagnostics is None else result.diagnostics.calibration
    if checked is not None and checked.z:
        p = (
            "not tested"
            if checked.p_value is None
            else f"p = {number(checked.p_value)} for all items together"
        )
        found.append(
            Section(
                "Propensities",
                "Every estimator that weighs leans on the logged propensities. If they are right, each item "
                f"is shown as often as they say ({p}).",
                figures=[calibration(checked.z, result.item_names)],
            )
        )
    return found


def _reading(result: Result, level: str) -> str:
    kind = result.logged.interval.kind
    units = "users" if result.grouped else PLURAL[result.unit]
    own = (
        f"The log's own mean reward is {number(result.logged.value)} "
        f"({_interval(result.logged.interval.low, result.logged.interval.high)}). The lift is the difference "
        f"to it, on the same rounds. Intervals are {level}, {kind}, and take {units} as independent."
    )
    if "DM" in set(result.frame["estimator"]):
        own += f" {DM_NOTE}"
    return own if result.truth is None else f"{own}\n\n{_truth(result)}"


def _truth(result: Result) -> str:
    assert result.truth is not None
    known = result.truth
    spread = "" if known.low == known.high else f" ({_interval(known.low, known.high)})"
    before, after = known.words
    return f"{before} {number(known.value)}{spread}: {after}"


def _shown(result: Result, level: str) -> pd.DataFrame:
    """Return the table of the page, with words for columns."""
    frame = result.frame
    more = {}
    if "versus" in frame:
        more = {
            "versus": frame["versus"],
            "versus, low": frame["versus_low"],
            "versus, high": frame["versus_high"],
        }
    return pd.DataFrame(
        {
            "estimator": list(result.short),
            "value": frame["value"],
            "standard error": frame["stderr"],
            "low": frame["low"],
            "high": frame["high"],
            "lift": frame["lift"],
            "lift, low": frame["lift_low"],
            "lift, high": frame["lift_high"],
            **more,
            "ESS": frame["ess"].round(1),
            "largest weight": [f"{x:.2%}" for x in frame["max_weight_share"]],
            PLURAL[result.unit]: frame["n"],
        }
    )


def _forest(result: Result, level: str) -> "go.Figure":
    frame = result.frame
    figure = forest(
        list(result.short),
        frame["value"].tolist(),
        frame["low"].tolist(),
        frame["high"].tolist(),
        title=f"Estimates of {result.policy}",
        axis=f"mean reward of a {result.unit}, {level} interval",
        alt="Each estimator's value with its interval, and lines at the log's own mean"
        + (f" and at {result.truth.label}." if result.truth is not None else "."),
    )
    mine = result.logged.interval
    mark(figure, result.logged.value, "mean of the log", COLOURS[6], mine.low, mine.high)
    if result.truth is not None:
        known = result.truth
        mark(figure, known.value, known.label, COLOURS[1], known.low, known.high)
    return figure


def _weights(result: Result) -> pd.DataFrame:
    d = result.diagnostics
    assert d is not None
    rows = {
        "effective rounds (ESS)": f"{number(round(d.ess, 1))} of {d.n:,}",
        "largest share of one round": f"{d.max_weight_share:.2%}",
        "mean weight (should be 1)": f"{d.mean_weight:.4f} (z = {d.mean_weight_z:.2f})",
        "rounds of weight 0": f"{d.zero_share:.2%}",
        f"weight above {d.clip:g}, which clipping loses": f"{d.clipped_share:.2%}",
        **{f"weight at {k}": number(v) for k, v in weight_table(d).items()},
    }
    if d.unseen_mass is not None:
        rows["of what the policy shows, never logged"] = f"{d.unseen_mass:.2%}"
    if not math.isnan(d.tail_index):
        rows["Pareto shape of the tail (good below 0.7)"] = f"{d.tail_index:.2f}"
    return pd.DataFrame({"sign": list(rows), "value": list(rows.values())})


def _streamed(weights: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the weights of a stream, with words for columns."""
    return pd.DataFrame(
        {
            "weights": weights["weights"],
            "slot": weights["slot"],
            "mean": [f"{x:.4f}" for x in weights["mean"]],
            "z of mean 1": ["" if math.isnan(z) else f"{z:.2f}" for z in weights["mean_z"]],
            "ESS": weights["ess"].round(1),
            "largest weight": [f"{x:.2%}" for x in weights["max_weight_share"]],
        }
    )


def _plain_diagnostics(result: Result) -> dict[str, Any]:
    d = result.diagnostics
    if d is None:
        assert result.weights is not None
        rows = result.weights.to_dict("records")
        return {**result.counts, "weights": [{str(k): _json(v) for k, v in row.items()} for row in rows]}
    plain = {k: _json(v) for k, v in vars(d).items() if k not in ("calibration", "weight_quantiles")}
    plain["weight_quantiles"] = weight_table(d)
    if d.calibration is not None:
        plain["calibration"] = {
            "p_value": d.calibration.p_value,
            "z": [{"slot": s, "item": i, "z": _json(z)} for (s, i), z in d.calibration.z.items()],
        }
    return plain


def _json(value: Any) -> Any:
    """Return a value as JSON has it: there is no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(low: float, high: float) -> str:
    return "unknown" if math.isnan(low) or math.isnan(high) else f"{number(low)} … {number(high)}"


def _short(config: "EvaluateConfig") -> str:
    first = config.log if ":" in config.log else Path(config.log).name
    return f"{first} and {len(config.more)} more" if config.more else first
