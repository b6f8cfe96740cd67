"""Streams: what files give is what memory gives, whoever adds it up and whatever interrupts it."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.sndr import SNDR
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Rounds, Scored, Scores, Slates, Trajectories, ones, stderr, value
from causal.contract import Score as OneScore
from causal.evaluation import estimate, evaluate, overlap, paired_difference
from causal.intervals import interval
from causal.rewards import Fitted
from causal.rounds import rounds
from causal.slate.clipped_iips import ClippedIIPS
from causal.stream import (
    Columns,
    ColumnTarget,
    Logged,
    PolicyRounds,
    Progress,
    SlateColumns,
    SlateMatrix,
    Streamed,
    UserFolds,
    fit_folds,
    stream,
)
from causal.stream.checkpoint import fingerprint
from causal.stream.files import find, survey
from causal.sums import ScoreSums
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed
from simlab.tables import ColumnMap, write_log
from tests.worlds import bandit_world, slate_world

TARGET = ColumnTarget("target_propensity")
MODEL = ColumnTarget("target_propensity", "q_logged", "q_target")
ALL: tuple[Estimator[Rounds], ...] = (IPS(), SNIPS(), DR(), SNDR())


def made(n: int = 700, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw columns of single rounds; users come back."""
    random = np.random.default_rng(seed)
    return {
        "user": random.integers(0, n // 4, n),
        "propensity": random.uniform(0.05, 1, n),
        "target_propensity": random.uniform(0, 1, n),
        "reward": random.normal(2, 1, n),
        "q_logged": random.normal(2, 0.2, n),
        "q_target": random.normal(2, 0.2, n),
    }


def in_memory(columns: dict[str, NDArray[Any]], group: bool = False) -> Rounds:
    c = {name: torch.from_numpy(values) for name, values in columns.items()}
    weight = c["target_propensity"] / c["propensity"]
    return Rounds(c["reward"], weight, c["q_logged"], c["q_target"], c["user"] if group else None)


def write(folder: Path, columns: dict[str, Any], cuts: tuple[int, ...] = (), group: int = 1 << 20) -> Path:
    """Write a table as files that end at the cuts."""
    folder.mkdir(exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    bounds = [0, *cuts, table.num_rows]
    for i, (a, b) in enumerate(itertools.pairwise(bounds)):
        pq.write_table(table.slice(a, b - a), folder / f"part-{i:03d}.parquet", row_group_size=group)
    return folder


def same(a: Streamed, b: Streamed) -> None:
    """Hold two results to be the same to the last bit."""
    assert a.names == b.names
    assert a.tally.widths == b.tally.widths
    assert a.tally.sums.count == b.tally.sums.count
    for name in ("sums", "cross", "buckets", "rows"):
        assert torch.equal(getattr(a.tally.sums, name), getattr(b.tally.sums, name)), name
    assert a.tally.weights.keys() == b.tally.weights.keys()
    for key, weights in a.tally.weights.items():
        assert torch.equal(weights, b.tally.weights[key])


# What memory gives.


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_streaming_is_memory(tmp_path: Path, batches: int) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (100, 100, 350))  # one of the files has no row
    found = stream(folder, MODEL, ALL, group=None, batch_rows=-(-700 // batches), seed=Seed(3))
    data = in_memory(columns)
    assert len(found) == 700
    assert found.files == 3
    for ours, e in zip(found.estimates(("student-t", "normal", "poisson")), ALL, strict=True):
        theirs = estimate(e, data, ("student-t", "normal"))
        assert ours.name == theirs.name
        assert ours.value == pytest.approx(theirs.value, rel=1e-12)
        assert ours.stderr == pytest.approx(theirs.stderr, rel=1e-12)
        assert ours.n == theirs.n
        assert ours.ess == pytest.approx(theirs.ess, rel=1e-12)
        assert ours.max_weight_share == pytest.approx(theirs.max_weight_share, rel=1e-12)
        poisson = ScoreSums.of(e.score(data), seed=Seed(3)).interval("poisson")
        for mine, wanted in zip(ours.intervals, (*theirs.intervals, poisson), strict=True):
            assert mine.kind == wanted.kind
            assert (mine.low, mine.high) == pytest.approx((wanted.low, wanted.high), rel=1e-12)
    frame = found.to_frame(("student-t", "poisson"))
    assert list(frame["estimator"]) == ["IPS", "SNIPS", "DR", "SNDR"]
    assert {"low", "high_poisson", "ess", "max_weight_share"} <= set(frame.columns)


def test_any_split_into_files_and_pieces_is_the_same_to_rounding(tmp_path: Path) -> None:
    columns = made()
    one = stream(write(tmp_path / "one", columns), MODEL, ALL, seed=Seed(1), group=None)
    many = stream(
        write(tmp_path / "many", columns, tuple(range(50, 700, 50)), group=16),
        MODEL,
        ALL,
        group=None,
        piece_rows=20,
        batch_rows=7,
        seed=Seed(1),
    )
    for a, b in zip(one.estimates("poisson"), many.estimates("poisson"), strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-13)
        assert a.stderr == pytest.approx(b.stderr, rel=1e-12)
        assert (a.interval.low, a.interval.high) == pytest.approx(
            (b.interval.low, b.interval.high), rel=1e-12
        )
    assert torch.equal(one.tally.sums.rows, many.tally.sums.rows)  # row ids are those of the whole log


def test_users_are_the_units(tmp_path: Path) -> None:
    """Their rows lie in different files, batches and pieces; buckets tell the spread to a few per cent."""
    columns = made(4000, seed=5)
    columns["reward"] = columns["user"] % 5 + columns["reward"] / 10  # users differ
    folder = write(tmp_path / "log", columns, (300, 2100))
    kinds = ("student-t", "normal", "cluster", "poisson")
    found = stream(folder, MODEL, ALL, batch_rows=111)
    data = in_memory(columns, group=True)
    users = data.group
    assert users is not None
    for ours, e in zip(found.estimates(kinds), ALL, strict=True):
        exact = ScoreSums.of(e.score(data), rows=users)
        assert ours.value == pytest.approx(exact.value(), rel=1e-12)
        assert ours.stderr == pytest.approx(exact.stderr(clustered=True), rel=1e-12)
        theirs = estimate(e, data, kinds)
        assert ours.stderr == pytest.approx(theirs.stderr, rel=0.1)
        for mine, wanted in zip(ours.intervals, theirs.intervals, strict=True):
            assert mine.width == pytest.approx(wanted.width, rel=0.15)
            assert mine.kind == wanted.kind
    assert found.estimates()[0].stderr > 1.2 * stderr(IPS().score(data))


def test_users_may_have_names(tmp_path: Path) -> None:
    columns: dict[str, Any] = made()
    numbers = stream(write(tmp_path / "numbers", columns), TARGET, [IPS()])
    words = np.array([f"user {i}" for i in columns["user"]])
    columns["user"] = pa.array(words).dictionary_encode()
    named = stream(write(tmp_path / "names", columns, (90,)), TARGET, [IPS()])
    assert named.tally.sums.units() == pytest.approx(numbers.tally.sums.units(), abs=4)  # but for collisions
    assert named.estimates()[0].stderr == pytest.approx(numbers.estimates()[0].stderr, rel=0.03)
    columns["user"] = pa.array(words)  # plain text: the same hash
    same(named, stream(write(tmp_path / "text", columns, (90,)), TARGET, [IPS()]))


def test_targets_side_by_side_and_their_difference(tmp_path: Path) -> None:
    columns = made()
    columns["other"] = np.clip(columns["target_propensity"] * 1.1, 0, 1)
    folder = write(tmp_path / "log", columns, (333,))
    targets = {"a": TARGET, "b": ColumnTarget("other")}
    found = stream(folder, targets, [SNIPS(), IPS()], group=None)
    assert found.names == ("a: SNIPS", "a: IPS", "b: SNIPS", "b: IPS")
    a = in_memory(columns)
    b = in_memory(columns | {"target_propensity": columns["other"]})
    for e in (SNIPS(), IPS()):
        wanted = paired_difference(e.score(b), e.score(a))
        ours = found.difference(f"b: {e.name}", f"a: {e.name}")
        assert ours.value == pytest.approx(wanted.value, rel=1e-10)
        assert ours.stderr == pytest.approx(wanted.stderr, rel=1e-10)
        assert ours.interval.low == pytest.approx(wanted.interval.low, rel=1e-10)
        assert np.isnan(ours.ess)
        # What both share cancels.
        assert ours.stderr < 0.3 * stderr(e.score(a))
    ess = [overlap(SNIPS(), data)[0] for data in (a, b)]
    assert [e.ess for e in found.estimates()][::2] == pytest.approx(ess, rel=1e-12)
    with pytest.raises(BadInput, match=r"no estimate named a: SNIP; did you mean a: SNIPS\?"):
        found.sums("a: SNIP")


def test_by_default_all_that_stream_and_apply(tmp_path: Path) -> None:
    columns = made(60)
    folder = write(tmp_path / "log", columns)
    with_model, without = stream(folder, MODEL), stream(folder, TARGET)
    assert {"IPS", "SNIPS", "clipped IPS", "DM", "DR", "SNDR"} <= set(with_model.names)
    assert {"IPS", "SNIPS", "clipped IPS"} <= set(without.names)
    assert not {"DM", "DR", "SNDR"} & set(without.names)
    theirs = {e.name: e.value for e in evaluate(in_memory(columns), ALL)}
    ours = {e.name: e.value for e in with_model.estimates()}
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-12)


def test_two_estimators_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", slates_of(20))
    found = stream(folder, SlateColumns("target"), [ClippedIIPS(1.0), ClippedIIPS(2.0)], group=None)
    assert found.names == ("ClippedIIPS(clip=1.0)", "ClippedIIPS(clip=2.0)")


# Slates.


def slates_of(n: int, slots: int = 3, seed: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    columns = {
        "slot_propensity": random.uniform(0.05, 1, (n, slots)).astype(np.float32),
        "click": (random.random((n, slots)) < 0.3).astype(np.float32),
        "target": random.uniform(0, 1, (n, slots)).astype(np.float32),
    }
    return {name: fixed(values) for name, values in columns.items()}


def fixed(values: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@dataclass(frozen=True)
class PlainClipped:
    """Σ_k min(w_k, clip) r_k, a row and a slot at a time."""

    clip: float
    name: ClassVar[str] = "plain"
    needs: ClassVar[tuple[str, ...]] = ("marginal",)
    leans: ClassVar[str] = "marginal"
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = True

    def score(self, data: Slates) -> Scores:
        weight, reward = data.need("marginal").tolist(), data.slots().tolist()
        rows = [
            sum(min(w, self.clip) * r for w, r in zip(ws, rs, strict=True))
            for ws, rs in zip(weight, reward, strict=True)
        ]
        total = torch.tensor(rows, dtype=torch.float64)
        return (OneScore(total, ones(total)),)


def test_slates_from_columns(tmp_path: Path) -> None:
    columns = slates_of(300)
    folder = write(tmp_path / "log", columns, (120,))
    estimators: list[Estimator[Slates]] = [ClippedIIPS(2.5), PlainClipped(2.5)]
    found = stream(folder, SlateColumns("target"), estimators, group=None, batch_rows=64)
    ours, plain = found.estimates()
    click, logger, target = (
        np.array(columns[name].to_pylist()) for name in ("click", "slot_propensity", "target")
    )
    rows = (np.minimum(target / logger, 2.5) * click).sum(1)
    assert ours.value == pytest.approx(plain.value, rel=1e-13)
    assert ours.value == pytest.approx(rows.mean(), rel=1e-13)
    assert ours.stderr == pytest.approx(rows.std(ddof=1) / 300**0.5, rel=1e-12)
    weight = target / logger
    assert ours.ess == pytest.approx((weight.sum(0) ** 2 / (weight**2).sum(0)).min(), rel=1e-12)
    assert ours.max_weight_share == pytest.approx((weight.max(0) / weight.sum(0)).max(), rel=1e-12)
    assert found.difference(found.names[0], found.names[1]).value == pytest.approx(0, abs=1e-14)


LAYOUTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "fixed": lambda x: x,
    "list": lambda x: pa.array(x.to_pylist(), pa.list_(pa.float32())),
    "large": lambda x: pa.array(x.to_pylist(), pa.large_list(pa.float32())),
    "double": lambda x: pa.array(x.to_pylist(), pa.list_(pa.float64(), 3)),
    "text": lambda x: pa.array([" ".join(repr(y) for y in row) for row in x.to_pylist()]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lists_may_be_stored_in_many_ways(tmp_path: Path, layout: str) -> None:
    """Also the ways that take the long road through the cells."""
    columns = slates_of(40)
    wanted = stream(
        write(tmp_path / "fixed", columns), SlateColumns("target"), [ClippedIIPS(2.5)], group=None
    )
    other = {name: LAYOUTS[layout](column) for name, column in columns.items()}
    folder = write(tmp_path / "other", other, (10,), group=7)
    found = stream(folder, SlateColumns("target"), [ClippedIIPS(2.5)], group=None, batch_rows=3)
    assert found.sums("clipped IIPS").value() == pytest.approx(wanted.sums("clipped IIPS").value(), rel=1e-12)


def test_integers_and_truth_values_are_clicks(tmp_path: Path) -> None:
    columns = slates_of(40)
    wanted = stream(write(tmp_path / "a", columns), SlateColumns("target"), [ClippedIIPS(2.5)], group=None)
    for kind in (pa.int8(), pa.uint16(), pa.bool_()):
        made = pa.array(columns["click"].to_pylist()).cast(pa.list_(kind))
        folder = write(tmp_path / str(kind), columns | {"click": made})
        found = stream(folder, SlateColumns("target"), [ClippedIIPS(2.5)], group=None)
        same(found, wanted)


def test_a_whole_slate_s_probability(tmp_path: Path) -> None:
    columns = slates_of(50)
    random = np.random.default_rng(2)
    columns |= {"propensity": random.uniform(0.1, 1, 50), "whole": random.uniform(0, 1, 50)}
    folder = write(tmp_path / "log", columns)
    found = stream(folder, SlateColumns("target", whole="whole"), group=None)
    assert {"clipped IIPS", "SIPS"} <= set(found.names)
    click = np.array(columns["click"].to_pylist()).sum(1)
    wanted = (columns["whole"] / columns["propensity"] * click).mean()
    assert found.sums("SIPS").value() == pytest.approx(wanted, rel=1e-12)


def test_matrices_of_items_and_positions(tmp_path: Path) -> None:
    """A page logged by a policy that does not look at users: the matrices are its marginals, exactly."""
    world = slate_world()
    every = world.listed()
    one = torch.nonzero(every.context == 0).squeeze(1)  # one context: nothing to average
    log = every.log.rows(one[torch.multinomial(every.probability[one], 500, replacement=True)])
    slates = world.slates()

    def marginals(policy: Any) -> Tensor:
        out = torch.zeros(world.items, world.slots, dtype=torch.float64)
        for s, items in enumerate(slates.tolist()):
            for k, item in enumerate(items):
                out[item, k] += world.slate_chance(policy)[0, s]
        return out

    logger, target = marginals(world.logger), marginals(world.target)
    weigh = SlateMatrix(logger, target, world.examination)
    write_log(log, tmp_path / "log.parquet")
    seen: list[Slates] = []

    def spied(batch: pa.RecordBatch) -> Slates:
        seen.append(weigh(batch))
        return seen[-1]

    names = ("slate", "click", "user")
    stream(tmp_path / "log.parquet", Columns(names, spied), [ClippedIIPS(1e9)], batch_rows=500)
    (data,) = seen
    look = world.examination
    assert log.click is not None
    assert log.slot_propensity is not None
    for row in range(0, 500, 50):
        for k, item in enumerate(log.slate[row].tolist()):
            assert float(logger[item, k]) == pytest.approx(float(log.slot_propensity[row, k]), rel=1e-12)
            for field, wanted in (
                ("marginal", target[item, k] / logger[item, k]),
                ("document", target[item].sum() / logger[item].sum()),
                ("examined", (look * target[item]).sum() / (look * logger[item]).sum()),
            ):
                assert float(getattr(data, field)[row, k]) == pytest.approx(float(wanted), rel=1e-12)
    assert torch.equal(data.reward, log.click.double())
    assert torch.equal(weigh.lost, torch.zeros(2, dtype=torch.float64))
    assert not world.slots > world.items


def test_what_matrices_refuse(tmp_path: Path) -> None:
    half = torch.full((2, 2), 0.5)
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(BadInput, match=r"logger's matrix is \(2, 2\), the target's \(2, 1\)"):
        SlateMatrix(half, half[:, :1])
    with pytest.raises(BadInput, match=r"target's matrix, item 1, slot 0: -0.5 is no probability"):
        SlateMatrix(half, torch.tensor([[1.0, 0.5], [-0.5, 0.5]]))
    with pytest.raises(BadInput, match=r"logger's matrix, slot 1: the items sum to 0.75, not 1"):
        SlateMatrix(torch.tensor([[0.5, 0.25], [0.5, 0.5]]), half)
    with pytest.raises(BadInput, match=r"examination is a chance in \(0, 1\] for each of 2 slots"):
        SlateMatrix(half, half, torch.tensor([1.0, 0.0]))
    assert SlateMatrix(one, half).lost.tolist() == [0.5, 0.5]

    def said(slate: list[list[int]], match: str) -> None:
        folder = write(tmp_path / "log", {"slate": slate, "click": [[1, 0]] * len(slate)})
        with pytest.raises(BadInput, match=match):
            stream(folder, SlateMatrix(one, half), [ClippedIIPS()], group=None)

    said([[0, 1], [1, 0]], r"000.parquet: column slate, row 1, slot 0: 1 was shown where .* says 0")
    said([[0, 1], [0, 0]], r"column slate, row 1, slot 1: 0 is in the slate twice")
    said([[0, 2]], r"column slate, row 0, slot 1: 2 is an unknown item: the catalogue has 2")
    said([[-1, 1]], r"column slate, row 0, slot 0: -1 is negative")
    said([[0]], r"column slate, row 0: it has length 1, but the matrices have 2 slots")


# Policies and models.


def test_a_policy_on_the_files_of_a_log(tmp_path: Path) -> None:
    """The same as reading the log whole and weighing it, slates and all."""
    world = slate_world()
    log = world.listed().draw(400, seed=4)
    log = replace(log, user=torch.arange(400) % 90)
    for i, part in enumerate((slice(0, 150), slice(150, 400))):
        write_log(log.rows(part), tmp_path / f"{i}.parquet")
    found = stream(tmp_path, Logged(PolicyRounds(world.target)), [IPS(), SNIPS()], batch_rows=60)
    data = rounds(log, world.target)
    for e in (IPS(), SNIPS()):
        assert found.sums(e.name).value() == pytest.approx(value(e.score(data)), rel=1e-12)
    exact = interval(IPS().score(data), "cluster", group=log.user)
    assert found.estimates()[0].interval.width == pytest.approx(exact.width, rel=0.15)


@dataclass(frozen=True, eq=False)
class Spy:
    """A reward model that knows whom it has seen, and predicts the mean reward of its rows."""

    past: int = 0

    def fit(self, log: Log, slots: int, seed: Seed, weight: Tensor | None = None) -> Fitted:
        assert weight is None
        return FittedSpy(torch.unique(log.user), float(log.reward.mean()))


@dataclass(frozen=True, eq=False)
class FittedSpy:
    users: Tensor
    mean: float

    def predict(self, context: Context, position: Tensor) -> Tensor:
        assert not bool(torch.isin(context.user, self.users).any()), "a model scores a user that it has seen"
        shape = (*position.shape, context.candidates.shape[1])
        return torch.full(shape, self.mean, dtype=torch.float64)


def test_models_score_users_they_have_not_seen(tmp_path: Path) -> None:
    world = bandit_world()
    log = replace(world.listed().draw(600, seed=3), user=torch.arange(600) % 200)
    write_log(log.rows(slice(0, 250)), tmp_path / "a.parquet")
    write_log(log.rows(slice(250, 600)), tmp_path / "b.parquet")
    policy = Table(world.target)
    reader = Logged(PolicyRounds(policy))
    folds = fit_folds(tmp_path, Spy(), reader, folds=3, share=0.5, seed=Seed(2), batch_rows=77)
    assert isinstance(folds, UserFolds)
    kept = torch.cat([m.users for m in folds.models if isinstance(m, FittedSpy)])
    kept = torch.from_numpy(np.unique(kept.numpy()))
    assert 70 < len(kept) < 130  # half of 200 users, ± 4 deviations
    counts = torch.bincount(folds.fold(torch.arange(200)), minlength=3)
    assert bool((counts > 40).all())

    found = stream(tmp_path, Logged(PolicyRounds(policy, folds)), [DR()], batch_rows=100)
    which = folds.fold(log.user)
    means = torch.tensor([m.mean for m in folds.models if isinstance(m, FittedSpy)], dtype=torch.float64)
    data = rounds(log, policy)
    q = means[which]
    wanted = (q + data.weight * (log.reward - q)).mean()
    assert found.sums("DR").value() == pytest.approx(float(wanted), rel=1e-12)
    # The log in one file, other batches: the same users, the same folds, the same models.
    write_log(log, tmp_path / "whole.pq")
    again = fit_folds(tmp_path / "whole.pq", Spy(), reader, folds=3, share=0.5, seed=Seed(2))
    assert [m.mean for m in again.models] == pytest.approx(means.tolist(), rel=1e-12)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """A policy by the probabilities of three items in two contexts."""

    chance: Tensor
    name: str = "table"

    def distribution(self, context: Context, slots: int) -> Any:
        from simlab.slates import PlackettLuce

        return PlackettLuce(self.chance.log()[context.features[:, 0].long()], slots, context.mask)


def test_what_folds_refuse(tmp_path: Path) -> None:
    log = bandit_world().listed().draw(50, seed=3)
    write_log(log, tmp_path / "a.parquet")
    reader = Logged(PolicyRounds(Table(bandit_world().target)))
    for change, match in (
        ({"folds": 1}, "folds is 1"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1e-9}, "left no row to fit on"),
        ({"model": Spy(past=2)}, "wants past=2"),
        ({"folds": 500, "share": 0.05}, "the sample is too small"),
    ):
        settings: dict[str, Any] = {"model": Spy(), **change}
        with pytest.raises(BadInput, match=match):
            fit_folds(tmp_path, settings.pop("model"), reader, **settings)
    table = pa.table({"item": [0, 1], "propensity": [0.5, 0.5], "reward": [0.0, 1.0]})
    pq.write_table(table, tmp_path / "b.pq")
    with pytest.raises(BadInput, match=r"b.pq: folds keep users apart, but there is no column user"):
        fit_folds(tmp_path / "b.pq", Spy(), replace(reader, n_items=2))
    with pytest.raises(BadInput, match=r"b.pq: reading by batches needs n_items"):
        fit_folds(tmp_path / "b.pq", Spy(), reader)


# Trajectories, a row each.


def test_trajectories_of_different_lengths(tmp_path: Path) -> None:
    """The batch's longest says how far it is padded; the worst step's overlap is that of memory."""
    random = np.random.default_rng(0)
    long = [1, 2, 2, 1, 4, 3, 2, 1]
    ratio = [list(random.lognormal(0, 0.5, k)) for k in long]
    reward = [list(random.normal(1, 1, k)) for k in long]
    folder = write(tmp_path / "log", {"ratio": ratio, "reward": reward})

    def padded(rows: list[list[float]], fill: float) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], dtype=torch.float64)

    def make(batch: pa.RecordBatch) -> Trajectories:
        ratios, rewards = batch["ratio"].to_pylist(), batch["reward"].to_pylist()
        valid = padded([[1.0] * len(r) for r in ratios], 0.0).bool()
        return Trajectories(padded(rewards, 0.0), padded(ratios, 1.0), valid)

    from causal.rl.pdis import PDIS

    found = stream(folder, Columns(("ratio", "reward"), make), [PDIS()], group=None, batch_rows=3)
    whole = make(pa.record_batch({"ratio": ratio, "reward": reward}))
    wanted = estimate(PDIS(), whole)
    (ours,) = found.estimates()
    assert ours.value == pytest.approx(wanted.value, rel=1e-12)
    assert ours.stderr == pytest.approx(wanted.stderr, rel=1e-12)
    assert ours.ess == pytest.approx(wanted.ess, rel=1e-12)
    assert ours.max_weight_share == pytest.approx(wanted.max_weight_share, rel=1e-12)


# Interrupted, and taken up again.


class Interrupt(Exception):
    """The machine goes away."""


def stop_after(pieces: int) -> Callable[[Progress], None]:
    def tell(at: Progress) -> None:
        if at.pieces == pieces:
            raise Interrupt

    return tell


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_resume_is_bit_equal_and_reads_no_piece_twice(tmp_path: Path, after: int) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (100, 390, 500))
    whole = stream(folder, MODEL, ALL, batch_rows=31)
    state = tmp_path / "state" / "stream.safetensors"
    with pytest.raises(Interrupt):
        stream(folder, MODEL, ALL, batch_rows=31, checkpoint=state, progress=stop_after(after))
    assert [p.name for p in state.parent.iterdir()] == [state.name]  # and no temporary file
    told: list[Progress] = []
    again = stream(folder, MODEL, ALL, batch_rows=31, checkpoint=state, progress=told.append)
    same(whole, again)
    assert [p.pieces for p in told] == list(range(after, 5))
    assert told[0].rows == (100, 390, 500, 700)[after - 1]
    assert told[-1].rows == told[-1].total == 700


def test_a_finished_state_takes_tomorrow_s_file(tmp_path: Path) -> None:
    columns = made()
    table = pa.table(columns)
    folder = write(tmp_path / "log", table.slice(0, 500), (200,))
    state = tmp_path / "state"
    stream(folder, MODEL, ALL, checkpoint=state)
    pq.write_table(table.slice(500), folder / "part-900.parquet")
    told: list[Progress] = []
    found = stream(folder, MODEL, ALL, checkpoint=state, progress=told.append)
    assert [p.pieces for p in told] == [2, 3]
    same(found, stream(folder, MODEL, ALL))


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (200, 400))
    state = tmp_path / "state"
    run = functools.partial(stream, checkpoint=state, batch_rows=50)
    run(folder, MODEL, ALL)
    before = state.read_bytes()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": Seed(1)}, "made with seed 0, not 1"),
        ({"batch_rows": 51}, "made with batch_rows 50, not 51"),
        ({"group": None}, "made with group user, not None"),
        ({"buckets": 64}, "made with buckets 8192, not 64"),
        ({"estimators": [IPS()]}, "made with estimators"),
        ({"weigh": replace(MODEL, q_target="q_logged")}, "of another target"),
    ]
    for change, match in changes:
        settings = {"weigh": MODEL, "estimators": ALL, "batch_rows": 50, **change}
        with pytest.raises(BadInput, match=match) as caught:
            stream(folder, checkpoint=state, **settings)
        assert str(state) in str(caught.value)
    second = folder / "part-001.parquet"
    content, told = second.read_bytes(), second.stat()
    os.utime(second, ns=(told.st_atime_ns, told.st_mtime_ns + 1))
    with pytest.raises(BadInput, match=r"part-001.parquet has changed since this state was written"):
        run(folder, MODEL, ALL)
    second.write_bytes(content)
    os.utime(second, ns=(told.st_atime_ns, told.st_mtime_ns))
    run(folder, MODEL, ALL)
    (folder / "part-000a.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"part-000a.parquet now stands where this state holds .*part-001"):
        run(folder, MODEL, ALL)
    (folder / "part-000a.parquet").unlink()
    (folder / "part-002.parquet").unlink()
    with pytest.raises(BadInput, match=r"holds file part-002.parquet, which is not to be read now"):
        run(folder, MODEL, ALL)
    assert state.read_bytes() == before
    for junk in (b"", b"nonsense", before[:300]):
        state.write_bytes(junk)
        with pytest.raises(BadInput, match="not the state of a stream"):
            run(folder, MODEL, ALL)


def test_fingerprints_tell_targets_apart() -> None:
    def of(scale: float) -> Callable[[Any], Any]:
        return lambda batch: scale * batch

    net = torch.nn.Linear(2, 2)
    before = fingerprint(Logged(PolicyRounds(Net(net))))
    assert before == fingerprint(Logged(PolicyRounds(Net(net))))
    with torch.no_grad():
        net.weight[0, 0] += 1e-6
    assert before != fingerprint(Logged(PolicyRounds(Net(net))))
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
        {"a": 1},
        {"a": 2},
        {1},
        torch.ones(2),
        torch.ones(2).double(),
        torch.ones(1, 2),
        np.ones(2),
        np.ones(2, np.float32),
        functools.partial(of, 2),
        functools.partial(of, 3),
        Spy().fit,
        Spy(1).fit,
        int,
        float,
        TARGET,
        MODEL,
    ]
    assert len({fingerprint(x) for x in things}) == len(things)
    knot: list[Any] = [1]
    knot.append(knot)
    assert fingerprint(knot) == fingerprint(knot)


