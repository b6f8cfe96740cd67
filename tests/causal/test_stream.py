"""Streams: what files give is what memory gives, however the rows are cut and stored."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.bandit.replay import Replay
from causal.bandit.snips import SNIPS
from causal.contract import Estimator, Scores, Slates, Trajectories, ones, stderr, value
from causal.contract import Score as OneScore
from causal.evaluation import estimate, evaluate, overlap, paired_difference
from causal.intervals import interval
from causal.rounds import rounds
from causal.slate.clipped_iips import ClippedIIPS
from causal.slate.pi import PI
from causal.slates import FIELDS, slates
from causal.stream import (
    Columns,
    ColumnTarget,
    Logged,
    PolicyRounds,
    PolicySlates,
    SlateColumns,
    SlateMatrix,
    UserFolds,
    fit_folds,
    stream,
)
from causal.stream.weigh import narrowed
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed
from simlab.tables import write_log
from tests.causal.streamed import (
    ALL,
    MODEL,
    TARGET,
    FittedSpy,
    Spy,
    Table,
    in_memory,
    made,
    same,
    slates_of,
    write,
)
from tests.worlds import SlateWorld, Softmax, bandit_world, slate_world

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


def test_what_runs_by_default_does_not_depend_on_the_split(tmp_path: Path) -> None:
    """A batch whose weights are all alike does not make replay right: it must be asked for."""
    columns = made(60)
    columns["target_propensity"] = columns["propensity"] * np.repeat([2.0, 3.0], 30) / 3
    folder = write(tmp_path / "log", columns)
    by_batch = [stream(folder, TARGET, batch_rows=rows).names for rows in (1, 30, 60)]
    assert by_batch[0] == by_batch[1] == by_batch[2]
    assert "replay" not in by_batch[0]
    for rows in (1, 7, 30):
        with pytest.raises(BadInput, match="replay needs a uniformly random logger"):
            stream(folder, TARGET, [IPS(), Replay()], batch_rows=rows)
    with pytest.raises(
        BadInput, match=r"001.parquet: column \(weight\), row 27: 1.0\d* is not the 0.66\d* of the first"
    ):
        stream(write(tmp_path / "two", columns, (15,)), TARGET, [Replay()])
    alike = stream(write(tmp_path / "half", {k: v[:30] for k, v in columns.items()}), TARGET, [Replay()])
    assert alike.estimates()[0].value == pytest.approx(columns["reward"][:30].mean(), rel=1e-12)


def test_pseudo_inverse_weights_do_not_depend_on_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether to list all slates of every row is a matter of the whole log, as it is in memory."""
    world = slate_world()
    log = world.listed().draw(60, seed=6)
    write_log(log, tmp_path / "log.parquet")
    slates_ = math.perm(world.items, world.slots)
    weigh = Logged(PolicySlates(world.target, world.logger))
    for many, there in ((60, True), (59, False)):  # at most so many rounds are worth listing
        monkeypatch.setattr("causal.pseudo_inverse.LONG", many * slates_)
        in_memory = slates(log, world.target, logger=world.logger, group_by_user=False)
        assert (in_memory.pseudo is not None) is there
        for rows in (1, 7, 50, 60):
            found = stream(tmp_path, weigh, batch_rows=rows, group=None)
            assert ({"PI", "SNPI"} <= set(found.names)) is there
            assert {"SIPS", "IIPS", "RIPS"} <= set(found.names)
    whole = slates(log, world.target, logger=world.logger, fields=["pseudo"], group_by_user=False)
    for rows in (1, 7, 60):
        found = stream(tmp_path, weigh, [PI()], batch_rows=rows, group=None)
        assert found.estimates()[0].value == pytest.approx(value(PI().score(whole)), rel=1e-12)


