"""The feedback dictionary of Open Bandit Pipeline (obp), in and out.

K = 1: `n_rounds, n_actions, context, action, reward, position, pscore` (obp 0.5,
`obp.types.BanditFeedback`), and `stratum_idx` where several loggers showed the rounds. K > 1: a row per item
with `slate_id` and `position`, `pscore` of the whole slate and `pscore_item_position` of the item
(`SyntheticSlateBanditDataset`). Positions count from 0 in both.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simlab.errors import BadInput, nearest
from simlab.log import Log
from simlab.tables.columns import ColumnMap

_ONE = {
    "action": "item",
    "reward": "reward",
    "pscore": "propensity",
    "position": "position",
    "stratum_idx": "policy",
}
_MANY = {
    "slate_id": "round",
    "position": "slot",
    "action": "item",
    "reward": "reward",
    "pscore": "propensity",
    "pscore_item_position": "slot_propensity",
}
_OPTIONAL = ("position", "pscore_item_position", "stratum_idx")


def as_table(feedback: Mapping[str, Any]) -> tuple[pa.Table, ColumnMap, int | None]:
    """Return the feedback as a table, its column map and the number of actions if it is known.

    Raises:
        BadInput: if a key is missing or has another shape than the actions have.
    """
    keys = _MANY if "slate_id" in feedback else _ONE
    columns: dict[str, Any] = {}
    for key in keys:
        value = feedback.get(key)
        if value is None:
            if key in _OPTIONAL and not (key == "position" and keys is _MANY):
                continue
            raise BadInput(f"key {key} is missing{nearest(key, feedback)}")
        columns[key] = _array(key, value, 1)
    rows = len(columns["action"])
    wanted = {key: rows for key in columns}
    if feedback.get("n_rounds") is not None and keys is _ONE:
        wanted["action"] = _count("n_rounds", feedback["n_rounds"])
    for key, size in wanted.items():
        if len(columns[key]) != size:
            other = "n_rounds is" if key == "action" else "action has"
            raise BadInput(f"key {key} has {len(columns[key])} rows, but {other} {size}")
    table: dict[str, Any] = {key: pa.array(value) for key, value in columns.items()}
    if feedback.get("context") is not None:
        context = _array("context", feedback["context"], 2)
        index = np.arange(rows)
        if keys is _MANY and len(context) != rows:  # a row of the context is a slate
            index = np.unique(columns["slate_id"], return_inverse=True)[1]
        if len(context) != int(index.max(initial=-1)) + 1:
            raise BadInput(f"key context has {len(context)} rows, but there are {int(index.max()) + 1}")
        context = context[index]
        offsets = np.arange(len(context) + 1) * context.shape[1]
        table["context"] = pa.LargeListArray.from_arrays(offsets, pa.array(context.reshape(-1)))
    fields: dict[str, Any] = {ours: "" for ours in ColumnMap.__dataclass_fields__ if ours not in _NOT_COLUMNS}
    fields |= {keys[key]: key for key in columns}
    has = ("context",) if "context" in table else ("",)
    size = feedback.get("n_actions", feedback.get("n_unique_action"))
    n_items = None if size is None else _count("n_actions", size)
    return pa.table(table), ColumnMap(features=has, categories=("",), position_from=0, **fields), n_items


_NOT_COLUMNS = ("features", "categories", "category_sizes", "position_from", "recode")


def to_obp(log: Log) -> dict[str, Any]:
    """Return the log as obp's feedback dictionary of NumPy arrays.

    Users, sessions and candidates have no place there and are left out. Without context features `context`
    has no columns. Several logging policies become `stratum_idx`: their names where these are numbers, else
    their numbers in order of first appearance. For K > 1 the reward is each item's feedback, as obp has it.

    Raises:
        BadInput: for slates without feedback per slot.
    """
    n, slots = len(log), log.slots
    context = np.zeros((n, 0)) if log.features is None else log.features.cpu().numpy()
    whole = log.propensity.cpu().numpy()
    if slots == 1:
        position = None if log.position is None else log.position.cpu().numpy()
        return {
            "n_rounds": n,
            "n_actions": log.n_items,
            "context": context,
            "action": log.slate[:, 0].cpu().numpy(),
            "reward": log.reward.cpu().numpy(),
            "position": position,
            "pscore": whole,
            **_strata(log),
        }
    if log.click is None:
        raise BadInput("column click is missing: obp's slates need feedback for each slot")
    out: dict[str, Any] = {
        "n_rounds": n,
        "n_unique_action": log.n_items,
        "context": context,
        "slate_id": np.repeat(np.arange(n), slots),
        "position": np.tile(np.arange(slots), n),
        "action": log.slate.reshape(-1).cpu().numpy(),
        "reward": log.click.reshape(-1).cpu().numpy(),
        "pscore": np.repeat(whole, slots),
    }
    if log.slot_propensity is not None:
        out["pscore_item_position"] = log.slot_propensity.reshape(-1).cpu().numpy()
    return out


def _strata(log: Log) -> dict[str, Any]:
    """Return which of several loggers showed each round, and how many there are."""
    names = tuple(dict.fromkeys(log.policy))
    numbers = all(name.isdecimal() for name in names)
    if not numbers and len(names) < 2:
        return {}
    code = {name: int(name) if numbers else i for i, name in enumerate(names)}
    index = np.array([code[name] for name in log.policy])
    index = np.repeat(index, len(log)) if len(index) == 1 else index
    return {"n_strata": max(code.values()) + 1, "stratum_idx": index}


def load_npz(path: Path) -> dict[str, Any]:
    """Read a dictionary of arrays; pickled objects are refused.

    Raises:
        BadInput: if the file is no whole .npz or holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError):
        raise BadInput("not a whole .npz file of plain arrays") from None


def _array(key: str, value: object, axes: int) -> Any:
    """Return a value as numbers with the wanted number of axes."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise BadInput(f"key {key} is ragged") from None
    if array.dtype.kind not in "iufb":
        raise BadInput(f"key {key} holds {array.dtype}, not numbers")
    if array.ndim != axes:
        raise BadInput(
            f"key {key} has shape {array.shape}, but {axes} {'axis' if axes == 1 else 'axes'} are needed"
        )
    return array


def _count(key: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise BadInput(f"key {key} is {value!r}, not a whole number") from None
    if count < 1:
        raise BadInput(f"key {key} is {count}, but at least 1 is needed")
    return count