class Net:
    """A policy that holds a network."""

    name = "net"

    def __init__(self, net: torch.nn.Module) -> None:
        self.net = net

    def distribution(self, context: Context, slots: int) -> Any:
        raise NotImplementedError


# Workers.


@pytest.mark.slow
def test_loky_gives_the_same_bits(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(), (100, 390, 500))
    alone = stream(folder, MODEL, ALL)
    same(alone, stream(folder, MODEL, ALL, workers=2))


@pytest.mark.slow
def test_loky_is_interrupted_and_says_what_is_wrong(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (100, 390, 500))
    state = tmp_path / "state"
    alone = stream(folder, MODEL, ALL)
    with pytest.raises(Interrupt):
        stream(folder, MODEL, ALL, workers=2, checkpoint=state, progress=stop_after(2))
    same(alone, stream(folder, MODEL, ALL, workers=2, checkpoint=state))
    columns["reward"][450] = np.nan
    write(folder, columns, (100, 390, 500))
    with pytest.raises(
        BadInput, match=r"part-002.parquet: column reward, row 60: nan is not a finite number"
    ):
        stream(folder, MODEL, ALL, workers=2)


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Yield a Ray cluster of a head that takes no work and two nodes that do, joined by this process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'simlab[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def alive(nodes: int) -> bool:
    """Wait until so many nodes are left: Ray takes a while to call a silent one dead."""
    import time

    import ray

    for _ in range(120):
        if sum(node["Alive"] for node in ray.nodes()) == nodes:
            return True
        time.sleep(0.5)
    return False