def test_only_the_weights_that_are_used_are_filled() -> None:
    world = slate_world()
    weigh = Logged(PolicySlates(world.target, world.logger))
    log = world.listed().draw(5, seed=6)

    def filled(make: Logged) -> list[str]:
        data = make.make(log)
        return [name for name in FIELDS if getattr(data, name) is not None]

    assert filled(narrowed(weigh, 5, ("cascade", "q_logged"))) == ["cascade"]
    assert filled(narrowed(weigh, 5, None)) == ["joint", "marginal", "cascade", "pseudo", "document"]
    named = replace(weigh, make=PolicySlates(world.target, world.logger, fields=("document",)))
    assert filled(narrowed(named, 5, ("joint",))) == ["document"]
    assert narrowed(TARGET, 5, None) is TARGET
    rounds_ = Logged(PolicyRounds(world.target))
    assert narrowed(rounds_, 5, ()) is rounds_


def test_two_estimators_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", slates_of(20))
    found = stream(folder, SlateColumns("target"), [ClippedIIPS(1.0), ClippedIIPS(2.0)], group=None)
    assert found.names == ("ClippedIIPS(clip=1.0)", "ClippedIIPS(clip=2.0)")


# Slates.


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
    log = every.log.rows(one[torch.arange(500) % len(one)])
    logger, target = (world_marginals(world, policy) for policy in (world.logger, world.target))
    weigh = SlateMatrix(logger, target, world.examination)
    write_log(log, tmp_path / "log.parquet")
    seen: list[Slates] = []

    def spied(batch: pa.RecordBatch) -> Slates:
        seen.append(weigh(batch))
        return seen[-1]

    stream(tmp_path / "log.parquet", Columns(("slate", "click", "user"), spied), [ClippedIIPS(1e9)])
    (data,) = seen
    wanted = slates(log, world.target, logger=logger, examination=world.examination)
    assert log.click is not None
    assert torch.equal(data.reward, log.click.double())
    for field in ("marginal", "document", "examined"):
        assert torch.allclose(data.need(field), wanted.need(field), rtol=1e-12)
    row, slot = 17, 1
    item = int(log.slate[row, slot])
    look = world.examination
    plain = {
        "marginal": target[slot, item] / logger[slot, item],
        "document": target[:, item].sum() / logger[:, item].sum(),
        "examined": (look * target[:, item]).sum() / (look * logger[:, item]).sum(),
    }
    for field, ratio in plain.items():
        assert float(data.need(field)[row, slot]) == pytest.approx(float(ratio), rel=1e-12)
    assert weigh.lost.tolist() == [0, 0]


def world_marginals(world: SlateWorld, policy: Softmax) -> Tensor:
    """Return P(item at slot) in the first context, [slot item], by listing every slate."""
    out = torch.zeros(world.slots, world.items, dtype=torch.float64)
    for s, items in enumerate(world.slates().tolist()):
        for k, item in enumerate(items):
            out[k, item] += world.slate_chance(policy)[0, s]
    return out


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


def test_slate_policies_on_the_files_of_a_log(tmp_path: Path) -> None:
    """With a logging policy, all weights of slates can be had batch by batch."""
    world = slate_world()
    log = world.listed().draw(300, seed=6)
    for i, part in enumerate((slice(0, 110), slice(110, 300))):
        write_log(log.rows(part), tmp_path / f"{i}.parquet")
    found = stream(
        tmp_path,
        Logged(PolicySlates(world.target, world.logger, world.examination)),
        batch_rows=64,
        group=None,
    )
    look = world.examination
    data = slates(log, world.target, logger=world.logger, examination=look, group_by_user=False)
    parts = {part().name: part() for part in all_parts("slate estimator").values()}
    assert {"SIPS", "IIPS", "RIPS"} <= set(found.names)
    assert len(found.names) > 8
    for ours in found.estimates():
        wanted = estimate(parts[ours.name], data)
        assert ours.value == pytest.approx(wanted.value, rel=1e-12)
        assert ours.stderr == pytest.approx(wanted.stderr, rel=1e-12)
        assert ours.ess == pytest.approx(wanted.ess, rel=1e-12)


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
