"""Every uplift learner that the catalogue finds, against every check."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from jaxtyping import Float

from causal.targeting.scores import average, ipw
from causal.uplift.contract import Average, Trial, UpliftLearner
from simlab.parts import all_parts
from tests.contracts.uplift_learners import (
    BY_ROW,
    CHECKS,
    CROSSED,
    ERROR,
    OWN,
    check_no_effect_is_none,
    check_order_of_rows,
    check_refusals,
    check_settings_are_those_given,
    quick,
)

FOUND: dict[str, Any] = all_parts("uplift learner")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", FOUND.values(), ids=FOUND.keys())
def test_contract(kind: type[UpliftLearner], check: Callable[[UpliftLearner], None]) -> None:
    learner = quick(kind)
    assert isinstance(learner, UpliftLearner)
    check(learner)


def test_the_catalogue_finds_them() -> None:
    wanted = "s_learner t_learner x_learner r_learner dr_learner linear_dr linear_dml causal_forest"
    assert set(FOUND) >= {*wanted.split(), "class_transformation", "tarnet", "cfr", "dragonnet", "descn"}
    assert len({kind.name for kind in FOUND.values()}) == len(FOUND)


def test_exceptions_are_of_learners_that_are_there() -> None:
    known = {kind.name for kind in FOUND.values()}
    assert {*OWN, *ERROR, *BY_ROW, *CROSSED} <= known


def test_the_readme_s_learner_keeps_the_contract() -> None:
    page = (Path(__file__).parents[2] / "causal/uplift/README.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names = {"Array": np.ndarray, "ClassVar": ClassVar, "Float": Float, "Trial": Trial, "Average": Average}
    space: dict[str, Any] = names | {"UpliftLearner": UpliftLearner, "average": average, "ipw": ipw, "np": np}
    exec(compile(block, "README.md", "exec"), space)
    learner = quick(space["Difference"])
    for check in (
        check_settings_are_those_given,
        check_no_effect_is_none,
        check_order_of_rows,
        check_refusals,
    ):
        check(learner)