def slow_rounds(batch: pa.RecordBatch) -> Scored:
    """Weigh slowly, so that there is somebody to kill at work."""
    import time

    time.sleep(0.05)
    return MODEL(batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_is_killed_and_the_answer_is_the_same(tmp_path: Path, nodes: Any) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, tuple(range(50, 700, 50)))
    weigh = Columns(tuple(columns), slow_rounds)
    alone = stream(folder, weigh, ALL, batch_rows=10)
    told: list[int] = []

    def tell(at: Progress) -> None:
        told.append(at.pieces)
        if at.pieces == 3:
            nodes.remove_node(nodes.workers[0], allow_graceful=False)

    found = stream(folder, weigh, ALL, batch_rows=10, workers=2, backend="ray", progress=tell)
    same(alone, found)
    assert told == list(range(1, 15))
    assert alive(2)  # the head and one of the two
    columns["reward"][450] = np.nan
    write(folder, columns, tuple(range(50, 700, 50)))
    with pytest.raises(BadInput, match=r"part-009.parquet: column reward, row 0: nan is not a finite number"):
        stream(folder, weigh, ALL, workers=2, backend="ray")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_on_this_machine_alone(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'simlab[ray]'")
    folder = write(tmp_path / "log", made(), (100, 390, 500))
    same(stream(folder, MODEL, ALL), stream(folder, MODEL, ALL, workers=2, backend="ray"))
    assert not ray.is_initialized()


def test_without_ray_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    folder = write(tmp_path / "log", made(20))
    with pytest.raises(BadInput, match=r"not installed: pip install 'simlab\[ray\]'"):
        stream(folder, MODEL, ALL, backend="ray")


# Bad input.


def test_a_folder_of_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(20))
    (folder / "part-000.parquet").rename(folder / "b.pq")
    (folder / "day=1").mkdir()
    for name in ("day=1/a.parquet", "_c.parquet", ".d.parquet", "e.txt"):
        (folder / name).write_bytes((folder / "b.pq").read_bytes())
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "f.parquet").write_bytes(b"half")
    assert [p.name for p in find(folder)] == ["b.pq", "a.parquet"]
    assert [p.name for p in find([folder / "day=1", folder / "b.pq"])] == ["a.parquet", "b.pq"]
    with pytest.raises(BadInput, match=r"b.pq: the file is there twice"):
        find([folder, folder / "b.pq"])
    with pytest.raises(BadInput, match="list of paths is empty"):
        find([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"empty: there is no file in this folder that ends in .parquet or .pq"
    ):
        stream(tmp_path / "empty", TARGET)


def test_files_that_are_none(tmp_path: Path) -> None:
    good = write(tmp_path / "log", made(200)) / "part-000.parquet"
    content = good.read_bytes()

    def said(name: str, data: bytes, match: str) -> None:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BadInput, match=match) as caught:
            stream([good, path], TARGET, [IPS()])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    said("a.csv", b"x,y\n1,2\n", "a stream reads Parquet")
    said("a.parquet", b"", "empty: the file has 0 bytes")
    said("b.parquet", b"x,y\n1,2\n", "not Parquet")
    said("c.parquet", content[:-9], "truncated Parquet")
    said("d.parquet", content[:4] + bytes(len(content) - 600) + content[-596:], "damaged Parquet")
    said("e.parquet", content[:200] + content[260:], "damaged Parquet")
    with pytest.raises(BadInput, match=r"part-00.parquet: no such file; did you mean part-000.parquet\?"):
        stream(tmp_path / "log" / "part-00.parquet", TARGET)
    none = write(tmp_path / "none", pa.table(made(20)).slice(0, 0))
    with pytest.raises(BadInput, match="empty: there are columns but no rows"):
        stream(none, TARGET)


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(), (100,))

    def tell(at: Progress) -> None:
        if at.pieces == 1:
            os.utime(folder / "part-001.parquet", ns=(0, 0))

    with pytest.raises(BadInput, match=r"part-001.parquet: the file was changed while it was being read"):
        stream(folder, TARGET, [IPS()], progress=tell)


