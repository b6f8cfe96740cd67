"""The pages of the agents: what they show runs as written, and every agent has a page."""

import re
from pathlib import Path

import pytest

from simlab.parts import names

PAGES = Path(__file__).resolve().parents[2] / "docs/agents"
LONG = ("bandits", "sac_topk", "two_stage", "wolpertinger")
"""Their blocks make their tables, in about a minute each."""


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)


def found() -> list[object]:
    marks = {True: [pytest.mark.slow], False: []}
    return [
        pytest.param(page, marks=marks[page.stem in LONG], id=page.stem)
        for page in sorted(PAGES.glob("*.md"))
        if blocks(page)
    ]


@pytest.mark.parametrize("page", found())
def test_a_page_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["page", page.stem])
    space: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), space)


def test_every_agent_is_on_a_page() -> None:
    text = {page.stem: page.read_text("utf-8") for page in PAGES.glob("*.md")}
    missing = [name for name in names("agent") if not any(f"`{name}`" in page for page in text.values())]
    assert missing == []
