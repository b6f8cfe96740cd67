"""The fields of each row of a file, checked cell by cell; both layouts start from these.

What only a whole row can tell (a repeated item, an unknown one) is left to `Log`, whose refusal is said
again with the file's own column and row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from simlab.context import PAD
from simlab.errors import BadInput
from simlab.log import BadCell, Log
from simlab.tables.about import dtype_of
from simlab.tables.cells import Cells, booleans, floats, integers, is_list, is_text, plain, truth, utf8, words
from simlab.tables.ids import ids
from simlab.tables.lists import elements, lengths, pad, width

DTYPES = {"click": "float32", "features": "float32"}
"""Floats that are not kept as float64: they feed models, not estimates."""

NO_SLATE = "column propensity is missing: a whole slate's probability does not follow from those of its slots"
"""The refusal of slates that only have `slot_propensity`."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """What is to be read, and how.

    Attributes:
        columns: the file's column of each field that it has.
        features: the file's feature columns.
        categories: the file's columns of context features that are categories.
        category_sizes: how many categories each has, or empty for what the rows show.
        position_from: where positions and slots start, 0 or 1; None refuses a file without a 0.
        recode: "item" and "user" where whole numbers are names.
        n_items: size of the catalogue, or None for the largest id + 1.
        item_names: known names of the items, by id.
        user_names: known names of the users, by id.
        own: what a file that this library wrote says of itself, else empty.
        exact: floats keep their precision, all of them.
    """

    columns: dict[str, str]
    features: tuple[str, ...] = ()
    position_from: int | None = None
    recode: tuple[str, ...] = ()
    n_items: int | None = None
    item_names: tuple[str, ...] = ()
    user_names: tuple[str, ...] = ()
    own: dict[str, Any] | None = None
    categories: tuple[str, ...] = ()
    category_sizes: tuple[int, ...] = ()
    exact: bool = False

    def needed(self) -> list[str]:
        """Return the columns to load."""
        return list(dict.fromkeys([*self.columns.values(), *self.features, *self.categories]))


@dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    Attributes:
        table: the columns that are needed; `pa.Table`.
        plan: what is to be read.
        text: all cells began as text.
        first: the file's row at which the table starts.
    """

    table: pa.Table
    plan: Plan
    text: bool = False
    first: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def column(self, name: str) -> Cells:
        """Return a column by the file's name."""
        try:
            values = plain(self.table.column(name))
        except (pa.ArrowInvalid, pa.ArrowIndexError, pa.ArrowNotImplementedError) as error:
            raise BadInput(f"column {name} cannot be read: {str(error).splitlines()[0]}") from None
        return truth(utf8(Cells(name, values, self.text, self.first)))

    def field(self, field: str, needed: bool = False) -> Cells | None:
        """Return the column of a field; one without any value is as good as absent."""
        name = self.plan.columns.get(field)
        if name is None:
            return None
        cells = self.column(name)
        return None if cells.values.null_count == len(cells.values) and not needed else cells


