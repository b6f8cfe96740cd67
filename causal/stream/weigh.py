"""What turns a record batch into what estimators score, and the simplest way: the file says it all.

Each way says which columns it needs, so that nothing else is read. `slates.py` has those for slates, and
`logged.py` those that ask a policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import pyarrow as pa
from torch import Tensor

from causal.contract import Rounds, Scored
from causal.stream.cells import chances, matrix, needed, propensities, users, vector
from simlab.errors import BadInput
from simlab.tables.columns import ColumnMap, close, find, missing

FREE = ColumnMap()
"""Columns are found by their names and aliases."""


@runtime_checkable
class Weigh(Protocol):
    """Turns a record batch into rounds, slates or trajectories; it is pickled when workers use it.

    A refusal of a cell is a `simlab.log.BadCell` whose row counts from the batch's first; the stream says it
    with the file and the file's row. A function of a batch will do as well: it then gets all columns.

    Which optional fields it fills may not depend on which rows, or how many, a batch has. Where it could fill
    more than is asked for, it has a method `narrowed(rows, fields)` too, see `narrowed`.
    """

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns that a batch must have.

        Raises:
            BadInput: if the schema lacks one.
        """
        ...

    def __call__(self, batch: pa.RecordBatch) -> Scored:
        """Make what estimators score; `group` is the user where users are to be resampled."""
        ...


Make = Weigh | Callable[[pa.RecordBatch], Scored]
"""What `causal.stream.stream` takes for a target."""

Same = TypeVar("Same", bound=Callable[[pa.RecordBatch], Scored])


@dataclass(frozen=True)
class Columns:
    """Any function of a batch of these columns.

    Args:
        names: the columns to read.
        make: makes rounds, slates or trajectories of a batch.
    """

    names: tuple[str, ...]
    make: Callable[[pa.RecordBatch], Scored]

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the names."""
        return self.names

    def __call__(self, batch: pa.RecordBatch) -> Scored:
        """Call the function."""
        return self.make(batch)


@dataclass(frozen=True)
class ColumnTarget:
    """Rounds of a file that says how likely the target makes what was shown.

    Reads `reward` (or the sum of `click`), `propensity`, `user` if there is one, and:

    Args:
        target: column of the target's probability of what each row logs.
        q_logged: column of q̂(x, a), the modelled reward of what was shown.
        q_target: column of Σ_a π(a|x) q̂(x, a); with `q_logged` or not at all.
        fields: which column is `reward`, `click`, `propensity` and `user`, where their names do not tell.
    """

    target: str
    q_logged: str | None = None
    q_target: str | None = None
    fields: ColumnMap = FREE

    def __post_init__(self) -> None:
        if (self.q_logged is None) != (self.q_target is None):
            raise BadInput("a reward model is two columns, q_logged and q_target, and only one was given")

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [there(n, names) for n in (self.target, self.q_logged, self.q_target) if n is not None]
        reward = find("reward", self.fields, names) or find("click", self.fields, names)
        if reward is None:
            raise missing(("reward", "click"), names)
        return unique(
            [*given, reward, needed("propensity", self.fields, names), *user_column(self.fields, names)]
        )

    def __call__(self, batch: pa.RecordBatch) -> Rounds:
        """Weigh each row: target / propensity."""
        names = batch.schema.names
        reward = find("reward", self.fields, names)
        worth = vector(batch, reward) if reward else matrix(batch, needed("click", self.fields, names)).sum(1)
        propensity = needed("propensity", self.fields, names)
        logger = propensities(batch, propensity, 1)
        q_logged, q_target = (
            None if name is None else vector(batch, name) for name in (self.q_logged, self.q_target)
        )
        weight = (chances(batch, self.target, 1) / logger)[:, 0]
        return Rounds(worth, weight, q_logged, q_target, group_of(self.fields, batch))


def narrowed(make: Same, rows: int, fields: tuple[str, ...] | None) -> Same:
    """Return what weighs the batches of one log with the fields that are used, and no others.

    Args:
        make: weighs a batch; what has no method `narrowed(rows, fields)` is left as it is.
        rows: of the whole log.
        fields: those that estimators use; None for all that can be had of so many rows.
    """
    narrow = getattr(make, "narrowed", None)
    out: Same = make if narrow is None else narrow(rows, fields)
    return out


def there(name: str, names: Sequence[str]) -> str:
    """Return the name of a column.

    Raises:
        BadInput: if there is no such column, with the nearest one.
    """
    if name not in names:
        raise BadInput(f"column {name} is missing{close(name, names)}")
    return name


def user_column(fields: ColumnMap, names: Sequence[str]) -> list[str]:
    """Return the column of users, if there is one."""
    found = find("user", fields, names)
    return [] if found is None else [found]


def group_of(fields: ColumnMap, batch: pa.RecordBatch) -> Tensor | None:
    """Return the users of a batch, if there is such a column."""
    found = find("user", fields, batch.schema.names)
    return None if found is None else users(batch, found)


def unique(names: Sequence[str]) -> list[str]:
    """Return each name once."""
    return list(dict.fromkeys(names))
