"""Every click model that the catalogue finds × every check."""

from collections.abc import Callable

import pytest
import torch

from envs.clicks.contract import ClickModel
from envs.clicks.position_based import PositionBased
from simlab.parts import all_parts
from tests.contracts.click_models import CHECKS

MODELS: dict[str, ClickModel] = {
    "position_based": PositionBased(torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)),
    "position_based, no bias": PositionBased.power(3, 0.0),
}
"""Each model with parameters for three slots."""


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_click_model(name: str, check: Callable[[ClickModel], None]) -> None:
    check(MODELS[name])


def test_no_click_model_is_left_out() -> None:
    assert {name.split(",")[0] for name in MODELS} == all_parts("click model").keys()
    assert all(isinstance(model, ClickModel) for model in MODELS.values())