def row_fields(rows: Rows) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return what belongs to a row in either layout, by our names, and the names of the users."""
    out: dict[str, Array] = {}
    names: tuple[str, ...] = rows.plan.user_names
    for field in ("session", "step", "treatment"):
        if cells := rows.field(field):
            if field == "treatment" and pa.types.is_boolean(cells.values.type):
                cells = replace(cells, values=cells.values.cast(pa.int8()))
            out[field] = integers(cells)
    for field in ("terminated", "truncated"):
        if cells := rows.field(field):
            out[field] = booleans(cells)
    if cells := rows.field("policy"):
        cells.full()
        coded = pc.dictionary_encode(cells.values)
        different = np.array(words(replace(cells, values=coded.dictionary)), dtype=object)
        out["policy"] = different if len(different) == 1 else different[coded.indices.to_numpy()]
    if cells := rows.field("user"):
        if rows.plan.own:
            out["user"] = integers(cells)
        else:
            (out["user"],), names = ids([cells], "user", names, "user" in rows.plan.recode)
    return out, names


def context(rows: Rows) -> tuple[dict[str, Array], dict[str, tuple[str, ...]]]:
    """Return features [row feat] and categories [row field], where there are any, and the names of each."""
    out: dict[str, Array] = {}
    names: dict[str, tuple[str, ...]] = {}
    for field, chosen in (("features", rows.plan.features), ("categories", rows.plan.categories)):
        parts: list[Array] = []
        words: list[str] = []
        for name in chosen:
            flat = _known(rows.column(name)) if field == "categories" else rows.column(name)
            flat = elements(flat)
            flat = _known(flat) if field == "categories" else flat
            count = width(flat)
            values = floats(flat) if field == "features" else integers(flat)
            parts.append(values.reshape(len(rows), count))
            words += [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        if parts:
            out[field], names[field] = np.concatenate(parts, axis=1), tuple(words)
    return out, names


def _known(cells: Cells) -> Cells:
    """Return categories whose empty cells, and NaN, are the unknown category -1."""
    values = cells.values
    if is_list(values.type):
        return cells
    if pa.types.is_floating(values.type):  # pandas has whole numbers with gaps as floats
        values = pc.if_else(pc.is_nan(values), None, values)
    if not values.null_count:
        return cells if values is cells.values else replace(cells, values=values)
    if pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    unknown = str(PAD) if is_text(values.type) else PAD
    return replace(cells, values=pc.fill_null(values, pa.scalar(unknown, values.type)))


def items(rows: Rows, shown: Cells) -> tuple[Array, Array | None, tuple[str, ...]]:
    """Return the ids of what was shown, the candidates [row cand] and the names of the items."""
    plan, candidates = rows.plan, rows.field("candidates")
    parts = [shown] if candidates is None else [shown, elements(candidates)]
    if plan.own:
        codes, names = [integers(p) for p in parts], plan.item_names
    else:
        codes, names = ids(parts, "item", plan.item_names, "item" in plan.recode)
    return codes[0], None if candidates is None else pad(codes[1], lengths(parts[1])), names


def from_zero(cells: Cells, position_from: int | None) -> Array:
    """Return positions that count from 0.

    Raises:
        BadInput: if nobody said where the file starts to count and no row has a 0.
    """
    values = integers(cells)
    if position_from is None:
        if values.min() > 0:
            raise BadInput(
                f"column {cells.name} has no 0, its smallest value is {values.min()}: say position_from=1 "
                "if it counts from 1, or position_from=0"
            )
        return values
    if (values < position_from).any():
        cells.refuse(int((values < position_from).argmax()), f"is below position_from={position_from}")
    return values - position_from


def assemble(
    values: dict[str, Array],
    rows: Rows,
    item_names: tuple[str, ...],
    user_names: tuple[str, ...],
    names: dict[str, tuple[str, ...]],
    place: Callable[[str, int, int | None], tuple[int, int | None]],
) -> Log:
    """Make the log, and say its refusals with the file's column and row.

    Args:
        values: arrays by our names.
        rows: where they are from.
        item_names: names of the items, or empty.
        user_names: names of the users, or empty.
        names: names of the features and of the categories, where there are any.
        place: the file's (row, slot) of a (field, round, slot).

    Raises:
        BadInput: naming the file's column and row, and the value.
    """
    plan = rows.plan
    own = plan.own or {}
    largest = max(int(values[k].max()) for k in ("slate", "candidates") if k in values and values[k].size)
    n_items = plan.n_items or len(item_names) or max(largest + 1, 1)
    if len(item_names) > n_items:
        column = plan.columns.get("slate") or plan.columns["item"]
        raise BadInput(f"column {column} has {len(item_names)} different items, but n_items is {n_items}")
    policy = tuple(values.pop("policy").tolist()) if "policy" in values else ("unknown",)
    dtypes = own.get("dtypes", {} if plan.exact else DTYPES)
    tensors = {k: _tensor(v, dtypes.get(k)) for k, v in values.items()}
    try:
        return Log(
            **tensors,  # type: ignore[arg-type]
            n_items=n_items,
            policy=policy,
            feature_names=_said(plan, "features", "features", names.get("features", ())),
            item_names=item_names,
            user_names=user_names,
            category_names=_said(plan, "categories", "categories", names.get("categories", ())),
            category_sizes=_said(plan, "categories", "category_sizes", plan.category_sizes),
        )
    except BadCell as bad:
        shown = "item" if bad.column == "slate" and "slate" not in plan.columns else bad.column
        fallback = {"reward": "click", "propensity": "slot_propensity"}.get(shown, shown)
        column = plan.columns.get(shown) or plan.columns.get(fallback) or shown
        value = bad.value
        if item_names and bad.column in ("slate", "candidates") and isinstance(value, int) and value >= 0:
            value = repr(item_names[value])
        row, slot = place(bad.column, bad.row, bad.slot)
        if column == "categories" and len(plan.categories) == values["categories"].shape[1]:
            column, slot = plan.categories[bad.slot or 0], None  # a column each, not one of lists
        raise BadCell(column, row, bad.why, value, slot) from None


def _said(plan: Plan, field: str, key: str, otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what a file of ours says of a field that is read whole, else what its columns tell."""
    return tuple(plan.own[key]) if plan.own and getattr(plan, field) == (field,) else otherwise


def _tensor(values: Array, dtype: str | None) -> Tensor:
    """Return an array as a tensor of its own memory."""
    safe = values if values.flags.writeable else values.copy()
    tensor = torch.from_numpy(np.ascontiguousarray(safe))
    return tensor if dtype is None else tensor.to(dtype_of(dtype))
