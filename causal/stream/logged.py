"""Batches read as a log, with all that a log refuses, and policies that are asked what they would do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Rounds, Scored, Slates
from causal.rewards import CrossFit, Fitted
from causal.rounds import rounds
from causal.slate_inputs import Table
from causal.slates import FIELDS, slates
from causal.stream.weigh import FREE
from simlab.errors import BadInput
from simlab.log import BadCell, Log
from simlab.policy import Policy
from simlab.tables.batches import BatchReader
from simlab.tables.columns import ColumnMap


@dataclass(frozen=True, eq=False)
class Logged:
    """Batches read as a `Log`, with all its refusals; then any function of a log.

    Args:
        make: makes what is scored of the log of a batch, such as `PolicyRounds(policy)`. It must treat rows
            one by one: a batch is a part of the log that nobody chose.
        fields: which column is which field.
        n_items: size of the catalogue, unless this library wrote the files.
        item_names: names of the items by id.
        user_names: names of the users by id.
    """

    make: Callable[[Log], Scored]
    fields: ColumnMap = FREE
    n_items: int | None = None
    item_names: tuple[str, ...] = ()
    user_names: tuple[str, ...] = ()

    def reader(self, schema: pa.Schema) -> BatchReader:
        """Return the reader of batches of such a schema."""
        return BatchReader(
            schema, self.fields, n_items=self.n_items, item_names=self.item_names, user_names=self.user_names
        )

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns of the log's fields."""
        return self.reader(schema).columns

    def log(self, batch: pa.RecordBatch) -> tuple[Log, bool]:
        """Return the log of a batch, and whether it says who the users are."""
        reader = self.reader(batch.schema)
        if reader.user is not None and batch.column(reader.user).null_count:
            row = batch.column(reader.user).is_null().index(True).as_py()
            raise BadCell(reader.user, row, "cell where a value is needed", "an empty")
        return reader.read(batch), reader.user is not None

    def narrowed(self, rows: int, fields: tuple[str, ...] | None) -> "Logged":
        """Return the same with the fields that are used, if `make` can be told."""
        narrow = getattr(self.make, "narrowed", None)
        return self if narrow is None else replace(self, make=narrow(rows, fields))

    def __call__(self, batch: pa.RecordBatch) -> Scored:
        """Read the log, and call the function."""
        log, known = self.log(batch)
        return replace(self.make(log), group=log.user if known else None)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class PolicyRounds:
    """A function of a log, for `Logged`: weigh each round for a target policy, see `causal.rounds.rounds`.

    Args:
        policy: the target. It sees no history: a batch does not hold its users' earlier rounds.
        model: a reward model that was fitted on other rows, or `UserFolds`.
        page_slots: places of the page, needed where the log has a `position`.
    """

    policy: Policy
    model: Fitted | None = None
    page_slots: int | None = None

    def __call__(self, log: Log) -> Rounds:
        """Weigh the rounds."""
        if log.position is not None and self.page_slots is None:
            raise BadInput("a log with positions needs page_slots: one batch does not show the whole page")
        fitted = None
        if self.model is not None:
            fitted = CrossFit((self.model,), torch.zeros(len(log), dtype=torch.long))
        return rounds(log, self.policy, fitted, page_slots=self.page_slots)


@dataclass(frozen=True, eq=False)
class PolicySlates:
    """A function of a log, for `Logged`: weigh each slate for a target policy, see `causal.slates.slates`.

    Args:
        policy: the target. It sees no history: a batch does not hold its users' earlier rounds.
        logger: the logging policy, or its probability of each item at each slot, [slot item].
        examination: θ_k, the chance that each slot is examined.
        slot_weight: what a click at each slot is worth.
        fields: the weights to fill; by default those that the stream's estimators use.
        rows: of the whole log, of which a batch is a part: weights that would take long for so many are left
            out where `fields` does not name them. By default those of the batch; a stream knows how many.
    """

    policy: Policy
    logger: Policy | Table | None = None
    examination: Float[Tensor, " slot"] | None = None
    slot_weight: Float[Tensor, " slot"] | None = None
    fields: tuple[str, ...] | None = None
    rows: int | None = None

    def narrowed(self, rows: int, fields: tuple[str, ...] | None) -> "PolicySlates":
        """Return the same with the weights that are used; with all, of so many rows, where none are named."""
        if self.fields is not None:
            return self
        if fields is None:
            return replace(self, rows=rows)
        return replace(self, fields=tuple(f for f in FIELDS if f in fields))

    def __call__(self, log: Log) -> Slates:
        """Weigh the slates."""
        return slates(
            log,
            self.policy,
            logger=self.logger,
            examination=self.examination,
            slot_weight=self.slot_weight,
            fields=self.fields,
            total=self.rows,
        )
