"""A resumed stream knows whether what weighs the rows has changed, wherever the change is."""

import functools
import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from causal.bandit.ips import IPS
from causal.stream import Columns, Logged, PolicyRounds, stream
from causal.stream.checkpoint import settings
from causal.stream.fingerprint import fingerprint
from causal.stream.tally import Task
from simlab.context import Context
from simlab.errors import BadInput
from simlab.seeds import Seed
from tests.causal.streamed import MODEL, TARGET, Spy, made, write

MAIN = """
import functools
import re
from collections import namedtuple
from dataclasses import dataclass, field, make_dataclass
from enum import Enum, auto
from functools import cached_property, partialmethod, singledispatch

import numpy as np
import torch
import fp_helper
import fp_helper as short
from fp_helper import sub, table

SCALE = 2.0
NAMES = {"a": 1, "b": [1, 2]}
WEIGHTS = torch.ones(3)
CHOICE = {"x", "y", "z"}

def inner(x):
    # what it does
    return x * SCALE

def outer(x):
    return [inner(y) for y in x]

def reads_a_table(x):
    return table()[x]

def reads_a_module(x):
    return fp_helper.deep(x)

def reads_a_short_name(x):
    return (lambda y: short.scale * y)(x)

def reads_a_package(x):
    return sub.far(x)

def imports_late(x):
    from fp_helper.sub import far
    return far(x)

def imports_a_module_late(x):
    import fp_helper.sub
    return fp_helper.sub.far(x)

def hands_a_module_on(x):
    return asks(fp_helper, x)

def hands_a_part_on(x):
    return asks(fp_helper.sub, x)

def hands_an_import_on(x):
    import fp_helper.sub as late
    return asks(late, x)

def hands_a_taken_part_on(x):
    def inner():
        from fp_helper import sub as late
        return lambda: asks(late, x)
    return inner()()

def asks(module, x):
    return getattr(module, "far", module)(x)

def with_names(x):
    return NAMES["b"][1] * x

def with_tensor(x):
    return WEIGHTS @ x

def with_choice(x):
    return x in CHOICE

def with_default(x, by=3, *, far=4):
    return x + by + far

def closed(by):
    return lambda x: x + by

def pairs(a, b, /):
    return a - b

def options(*, a, b):
    return a - b

def matches(x):
    match x:
        case {"a": 23}:
            return f"{x!r:>24}"
        case _:
            return [y for y in x if y > 25]

def mangled(x):
    try:
        return x.first
    except KeyError:
        return x.second

def vowels(x):
    return VOWELS.sub("-", x) + str(x in ALSO)

VOWELS = re.compile("[aeiou]")
ALSO = frozenset({(26, "a"), (27, "b")})
Row = make_dataclass("Row", [("a", int, 28)])
Pair = namedtuple("Pair", "a b", defaults=(29,))

def rows(x):
    return Row() if x else Pair(x)

class Kind(Enum):
    LOW = 30
    HIGH = auto()

    def level(self):
        return self.value * 31

def kinds_of(x):
    return Kind(x).level()

class Meta(type):
    def __call__(cls, *args):
        return super().__call__(*args) if args else 32

class Made(metaclass=Meta):
    pass

class Ten:
    def __get__(self, thing, kind):
        return 33

class Described:
    ten = Ten()
    half = partialmethod(inner)

described = Described()
vector = np.vectorize(lambda x: x + 34)
closure = closed(5)
part = functools.partial(with_default, by=6)

@functools.cache
def remembers(x):
    return x * SCALE

def asks_a_cache(x):
    return remembers(x)

@singledispatch
def kinds(x):
    return 0

@kinds.register
def _(x: int):
    return 1

@torch.no_grad()
def wrapped(x):
    return inner(x)

def attributes(x):
    return attributes.by * x

attributes.by = 7

class Base:
    rate = 8

    def step(self, x):
        return x + self.rate

class Policy(Base):
    def __call__(self, x):
        return self.step(x) + self.own + self.less() + self.more(x) + self.kept

    @property
    def own(self):
        return 9

    @staticmethod
    def less():
        return 10

    @classmethod
    def more(cls, x):
        return inner(x)

    @cached_property
    def kept(self):
        return 11

@dataclass(frozen=True)
class Held:
    low: float = 12.0
    high: list = field(default_factory=lambda: [13])

    def __call__(self, x):
        return x

@dataclass(frozen=True, slots=True)
class Slotted:
    low: float = 14.0

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = 15.0
        self.register_buffer("fixed", torch.full((2,), 16.0), persistent=False)

    def forward(self, x):
        return x / self.temperature

def ping(x):
    return pong(x - 1) if x else 0

def pong(x):
    return ping(x - 17)

policy, held, slotted, net = Policy(), Held(), Slotted(), Net()
method = policy.step
"""
HELPER = """
from fp_helper import sub

scale = 20

def table():
    return {1: low()}

def low():
    return 21

def deep(x):
    return sub.far(x) + low()
"""
SUB = """
def far(x):
    return x + 22
"""

