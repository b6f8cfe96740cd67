"""Results out: the same numbers back, in JSON without NaN and in a table."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from causal.bandit.dm import DM
from causal.bandit.ips import IPS
from causal.bandit.snips import SNIPS
from causal.contract import Interval, Rounds
from causal.diagnostics import diagnose, verdict
from causal.evaluation import Estimate, estimate, evaluate, paired_difference
from causal.interop import from_json, to_frame, to_json
from simlab.errors import BadInput
from tests.worlds import bandit_world, take


def rounds(n: int = 500) -> Rounds:
    found, probability = bandit_world().rounds()
    generator = torch.Generator().manual_seed(1)
    return take(found, torch.multinomial(probability, n, replacement=True, generator=generator))


def estimates() -> list[Estimate]:
    every = evaluate(rounds(), [IPS(), SNIPS(), DM()], ("student-t", "bca", "bootstrap"))
    return [*every, paired_difference(every[0].scores, every[1].scores)]


def numbers(e: Estimate) -> tuple[object, ...]:
    ends = tuple((i.low, i.high, i.kind, i.level) for i in e.intervals)
    return tuple(str(x) for x in (e.name, e.value, e.stderr, e.n, e.ess, e.max_weight_share, ends))


def test_json_gives_the_same_numbers_back() -> None:
    first = estimates()
    odd = Interval(-math.inf, math.inf, "bca", 0.9)
    first.append(replace(first[0], name="nothing known", stderr=math.nan, intervals=(odd,)))
    found = diagnose(rounds())
    text = to_json(
        first, verdict=verdict(found), diagnostics=found, notes={"target": "ε-greedy", "odd": math.nan}
    )
    assert not any(word in text for word in ("NaN", " Infinity", "-Infinity,"))
    plain = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert plain["estimates"][2]["ess"] is None, "DM leans on no weights"
    back = from_json(text)
    assert [numbers(e) for e in back.estimates] == [numbers(e) for e in first]
    assert back.verdict == verdict(found)
    assert back.diagnostics is not None
    assert back.diagnostics["ess"] == found.ess
    assert back.notes == {"target": "ε-greedy", "odd": None}
    assert back.versions["torch"] == torch.__version__
    assert {"python", "simlab", "numpy", "scipy"} <= back.versions.keys()
    assert from_json(to_json(back.estimates, indent=None)).estimates[0].value == first[0].value


def test_a_table_has_every_interval() -> None:
    first = estimates()
    wide = replace(first[0], intervals=(*first[0].intervals, Interval(0.0, 1.0, "bca", 0.99)))
    frame = to_frame([wide, *first[1:]], verdict=verdict(diagnose(rounds())))
    assert isinstance(frame, pd.DataFrame)
    assert frame["estimator"].tolist() == ["IPS", "SNIPS", "DM", "difference"]
    assert frame["low"].tolist() == [e.interval.low for e in first]
    assert frame["high_bca"].tolist()[:3] == [e.intervals[1].high for e in first[:3]]
    assert math.isnan(frame["high_bca"][3])
    assert frame["high_bca_99"][0] == 1.0
    assert frame["high_bca_99"][1:].isna().all()
    assert (frame["verdict"] == "ok").all()
    read = to_frame(from_json(to_json(first)).estimates)
    pd.testing.assert_frame_equal(read, to_frame(first))
    assert to_frame([]).empty


BAD = [
    ("{", "not JSON"),
    ("[]", "not a report of estimates"),
    ('{"estimates": [], "format": 9}', "format 9 of a report is not 1"),
    ('{"estimates": [{"name": "IPS", "n": 3}], "format": 1}', "estimate 0 of the report has no value"),
    ('{"estimates": [3], "format": 1}', "estimate 0 of the report has no value"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_what_is_no_report_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        from_json(text)


def test_a_changed_report_is_refused() -> None:
    said = json.loads(to_json([estimate(IPS(), rounds())]))
    for path, value, says in (
        (("value",), "x", "estimate 0 of the report has 'x' for value"),
        (("name",), 3, "has no name or no n"),
        (("intervals",), None, "no list of intervals"),
        (("intervals", 0, "low"), True, "estimate 0, interval 0 of the report has True for low"),
        (("intervals", 0, "kind"), 1, "interval 0 of the report has no kind"),
    ):
        changed = json.loads(json.dumps(said))
        held = changed["estimates"][0]
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = value
        with pytest.raises(BadInput, match=says):
            from_json(json.dumps(changed))
    with pytest.raises(BadInput, match="the notes hold what JSON cannot"):
        to_json([], notes={"x": object()})
