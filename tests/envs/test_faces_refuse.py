"""What the faces refuse, each in one sentence.

The calls run in a process of their own, as a user's do: here the types would be checked first.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import envs  # noqa: F401  (registers the ids)
from envs.recsim_style import make_recsim_style
from envs.sb3 import make_sb3
from simlab.errors import BadInput

KEY = "simlab/Feed-v0"
SMALL: dict[str, Any] = {"items": 20, "slots": 2}


def vector() -> Any:
    return gym.make_vec(KEY, num_envs=4, **SMALL)


def recsim() -> Any:
    face = make_recsim_style(KEY, **SMALL)
    face.reset()
    return face


def batch() -> Any:
    face = make_sb3(KEY, 2, **SMALL)
    face.reset()
    return face


LEAST = "is a whole number of at least"

CASES: list[tuple[Callable[[], Any], str]] = [
    *(
        (lambda n=n: gym.make_vec(KEY, num_envs=n, **SMALL), f"num_envs is {n!r}, but it {LEAST} 1")
        for n in (1.5, "3", None, True, 0, -2)
    ),
    (
        lambda: make_sb3(KEY, 1.5, **SMALL),  # type: ignore[arg-type]
        f"num_envs is 1.5, but it {LEAST} 1",
    ),
    (lambda: gym.make(KEY, strict="no", **SMALL), "strict is 'no', but it is True or False"),
    (lambda: gym.make(KEY, flat=1, **SMALL), "flat is 1, but it is True or False"),
    (lambda: gym.make_vec(KEY, tensors=0, **SMALL), "tensors is 0, but it is True or False"),
    (lambda: gym.make(KEY, render_mode="human", **SMALL), "a world draws no pictures: leave it out"),
    (lambda: vector().reset(seed=[1.5] * 4), f"seed of row 0 is 1.5, but it {LEAST} 0"),
    (lambda: vector().reset(seed=[1, 2, 3, -4]), f"seed of row 3 is -4, but it {LEAST} 0"),
    (lambda: vector().reset(seed="abcd"), "seed is 'abcd', but it is None, a whole number, or a list"),
    (lambda: vector().reset(seed=[1, 2]), "seed has 2 entries, but there are 4 rows"),
    (lambda: vector().reset(options=[1]), r"options are \[1\], but they are a dict"),
    (lambda: recsim().step(None), r"a slate is a list of places in doc, such as \[4, 1\], not None"),
    (lambda: recsim().step(3), "a slate is a list of places in doc"),
    (lambda: recsim().step([[1, 2]]), "a slate is a list of places in doc"),
    (lambda: recsim().seed("x"), f"seed is 'x', but it {LEAST} 0"),
    (lambda: batch().step_wait(), "there are no actions: call step_async"),
]


def said() -> list[str]:
    """Return what each call says."""
    found = []
    for call, _ in CASES:
        try:
            call()
            found.append("nothing")
        except BadInput as error:
            found.append(str(error))
        except Exception as error:
            found.append(repr(error))
    return found


@pytest.fixture(scope="module")
def answers() -> list[str]:
    here = Path(__file__)
    code = (
        "import importlib.util as u, json;"
        "s = u.spec_from_file_location('cases', 'tests/envs/test_faces_refuse.py');"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(json.dumps(m.said()))"
    )
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here.parents[2], check=True
    )
    found: list[str] = json.loads(got.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: CASES[n][1][:40])
def test_one_sentence(number: int, answers: list[str]) -> None:
    words = CASES[number][1]
    assert re.search(words, answers[number]), answers[number]


def test_actions_are_used_once() -> None:
    face = batch()
    face.step([[0, 1], [2, 3]])
    with pytest.raises(BadInput, match="there are no actions"):
        face.step_wait()
    face.step([[0, 1], [2, 3]])