SEES: list[tuple[str, str, str]] = [
    ("outer", "SCALE = 2.0", "SCALE = 2.5"),
    ("outer", "x * SCALE", "x + SCALE"),
    ("outer", "x * SCALE", "x * SCALE ** 1"),
    ("reads_a_table", "return 21", "return 121"),
    ("reads_a_module", "x + 22", "x + 122"),
    ("reads_a_module", "return 21", "return 121"),
    ("reads_a_short_name", "scale = 20", "scale = 120"),
    ("reads_a_package", "x + 22", "x + 122"),
    ("imports_late", "x + 22", "x + 122"),
    ("imports_a_module_late", "x + 22", "x + 122"),
    ("hands_a_module_on", "x + 22", "x + 122"),
    ("hands_a_module_on", "scale = 20", "scale = 120"),
    ("hands_a_part_on", "x + 22", "x + 122"),
    ("hands_an_import_on", "x + 22", "x + 122"),
    ("hands_a_taken_part_on", "x + 22", "x + 122"),
    ("pairs", "b, /)", "b)"),
    ("pairs", "a, b", "b, a"),
    ("options", "*, a, b", "a, b"),
    ("matches", '"a": 23', '"a": 123'),
    ("matches", '"a": 23', '"b": 23'),
    ("matches", ">24", ">124"),
    ("matches", "y > 25", "y >= 25"),
    ("mangled", "KeyError", "ValueError"),
    ("mangled", "x.second", "x.third"),
    ("vowels", "[aeiou]", "[aeio]"),
    ("vowels", '27, "b"', '127, "b"'),
    ("rows", "int, 28", "int, 128"),
    ("rows", "(29,)", "(129,)"),
    ("kinds_of", "LOW = 30", "LOW = 130"),
    ("kinds_of", "self.value * 31", "self.value + 31"),
    ("Made", "32", "132"),
    ("described", "33", "133"),
    ("described", "x * SCALE", "x + SCALE"),
    ("vector", "34", "134"),
    ("with_names", "[1, 2]", "[1, 3]"),
    ("with_tensor", "torch.ones(3)", "torch.tensor([1.0, 1.0, 1.0 + 1e-6])"),
    ("with_choice", '"z"}', '"w"}'),
    ("with_default", "by=3", "by=103"),
    ("with_default", "far=4", "far=104"),
    ("closure", "closed(5)", "closed(105)"),
    ("part", "by=6", "by=106"),
    ("part", "x + by + far", "x + by * far"),
    ("asks_a_cache", "SCALE = 2.0", "SCALE = 2.5"),
    ("kinds", "return 1\n\n@torch", "return 101\n\n@torch"),
    ("kinds", "return 0\n\n@kinds", "return 100\n\n@kinds"),
    ("wrapped", "SCALE = 2.0", "SCALE = 2.5"),
    ("wrapped", "@torch.no_grad()", "@torch.enable_grad()"),
    ("attributes", "attributes.by = 7", "attributes.by = 107"),
    ("policy", "rate = 8", "rate = 108"),
    ("policy", "x + self.rate", "x - self.rate"),
    ("policy", "return 9", "return 109"),
    ("policy", "return 10", "return 110"),
    ("policy", "return 11", "return 111"),
    ("policy", "SCALE = 2.0", "SCALE = 2.5"),
    ("method", "x + self.rate", "x - self.rate"),
    ("method", "rate = 8", "rate = 108"),
    ("held", "low: float = 12.0", "low: float = 112.0"),
    ("held", "[13]", "[113]"),
    ("held", "__call__(self, x):\n        return x\n", "__call__(self, x):\n        return -x\n"),
    ("Held", "[13]", "[113]"),
    ("slotted", "= 14.0", "= 114.0"),
    ("net", "temperature = 15.0", "temperature = 115.0"),
    ("net", "16.0", "116.0"),
    ("net", "x / self.temperature", "x * self.temperature"),
    ("ping", "x - 17", "x - 117"),
    ("ping", "if x else 0", "if x else 1"),
]