def test_columns_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    columns = made(20)
    folder = write(tmp_path / "log", columns)
    with pytest.raises(
        BadInput, match=r"000.parquet: column target_prob is missing; did you mean target_pro"
    ):
        stream(folder, ColumnTarget("target_prob"))
    with pytest.raises(
        BadInput, match=r"column propensit \(our propensity\) is missing; did you mean propensity"
    ):
        stream(folder, replace(TARGET, fields=ColumnMap(propensity="propensit")))
    with pytest.raises(BadInput, match=r"column click is missing"):
        stream(folder, SlateColumns("target_propensity"))
    with pytest.raises(BadInput, match=r"column nothing is missing"):
        stream(folder, Columns(("nothing",), MODEL))
    second = folder / "part-001.parquet"
    table = pa.table(columns)
    pq.write_table(table.drop_columns(["reward"]).append_column("rewrd", table["reward"]), second)
    with pytest.raises(
        BadInput, match=r"001.parquet: column reward or click is missing; did you mean rewrd\?"
    ):
        stream(folder, TARGET)
    at = table.schema.get_field_index("reward")
    pq.write_table(table.set_column(at, "reward", table["reward"].cast(pa.float32())), second)
    with pytest.raises(BadInput, match=r"001.parquet: column reward is float, but double in .*000.parquet"):
        stream(folder, TARGET)
    pq.write_table(table.drop_columns(["user"]), second)
    with pytest.raises(BadInput, match=r"001.parquet: column user is missing"):
        stream(folder, TARGET)
    pq.write_table(table.select(table.column_names[::-1]).append_column("more", table["user"]), second)
    assert len(stream(folder, TARGET, [IPS()])) == 40  # another order, and columns that nobody reads


