"""A trial refuses what cannot be, in one sentence, and numbers its arms with control first."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from causal.uplift.contract import Average, Trial
from simlab.errors import BadInput

X = np.arange(8.0).reshape(4, 2)


def test_arms_are_numbered_with_control_first() -> None:
    trial = Trial.of(X, ["men", "none", "women", "none"], [1, 0, 0, 1], control="none")
    assert trial.arms == ("none", "men", "women")
    assert trial.arm.tolist() == [1, 0, 2, 0]
    assert trial.binary
    assert Trial.of(X, [True, False, True, False], [0, 1, 2, 3]).arms == (False, True)
    assert not Trial.of(X, [0, 1, 0, 1], [0, 1, 2, 3]).binary


def test_frames_bring_their_names_and_rows_keep_everything() -> None:
    frame = pd.DataFrame(X, columns=["age", "recency"])
    trial = Trial.of(
        frame, [0, 1, 0, 1], [0.0, 1, 2, 3], weight=[1, 2, 3, 4], user=list("abab"), propensity=0.25
    )
    some = trial.rows(np.array([3, 0]))
    assert some.names == ("age", "recency")
    assert some.x.tolist() == [[6, 7], [0, 1]]
    assert some.weight is not None
    assert some.weight.tolist() == [4, 1]
    assert some.user is not None
    assert some.user.tolist() == [1, 0]
    assert some.propensity is not None
    assert some.propensity.tolist() == [[0.75, 0.25]] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arm": [1, 1, 1, 1]}, "column treatment has one value, 1: without a second arm there is no effect"),
        ({"arm": [0, 1, 0]}, "column treatment has 3 rows, but the features have 4"),
        ({"arm": [0, 1, None, 1]}, "column treatment, row 2: the value is missing"),
        ({"control": 5}, "control is 5, but the arms are 0, 1"),
        ({"y": [0, 1, float("nan"), 1]}, "column outcome, row 2: the value is missing or not finite"),
        ({"y": ["a", "b", "c", "d"]}, "column outcome holds what is not a number"),
        (
            {"x": [[1, 2], [3, float("inf")], [1, 2], [1, 2]]},
            "feature 1, row 1: the value is missing or not finite",
        ),
        (
            {"x": pd.DataFrame({"a": [1, 2, 3, 4], "b": list("wxyz")})},
            "feature b, row 0: 'w' is not a number",
        ),
        ({"x": [1.0, 2.0, 3.0, 4.0]}, "features are a table of rows and columns, not an array of 1 axes"),
        ({"weight": [1, 1, -2, 1]}, "column weight, row 2: -2 is negative"),
        ({"weight": [0, 0, 0, 0]}, "column weight: all weights are 0, so nothing counts"),
        ({"propensity": [0.5, 0.5, 1.0, 0.5]}, r"column propensity, row 2: \[0.0, 1.0\] are not chances"),
        (
            {"propensity": np.full((4, 3), 1 / 3)},
            r"propensity has shape \(4, 3\), but there are 4 rows and 2 arms",
        ),
        ({"effect": np.zeros((4, 2))}, r"effect has shape \(4, 2\), but there are 4 rows and 1 treated arms"),
        ({"names": ["a"]}, "2 features have 1 names"),
        ({"user": [1, 2]}, "column user has 2 rows, but the features have 4"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"x": X, "arm": [0, 1, 0, 1], "y": [0.0, 1.0, 0.0, 1.0]} | change
    with pytest.raises(BadInput, match=words):
        Trial.of(given.pop("x"), given.pop("arm"), given.pop("y"), **given)


def test_an_average_has_an_interval() -> None:
    found = Average((0.5,), (0.1,), ("women",), "delta method").interval()
    assert found[0] == pytest.approx((0.5 - 0.19599640, 0.5 + 0.19599640))
