"""What turns a record batch into what estimators score: one small class for each way to know the target.

Each says which columns it needs, so that nothing else is read, and makes rounds or slates of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from causal.contract import Rounds, Scored, Slates
from causal.rewards import CrossFit, Fitted
from causal.rounds import rounds
from causal.stream.cells import chances, items, matrix, needed, propensities, refuse, users, vector
from simlab.errors import BadInput
from simlab.log import BadCell, Log
from simlab.policy import Policy
from simlab.tables.batches import BatchReader
from simlab.tables.columns import ColumnMap, close, find, missing

_FREE = ColumnMap()


@runtime_checkable
class Weigh(Protocol):
    """Turns a record batch into rounds, slates or trajectories; it is pickled when workers use it.

    A refusal of a cell is a `simlab.log.BadCell` whose row counts from the batch's first; the stream says it
    with the file and the file's row. A function of a batch will do as well: it then gets all columns.
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
    fields: ColumnMap = _FREE

    def __post_init__(self) -> None:
        if (self.q_logged is None) != (self.q_target is None):
            raise BadInput("a reward model is two columns, q_logged and q_target, and only one was given")

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [_there(n, names) for n in (self.target, self.q_logged, self.q_target) if n is not None]
        reward = find("reward", self.fields, names) or find("click", self.fields, names)
        if reward is None:
            raise missing(("reward", "click"), names)
        return _unique([*given, reward, needed("propensity", self.fields, names), *_user(self.fields, names)])

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
        return Rounds(worth, weight, q_logged, q_target, _group(self.fields, batch))


@dataclass(frozen=True)
class SlateColumns:
    """Slates of a file that says how likely logger and target make each item at its slot.

    Reads `click` [round slot], `slot_propensity` [round slot], `user` if there is one, and:

    Args:
        target: column of lists, the target's probability of each shown item at its slot.
        whole: column of the target's probability of the whole slate; `propensity` is then read too.
        fields: which column is which, where their names do not tell.
    """

    target: str
    whole: str | None = None
    fields: ColumnMap = _FREE

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [_there(self.target, names)]
        given += [needed(field, self.fields, names) for field in ("click", "slot_propensity")]
        if self.whole is not None:
            given += [_there(self.whole, names), needed("propensity", self.fields, names)]
        return _unique([*given, *_user(self.fields, names)])

    def __call__(self, batch: pa.RecordBatch) -> Slates:
        """Weigh each slot: target / slot_propensity."""
        names = batch.schema.names
        click = matrix(batch, needed("click", self.fields, names))
        name = needed("slot_propensity", self.fields, names)
        logger = propensities(batch, name, click.shape[1])
        weight = chances(batch, self.target, click.shape[1]) / logger
        joint = None
        if self.whole is not None:
            name = needed("propensity", self.fields, names)
            joint = (chances(batch, self.whole, 1) / propensities(batch, name, 1))[:, 0]
        return Slates(click, joint=joint, marginal=weight, group=_group(self.fields, batch))


@dataclass(frozen=True, eq=False)
class SlateMatrix:
    """Slates of a file of items and clicks, with a full item × position matrix of each policy.

    For policies that do not look at the context, or whose probabilities are averaged over it. Gives weights
    of three kinds: `marginal`, of the item at its slot; `document`, of the item anywhere on the slate; and
    `examined`, of the item where users look, if they are said to look somewhere.

    Reads `slate` [round slot], `click` [round slot] and `user` if there is one.

    Args:
        logger: P(item at slot) under the logger.
        target: P(item at slot) under the target.
        examination: θ_j, the chance that slot j is looked at (a position-based model), above 0.
        fields: which column is which, where their names do not tell.

    Raises:
        BadInput: if they are not probabilities, a slot's do not sum to one within 1e-4, or the shapes differ.
    """

    logger: Float[Tensor, "cand slot"]
    target: Float[Tensor, "_ _"]  # [cand slot] too; the sentence on other shapes is ours
    examination: Float[Tensor, " _"] | None = None
    fields: ColumnMap = _FREE

    def __post_init__(self) -> None:
        if self.logger.shape != self.target.shape:
            raise BadInput(
                f"the logger's matrix is {tuple(self.logger.shape)}, the target's {tuple(self.target.shape)}"
            )
        for name in ("logger", "target"):
            table = getattr(self, name).double().cpu()
            wrong = ~((table >= 0) & (table <= 1))
            if bool(wrong.any()):
                item, slot = (int(i) for i in wrong.nonzero()[0])
                where = f"the {name}'s matrix, item {item}, slot {slot}"
                raise BadInput(f"{where}: {float(table[item, slot])} is no probability")
            total = table.sum(0)
            if bool(((total - 1).abs() > 1e-4).any()):
                slot = int((total - 1).abs().argmax())
                raise BadInput(
                    f"the {name}'s matrix, slot {slot}: the items sum to {float(total[slot])}, not 1"
                )
            object.__setattr__(self, name, table)
        if self.examination is not None:
            looked = self.examination.double().cpu()
            if looked.shape != self.logger.shape[1:] or not bool(((looked > 0) & (looked <= 1)).all()):
                slots = self.logger.shape[1]
                raise BadInput(
                    f"examination is a chance in (0, 1] for each of {slots} slots, not {looked.tolist()}"
                )
            object.__setattr__(self, "examination", looked)

    @property
    def lost(self) -> Float[Tensor, " slot"]:
        """The target's probability, at each slot, of items that the logger never shows there.

        With rewards in [0, 1] it bounds what each slot's estimate can miss.
        """
        return (self.target * (self.logger == 0)).sum(0)

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [needed(field, self.fields, names) for field in ("slate", "click")]
        return _unique([*given, *_user(self.fields, names)])

    def __call__(self, batch: pa.RecordBatch) -> Slates:
        """Look the ratios up."""
        names = batch.schema.names
        name = needed("slate", self.fields, names)
        shown = items(batch, name, len(self.logger))
        slots = self.logger.shape[1]
        if shown.shape[1] != slots:
            raise BadCell(name, 0, f"has length {shown.shape[1]}, but the matrices have {slots} slots", "it")
        click = matrix(batch, needed("click", self.fields, names), slots)
        place = torch.arange(slots)
        never = self.logger[shown, place] == 0
        refuse(name, shown, never, "was shown where the logger's matrix says 0")
        marginal, document, examined = self._ratios
        return Slates(
            click,
            marginal=marginal[shown, place],
            document=document[shown],
            examined=None if examined is None else examined[shown],
            group=_group(self.fields, batch),
        )

    @cached_property
    def _ratios(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Target over logger, of the item at its slot, anywhere, and where users look."""
        look = self.examination
        examined = None if look is None else (self.target @ look) / (self.logger @ look)
        return self.target / self.logger, self.target.sum(1) / self.logger.sum(1), examined


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
    fields: ColumnMap = _FREE
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


def _there(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise BadInput(f"column {name} is missing{close(name, names)}")
    return name


def _user(fields: ColumnMap, names: Sequence[str]) -> list[str]:
    found = find("user", fields, names)
    return [] if found is None else [found]


def _group(fields: ColumnMap, batch: pa.RecordBatch) -> Tensor | None:
    found = find("user", fields, batch.schema.names)
    return None if found is None else users(batch, found)


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