def test_logs_of_two_catalogues(tmp_path: Path) -> None:
    log = bandit_world().listed().draw(20, seed=1)
    write_log(log, tmp_path / "a.parquet")
    write_log(replace(log, n_items=9), tmp_path / "b.parquet")
    with pytest.raises(
        BadInput, match=r"b.parquet: the file was written with another n_items than .*a.parquet"
    ):
        stream(tmp_path, Logged(PolicyRounds(Table(bandit_world().target))))


@pytest.mark.parametrize(
    ("column", "bad", "match"),
    [
        ("propensity", 0.0, r"0.0 is not a probability in \(0, 1\]"),
        ("propensity", 1.5, r"1.5 is not a probability in \(0, 1\]"),
        ("propensity", np.nan, "nan is not a finite number"),
        ("propensity", None, "an empty cell where a value is needed"),
        ("target_propensity", -0.1, r"-0.1 is not a probability in \[0, 1\]"),
        ("target_propensity", 1.1, r"1.1 is not a probability in \[0, 1\]"),
        ("reward", np.inf, "inf is not a finite number"),
        ("reward", None, "an empty cell"),
        ("q_logged", np.nan, "nan is not a finite number"),
        ("user", -3, "-3 is negative, but ids count from 0"),
        ("user", None, "an empty cell"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, bad: Any, match: str) -> None:
    """With its file, and the row of the file: not of the batch, and not of the whole log."""
    columns: dict[str, Any] = made(90)
    values = columns[column].tolist()
    values[75] = bad
    columns[column] = pa.array(values, from_pandas=False)
    folder = write(tmp_path / "log", columns, (20,), group=30)
    with pytest.raises(BadInput, match=rf"part-001.parquet: column {column}, row 55: {match}"):
        stream(folder, MODEL, ALL, batch_rows=7, piece_rows=25)


def test_a_bad_cell_of_a_list_is_named(tmp_path: Path) -> None:
    for column, bad, match in (
        ("slot_propensity", 0.0, r"slot 2: 0.0 is not a probability in \(0, 1\]"),
        ("target", 2.0, r"slot 2: 2.0 is not a probability"),
        ("click", float("nan"), "slot 2: nan is not a finite"),
        ("click", None, "slot 2: an empty cell"),
    ):
        columns = slates_of(40)
        rows = columns[column].to_pylist()
        rows[33][2] = bad
        columns[column] = pa.array(rows, pa.list_(pa.float32(), 3))
        folder = write(tmp_path / "log", columns, (10,))
        with pytest.raises(BadInput, match=rf"001.parquet: column {column}, row 23, {match}"):
            stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None, batch_rows=8)
    columns = slates_of(40)
    rows = columns["click"].to_pylist()
    rows[33] = rows[33][:2]
    columns["click"] = pa.array(rows)
    columns["slot_propensity"] = pa.array(columns["slot_propensity"].to_pylist())
    folder = write(tmp_path / "ragged", columns)
    with pytest.raises(BadInput, match=r"column click, row 33: \[[01., ]+\] has length 2, but row 0 has 3"):
        stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None)


