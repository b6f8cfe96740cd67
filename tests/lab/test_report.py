"""The report is one file that loads nothing, shows everything as text, and really draws."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from simlab.lab.figures import forest
from simlab.lab.markup import number, plain
from simlab.lab.report import Section, page, write_report
from tests.lab.browser import browse

EVIL = "<script>alert('x')</script><img src=http://x.invalid/a.png onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif not self._inside:
            self.text.append(data)


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    return tags


def example() -> list[Section]:
    labels = ["IPS", "SNIPS", EVIL]
    value, spread = np.array([0.0045, 0.0046, np.nan]), np.array([0.002, 0.0021, np.nan])
    frame = pd.DataFrame(
        {"estimator": labels, "value": value, "n": [10_000, 9_000, 8_000], "ok": [True, False, True]}
    )
    figure = forest(
        labels,
        value,
        value - spread,
        value + spread,
        title=EVIL,
        axis="clicks a round",
        alt=f"Intervals of {EVIL}",
    )
    lines = go.Figure([go.Scatter(x=np.arange(5), y=np.arange(5.0) ** k, name=f"power {k}") for k in (1, 2)])
    lines.update_layout(title="Curves", height=320)
    return [
        Section("Verdict", f"All is well with {EVIL}.\n\nA second paragraph.", tone="good"),
        Section(f"Estimates of {EVIL}", "", frame, [figure]),
        Section("Curves", figures=[lines]),
        Section("Words only", "Nothing to draw."),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    meta = {
        "summary": f"Seed 1, {EVIL}",
        "command": f"simlab evaluate '{EVIL}'",
        "settings": {"seed": 1, "name": EVIL},
    }
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html", f"Report of {EVIL}", example(), meta
    )


def test_nothing_is_loaded_from_outside(report: Path) -> None:
    tags = parsed(report.read_text("utf-8"))
    names = [name for name, _ in tags.tags]
    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "source"} & set(names)
    for name, attributes in tags.tags:
        for key in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(key) or "#").startswith("#"), f"<{name} {key}={attributes[key]}>"
        assert not [key for key in attributes if key.startswith("on")], f"<{name}> has an event handler"
    assert not re.search(r"@import|url\(", "".join(tags.styles))
    policy = [a["content"] or "" for n, a in tags.tags if n == "meta" and "http-equiv" in a]
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'")


def test_the_library_is_inlined_once(report: Path) -> None:
    from plotly.offline import get_plotlyjs

    text = report.read_text("utf-8")
    assert text.count(get_plotlyjs()) == 1
    assert text.count("showSendToCloud: false") == 1
    assert text.count("displaylogo: false") == 1
    assert text.count("responsive: true") == 1


def test_a_page_without_figures_needs_no_library() -> None:
    text = page("Words", [Section("One", "Only words.")], {"command": "simlab list"})
    assert len(text) < 10_000
    assert "<script" not in text
    assert 'data-state="ready"' in text


def test_all_text_is_shown_and_never_read_as_html(report: Path) -> None:
    text = report.read_text("utf-8")
    tags = parsed(text)
    words = "".join(tags.text)
    # Title, heading, summary, paragraph, section heading and link, table cell, caption, command, settings.
    assert words.count("<script>alert('x')</script>") >= 8
    assert "<script>alert" not in text
    scripts = [a for n, a in tags.tags if n == "script"]
    assert len(scripts) == 4  # two blocks of data, the library, ours
    assert text.count("</script>") == 4


def test_tables_read_well() -> None:
    frame = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "value": [0.5, 12.25, np.nan],
            "count": [10_000, 5, 12],
            "yes?": [True, False, None],
            "note": ["x" * 80, "", None],
        }
    )
    tags = parsed(page("T", [Section("Table", table=frame)], {}))
    cells = [a for n, a in tags.tags if n in ("td", "th")]
    assert sum(a.get("scope") == "col" for a in cells) == 5
    assert sum(a.get("scope") == "row" for a in cells) == 3
    assert sum(a.get("class") == "num" for a in cells) == 2 * 4  # two columns of numbers, with their heads
    assert sum(a.get("class") == "wide" for a in cells) == 1
    text = [t.strip() for t in tags.text if t.strip()]
    assert text[-20:] == [
        *("name", "value", "count", "yes?", "note"),
        *("a", "0.50", "10,000", "yes", "x" * 80),
        *("b", "12.25", "5", "no"),
        *("c", "–", "12", "–", "–"),
        "How this was made",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00453356, "0.004534"),
        (0.1, "0.1000"),
        (3, "3"),
        (-1234.5678, "-1,235"),
        (1e-12, "1e-12"),
        (0, "0"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
        (1e20, "100,000,000,000,000,000,000"),
    ],
)
def test_numbers_have_sensible_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_plain_text_survives_a_parser() -> None:
    assert "".join(parsed(plain(EVIL)).text) == EVIL


def test_a_failed_write_leaves_the_earlier_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "First", [Section("One")], {})
    before = path.read_bytes()

    class Broken(dict[str, object]):
        def items(self):  # type: ignore[no-untyped-def]
            raise RuntimeError("no settings")

    with pytest.raises(RuntimeError, match="no settings"):
        write_report(path, "Second", [Section("Two")], Broken())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_browser_draws_it(report: Path, tmp_path: Path) -> None:
    drawn, said = browse(report, tmp_path / "profile")
    body = next(a for n, a in parsed(drawn).tags if n == "body")
    assert body["data-state"] == "ready"
    plots = [a for n, a in parsed(drawn).tags if n == "div" and "js-plotly-plot" in (a.get("class") or "")]
    assert len(plots) == 2
    messages = [line for line in said.splitlines() if "CONSOLE" in line]
    assert not messages
    # One trace of estimates, of which two are there, each with its interval; two lines.
    assert drawn.count('class="trace scatter') == 3
    assert drawn.count('class="xerror"') == 2
    assert "alert('x')" in "".join(parsed(drawn).text)


def test_the_browser_test_sees_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(page("T", example(), {}).replace("Plotly.react", "Plotly.nothing"), encoding="utf-8")
    drawn, said = browse(broken, tmp_path / "profile")
    assert 'data-state="ready"' not in drawn
    assert "CONSOLE" in said
