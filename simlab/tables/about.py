"""What a file that this library wrote says of itself, as JSON in the metadata of its schema."""

import json
from typing import Any

import torch
from torch import Tensor

from simlab.errors import BadInput
from simlab.log import VERSION, Log

KEY = b"simlab"
"""Where the metadata of the schema has it."""

_KINDS = {
    "version": int,
    "n_items": int,
    "slots": int,
    "items": list,
    "users": list,
    "features": list,
    "dtypes": dict,
}
_CATEGORIES: dict[str, type] = {"categories": list, "category_sizes": list}
"""What only a log with such a column says."""
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}
_REAL = ("propensity", "slot_propensity", "reward", "click", "features")
_TRUTH = ("terminated", "truncated")


def describe(log: Log) -> bytes:
    """Return the JSON: version, n_items, slots, names, sizes of categories and the dtypes."""
    values = {name: getattr(log, name) for name in log.__dataclass_fields__}
    dtypes = {k: str(v.dtype).removeprefix("torch.") for k, v in values.items() if isinstance(v, Tensor)}
    said = {
        "version": log.version,
        "n_items": log.n_items,
        "slots": log.slots,
        "items": log.item_names,
        "users": log.user_names,
        "features": log.feature_names,
        "dtypes": dtypes,
    }
    if log.categories is not None:
        said |= {"categories": log.category_names, "category_sizes": log.category_sizes}
    return json.dumps(said).encode()


def about(metadata: bytes | None) -> dict[str, Any]:
    """Return what the JSON says, or nothing where there is none.

    Raises:
        BadInput: if it cannot be understood, or a newer version wrote it.
    """
    if metadata is None:
        return {}
    try:
        said = json.loads(metadata)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise BadInput(f"the metadata under {KEY.decode()} is not the JSON that a log has")
    version = said.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BadInput(
            f"version {version} of the log format is newer than {VERSION}: update simlab to read it"
        )
    _require(said, _KINDS)
    if "categories" in said["dtypes"]:
        _require(said, _CATEGORIES)
    for field, name in said["dtypes"].items():
        if not _fits(field, name):
            raise BadInput(f"the metadata under {KEY.decode()} has dtype {str(name)[:60]!r} for {field}")
    return said


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of a name that `about` has let through."""
    return _DTYPES[name]


def _require(said: dict[str, Any], kinds: dict[str, type]) -> None:
    """Refuse a key that is missing or of another kind."""
    for key, kind in kinds.items():
        if key not in said:
            raise BadInput(f"the metadata under {KEY.decode()} has no {key}")
        value = said[key]
        good = isinstance(value, kind)
        if isinstance(value, list):
            each = int if key == "category_sizes" else str
            good = good and all(type(entry) is each for entry in value)
        if isinstance(value, int):
            good = good and value >= 1
        if not good:
            raise BadInput(f"the metadata under {KEY.decode()} has {str(value)[:60]!r} for {key}")


def _fits(field: str, name: object) -> bool:
    """Tell whether a field may have a dtype."""
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None or field in _TRUTH:
        return dtype == torch.bool
    return dtype != torch.bool and dtype.is_floating_point == (field in _REAL)
