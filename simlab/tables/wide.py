"""The wide layout: a row is a round."""

import numpy as np

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables.cells import floats
from simlab.tables.columns import missing
from simlab.tables.fields import NO_SLATE, Array, Rows, assemble, context, from_zero, items, row_fields
from simlab.tables.lists import elements, single, width

_LISTS = ("candidates", "features", "categories")


def read_wide(rows: Rows) -> Log:
    """Return the log of rows that are rounds; `slate` and its lists may be single values, K = 1.

    Raises:
        BadInput: naming column, row and value.
    """
    plan, n = rows.plan, len(rows)
    key = "slate" if "slate" in plan.columns else "item"
    shown = rows.field(key, needed=True)
    assert shown is not None
    slate = elements(shown) if key == "slate" else single(shown)
    slots = width(slate)
    if slots == 0:
        slate.refuse_row(0, "is an empty slate")
    values, user_names = row_fields(rows)
    codes, candidates, item_names = items(rows, slate)
    values["slate"] = codes.reshape(n, slots)
    if candidates is not None:
        values["candidates"] = candidates
    for field in ("slot_propensity", "click"):
        if cells := rows.field(field):
            flat = elements(cells)
            width(flat, f"column {shown.name}", slots)
            values[field] = floats(flat).reshape(n, slots)
    values |= _worth(rows, values, slots)
    if cells := rows.field("position"):
        values["position"] = from_zero(cells, plan.position_from)
    values.setdefault("user", np.arange(rows.first, rows.first + n))
    known, names = context(rows)
    values |= known

    def place(field: str, row: int, slot: int | None) -> tuple[int, int | None]:
        return rows.first + row, slot if slots > 1 or field in _LISTS else None

    return assemble(values, rows, item_names, user_names, names, place)


def _worth(rows: Rows, values: dict[str, Array], slots: int) -> dict[str, Array]:
    """Return reward and propensity, out of the slots' where a slate has none of its own and one slot."""
    out: dict[str, Array] = {}
    if cells := rows.field("reward"):
        out["reward"] = floats(cells)
    elif "click" in values:
        out["reward"] = values["click"].sum(1)
    else:
        raise missing(("reward", "click"), rows.table.column_names)
    if cells := rows.field("propensity", needed=True):
        out["propensity"] = floats(cells)
    elif "slot_propensity" not in values:
        raise missing(("propensity", "slot_propensity"), rows.table.column_names)
    elif slots > 1:
        raise BadInput(NO_SLATE)
    else:
        out["propensity"] = values["slot_propensity"][:, 0].copy()
    return out
