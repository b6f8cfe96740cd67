"""Settings that cannot be are refused in one sentence that names the setting, the value and the range."""

from typing import Any

import numpy as np
import pytest

from envs.registry import find, make_world
from simlab.errors import BadInput


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"items": 0}, "items is 0, but it is at least 1 and at most 1e+09"),
        ({"items": 10**400}, "items is a number of too many digits, but it is a finite number, at least 1"),
        ({"items": "many"}, "items is 'many', but it is a whole number"),
        ({"items": 3.0}, "items is 3.0, but it is a whole number"),
        ({"drift": 10**400}, "drift is a number of too many digits, but it is a finite number, at least 0"),
        ({"drift": float("inf")}, "drift is inf, but it is a finite number, at least 0"),
        ({"slope": float("nan")}, "slope is nan, but it is a finite number"),
        ({"horizon": 1 << 70}, "horizon is 1180591620717411303424, but it is at least 1 and at most"),
        ({"click_model": "ubm"}, "click_model is ubm, but it is one of cascade, click_chain"),
        ({"click_model": 3}, "click_model is 3, but it is a word"),
        ({"examination": 0.5}, "examination is 0.5, but it is a list of numbers"),
        ({"examination": (1.0, "x")}, "examination, place 1: 'x' is not a number"),
        ({"candidates": 9, "items": 8, "slots": 3}, "candidates is 9, but there are only 8 items"),
        ({"candidates": 2, "slots": 3}, "slots is 3, but a user has only 2 candidates"),
        ({"candidates": 20, "lifetime": 5.0}, "candidates is 20, but none are drawn where items come and go"),
        ({"lifetime": 0.5}, "lifetime is 0.5, but an item lives at least 1 step"),
        ({"unborn": 1.0}, "unborn is 1.0, so only 0 items start, but a slate has 10"),
        ({"provider_patience": 0.5}, "provider_patience needs between 1 and 1000 providers, not 0"),
        ({"bordom": 1.0}, "FeedSpec has no setting bordom; did you mean boredom?"),
        ({"device": "gpu"}, "there is no device gpu"),
    ],
)
def test_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refusal:
        make_world("Feed-v0", **settings)
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_numbers_of_numpy_and_lists_are_taken() -> None:
    world = make_world("Feed-v0", items=np.int64(20), slots=2, drift=np.float32(0.5), slope=3)
    assert (world.spec.items, world.spec.drift, world.spec.slope) == (20, 0.5, 3.0)
    seen = make_world("Feed-v0", slots=2, examination=np.array([1.0, 0.5]))
    assert seen.spec.examination == (1.0, 0.5)
    assert make_world("Feed-v0", slots=2, examination=[1, 0]).spec.examination == (1.0, 0.0)


@pytest.mark.parametrize("name", [3, None])
def test_a_name_is_a_word(name: Any) -> None:
    finder: Any = find.__wrapped__ if hasattr(find, "__wrapped__") else find
    with pytest.raises(BadInput, match="is not the name of a world"):
        finder(name)
