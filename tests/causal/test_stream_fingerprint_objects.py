"""Objects of all kinds: what differs is told apart, what is the same agrees, the rest is refused."""

import array
import collections
import datetime
import enum
import functools
import io
import itertools
import logging
import operator
import random
import re
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

from agents.actor_critic.ppo import PPOAgent
from causal.stream import Logged, PolicySlates
from causal.stream.fingerprint import fingerprint
from envs.users.feed import Feed, FeedSpec
from simlab.errors import BadInput
from simlab.seeds import Seed


class Marked(np.ndarray):
    """Numbers with a mark."""

    mark: object = None


class Silent:
    """Python alone, and pickle is told nothing."""

    def __init__(self, x: object) -> None:
        self.x = x

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("never")


class Slotted:
    """The same, with slots."""

    __slots__ = ("x",)

    def __init__(self, x: object) -> None:
        self.x = x

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("never")


class Named:
    """Pickle is told a name, which is not that of the object."""

    def __init__(self, x: object) -> None:
        self.x = x

    def __reduce__(self) -> str:
        return "NAMED"


class Words(set[str]):
    """A set of another class."""


class Weighed(torch.Tensor):
    """A tensor of another class."""

    by: object = None


class Flags(enum.Flag):
    """A class that notes what it was asked for."""

    A = 1
    B = 2


def marked(values: Sequence[float], mark: object) -> Marked:
    out = np.asarray(values).view(Marked)
    out.mark = mark
    return out


def weighed(by: object) -> torch.Tensor:
    out = torch.ones(2).as_subclass(Weighed)
    out.by = by
    return out


def fitted(seed: int) -> Any:
    x = np.random.default_rng(seed).normal(size=(30, 2))
    return RandomForestClassifier(2, random_state=0).fit(x, x[:, 0] > 0)


def line(slope: float) -> Any:
    x = np.arange(6.0)[:, None]
    return LogisticRegression().fit(slope * x, np.arange(6) > 2)


def built(low: float) -> type:
    return make_dataclass("Built", [("low", float, low)])


def record(low: int) -> NDArray[Any]:
    """Build rows with holes between their fields, whose bytes are what memory held before."""
    out = np.frombuffer(random.randbytes(32), np.dtype([("a", "i1"), ("b", "f8")], align=True)).copy()
    out["a"], out["b"] = low, 1.0
    return out


def hooked(by: float) -> nn.Module:
    net = nn.Identity()
    net.register_forward_hook(functools.partial(hook, by))
    return net


def hook(by: float, module: nn.Module, given: Any, out: Any) -> Any:
    return out * by


