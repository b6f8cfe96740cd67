"""Evaluate a log that does not fit in memory."""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from causal.contract import Estimator, Scored, possible
from causal.evaluation import ROOMS
from causal.stream import checkpoint as state
from causal.stream.files import PIECE, Paths, Piece, batches, named, survey
from causal.stream.streamed import Streamed
from causal.stream.tally import Tally, Task
from causal.stream.weigh import Make, Weigh, narrowed
from causal.stream.workers import in_order
from causal.sums import BUCKETS
from simlab.errors import BadInput
from simlab.parts import all_parts
from simlab.seeds import Seed

ROWS = 16_384
"""Rows of a batch: ten slots of them are 1.3 MB as float64, so what follows decoding stays in the cache."""


@dataclass(frozen=True)
class Progress:
    """How far a stream is.

    Attributes:
        rows: merged, those of an earlier run included.
        total: rows in all.
        pieces: merged.
        of: pieces in all.
        path: the file of the last one.
        seconds: since this run began.
    """

    rows: int
    total: int
    pieces: int
    of: int
    path: str
    seconds: float


def stream(
    paths: Paths,
    weigh: Make | Mapping[str, Make],
    estimators: Iterable[Estimator[Any]] | None = None,
    *,
    group: str | None = "user",
    workers: int = 1,
    backend: str = "loky",
    address: str = "local",
    checkpoint: Path | str | None = None,
    version: str | None = None,
    batch_rows: int = ROWS,
    piece_rows: int = PIECE,
    seed: Seed = Seed(0),
    buckets: int = BUCKETS,
    progress: Callable[[Progress], None] | bool = False,
) -> Streamed:
    """Score Parquet files, of any size, in one pass.

    Files are cut into pieces at row groups; a worker adds a piece up batch after batch, and pieces are merged
    in the order of the files. So the result is the same to the last bit whatever the number of workers, and
    after a resume; another split of the same rows into files changes it by rounding alone.

    Args:
        paths: files, and folders that stand for all Parquet files inside.
        weigh: makes rounds, slates or trajectories of a batch, see `causal.stream.weigh`; or several of them
            by the name of the target, all scored in the same pass.
        estimators: those to apply, whose scores of a row depend on that row alone (`streams`); by default all
            of the catalogue that stream and whose needs the first row meets, but for those that ask more of
            a log than to have columns (`suits`: replay). No other weights are filled than they use.
        group: "user" takes users as the units of every spread; None takes rows.
        workers: pieces at a time; -1 for one a core. Each works on one thread.
        backend: "loky", or "ray" for a Ray cluster whose machines see the files under the same paths.
        address: of the Ray cluster.
        checkpoint: where the state is kept after each piece. If it is there, its pieces are not read again,
            provided that the settings, the files and what weighs and scores the rows are the same. Of the
            targets that is a hash of what they hold and of all code that they can reach, see
            `causal.stream.fingerprint`, also for what it cannot see: give such targets a `version`, and those
            that it refuses, and those that keep something from use.
        version: what the targets are, in your words, to be kept in the checkpoint instead of that hash. Then
            it is for you to give them another version when they change.
        batch_rows: rows of a batch.
        piece_rows: rows of a piece at least, if its file has more.
        seed: of the buckets and the bootstrap.
        buckets: how many hold the rows for the bootstrap and for users; 0 for none.
        progress: called after each piece, or True for a line on stderr.

    Raises:
        BadInput: for files, columns, rows or settings that cannot be, in one sentence that names them.
    """
    makes = dict(weigh) if isinstance(weigh, Mapping) else {"": weigh}
    if not makes:
        raise BadInput("there is no target to weigh for")
    for name, value in (("batch_rows", batch_rows), ("piece_rows", piece_rows)):
        if value < 1:
            raise BadInput(f"{name} is {value}, but it takes at least 1")
    if group not in ("user", None):
        raise BadInput(f"group is {group}, but it is 'user' or None")
    if buckets < 0 or (buckets < 2 and group == "user"):
        raise BadInput(f"buckets is {buckets}, but users are told apart by at least 2 of them")
    pieces, columns = survey(paths, lambda schema: _needed(makes, schema), piece_rows)
    parts = _chosen(estimators, makes, pieces, columns)
    used = tuple(dict.fromkeys(name for e in parts for name in (e.leans, *e.needs)))
    makes = {name: narrowed(make, 0, used) for name, make in makes.items()}
    task = Task(makes, parts, columns, batch_rows, group == "user", buckets, seed)

    path = None if checkpoint is None else Path(checkpoint)
    said = {} if path is None else state.settings(task, piece_rows, version)
    done, total = (0, None) if path is None or not path.exists() else state.load(path, said, pieces)
    tell = _teller(progress, pieces)
    if done:
        tell(done)
    rest = pieces[done:]
    with closing(_merged(task, rest, total, workers, backend, address)) as merged:
        for total in merged:
            _check_sums(task, total)
            done += 1
            if path is not None:
                state.save(path, said, pieces[:done], total)
            tell(done)
    if total is None:
        raise BadInput("no row of any file was kept: there is nothing to estimate from")
    one = len(makes) == 1
    named_ = tuple(e.name if one else f"{t}: {e.name}" for t in makes for e in parts)
    if len(set(named_)) < len(named_):
        named_ = tuple(repr(e) if one else f"{t}: {e!r}" for t in makes for e in parts)
    leans = tuple(f"{t}/{e.leans}" if e.leans else "" for t in makes for e in parts)
    return Streamed(named_, total, leans, group == "user", len({p.path for p in pieces}))