def test_slates_of_two_lengths_are_refused(tmp_path: Path) -> None:
    longer = {name: pa.array(c.to_pylist()) for name, c in slates_of(20, slots=4).items()}
    shorter = {name: pa.array(c.to_pylist()) for name, c in slates_of(20).items()}
    folder = write(tmp_path / "log", longer)
    pq.write_table(pa.table(shorter), folder / "part-001.parquet")
    with pytest.raises(BadInput, match=r"part-001.parquet: slates of 3 come after slates of 4"):
        stream(folder, SlateColumns("target"), [ClippedIIPS()], group=None)


def test_what_a_log_refuses_is_refused_here(tmp_path: Path) -> None:
    world = slate_world()
    log = world.listed().draw(30, seed=2)
    write_log(log, tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    weigh = Logged(PolicyRounds(world.target))

    def said(column: str, values: Any, match: str) -> None:
        at = table.schema.get_field_index(column)
        bad = table.set_column(at, table.schema.field(at), pa.chunked_array([values]))
        pq.write_table(bad, tmp_path / "b.parquet")
        with pytest.raises(BadInput, match=match):
            stream([tmp_path / "a.parquet", tmp_path / "b.parquet"], weigh, [IPS()], batch_rows=8)

    slates = table["slate"].to_pylist()
    kind = table.schema.field("slate").type
    twice, unknown = [*slates], [*slates]
    twice[20], unknown[9] = [1, 1], [2, 8]
    said("slate", pa.array(twice, kind), r"b.parquet: column slate, row 20, slot 1: 1 is in the slate twice")
    said("slate", pa.array(unknown, kind), r"b.parquet: column slate, row 9, slot 1: 8 is an unknown item")
    user = table["user"].to_pylist()
    said("user", pa.array([*user[:12], None, *user[13:]]), r"b.parquet: column user, row 12: an empty cell")
    one = pa.table({"item": [0], "propensity": [0.5], "reward": [1.0], "position": [0]})
    pq.write_table(one, tmp_path / "c.pq")
    with pytest.raises(BadInput, match=r"c.pq: a log with positions needs page_slots"):
        stream(tmp_path / "c.pq", replace(weigh, n_items=4, fields=ColumnMap(position_from=0)), [IPS()])


@dataclass(frozen=True)
class Whole:
    """An estimator that looks at all rows."""

    name: ClassVar[str] = "whole"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = ""
    unbiased: ClassVar[bool] = False
    streams: ClassVar[bool] = False

    def score(self, data: Rounds) -> Scores:
        return (OneScore(data.reward / data.reward.sum(), ones(data.reward)),)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    columns = made(40)
    folder = write(tmp_path / "log", columns)
    for change, match in (
        ({"estimators": [IPS(), Whole()]}, "whole needs all rows at once, so it cannot stream"),
        ({"estimators": []}, "no estimator to apply"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"piece_rows": 0}, "piece_rows is 0"),
        ({"buckets": 1}, "buckets is 1"),
        ({"group": "session"}, "group is session"),
        ({"backend": "dask"}, "no backend named dask"),
        ({"workers": 0}, "workers is 0"),
        ({"weigh": {}}, "no target"),
        ({"estimators": [DR()], "weigh": TARGET}, "000.parquet: this estimator needs a reward model"),
    ):
        settings: dict[str, Any] = {"weigh": MODEL, "estimators": ALL, **change}
        with pytest.raises(BadInput, match=match):
            stream(folder, **settings)
    with pytest.raises(BadInput, match="only one was given"):
        ColumnTarget("target_propensity", q_logged="q_logged")
    nobody = write(tmp_path / "nobody", {k: v for k, v in columns.items() if k != "user"})
    with pytest.raises(BadInput, match="there is no column user: say group=None"):
        stream(nobody, TARGET, [IPS()])
    found = stream(nobody, TARGET, [IPS()], group=None)
    for kind, match in (
        ("bca", "no interval named bca from sums"),
        ("cluster", "cluster interval needs a group"),
    ):
        with pytest.raises(BadInput, match=match):
            found.estimates(kind)
    with pytest.raises(BadInput, match=r"level is 1\.0"):
        found.estimates(level=1.0)
    with pytest.raises(BadInput, match="replicates is 1"):
        found.estimates("poisson", replicates=1)
    bare = stream(nobody, TARGET, [IPS()], group=None, buckets=0)
    assert bare.estimates()[0].stderr == pytest.approx(found.estimates()[0].stderr)
    with pytest.raises(BadInput, match="carry none"):
        bare.estimates("poisson")


