"""What a comparison leaves behind: a table on the screen, files, and a page."""

import re
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from simlab.lab.compare_figures import drift_boxes, lorenz_curves, reward_curves, stay_curves
from simlab.lab.comparison import Comparison
from simlab.lab.figures import COLOURS, forest
from simlab.lab.report import Section, write_report
from simlab.lab.runs import Run, resolved, versions
from simlab.parts import names

if TYPE_CHECKING:
    from rich.console import Console

    from simlab.lab.options import CompareConfig


def print_table(console: "Console", result: Comparison) -> None:
    """Print one row for each policy: earnings, then exposure; side by side on a wide screen."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    scored = ("score",) if "score" in result.frame else ()
    earnings = ("return", *scored, f"vs {result.baseline}", f"{result.confidence:.0%} interval", "CTR")
    exposure = ("reward/step", "still there", "coverage", "Gini", "drift")
    rows = result.frame.to_dict("records")
    longest = max(len(str(row["policy"])) for row in rows)
    wide = console.width >= longest + len(result.baseline) + 85
    for heads in [earnings + exposure] if wide else [earnings, exposure]:
        table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("policy", overflow="fold", min_width=min(longest, 24))
        for head in heads:
            table.add_column(Text(head), justify="right")
        for row in rows:
            cells = _cells(row, base=row["policy"] == result.baseline)
            first = 0 if heads[0] == "return" else len(earnings)
            table.add_row(Text(str(row["policy"])), *cells[first : first + len(heads)])
        console.print(table)
    console.print(_reading(result), markup=False)


def _cells(row: Mapping[Hashable, Any], *, base: bool) -> list[str]:
    """Return a row's numbers as text, in the order of the heads."""
    return [
        f"{row['return']:.3f}",
        *([f"{row['score']:.3f}"] if "score" in row else []),
        "baseline" if base else f"{row['difference']:+.3f}",
        "" if base else _interval(row["difference_lower"], row["difference_upper"]),
        f"{row['ctr']:.1%}",
        f"{row['reward_per_step']:.3f}",
        f"{row['active_end']:.1%}",
        f"{row['coverage']:.1%}",
        f"{row['gini']:.3f}",
        f"{row['popularity_drift']:.3f}",
    ]


def write(run: Run, result: Comparison, config: "CompareConfig", world: Any, *, seconds: float) -> None:
    """Write the run's tables, metrics and report."""
    run.table("results.parquet", result.frame)
    run.table("users.parquet", result.users)
    run.table("markets.parquet", result.markets)
    run.table("curves.parquet", result.curves)
    run.table("lorenz.parquet", result.lorenz)
    records = result.frame.set_index("policy").to_dict("index")
    policies = {k: {m: None if pd.isna(v) else v for m, v in row.items()} for k, row in records.items()}
    run.json(
        "metrics.json",
        {
            "baseline": result.baseline,
            "confidence": result.confidence,
            "clustered": result.clustered,
            "seconds": round(seconds, 3),
            "policies": policies,
        },
    )
    made = versions()
    settings = resolved("compare", config)
    write_report(
        run.folder / "report.html",
        f"Comparison of {len(result.frame)} policies in {world.name}",
        sections(result),
        {
            "summary": f"{config.users} users × {config.seeds} seeds, "
            f"seed {config.seed}, simlab {made['simlab']}",
            **{k: str(v) for k, v in settings.items()},
            "world settings": str(world.spec),
            **made,
        },
    )


def sections(result: Comparison) -> list[Section]:
    """Return the page's sections."""
    frame, base, level = result.frame, result.baseline, f"{result.confidence:.0%}"
    others = frame[frame["policy"] != base]
    found = [
        Section(
            "Result",
            _verdict(result) + "\n\n" + _reading(result),
            table=_shown(result),
            figures=[
                forest(
                    frame["policy"],
                    frame["return"].tolist(),
                    frame["return_lower"].tolist(),
                    frame["return_upper"].tolist(),
                    title="Return of each policy",
                    axis=f"{result.unit} per user, mean and {level} interval",
                    alt=f"Mean return per user of each policy with its {level} interval.",
                )
            ],
        )
    ]
    if len(others):
        difference = forest(
            others["policy"],
            others["difference"].tolist(),
            others["difference_lower"].tolist(),
            others["difference_upper"].tolist(),
            title=f"Difference to {base}",
            axis=f"difference in return per user, paired, {level} interval",
            alt=f"Paired difference of each policy to {base}; the line at zero means no difference.",
        )
        difference.add_vline(x=0, line={"dash": "dash", "width": 1.5, "color": COLOURS[-1]})
        found.append(
            Section(
                "Paired difference",
                f"The same users with the same luck meet every policy, so the difference to {base} is taken "
                "user by user. An interval that does not touch zero tells two policies apart.",
                figures=[difference],
            )
        )
    found.append(
        Section(
            "Reward over time",
            "Mean over all users who began; a user who has left earns nothing. The band is over markets.",
            figures=[reward_curves(result, level), stay_curves(result)],
        )
    )
    found.append(
        Section(
            "Exposure and popularity",
            "A policy that shows every item equally often lies on the diagonal; the Gini index is twice the "
            "area between the diagonal and the curve. Popularity drift is the share of all popularity that "
            "has moved from one item to another at the end. CTR is clicks per item shown; coverage is the "
            "share of items that a market was shown at least once; a user who never left is still there.",
            table=_behaviour(result),
            figures=[lorenz_curves(result), drift_boxes(result)],
        )
    )
    return found