def drawn(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sums(by: int) -> Callable[..., Any]:
    @functools.cache
    def inner(x: int) -> int:
        return x + by

    return inner


def takes(how: int) -> Callable[..., Any]:
    """Return functions that differ in how they are called alone."""
    if how == 0:
        return lambda a, b: a
    if how == 1:
        return lambda a, /, b: a
    return lambda a, *, b: a


def view(values: bytes) -> memoryview:
    return memoryview(values)


TELLS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "pandas": (lambda x: pd.DataFrame({"a": [1, x], "b": ["x", "y"]}), 2, 3),
    "pandas names": (lambda x: pd.Series([1], name=x), "a", "b"),
    "index": (lambda x: pd.DataFrame({"a": [1, 2]}, index=[1, x]), 2, 3),
    "arrow": (lambda x: pa.table({"a": [1, x]}), 2, 3),
    "arrow array": (lambda x: pa.array(["a", x]), "b", "c"),
    "generator": (drawn, 0, 1),
    "frozen": (lambda x: scipy.stats.norm(0, x), 1, 2),
    "distribution": (lambda x: x, scipy.stats.norm, scipy.stats.gamma),
    "pattern": (re.compile, "a+", "a*"),
    "pattern flags": (lambda x: re.compile("a", x), 0, re.IGNORECASE),
    "ufunc": (lambda x: x, np.add, np.subtract),
    "ufunc of scipy": (lambda x: x, scipy.special.expit, scipy.special.logit),
    "union": (lambda x: int | x, str, float),
    "alias": (lambda x: types.GenericAlias(list, x), int, float),
    "mask": (lambda x: np.ma.array([1.0, 2.0], mask=[False, x]), False, True),
    "fill": (lambda x: np.ma.array([1.0, 2.0], mask=[False, True], fill_value=x), 1.0, 2.0),
    "subclass": (lambda x: marked([1, x], "a"), 2, 3),
    "subclass mark": (lambda x: marked([1, 2], x), "a", "b"),
    "matrix": (lambda x: x, np.ones((1, 2)), np.ones((1, 2)).view(np.matrix)),
    "records": (record, 1, 2),
    "memory": (view, b"ab", b"ac"),
    "memory shape": (lambda x: memoryview(b"abcd").cast("B", x), [4], [2, 2]),
    "bytes": (bytearray, b"ab", b"ac"),
    "array": (lambda x: array.array("d", [x]), 1.0, 2.0),
    "silent": (Silent, 1, 2),
    "slots": (Slotted, 1, 2),
    "named": (Named, 1, 2),
    "forest": (fitted, 0, 1),
    "line": (line, 1.0, 2.0),
    "class": (built, 1.0, 2.0),
    "class made": (lambda x: built(x)(), 1.0, 2.0),
    "tensor class": (weighed, 1, 2),
    "sparse": (lambda x: torch.tensor([0.0, x]).to_sparse(), 1.0, 2.0),
    "rows": (lambda x: torch.tensor([[0.0, x]]).to_sparse_csr(), 1.0, 2.0),
    "huge": (lambda x: torch.sparse_coo_tensor([[x]], [1.0], (1 << 40,)), 1, 2),  # type: ignore[arg-type]
    "dtype": (lambda x: x, torch.float32, torch.float64),
    "generator of torch": (lambda x: torch.Generator().manual_seed(x), 0, 1),
    "hook": (hooked, 1.0, 2.0),
    "cache": (sums, 1, 2),
    "takes": (takes, 0, 1),
    "takes names": (takes, 0, 2),
    "words": (lambda x: Words({"a", x}), "b", "c"),
    "fraction": (lambda x: datetime.timedelta(days=x), 1, 2),
    "getter": (operator.itemgetter, 1, 2),
    "queue": (lambda x: collections.deque([1], maxlen=x), 2, 3),
    "counter": (lambda x: collections.Counter({"a": x}), 1, 2),
    "text": (io.StringIO, "a", "b"),
    "log": (logging.getLogger, "a", "b"),
    "method": (lambda x: x, str.upper, str.lower),
    "bound": (lambda x: x, (1).__add__, (2).__add__),
    "member": (lambda x: x, Slotted.__dict__["x"], Slotted.__init__),
    "flag": (lambda x: x, Flags.A, Flags.B),
    "large": (lambda x: 10**5000 + x, 0, 1),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", TELLS)
def test_what_differs_is_told_apart(name: str) -> None:
    make, one, other = TELLS[name]
    assert fingerprint(make(one)) == fingerprint(make(one))
    assert fingerprint(make(one)) != fingerprint(make(other))


@pytest.mark.parametrize(
    "thing",
    [
        (x for x in "ab"),
        np.frompyfunc(len, 1, 1),
        threading.local(),
        torch.ones(2, device="meta"),
    ],
    ids=["generator", "ufunc", "local", "meta"],
)
def test_what_is_unknown_is_refused(thing: object) -> None:
    """Rather than to take two for the same."""
    for held in (thing, [thing], {"a": (thing,)}, lambda: thing):
        with pytest.raises(BadInput, match=r"what it does, so a change would not be seen: give a version="):
            fingerprint(held)


@pytest.mark.filterwarnings("ignore")
def test_scripts_of_torch_are_refused() -> None:
    with pytest.raises(BadInput, match="give a version="):
        fingerprint(torch.jit.script(nn.Linear(2, 2)))


class Node:
    """Holds others."""

    def __init__(self, x: int) -> None:
        self.x = x
        self.others: set[Any] = set()


def crowd(n: int, last: int = 0) -> Node:
    """Return one of many that all hold a set of all."""
    nodes = [Node(0 if i else 1) for i in range(n)]
    nodes[n // 2].x += last
    for node in nodes:
        node.others = set(nodes)
    return nodes[0]


def test_sets_of_objects_that_hold_one_another() -> None:
    """Each of 25 is in the sets of all, whose orders no two runs share."""
    assert fingerprint(crowd(25)) == fingerprint(crowd(25))
    assert fingerprint(crowd(25)) != fingerprint(crowd(25, 1))
    assert fingerprint(crowd(25)) != fingerprint(crowd(24))


def path(links: Iterable[tuple[int, int]], n: int) -> set[Node]:
    nodes = [Node(0) for _ in range(n)]
    for a, b in links:
        nodes[a].others.add(nodes[b])
        nodes[b].others.add(nodes[a])
    random.shuffle(nodes)
    return set(nodes)


def test_a_set_is_told_by_who_holds_whom() -> None:
    """All hold the same number, so that only the links tell them apart."""
    chain = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    star = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]
    fork = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5)]
    seen = [{fingerprint(path(links, 6)) for _ in range(5)} for links in (chain, star, fork)]
    assert [len(each) for each in seen] == [1, 1, 1]
    assert len(set.union(*seen)) == 3


