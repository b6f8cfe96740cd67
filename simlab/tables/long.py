"""The long layout: a row is an item at a slot of a round.

Rounds keep the order in which they first appear. What belongs to a round is repeated in its rows, and a
file that contradicts itself there is refused. A reward without a click column is each item's feedback: the
round's reward is then their sum. With a click column the reward is the round's.
"""

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from simlab.errors import BadInput
from simlab.log import BadCell, Log
from simlab.tables.cells import Cells, floats, show
from simlab.tables.columns import missing
from simlab.tables.fields import NO_SLATE, Array, Rows, assemble, context, from_zero, items, row_fields

_SLOTS = ("slate", "slot_propensity", "click")


def read_long(rows: Rows) -> Log:
    """Return the log of rows that are items.

    Raises:
        BadInput: naming column, row and value; for rounds of different lengths, slots that are missing or
            there twice, and fields that differ within a round.
    """
    where = _where(rows)
    slots = where.shape[1]
    values, user_names = row_fields(rows)
    shown = rows.field("item", needed=True)
    assert shown is not None
    codes, candidates, item_names = items(rows, shown)
    if candidates is not None:
        values["candidates"] = candidates
    known, names = context(rows)
    values |= known
    if cells := rows.field("propensity", needed=True):
        values["propensity"] = floats(cells)
    elif slots > 1:
        raise BadInput(NO_SLATE)
    click, reward = rows.field("click"), rows.field("reward")
    if click is not None and reward is not None:
        values["reward"] = floats(reward)
    rounds = {k: _one(rows, k, v, where) for k, v in values.items()}
    feedback = click if click is not None else reward
    if feedback is None:
        raise missing(("click", "reward"), rows.table.column_names)
    rounds["click"] = floats(feedback)[where]
    rounds.setdefault("reward", rounds["click"].sum(1))
    rounds["slate"] = codes[where]
    if cells := rows.field("slot_propensity"):
        rounds["slot_propensity"] = floats(cells)[where]
        rounds.setdefault("propensity", rounds["slot_propensity"][:, 0].copy())
    rounds.setdefault("user", np.arange(len(where)))

    def place(field: str, row: int, slot: int | None) -> tuple[int, int | None]:
        if field in _SLOTS and slot is not None:
            return int(where[row, slot]), None
        return int(where[row, 0]), slot

    return assemble(rounds, rows, item_names, user_names, names, place)


def _where(rows: Rows) -> Array:
    """Return the row of each item [round slot]."""
    group, slot = rows.field("round", needed=True), rows.field("slot", needed=True)
    assert group is not None
    assert slot is not None
    group.full()
    code = pc.dictionary_encode(group.values).indices.to_numpy(zero_copy_only=False).astype(np.int64)
    at = from_zero(slot, rows.plan.position_from)
    order = np.lexsort((at, code))
    code, at = code[order], at[order]
    name: Callable[[int], str] = lambda index: show(group.values[int(order[index])].as_py())  # noqa: E731
    twice = (code[1:] == code[:-1]) & (at[1:] == at[:-1])
    if twice.any():
        index = int(twice.argmax()) + 1
        slot.refuse(int(order[index]), f"is there twice in round {name(index)}")
    count = np.bincount(code)
    start = np.concatenate([[0], count.cumsum()[:-1]])
    expected = np.arange(len(code)) - start[code]
    if (at != expected).any():
        index = int((at != expected).argmax())
        slot.refuse(
            int(order[index]), f"comes before slot {expected[index]} is filled in round {name(index)}"
        )
    if (count != count[0]).any():
        index = int(start[int((count != count[0]).argmax())])
        size = int(count[code[index]])
        why = f"is a round of {size} items, but round {name(0)} has {count[0]}"
        group.refuse(int(order[index]), why)
    return order.reshape(len(count), int(count[0]))


def _one(rows: Rows, field: str, values: Array, where: Array) -> Array:
    """Return the one value that all rows of a round agree on.

    Raises:
        BadCell: for the first row that contradicts the first of its round.
    """
    if field == "policy" and len(values) == 1:
        return values
    wrong = values[where] != values[where[:, :1]]
    if wrong.any():
        row, slot, *width = (int(x) for x in np.argwhere(wrong)[0])
        name = rows.plan.columns.get(field, field)
        if field in ("features", "categories"):
            several = rows.plan.features if field == "features" else rows.plan.categories
            name = several[width[0] if len(several) == values.shape[1] else 0]
        cells: Cells = rows.column(name)
        shown, other = (show(cells.values[int(i)].as_py()) for i in (where[row, slot], where[row, 0]))
        first = f"row {where[row, 0]}"
        raise BadCell(
            cells.name, int(where[row, slot]), f"differs from {other} in {first} of the same round", shown
        )
    return values[where[:, 0]]
