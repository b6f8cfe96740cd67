"""Slates out of columns: from what the file says of each slot, or from an item × position matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import torch
from jaxtyping import Float, Num
from torch import Tensor

from causal.contract import Slates
from causal.stream.cells import chances, items, matrix, needed, propensities, refuse
from causal.stream.weigh import FREE, group_of, there, unique, user_column
from simlab.errors import BadInput
from simlab.log import BadCell
from simlab.tables.columns import ColumnMap


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
    fields: ColumnMap = FREE

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [there(self.target, names)]
        given += [needed(field, self.fields, names) for field in ("click", "slot_propensity")]
        if self.whole is not None:
            given += [there(self.whole, names), needed("propensity", self.fields, names)]
        return unique([*given, *user_column(self.fields, names)])

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
        return Slates(click, joint=joint, marginal=weight, group=group_of(self.fields, batch))


@dataclass(frozen=True, eq=False)
class SlateMatrix:
    """Slates of a file of items and clicks, with a full item × position matrix of each policy.

    For policies that do not look at the context. Where one does, and its matrix is the average over contexts,
    an estimate is right only if what an item earns at a slot does not depend on the context: else whoever
    was shown the item is mixed up with what it is worth.

    Gives weights of three kinds: `marginal`, of the item at its slot; `document`, of the item anywhere on the
    slate; and `examined`, of the item where users look, if they are said to look somewhere.

    Reads `slate` [round slot], `click` [round slot] and `user` if there is one.

    Args:
        logger: P(item at slot) under the logger, the way round that `causal.slates` has it.
        target: the same under the target.
        examination: θ_j, the chance that slot j is looked at (a position-based model), above 0.
        fields: which column is which, where their names do not tell.

    Raises:
        BadInput: if they are not probabilities, a slot's do not sum to one within 1e-4, an item's sum to more
            than one over the slots, or the shapes differ.
    """

    # [slot item] and [slot]; the sentences on other shapes are ours.
    logger: Num[Tensor, "..."]
    target: Num[Tensor, "..."]
    examination: Num[Tensor, "..."] | None = None
    fields: ColumnMap = FREE

    def __post_init__(self) -> None:
        if self.logger.ndim != 2 or not self.logger.numel():
            raise BadInput(f"the logger's matrix is [slot item], not of shape {tuple(self.logger.shape)}")
        if self.logger.shape != self.target.shape:
            raise BadInput(
                f"the logger's matrix is {tuple(self.logger.shape)}, the target's {tuple(self.target.shape)}"
            )
        for name in ("logger", "target"):
            table = getattr(self, name).double().cpu()
            wrong = ~((table >= 0) & (table <= 1))
            if bool(wrong.any()):
                slot, item = (int(i) for i in wrong.nonzero()[0])
                where = f"the {name}'s matrix, slot {slot}, item {item}"
                raise BadInput(f"{where}: {float(table[slot, item])} is no probability")
            total = table.sum(1)
            if bool(((total - 1).abs() > 1e-4).any()):
                slot = int((total - 1).abs().argmax())
                raise BadInput(
                    f"the {name}'s matrix, slot {slot}: the items sum to {float(total[slot])}, not 1"
                )
            often = table.sum(0)
            if bool((often > 1 + 1e-4).any()):
                item = int(often.argmax())
                raise BadInput(
                    f"the {name}'s matrix, item {item}: it is on a slate with chance "
                    f"{float(often[item]):.6g}, but it stands at one slot at most"
                )
            object.__setattr__(self, name, table)
        if self.examination is not None:
            looked = self.examination.double().cpu()
            if looked.shape != self.logger.shape[:1] or not bool(((looked > 0) & (looked <= 1)).all()):
                slots = len(self.logger)
                raise BadInput(
                    f"examination is a chance in (0, 1] for each of {slots} slots, not {looked.tolist()}"
                )
            object.__setattr__(self, "examination", looked)

    @property
    def lost(self) -> Float[Tensor, " slot"]:
        """The target's probability, at each slot, of items that the logger never shows there.

        With rewards in [0, 1] it bounds what each slot's estimate can miss.
        """
        return (self.target * (self.logger == 0)).sum(1)

    def columns(self, schema: pa.Schema) -> Sequence[str]:
        """Return the columns to read."""
        names = list(schema.names)
        given = [needed(field, self.fields, names) for field in ("slate", "click")]
        return unique([*given, *user_column(self.fields, names)])

    def __call__(self, batch: pa.RecordBatch) -> Slates:
        """Look the ratios up."""
        names = batch.schema.names
        name = needed("slate", self.fields, names)
        shown = items(batch, name, self.logger.shape[1])
        slots = len(self.logger)
        if shown.shape[1] != slots:
            raise BadCell(name, 0, f"has length {shown.shape[1]}, but the matrices have {slots} slots", "it")
        click = matrix(batch, needed("click", self.fields, names), slots)
        place = torch.arange(slots)
        never = self.logger[place, shown] == 0
        refuse(name, shown, never, "was shown where the logger's matrix says 0")
        marginal, document, examined = self._ratios
        return Slates(
            click,
            marginal=marginal[place, shown],
            document=document[shown],
            examined=None if examined is None else examined[shown],
            group=group_of(self.fields, batch),
        )

    @cached_property
    def _ratios(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Target over logger, of the item at its slot, anywhere, and where users look."""
        look = self.examination
        examined = None if look is None else (look @ self.target) / (look @ self.logger)
        return self.target / self.logger, self.target.sum(0) / self.logger.sum(0), examined
