"""The page of off-policy evaluation runs as written, and names every estimator that there is."""

import re
from pathlib import Path
from typing import Any

import pytest

from causal.contract import Estimator
from causal.diagnostics import (
    CAUTION_ESS,
    CAUTION_SHARE,
    CAUTION_UNSEEN,
    REFUSE_ESS,
    REFUSE_SHARE,
    REFUSE_UNSEEN,
)
from causal.intervals import KINDS
from simlab.parts import all_parts, names

PAGE = (Path(__file__).parents[2] / "docs/ope.md").read_text("utf-8")


def test_the_python_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    for block in blocks:
        exec(compile(block, "ope.md", "exec"), space)
    said = capsys.readouterr().out
    assert len(blocks) == 4
    assert "difference to random 0.000" in said
    # In memory and as a stream the same.
    frame = space["sums"].to_frame()
    assert frame["value"].iloc[1] == pytest.approx(
        space["scores"][0].numerator.sum() / space["scores"][0].denominator.sum()
    )


@pytest.mark.parametrize(
    ("kind", "title"),
    [("estimator", "### Rounds"), ("slate estimator", "### Slates"), ("trajectory estimator", "### Traj")],
)
def test_every_estimator_is_on_the_page(kind: str, title: str) -> None:
    start = PAGE.index(title)
    section = PAGE[start : PAGE.index("\n#", start + 5)]
    assert set(re.findall(r"`(\w+)`", section)) >= set(names(kind))
    if kind == "estimator":
        for name, make in all_parts(kind).items():
            estimator: Estimator[Any] = make()
            (row,) = (
                line
                for line in section.splitlines()
                if line.startswith("|") and f"`{name}`" in line.split("|")[1]
            )
            assert row.rstrip("| ").endswith("yes" if estimator.streams else "no"), name


def test_every_kind_of_interval_is_on_the_page() -> None:
    section = PAGE[PAGE.index("## Intervals") : PAGE.index("## The verdict")]
    assert set(re.findall(r"`([\w-]+)`", section)) >= set(KINDS)


def test_the_thresholds_are_those_of_the_code() -> None:
    assert f"below {CAUTION_ESS:.0f}: caution; below {REFUSE_ESS:.0f}: refused" in PAGE
    assert f"{CAUTION_SHARE:.0%}".replace("%", " %") + " of the weight: caution" in PAGE
    assert f"{REFUSE_SHARE:.0%}".replace("%", " %") + ": refused" in PAGE
    assert f"from {CAUTION_UNSEEN:.0%}".replace("%", " %") + ": caution" in PAGE
    assert f"from {REFUSE_UNSEEN:.0%}".replace("%", " %") + ": refused" in PAGE