def test_functions_may_leave_users_out_but_not_rows(tmp_path: Path) -> None:
    columns = made()
    folder = write(tmp_path / "log", columns, (300,))

    def young(batch: pa.RecordBatch) -> Rounds:
        data = TARGET(batch)
        assert data.group is not None
        return data.rows(data.group < 50)

    found = stream(folder, young, [IPS()])
    keep = columns["user"] < 50
    data = in_memory({name: values[keep] for name, values in columns.items()})
    assert len(found) == keep.sum()
    assert found.sums("IPS").value() == pytest.approx(value(IPS().score(data)), rel=1e-12)
    with pytest.raises(BadInput, match="only rows of users may be left out"):
        stream(folder, young, [IPS()], group=None)
    with pytest.raises(BadInput, match="target all keeps other rows than the first"):
        stream(folder, {"young": young, "all": TARGET}, [IPS()])
    with pytest.raises(BadInput, match="no row of any file was kept"):
        stream(folder, lambda batch: TARGET(batch).rows(slice(0, 0)), [IPS()])


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", made(40))

    def broken(batch: pa.RecordBatch) -> Rounds:
        data = TARGET(batch)
        return replace(data, weight=torch.where(data.weight == data.weight.max(), torch.nan, data.weight))

    row = int(np.argmax(made(40)["target_propensity"] / made(40)["propensity"]))
    with pytest.raises(BadInput, match=rf"column \(score of IPS\), row {row}: nan is not finite"):
        stream(folder, broken, [IPS()])


def test_progress_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "log", made(1100), (1000,))
    stream(folder, TARGET, [IPS()], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("\r1,000 of 1,100 rows, 1 of 2 pieces, 0 s\r1,100 of 1,100 rows, 2 of 2 pieces, 0 s\n")
    stream(folder, TARGET, [IPS()])
    assert capsys.readouterr() == ("", "")


def test_only_what_scores_need_is_read(tmp_path: Path) -> None:
    columns = made(20)
    folder = write(tmp_path / "log", columns)
    _, read = survey(folder, TARGET.columns)
    assert set(read) == {"target_propensity", "reward", "propensity", "user"}
    seen: list[list[str]] = []

    def spy(batch: pa.RecordBatch) -> Rounds:
        seen.append(batch.schema.names)
        return MODEL(batch)

    stream(folder, spy, [IPS()])  # a plain function gets all
    assert seen == [list(columns)]