IGNORES = [
    ("outer", "# what it does", "# what it does: multiply\n    # by the scale"),
    ("outer", "return [inner(y) for y in x]", "return [inner(each) for each in x]"),
    ("outer", "rate = 8", "rate = 108"),
    ("policy", "SCALE = 2.0", "SCALE = 2.0\nOTHER = 1"),
    ("reads_a_module", "scale = 20", "scale = 120"),
    ("hands_a_part_on", "scale = 20", "scale = 120"),
]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Write the three modules with a change in them, and import the first one afresh."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in ("fp_main", "fp_helper", "fp_helper.sub"):
            sys.modules.pop(name, None)

    def fresh(old: str = "", new: str = "") -> ModuleType:
        forget()
        (tmp_path / "fp_helper").mkdir(exist_ok=True)
        found = 0
        for name, text in (
            ("fp_main.py", MAIN),
            ("fp_helper/__init__.py", HELPER),
            ("fp_helper/sub.py", SUB),
        ):
            found += text.count(old) if old else 1
            (tmp_path / name).write_text(text.replace(old, new) if old else text, "utf-8")
        assert found, old
        importlib.invalidate_caches()
        return importlib.import_module("fp_main")

    yield fresh
    forget()


@pytest.mark.parametrize(("name", "old", "new"), SEES)
def test_a_change_anywhere_is_seen(load: Callable[..., ModuleType], name: str, old: str, new: str) -> None:
    before = fingerprint(getattr(load(), name))
    assert before == fingerprint(getattr(load(), name))
    assert before != fingerprint(getattr(load(old, new), name))


@pytest.mark.parametrize(("name", "old", "new"), IGNORES)
def test_what_says_the_same_is_the_same(
    load: Callable[..., ModuleType], name: str, old: str, new: str
) -> None:
    assert fingerprint(getattr(load(), name)) == fingerprint(getattr(load(old, new), name))


def test_what_a_run_leaves_behind_does_not_count(load: Callable[..., ModuleType]) -> None:
    module = load()
    things = [module.policy, module.asks_a_cache, module.kinds, module.Held, module.held]
    before = [fingerprint(thing) for thing in things]
    for call, x in ((module.policy, 1), (module.asks_a_cache, 2), (module.kinds, 3), (module.kinds, "")):
        call(x)
    for thing in (module.held, module.policy):
        pickle.dumps(thing)
    assert [fingerprint(thing) for thing in things] == before


