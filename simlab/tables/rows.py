"""A log as a long table: a row per item."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables.write import to_arrow

_SLOTS = {"slate": "item", "slot_propensity": "slot_propensity", "click": "click"}
"""The fields with a value for each slot, and their columns."""


def to_long(log: Log) -> pa.Table:
    """Return the log as an Arrow table with a row per item; `.to_pandas()` makes it a DataFrame.

    Columns: `round`, `slot` (from 0), `item`, then the fields that the log has; what belongs to a round is
    repeated in its rows. `read_log(table, layout="long", n_items=log.n_items)` gives the rounds again; names
    of items, users and features are not in the table.

    Raises:
        BadInput: for a log with `position`, whose rows are single places of a page already.
    """
    if log.position is not None:
        raise BadInput("a log with a position has single items at places of a page: it is long already")
    slots, n = log.slots, len(log)
    wide = to_arrow(log)
    again = pa.array(np.repeat(np.arange(n), slots))
    out: dict[str, pa.Array] = {"round": again, "slot": pa.array(np.tile(np.arange(slots), n))}
    there = {f.name for f in fields(log) if isinstance(getattr(log, f.name), Tensor)}
    for field, name in _SLOTS.items():
        if field in there:
            out[name] = wide.column(field).combine_chunks().flatten()
    for name in wide.column_names:
        if name not in _SLOTS:
            out[name] = wide.column(name).combine_chunks().take(again)
    return pa.table(out)
