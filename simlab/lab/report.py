"""One self-contained page for a run: it needs no network, now or in ten years.

The plotting library is inlined once. A policy of the page itself forbids every connection, so nothing that a
log or a policy's name might carry can load anything either.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from simlab.files import write_whole
from simlab.lab.figures import COLOURS
from simlab.lab.markup import plain, table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_HEIGHT = 400
"""Pixels of a figure that does not say."""

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Section:
    """A part of the page: words, then a table, then figures.

    Attributes:
        title: the heading.
        text: plain words; a blank line starts a paragraph. Nothing in it is read as HTML.
        table: shown with its columns as they are named; the first column names the rows.
        figures: plotly figures. A figure's `layout.meta["alt"]` says in words what it shows.
        tone: a verdict is set apart as a good, doubtful or bad one.
    """

    title: str
    text: str = ""
    table: "pd.DataFrame | None" = None
    figures: "Sequence[go.Figure]" = ()
    tone: Literal["plain", "good", "warn", "bad"] = "plain"


def write_report(path: Path, title: str, sections: Sequence[Section], meta: Mapping[str, object]) -> Path:
    """Write the page under a temporary name and rename it, and return its path.

    Args:
        path: the HTML file.
        title: of the page.
        sections: in order.
        meta: how the page was made: command, settings, versions, seed. It opens on a click.
    """
    write_whole(path, page(title, sections, meta).encode())
    return path


def page(title: str, sections: Sequence[Section], meta: Mapping[str, object]) -> str:
    """Return the page as HTML."""
    body = [f"<h1>{plain(title)}</h1>"]
    if "summary" in meta:
        body.append(f'<p class="made">{plain(meta["summary"])}</p>')
    if len(sections) > 3:
        links = "".join(f'<li><a href="#s{i}">{plain(s.title)}</a></li>' for i, s in enumerate(sections))
        body.append(f'<nav aria-label="Sections"><ul>{links}</ul></nav>')
    drawn = 0
    for i, section in enumerate(sections):
        body.append(_section(section, i, drawn))
        drawn += len(section.figures)
    body.append(_details({k: v for k, v in meta.items() if k != "summary"}))
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{plain(title)}</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n",
            f'<body data-state="{"drawing" if drawn else "ready"}" ',
            f'data-colours="{html.escape(json.dumps(COLOURS))}">\n<main>\n',
            "\n".join(body),
            "\n</main>\n",
            _scripts() if drawn else "",
            "</body>\n</html>\n",
        ]
    )


def _section(section: Section, index: int, drawn: int) -> str:
    parts = [
        f'<section id="s{index}" aria-labelledby="h{index}">',
        f'<h2 id="h{index}">{plain(section.title)}</h2>',
    ]
    words = "".join(f"<p>{plain(p)}</p>" for p in re.split(r"\n\s*\n", section.text.strip()) if p)
    if words and section.tone != "plain":
        words = f'<div class="note {section.tone}" role="note">{words}</div>'
    parts.append(words)
    if section.table is not None:
        parts.append(table(section.table, section.title))
    parts.extend(_figure(f, f"plot{drawn + i}", section.title) for i, f in enumerate(section.figures))
    return "\n".join([*parts, "</section>"])


def _figure(figure: "go.Figure", name: str, title: str) -> str:
    drawing = json.loads(figure.to_json())
    layout = drawing["layout"]
    layout.pop("template", None)  # the page brings its own, light and dark
    note = layout.get("meta", {}).get("alt", "")
    label = plain(note or layout.get("title", {}).get("text") or title)
    # "<" cannot appear in the block, so no text of a log can close it.
    data = json.dumps({"data": drawing["data"], "layout": layout}).replace("<", "\\u003c")
    caption = f"<figcaption>{plain(note)}</figcaption>" if note else ""
    height = f' style="height:{int(layout.get("height", _HEIGHT))}px"'
    return (
        f'<figure><div class="plot" id="{name}" role="img" aria-label="{label}"{height}></div>{caption}'
        f'<script type="application/json" id="{name}-data">{data}</script></figure>'
    )


def _scripts() -> str:
    from plotly.offline import get_plotlyjs

    return (
        "<noscript><p>The figures need JavaScript; the tables hold the same numbers.</p></noscript>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{_asset('report.js')}</script>\n"
    )


def _details(meta: Mapping[str, object]) -> str:
    items = "".join(f"<dt>{plain(k)}</dt><dd>{_meta(v)}</dd>" for k, v in meta.items())
    return f"<details><summary>How this was made</summary><dl>{items}</dl></details>"


def _meta(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    text = str(value)
    return f"<pre><code>{plain(text)}</code></pre>" if "\n" in text or " " in text else plain(text)


def _asset(name: str) -> str:
    return (resources.files("simlab.lab") / "assets" / name).read_text("utf-8")
