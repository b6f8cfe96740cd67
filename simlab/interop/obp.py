"""Open Bandit Pipeline's feedback dictionaries, with what a log has no place for kept beside it.

`to_obp(from_obp(f)) | beside(f)` has the values of every key of f again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from simlab.errors import BadInput
from simlab.log import Log
from simlab.tables import from_obp, to_obp

__all__ = ["beside", "from_obp", "from_obp_slates", "places", "to_obp", "to_obp_slates"]

_ROUNDS = ("n_rounds", "n_actions", "context", "action", "reward", "position", "pscore", "stratum_idx")
_SLATES = ("n_rounds", "n_unique_action", "context", "action", "reward", "position", "pscore")
_KEPT = {False: _ROUNDS, True: (*_SLATES, "pscore_item_position")}
"""What a log keeps, of single actions and of slates."""


def beside(feedback: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a feedback dictionary that a log has no place for, as they are.

    Such are `pi_b`, `expected_reward`, `action_context`, `pscore_avg`, `pi_b_avg`, `action_embed`, and of
    slates `slate_id` (the ids themselves), `pscore_cascade` and `expected_reward_factual`.
    """
    kept = _KEPT["slate_id" in feedback]
    return {key: value for key, value in feedback.items() if key not in kept}


def from_obp_slates(feedback: Mapping[str, Any]) -> tuple[Log, dict[str, NDArray[Any]]]:
    """Return the log of long-form slate feedback, and what has a value per item and no place in a log.

    A row of the feedback is an item: `slate_id`, `position` (from 0), `action`, `reward` of the item,
    `pscore` of the whole slate, `pscore_item_position` of the item at its position, whatever else is shown.
    Rows may come in any order; the log has a row per slate, in order of the slates' first rows. The reward of
    a slate is the sum of its items', which the log keeps as `click`.

    `pscore_cascade`, the chance of the items down to each position, has no place in a log. It comes second,
    as [round slot], with all other keys that have one number per row, such as `expected_reward_factual` or
    the scores of an evaluation policy; and with `slate_id [round]`. Where `pscore` is missing and
    `pscore_cascade` is there, the last position's is that of the whole slate.

    Raises:
        BadInput: naming the key, the row and the value; for slates of different lengths, a position that is
            missing or there twice, and a `pscore` that differs within a slate.
    """
    if "slate_id" not in feedback:
        raise BadInput("feedback: key slate_id is missing: from_obp reads feedback of single actions")
    whole = feedback.get("pscore") is None and feedback.get("pscore_cascade") is not None
    if whole:
        where = places(feedback)
        chance = per_item(feedback, "pscore_cascade", feedback["pscore_cascade"])
        filled = np.empty(where.size)
        filled[where] = chance[:, -1:]
        log = from_obp({**feedback, "pscore": filled})
    else:
        log = from_obp(feedback)
    where = places(feedback)
    rest: dict[str, NDArray[Any]] = {"slate_id": np.asarray(feedback["slate_id"])[where[:, 0]]}
    for key, value in beside(feedback).items():
        if key != "slate_id" and np.shape(value) == (where.size,):
            rest[key] = np.asarray(value)[where]
    return log, rest


def to_obp_slates(log: Log, rest: Mapping[str, NDArray[Any]] | None = None) -> dict[str, Any]:
    """Return long-form slate feedback, a row per item, slate after slate and position after position.

    Args:
        log: the slates. With K = 1 too, every round is a slate of one item.
        rest: [round slot] arrays by obp's keys, and `slate_id [round]`, as `from_obp_slates` returns them.

    Raises:
        BadInput: for slates without feedback per slot, and for an entry of `rest` of another shape.
    """
    n, slots = len(log), log.slots
    out = to_obp(log) if slots > 1 else _single(log)
    for key, value in (rest or {}).items():
        wanted = (n,) if key == "slate_id" else (n, slots)
        if np.shape(value) != wanted:
            raise BadInput(f"key {key} has shape {np.shape(value)}, but the log needs {wanted}")
        flat = np.asarray(value)
        out[key] = np.repeat(flat, slots) if key == "slate_id" else flat.reshape(-1)
    return out


def places(feedback: Mapping[str, Any]) -> Int[np.ndarray, "round slot"]:
    """Return the row of the feedback that holds each item of each slate, in the order of the log.

    Raises:
        BadInput: if slates differ in length, or a position is missing or there twice.
    """
    for key in ("slate_id", "position"):
        if feedback.get(key) is None:
            raise BadInput(f"feedback: key {key} is missing")
    name, slot = np.asarray(feedback["slate_id"]), np.asarray(feedback["position"])
    if name.shape != slot.shape or name.ndim != 1 or not len(name):
        raise BadInput(f"feedback: key slate_id has shape {name.shape}, but position has {slot.shape}")
    _, first, code = np.unique(name, return_index=True, return_inverse=True)
    code = first.argsort().argsort()[code]
    size, slots = np.bincount(code), int(np.bincount(code)[0])
    if (size != slots).any():
        odd = int((size != slots).argmax())
        said = name[np.sort(first)[odd]]
        raise BadInput(f"feedback: slate {said} has {size[odd]} items, but the first slate has {slots}")
    order = np.lexsort((slot, code)).reshape(-1, slots)
    wrong = slot[order] != np.arange(slots)
    if wrong.any():
        row = int(order[tuple(np.argwhere(wrong)[0])])
        raise BadInput(
            f"feedback: key position, row {row}: {slot[row]}, but the {slots} items of slate {name[row]} "
            f"stand at 0 to {slots - 1}, each once"
        )
    return order


def per_item(feedback: Mapping[str, Any], key: str, value: object) -> NDArray[np.float64]:
    """Return numbers, one for each row of long-form feedback, as [round slot] in the order of the log.

    Raises:
        BadInput: if there is not one finite number for each row.
    """
    where = places(feedback)
    found = np.asarray(value, dtype=np.float64)
    if found.shape != (where.size,):
        raise BadInput(f"key {key} has shape {found.shape}, but the feedback has {where.size} rows")
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        raise BadInput(f"key {key}, row {row}: {found[row]} is not a finite number")
    return np.asarray(found[where])


def _single(log: Log) -> dict[str, Any]:
    """Return slates of one item."""
    found = to_obp(log)
    n = len(log)
    out = {"n_rounds": n, "n_unique_action": log.n_items, "context": found["context"]}
    out |= {"slate_id": np.arange(n), "position": np.zeros(n, dtype=np.int64), "action": found["action"]}
    out |= {"reward": found["reward"], "pscore": found["pscore"], "pscore_item_position": found["pscore"]}
    return out