def test_compiled_code_that_is_read_back_is_the_same(
    load: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted({name for name, _, _ in SEES})
    module = load()
    before = [fingerprint(getattr(module, name)) for name in names]
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    load()
    assert (tmp_path / "__pycache__").is_dir()
    for name in ("fp_main", "fp_helper", "fp_helper.sub"):
        del sys.modules[name]
    module = importlib.import_module("fp_main")
    assert [fingerprint(getattr(module, name)) for name in names] == before
    assert len(set(before)) == len(names)


@pytest.mark.slow
def test_another_process_agrees(load: Callable[..., ModuleType], tmp_path: Path) -> None:
    """Also one that shuffles its sets in another way."""
    module = load()
    names = sorted({name for name, _, _ in SEES})
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import fp_main\n"
        "from causal.stream.fingerprint import fingerprint\n"
        f"print(*(fingerprint(getattr(fp_main, n)) for n in {names}))"
    )
    for luck in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2])],
            env={"PYTHONHASHSEED": luck, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == [fingerprint(getattr(module, name)) for name in names]


TAKEN = """
import sys
sys.path[:0] = sys.argv[1:3]
import {name} as module
from causal.stream.fingerprint import fingerprint

def late(x):
    import {name}
    return {name}.Held().step(x)

def asks(x):
    return module.step(x)

print(*map(fingerprint, (module.Held, module.Held(), module, late, asks)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wheel", "this"])
def test_a_module_by_the_name_of_an_installed_one(tmp_path: Path, name: str) -> None:
    """Where it lies says whose it is, not its name."""
    said = []
    for rate in (1, 2):
        text = (
            f"RATE = {rate}\ndef step(x):\n    return x * RATE\nclass Held:\n    step = staticmethod(step)\n"
        )
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        code = TAKEN.format(name=name)
        found = subprocess.run(
            [sys.executable, "-B", "-c", code, str(tmp_path), str(Path(__file__).parents[2])],
            env={"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(found.stdout.split())
    assert len(said[0]) == 5
    assert all(a != b for a, b in zip(*said, strict=True))


def test_what_objects_hold() -> None:
    def of(scale: float) -> Callable[[Any], Any]:
        return lambda batch: scale * batch

    net = torch.nn.Linear(2, 2)
    before = fingerprint(Logged(PolicyRounds(Held(net))))
    assert before == fingerprint(Logged(PolicyRounds(Held(net))))
    with torch.no_grad():
        net.weight[0, 0] += 1e-6
    assert before != fingerprint(Logged(PolicyRounds(Held(net))))
    assert fingerprint(of(2)) == fingerprint(of(2))
    assert fingerprint(of(2)) != fingerprint(of(3))
    things: list[Any] = [
        1,
        1.0,
        "1",
        True,
        None,
        (1,),
        [1],
        [1, [2]],
        [1, 2],
        [[1], 2],
        {"a": 1},
        {"a": 2},
        {1},
        {(1, 2)},
        frozenset({1}),
        torch.ones(2),
        torch.ones(2).double(),
        torch.ones(1, 2),
        torch.ones(2).to_sparse(),
        torch.zeros(0),
        np.ones(2),
        np.ones(2, np.float32),
        np.array([1, "a"], object),
        np.float32(1),
        functools.partial(of, 2),
        functools.partial(of, 3),
        Spy().fit,
        Spy(1).fit,
        int,
        float,
        len,
        [].append,
        np,
        torch,
        Path("a"),
        Path("b"),
        TARGET,
        MODEL,
    ]
    assert len({fingerprint(x) for x in things}) == len(things)
    assert [fingerprint(x) for x in things] == [fingerprint(x) for x in things]
    knot: list[Any] = [1]
    knot.append(knot)
    assert fingerprint(knot) == fingerprint(knot)


def test_sets_of_objects_that_hold_the_set() -> None:
    def ring(last: int) -> Held:
        made = [Held(i) for i in (0, 1, last)]
        for one in made:
            one.others = set(made)
        return made[0]

    assert fingerprint(ring(2)) == fingerprint(ring(2))
    assert fingerprint(ring(2)) != fingerprint(ring(3))


def test_of_an_installed_package_the_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from causal.stream import reach

    def uses(x: Any) -> Any:
        return np.sort(x)

    before = fingerprint(uses)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")
    reach.release.cache_clear()
    try:
        assert fingerprint(uses) != before
    finally:
        reach.release.cache_clear()


class Held:
    """A policy that holds something."""

    name = "held"
    others: object = None

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def distribution(self, context: Context, slots: int) -> Any:
        raise NotImplementedError


FACTOR = 1.0


def helped(batch: Any) -> Any:
    return scaled(MODEL(batch))


def scaled(data: Any) -> Any:
    return replace(data, weight=data.weight * FACTOR)


def test_a_resume_with_another_global_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two functions away; and a name for what the targets do takes the hash's place."""
    columns = made()
    folder = write(tmp_path / "log", columns, (200, 400))
    weigh = Columns(tuple(columns), helped)
    stream(folder, weigh, [IPS()], checkpoint=tmp_path / "state")
    stream(folder, weigh, [IPS()], checkpoint=tmp_path / "named", version="as of May")
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(BadInput, match=r"state: this state is of another target \(what weighs the rows has"):
        stream(folder, weigh, [IPS()], checkpoint=tmp_path / "state")
    stream(folder, weigh, [IPS()], checkpoint=tmp_path / "named", version="as of May")
    with pytest.raises(BadInput, match=r"named: this state is of another target"):
        stream(folder, weigh, [IPS()], checkpoint=tmp_path / "named", version="as of June")


def test_a_resume_with_another_score_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "log", made(), (200, 400))
    stream(folder, MODEL, [IPS()], checkpoint=tmp_path / "state")
    score = IPS.score
    monkeypatch.setattr(IPS, "score", lambda self, data: score(self, data))
    with pytest.raises(BadInput, match=r"state: the code of an estimator has changed since this state"):
        stream(folder, MODEL, [IPS()], checkpoint=tmp_path / "state")


class Plain(IPS):
    """An estimator that says where it lies."""

    def __repr__(self) -> str:
        return object.__repr__(self)


def test_what_equal_settings_are(tmp_path: Path) -> None:
    """As JSON gives them back, and without the places that objects lie at."""
    folder = write(tmp_path / "log", made(), (200, 400))
    stream(folder, {"a": MODEL, "b": TARGET}, [Plain()], checkpoint=tmp_path / "state")
    stream(folder, {"a": MODEL, "b": TARGET}, [Plain()], checkpoint=tmp_path / "state")
    task = Task({"": MODEL}, (IPS(),), ("a", "b"), 7, True, 8, Seed(3))
    said = settings(task, 5, "as of May")
    assert said == json.loads(json.dumps(said))
    assert settings(task, 5, "as of June") != said != settings(task, 5, None)


def test_what_cannot_be_hashed_takes_a_version(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (200, 400))
    unknown = iter(x for x in "ab")
    weigh = Columns(tuple(columns), lambda batch: (MODEL(batch), unknown)[0])
    with pytest.raises(BadInput, match=r"a builtins.generator does not tell .* give a version="):
        stream(folder, weigh, [IPS()], checkpoint=tmp_path / "state")
    stream(folder, weigh, [IPS()], checkpoint=tmp_path / "state", version="as of May")
    stream(folder, weigh, [IPS()], checkpoint=tmp_path / "state", version="as of May")
    odd = IPS()
    object.__setattr__(odd, "unknown", unknown)
    with pytest.raises(BadInput, match="give a version="):
        stream(folder, MODEL, [odd], checkpoint=tmp_path / "odd")
    stream(folder, MODEL, [odd], checkpoint=tmp_path / "odd", version="as of May")