def _merged(
    task: Task, pieces: Sequence[Piece], total: Tally | None, workers: int, backend: str, address: str
) -> Generator[Tally | None, None, None]:
    """Yield the sums so far after each piece."""
    with closing(in_order(task, pieces, workers, backend, address)) as results:
        for part, piece in zip(results, pieces, strict=True):
            with named(piece.path):
                total = part if total is None else total if part is None else total.merge(part)
            yield total


def _needed(makes: Mapping[str, Make], schema: pa.Schema) -> list[str]:
    """Return the columns that any target wants; a plain function wants all."""
    out: list[str] = []
    for make in makes.values():
        out += make.columns(schema) if isinstance(make, Weigh) else schema.names
    return list(dict.fromkeys(out))


def _chosen(
    estimators: Iterable[Estimator[Any]] | None,
    makes: Mapping[str, Make],
    pieces: Sequence[Piece],
    columns: tuple[str, ...],
) -> tuple[Estimator[Any], ...]:
    """Return the estimators; refuse those that need all rows at once."""
    if estimators is None:
        rows = sum(piece.rows for piece in pieces)
        with closing(batches(pieces[0], columns, 1)) as read:
            first = next(read)
        with named(pieces[0].path, pieces[0].row), torch.no_grad():
            estimators = applicable([narrowed(make, rows, None)(first) for make in makes.values()])
    parts = tuple(estimators)
    if not parts:
        raise BadInput("there is no estimator to apply")
    said = [repr(e) for e in parts]
    for e, name in zip(parts, said, strict=True):
        if not e.streams:
            raise BadInput(f"{e.name} needs all rows at once, so it cannot stream")
        if said.count(name) > 1:
            raise BadInput(f"estimator {name} is there twice")
    return parts


def applicable(some: Sequence[Scored]) -> list[Estimator[Any]]:
    """Return the estimators of the catalogue that stream and have all they need, whatever the rows are.

    One that asks whether the log suits it (replay) would ask some rows, which are not the log.

    Args:
        some: rows as each target weighs them.
    """
    found = [part() for part in all_parts(ROOMS[type(some[0]).__name__]).values()]
    found = [e for e in found if e.streams and not hasattr(e, "suits")]
    return [e for e in found if all(possible(e, rows) for rows in some)]


def _check_sums(task: Task, total: Tally | None) -> None:
    """Let estimators that ask more of a log than to have columns look at the weights so far."""
    for target in task.makes if total is not None else ():
        for e in task.estimators:
            check = getattr(e, "check_sums", None)
            if check is not None and total is not None:
                check(total.weights[f"{target}/{e.leans}"])


def _teller(progress: Callable[[Progress], None] | bool, pieces: Sequence[Piece]) -> Callable[[int], None]:
    """Return what is called after each piece."""
    if progress is False:
        return lambda done: None
    call = _line if progress is True else progress
    start, total = time.perf_counter(), sum(p.rows for p in pieces)

    def tell(done: int) -> None:
        rows = sum(p.rows for p in pieces[:done])
        path = pieces[done - 1].path
        call(Progress(rows, total, done, len(pieces), path, time.perf_counter() - start))

    return tell


def _line(at: Progress) -> None:
    """Write one line on stderr, over the last one."""
    end = "\n" if at.pieces == at.of else ""
    share = f"{at.rows:,} of {at.total:,} rows, {at.pieces} of {at.of} pieces, {at.seconds:,.0f} s"
    print(f"\r{share}", end=end, file=sys.stderr, flush=True)
