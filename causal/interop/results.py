"""Results out: a table for pandas, and JSON that any language reads.

JSON knows no NaN and no infinity. Here NaN is `null`, and the ends of an unbounded interval are the words
"Infinity" and "-Infinity", which `float` in Python and `Number` in JavaScript understand. So reading a report
gives back the same numbers, bit for bit.
"""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from torch import Tensor

from causal.contract import Interval
from causal.diagnostics import Diagnostics, Verdict
from causal.evaluation import Estimate
from causal.evaluation import to_frame as _frame
from simlab.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""The version of the layout of the JSON."""
_NUMBERS = ("value", "stderr", "ess", "max_weight_share")
_OF_ROWS = {"scores", "group"}
_INFINITE = ("Infinity", "-Infinity")
_PACKAGES = ("simlab", "torch", "numpy", "scipy")


@dataclass(frozen=True, eq=False)
class Report:
    """Estimates as they were read.

    Attributes:
        estimates: without scores and groups: what is left of the rows is not in the report.
        verdict: whether to believe them, if it was given.
        diagnostics: the weights' numbers by name, if they were given.
        notes: whatever else the writer said.
        versions: of what made the numbers.
    """

    estimates: tuple[Estimate, ...]
    verdict: Verdict | None = None
    diagnostics: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def to_json(
    estimates: Iterable[Estimate],
    *,
    verdict: Verdict | None = None,
    diagnostics: Diagnostics | None = None,
    notes: Mapping[str, Any] | None = None,
    indent: int | None = 2,
) -> str:
    """Return estimates as JSON: every interval of each, the verdict and the versions, without the scores.

    Args:
        estimates: of one or more estimators.
        verdict: of the log for this target.
        diagnostics: the numbers behind the verdict.
        notes: whatever else the reader should know, such as the name of the target: anything JSON can hold.
        indent: spaces of a level; None for one line.

    Raises:
        BadInput: if notes hold what JSON cannot.
    """
    said = {
        "format": FORMAT,
        "verdict": None
        if verdict is None
        else {"level": verdict.level, "sentences": list(verdict.sentences)},
        "estimates": [_said(e) for e in estimates],
        "diagnostics": None if diagnostics is None else _plain(diagnostics),
        "notes": dict(notes or {}),
        "versions": versions(),
    }
    try:
        return json.dumps(_finite(said), indent=indent, allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise BadInput(f"the notes hold what JSON cannot: {error}") from None


def from_json(text: str) -> Report:
    """Read what `to_json` wrote.

    Raises:
        BadInput: if it is no such report, naming the estimate and the key.
    """
    try:
        said = json.loads(text)
    except ValueError as error:
        raise BadInput(f"not JSON: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("estimates"), list):
        raise BadInput("not a report of estimates: it has no list of estimates")
    if said.get("format") != FORMAT:
        raise BadInput(
            f"format {said.get('format')!r} of a report is not {FORMAT}, the one that is known here"
        )
    verdict = said.get("verdict")
    return Report(
        tuple(_estimate(i, e) for i, e in enumerate(said["estimates"])),
        None if verdict is None else Verdict(verdict["level"], tuple(verdict["sentences"])),
        said.get("diagnostics"),
        said.get("notes") or {},
        said.get("versions") or {},
    )


def to_frame(estimates: Iterable[Estimate], *, verdict: Verdict | None = None) -> "pd.DataFrame":
    """Return one row per estimate, as pandas: value, stderr, the first interval as `low` and `high`, n, ess.

    Further intervals have columns named after their kind, and after their level too where it is not that of
    the first: `low_bca`, `low_student-t_99`. With a verdict, its level is a column.
    """
    import pandas as pd

    found = list(estimates)
    frame = _frame(replace(e, intervals=e.intervals[:1]) for e in found)
    more = pd.DataFrame([_further(e) for e in found], index=frame.index, dtype="float64")
    frame = pd.concat([frame, more], axis=1)
    return frame if verdict is None else frame.assign(verdict=verdict.level)


def _further(e: Estimate) -> dict[str, float]:
    """Return the ends of all intervals but the first."""
    out = {}
    for more in e.intervals[1:]:
        level = "" if more.level == e.interval.level else f"_{100 * more.level:g}"
        out[f"low_{more.kind}{level}"], out[f"high_{more.kind}{level}"] = more.low, more.high
    return out


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _said(e: Estimate) -> dict[str, Any]:
    """Return what JSON keeps of an estimate."""
    return {f.name: _plain(getattr(e, f.name)) for f in fields(e) if f.name not in _OF_ROWS}


def _plain(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _finite(value: Any) -> Any:
    """Return the same with null for NaN and words for infinities."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _estimate(index: int, said: Any) -> Estimate:
    """Return one estimate of a report.

    Raises:
        BadInput: naming the estimate and the key.
    """
    where = f"estimate {index}"
    known = {f.name for f in fields(Estimate)} - _OF_ROWS
    values: dict[str, Any] = {k: v for k, v in said.items() if k in known} if isinstance(said, dict) else {}
    for key in _NUMBERS:
        values[key] = _number(where, said, key)
    if not isinstance(values.get("name"), str) or type(values.get("n")) is not int:
        raise BadInput(f"{where} of the report has no name or no n")
    if not isinstance(values.get("intervals"), list):
        raise BadInput(f"{where} of the report has no list of intervals")
    values["intervals"] = tuple(
        _interval(f"{where}, interval {i}", v) for i, v in enumerate(values["intervals"])
    )
    return Estimate(**values, scores=())


def _interval(where: str, said: Any) -> Interval:
    ends = [_number(where, said, key) for key in ("low", "high", "level")]
    if not isinstance(said.get("kind"), str):
        raise BadInput(f"{where} of the report has no kind")
    return Interval(ends[0], ends[1], said["kind"], ends[2])


def _number(where: str, said: Any, key: str) -> float:
    """Return a number of the report."""
    if not isinstance(said, dict) or key not in said:
        raise BadInput(f"{where} of the report has no {key}")
    value = said[key]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in _INFINITE):
        raise BadInput(f"{where} of the report has {value!r} for {key}, which is no number")
    return float(value)