def test_what_is_the_same_object_twice() -> None:
    one, two = [1], [1]
    assert fingerprint([one, one]) != fingerprint([one, two])
    assert fingerprint({"a", "b"}) == fingerprint({"b", "a"})
    x: Any = ()
    for _ in range(60):
        x = (x, x)  # 2^60 of them, if none were known again
    assert fingerprint(x) != fingerprint((x, x))
    assert fingerprint((1, (2, 3))) == fingerprint((1, tuple([2, 3])))
    far: Any = None
    for i in range(3000):
        far = [far, i]
    assert fingerprint(far) == fingerprint(far)


def test_frozen_sets_inside_sets() -> None:
    def of(a: int, b: int) -> Any:
        return {frozenset({Slotted(a), Slotted(3)}), frozenset({Slotted(b), Slotted(4)})}

    assert fingerprint(of(1, 2)) == fingerprint(of(1, 2))
    assert fingerprint(of(1, 2)) != fingerprint(of(2, 1))


def test_use_does_not_count(recwarn: Any) -> None:
    """The flag of training, caches, compiled forms, locks and luck that all share."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    kept = sums(3)

    class Uses:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.log = logging.getLogger("uses")

        def __call__(self, x: Any) -> Any:
            return net(x), kept(1), random.random(), Flags.A | Flags.B

    shared: list[Any] = [random.random, np.random.rand, torch.default_generator, scipy.stats.norm(0, 1)]
    things: list[Any] = [net, kept, Uses(), Flags, *shared]
    before = [fingerprint(thing) for thing in things]
    net.eval()
    Uses()(torch.ones(1, 2))
    np.random.rand()
    torch.rand(1)
    shared[-1].rvs()
    shared[-1].pdf(0.3)
    assert [fingerprint(thing) for thing in things] == before


def test_hooks_count_and_their_numbers_do_not() -> None:
    """Torch numbers all hooks of a process."""
    before = fingerprint(hooked(1.0))
    for _ in itertools.repeat(None, 3):
        hooked(2.0)
    assert fingerprint(hooked(1.0)) == before != fingerprint(nn.Identity())


def test_frames_that_were_used_are_the_same() -> None:
    """What pandas remembers of them does not count, and neither does the file of a memory map's numbers."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    held = functools.partial(len, frame)
    before = fingerprint(frame), fingerprint(held)
    frame.loc[0]
    frame.groupby("b").a.sum()
    frame.index.get_loc(1)
    assert (fingerprint(frame), fingerprint(held)) == before


def test_memory_maps(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    np.save(tmp_path / "b.npy", np.arange(3) + 1)
    one, same, other = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "aab")
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


@pytest.mark.slow
def test_an_agent_that_was_loaded(tmp_path: Path) -> None:
    world = Feed(FeedSpec(items=12, slots=2, horizon=4))
    PPOAgent(num_envs=4).learn(world, 4, 5, Seed(1)).save(tmp_path / "one")
    PPOAgent(num_envs=4).learn(world, 4, 5, Seed(2)).save(tmp_path / "two")
    one, same, other = (PPOAgent.load(tmp_path / name) for name in ("one", "one", "two"))
    before = fingerprint(Logged(PolicySlates(one)))
    assert before == fingerprint(Logged(PolicySlates(same))) != fingerprint(Logged(PolicySlates(other)))
    one.distribution(world.observe(world.reset(3, Seed(0))), 2).mode()
    assert fingerprint(Logged(PolicySlates(one))) == before


def test_a_compiled_model_is_the_model() -> None:
    net = nn.Linear(2, 2)
    compiled = torch.compile(net, backend="eager")
    before = fingerprint(compiled)
    compiled(torch.ones(1, 2))
    assert fingerprint(compiled) == before
    with torch.no_grad():
        net.weight += 1
    assert fingerprint(compiled) != before


def test_a_compiled_function_is_the_function() -> None:
    def of(by: float) -> Callable[..., Any]:
        return torch.compile(lambda x: x * by, backend="eager")

    assert fingerprint(of(1.0)) == fingerprint(of(1.0))
    assert fingerprint(of(1.0)) != fingerprint(of(2.0))
