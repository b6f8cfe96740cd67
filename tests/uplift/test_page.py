"""The page of uplift runs as written, and names every learner and measure that there is."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from simlab.lab.cli import read
from simlab.lab.uplift_data import check
from simlab.parts import names

PAGE = (Path(__file__).parents[2] / "docs/uplift.md").read_text("utf-8")


def test_the_python_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    for block in blocks:
        exec(compile(block, "uplift.md", "exec"), space)
    assert len(blocks) == 7
    said = capsys.readouterr().out
    value, error = map(float, re.findall(r"average effect (\S+) ± (\S+)", said)[0])
    assert abs(value - 1) < 4 * error
    assert abs(space["blp"](space["score"], space["effect"]).slope - 1) < 0.2


def test_the_commands_are_understood() -> None:
    lines = re.findall(r"^simlab uplift (.*)$", PAGE, re.M)
    assert len(lines) == 2
    for line in lines:
        check(read("uplift", line.split()))


def test_every_learner_is_on_the_page() -> None:
    section = PAGE[PAGE.index("## Which learner") : PAGE.index("## Measures")]
    assert set(re.findall(r"`(\w+)`", section)) >= set(names("uplift learner"))


def test_every_measure_is_where_the_page_says() -> None:
    section = PAGE[PAGE.index("## Measures") : PAGE.index("## How to read")]
    found = re.findall(r"`(scores|curves|rate|calibration|returns|truth)\.(\w+)`", section)
    assert len(found) == 12
    for module, name in found:
        assert callable(getattr(import_module(f"causal.targeting.{module}"), name))


def test_its_links_are_there_and_its_lines_short() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert link.startswith("http") or (Path(__file__).parents[2] / "docs" / link).exists(), link
    assert max(map(len, PAGE.splitlines())) <= 120
