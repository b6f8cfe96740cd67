"""What is left of a piece of the log when its rows are gone: sums of scores, and of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Estimator, Scored, Scores, Trajectories
from causal.stream.files import Piece, batches, named
from causal.stream.weigh import Make
from causal.sums import ScoreSums
from simlab.errors import BadInput
from simlab.log import BadCell
from simlab.seeds import Seed

_SIDE = 64


@dataclass(frozen=True)
class Task:
    """What a worker needs to know, whatever the piece.

    Attributes:
        makes: makes what is scored of a batch, for each target; one target has the name "".
        estimators: in order; all of them score every target.
        columns: what is read.
        rows: of a batch.
        grouped: whether users are the units.
        buckets: of the bootstrap.
        seed: of the buckets.
    """

    makes: Mapping[str, Make]
    estimators: tuple[Estimator[Any], ...]
    columns: tuple[str, ...]
    rows: int
    grouped: bool
    buckets: int
    seed: Seed


@dataclass(frozen=True)
class Tally:
    """Sums that merge.

    Attributes:
        sums: of the score columns of all targets and estimators, side by side. One hash deals the rows, and
            what two estimators share cancels in their difference.
        widths: how many scores each target and estimator has, in order.
        weights: by "target/field", Σw, Σw² and the largest w of every slot (or step).
        steps: whether the weights are of steps, padded to the longest trajectory of each batch.
    """

    sums: ScoreSums
    widths: tuple[int, ...]
    weights: Mapping[str, Float[Tensor, "3 slot"]]
    steps: bool = False

    def merge(self, other: "Tally") -> "Tally":
        """Return the sums of the rows of both.

        Raises:
            BadInput: if slates have another length here than there.
        """
        weights = {key: _joined(w, other.weights[key], self.steps) for key, w in self.weights.items()}
        return Tally(self.sums.merge(other.sums), self.widths, weights, self.steps)


def tally(task: Task, piece: Piece) -> Tally | None:
    """Add one piece up, batch after batch; None where the makers keep no row of it.

    One thread works on it, here and in torch, so the sums are the same to the last bit whatever the number of
    workers.

    Raises:
        BadInput: naming the file, and the column, the row of the file and the value where one is to blame.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        total: Tally | None = None
        row = 0
        for batch in batches(piece, task.columns, task.rows):
            with named(piece.path, piece.row + row), torch.no_grad():
                part = scored(task, batch, piece.start + row)
                total = part if total is None else total if part is None else total.merge(part)
            row += batch.num_rows
        return total
    finally:
        torch.set_num_threads(threads)


def scored(task: Task, batch: pa.RecordBatch, first: int) -> Tally | None:
    """Score one batch for all targets.

    Args:
        task: what to do.
        batch: the rows.
        first: the row of the whole log at which it starts.
    """
    scores: list[Scores] = []
    weights: dict[str, Tensor] = {}
    rows: Tensor | int | None = None
    weighed = {target: make(batch) for target, make in task.makes.items()}
    for target, data in weighed.items():
        ids = _ids(task, data, batch.num_rows, first)
        if isinstance(rows, Tensor) and isinstance(ids, Tensor) and not torch.equal(rows, ids):
            raise BadInput(
                f"target {target} keeps other rows than the first: their scores cannot be compared"
            )
        rows = ids
    if not any(len(data) for data in weighed.values()):
        return None
    for target, data in weighed.items():
        for estimator in task.estimators:
            scores.append(estimator.score(data))
            key = f"{target}/{estimator.leans}"
            if estimator.leans and key not in weights:
                weights[key] = _overlap(data, estimator.leans)
    flat = tuple(score for each in scores for score in each)
    assert rows is not None
    try:
        sums = ScoreSums.of(flat, rows=rows, buckets=task.buckets, seed=task.seed)
    except BadInput:
        _refuse(task, scores)  # names the estimator, which sums do not know
        raise
    if not bool(sums.sums.isfinite().all()):
        _refuse(task, scores)
    steps = any(isinstance(data, Trajectories) for data in weighed.values())
    return Tally(sums, tuple(len(each) for each in scores), weights, steps)


def _ids(task: Task, data: Scored, rows: int, first: int) -> Tensor | int:
    """Return what deals the rows to buckets: users, or where the rows are in the whole log."""
    if not task.grouped:
        if len(data) != rows:
            raise BadInput(
                f"{rows} rows became {len(data)}: only rows of users may be left out, with group='user'"
            )
        return first
    if data.group is None:
        raise BadInput(
            "group is user, but there is no column user: say group=None to take rows as independent"
        )
    return data.group.cpu()


def _overlap(data: Scored, leans: str) -> Float[Tensor, "3 slot"]:
    """Return Σw, Σw² and max w of each slot."""
    found = getattr(data, leans)
    weight = (data.need(leans) if found is None else found).double().cpu()
    weight = weight.unsqueeze(1) if weight.ndim == 1 else weight
    return torch.stack([weight.sum(0), weight.square().sum(0), _largest(weight)])


def _largest(x: Float[Tensor, "round slot"]) -> Float[Tensor, " slot"]:
    """Return the largest of each column, many rows side by side: few columns do not fill a vector."""
    n, k = x.shape
    whole = n // _SIDE * _SIDE
    if not whole:
        return x.amax(0)
    side = x[:whole].reshape(-1, _SIDE * k).amax(0).reshape(_SIDE, k)
    return torch.cat([side, x[whole:]]).amax(0)


def _joined(a: Tensor, b: Tensor, steps: bool) -> Tensor:
    """Merge weights of the same slots, or steps."""
    if a.shape != b.shape:
        if not steps:
            raise BadInput(f"slates of {b.shape[1]} come after slates of {a.shape[1]}")
        # Past its end a trajectory has the weight of the whole, so the last column goes on.
        long = max(a.shape[1], b.shape[1])
        a, b = (torch.cat([x, x[:, -1:].expand(-1, long - x.shape[1])], 1) for x in (a, b))
    return torch.cat([a[:2] + b[:2], torch.maximum(a[2:], b[2:])])


def _refuse(task: Task, scores: Sequence[Scores]) -> None:
    """Name the first row, and the estimator, whose score is no number."""
    names = [f"{t}: {e.name}".removeprefix(": ") for t in task.makes for e in task.estimators]
    for name, each in zip(names, scores, strict=True):
        for score in each:
            wrong = ~(score.numerator.isfinite() & score.denominator.isfinite())
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise BadCell(f"(score of {name})", row, "is not finite", float(score.numerator[row]))
    raise BadInput("the sum of the scores is too large for a float64")
