"""Words, numbers and tables as HTML that shows them and does nothing else."""

import html
import math
import numbers
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MISSING = "–"
_DIGITS = 4
_FIGURES = re.compile(r"[-+−]?\d[\d.,%…\s+−-]*")
"""A text of figures, such as an interval: such a column is set to the right, like numbers."""


def plain(text: object) -> str:
    """Return text as HTML that shows it and does nothing else; for figures' labels, too.

    >>> plain("<b>greedy</b>")
    '&lt;b&gt;greedy&lt;/b&gt;'
    """
    return html.escape(str(text), quote=True)


def number(value: float | int, digits: int = _DIGITS) -> str:
    """Write a number with sensible digits.

    >>> number(0.0045336), number(10000), number(1234567.8), number(3.2e-9), number(float("nan"))
    ('0.004534', '10,000', '1,234,568', '3.2e-09', '–')
    """
    if not math.isfinite(value):
        return _MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) < 1e-5:
        return f"{value:.{digits}g}"
    return f"{value:,.{_decimals(value, digits)}f}"


def table(frame: "pd.DataFrame", caption: str) -> str:
    """Return a table as HTML: numbers to the right, with as many decimals in each row as in the next."""
    cells = [_column(frame.iloc[:, j].tolist()) for j in range(frame.shape[1])]
    heads = "".join(
        f'<th scope="col"{_class(right)}>{plain(name)}</th>'
        for name, (_, right) in zip(frame.columns, cells, strict=True)
    )
    rows = []
    for i in range(len(frame)):
        row = []
        for j, (texts, right) in enumerate(cells):
            tag, scope = ("th", ' scope="row"') if j == 0 else ("td", "")
            wide = not right and len(texts[i]) > 60
            row.append(f"<{tag}{scope}{_class(right, wide)}>{plain(texts[i])}</{tag}>")
        rows.append(f"<tr>{''.join(row)}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{plain(caption)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _column(values: list[Any]) -> tuple[list[str], bool]:
    """Return a column's texts, and whether they are numbers."""
    kinds = [v for v in values if not _missing(v)]
    if kinds and all(isinstance(v, bool) for v in kinds):
        return [_MISSING if _missing(v) else "yes" if v else "no" for v in values], False
    if not kinds or not all(isinstance(v, numbers.Real) for v in kinds):
        texts = [_MISSING if _missing(v) else str(v) for v in values]
        return texts, sum(bool(_FIGURES.fullmatch(t)) for t in texts) > len(texts) / 2
    finite = [abs(float(v)) for v in kinds if math.isfinite(v) and v != 0]
    whole = all(float(v).is_integer() for v in kinds if math.isfinite(v))
    if whole or not finite or max(finite) / min(finite) > 1e6 or max(finite) < 1e-5:
        return [_MISSING if _missing(v) else number(float(v)) for v in values], True
    decimals = _decimals(max(finite), _DIGITS)
    return [_aligned(v, decimals) for v in values], True


def _aligned(value: Any, decimals: int) -> str:
    if _missing(value) or not math.isfinite(value):
        return _MISSING if _missing(value) else number(float(value))
    return f"{float(value):,.{decimals}f}"


def _decimals(value: float | int, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, numbers.Real) and math.isnan(value))
        or repr(value) in ("<NA>", "NaT")
    )


def _class(right: bool, wide: bool = False) -> str:
    return ' class="num"' if right else ' class="wide"' if wide else ""