def _shown(result: Comparison) -> pd.DataFrame:
    """Return the table of what the policies earned, with words for columns."""
    frame = result.frame
    level = f"{result.confidence:.0%}"
    return pd.DataFrame(
        {
            "policy": frame["policy"],
            f"{result.unit} per user": frame["return"].map("{:.4f}".format),
            **({"score": frame["score"].map("{:.3f}".format)} if "score" in frame else {}),
            f"{level} interval": [
                _interval(a, b) for a, b in zip(frame["return_lower"], frame["return_upper"], strict=True)
            ],
            f"difference to {result.baseline}": [
                "baseline" if p == result.baseline else f"{d:+.4f}"
                for p, d in zip(frame["policy"], frame["difference"], strict=True)
            ],
            f"{level} interval, paired": [
                "" if p == result.baseline else _interval(a, b)
                for p, a, b in zip(
                    frame["policy"], frame["difference_lower"], frame["difference_upper"], strict=True
                )
            ],
        }
    )


def _behaviour(result: Comparison) -> pd.DataFrame:
    """Return the table of what users did and what they were shown."""
    frame = result.frame
    return pd.DataFrame(
        {
            "policy": frame["policy"],
            "CTR": frame["ctr"].map("{:.2%}".format),
            "reward per step": frame["reward_per_step"].map("{:.4f}".format),
            "still there": frame["active_end"].map("{:.1%}".format),
            "coverage": frame["coverage"].map("{:.1%}".format),
            "Gini": frame["gini"].map("{:.4f}".format),
            "drift": frame["popularity_drift"].map("{:.4f}".format),
            "users": frame["users"],
            "markets": frame["markets"],
        }
    )


def _verdict(result: Comparison) -> str:
    """Say in words which policies differ from the baseline."""
    better, worse, level, unknown = [], [], [], []
    for row in result.frame.itertuples():
        if row.policy == result.baseline:
            continue
        if pd.isna(row.difference_lower):
            unknown.append(str(row.policy))
        elif row.difference_lower > 0:
            better.append(str(row.policy))
        elif row.difference_upper < 0:
            worse.append(str(row.policy))
        else:
            level.append(str(row.policy))
    words = [
        f"{said}: {', '.join(names)}."
        for names, said in (
            (better, f"More than {result.baseline}"),
            (worse, f"Less than {result.baseline}"),
            (level, f"Not to be told from {result.baseline} with these users"),
            (unknown, "Without an interval, because there is one observation only"),
        )
        if names
    ]
    return "\n\n".join(words) or f"{result.baseline} alone, so there is nothing to compare it with."


def _is_trained(words: str) -> bool:
    """Tell whether a policy comes from training: an agent, or a ranker, inside whatever mixture."""
    taught = {n.replace("_", "-") for kind in ("agent", "ranker") for n in names(kind)} - {"popularity"}
    return bool(taught & set(re.findall(r"[a-z][a-z0-9-]*", words.lower().replace("_", "-"))))


def _reading(result: Comparison) -> str:
    unit = "each user is one observation"
    if result.clustered:
        unit = "users of one market move each other's popularity, so a market is one observation"
    if result.frame["return_lower"].isna().any():
        unit += "; there is only one, so there are no intervals: ask for more seeds"
    score = "A score of 0 is random, 1 the far-sighted oracle. " if "score" in result.frame else ""
    trained = any(_is_trained(str(name)) for name in result.frame["policy"])
    luck = " A trained policy is one training run: its interval leaves out the luck of training."
    return (
        f"Return is {result.unit} per user. {score}"
        f"Differences to {result.baseline} are paired by user; intervals are {result.confidence:.0%}, "
        f"and {unit}. Coverage, Gini and drift are means over markets.{luck if trained else ''}"
    )


def _interval(low: float, high: float) -> str:
    return "unknown" if pd.isna(low) or pd.isna(high) else f"{low:.3f} … {high:.3f}"
