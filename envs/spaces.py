"""What every face of a world shares: its spaces, what is seen, and how an action becomes a slate."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Int
from torch import Tensor

from envs.world import SlateWorld, State
from simlab.context import PAD
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        BadInput: for anything else; True is none.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
        raise BadInput(f"{name} is {value!r}, but it is a whole number of at least {least}")
    return int(value)


def yes_or_no(**given: Any) -> None:
    """Refuse a switch that is neither True nor False.

    Raises:
        BadInput: naming the switch and its value.
    """
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise BadInput(f"{name} is {value!r}, but it is True or False")


def columns_of(world: SlateWorld[Any]) -> int:
    """Return C, how many columns a user chooses from: the candidates, or the whole catalogue."""
    return int(world.spec.candidates) or world.catalog.n_items


def observation_space(world: SlateWorld[Any]) -> spaces.Dict:
    """Return the space of one user's observation, which has only what can vary.

    | key | shape | what |
    |---|---|---|
    | features | feat | what is known of the user |
    | history | past | item ids, newest last, -1 pads |
    | feedback | past | the click on each item of the history |
    | popularity | cand | popularity of each column, mean 1 over the catalogue |
    | candidates | cand | item id of each column; where candidates are drawn |
    | candidate_features | cand, feat | the catalogue's features of each column; where candidates are drawn |
    | mask | cand | 1 where the column may be shown; where items come and go |

    Without drawn candidates a column is an item id. Ids are a Box, because wrappers turn MultiDiscrete
    observations into one-hot vectors.
    """
    items, past, columns = world.catalog.n_items, world.remember * world.slots, columns_of(world)
    state = world.reset(1, Seed(0))
    width, bound = world.observe(state).features.shape[1], world.feature_bound
    found: dict[str, spaces.Space[Any]] = {
        "features": spaces.Box(-bound, bound, (width,), np.float32),
        "history": spaces.Box(PAD, items - 1, (past,), np.int64),
        "feedback": spaces.Box(0, 1, (past,), np.float32),
        "popularity": spaces.Box(0, items + 1, (columns,), np.float32),
    }
    if state.candidates is not None:
        found["candidates"] = spaces.Box(0, max(items - 1, 1), (columns,), np.int64)
        known = world.catalog.features.cpu().numpy().astype(np.float32)
        if known.shape[1]:
            low, high = known.min(0), known.max(0)
            high = np.where(high > low, high, low + 1)  # checkers want some room between the ends
            shape = (columns, known.shape[1])
            ends = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
            found["candidate_features"] = spaces.Box(*ends, dtype=np.float32)
    if state.market.available is not None:
        found["mask"] = spaces.Box(0, 1, (columns,), np.int8)
    return spaces.Dict(found)


def action_space(world: SlateWorld[Any], *, flat: bool = False) -> spaces.MultiDiscrete | spaces.Discrete:
    """Return the space of one user's slate: a column for each slot, top first.

    Args:
        world: the world.
        flat: for slates of one item: `Discrete(C)`, which learners such as DQN ask for.

    Raises:
        BadInput: for `flat` slates of more than one item.
    """
    if not flat:
        return spaces.MultiDiscrete([columns_of(world)] * world.slots)
    if world.slots != 1:
        raise BadInput(f"flat is for slates of one item, but the slate has {world.slots} slots")
    return spaces.Discrete(columns_of(world))


def seen(world: SlateWorld[Any], state: State[Any]) -> dict[str, Tensor]:
    """Return the observation of each row, as tensors; what all rows share is one row, broadcast.

    Only `features`, `candidates` and what is broadcast may be tensors of the world itself.
    """
    context = world.observe(state)
    assert context.popularity is not None
    found = {
        "features": context.features,
        "history": context.history,
        "feedback": context.feedback,
        "popularity": context.popularity,
    }
    if state.candidates is not None:
        found["candidates"] = context.candidates
        if world.catalog.features.shape[1]:
            rows = world.catalog.features.index_select(0, context.candidates.reshape(-1))
            found["candidate_features"] = rows.view(*context.candidates.shape, -1)
    if state.market.available is not None:
        if state.candidates is None:
            found["mask"] = state.market.available.to(torch.int8).expand(len(state.user), -1)
        else:
            found["mask"] = context.mask.to(torch.int8)
    return found


def read_columns(action: Any, shape: tuple[int, ...], world: SlateWorld[Any]) -> Int[Tensor, "*shape"]:
    """Return an action as whole numbers, one column a slot.

    Args:
        action: anything array-like.
        shape: the shape that it must have.
        world: whose device it goes to.

    Raises:
        BadInput: for another shape, and for what are no whole numbers.
    """
    if isinstance(action, Tensor):
        whole = not (action.is_floating_point() or action.is_complex() or action.dtype == torch.bool)
        kind = str(action.dtype).removeprefix("torch.")
    else:
        try:
            action = np.asarray(action)
        except ValueError:
            raise BadInput("an action is ragged: its rows do not have the same length") from None
        whole, kind = action.dtype.kind in "iu", action.dtype.name
    if tuple(action.shape) != shape:
        raise BadInput(f"an action has shape {tuple(action.shape)}, but it is {_in_words(shape)}")
    if not whole:
        raise BadInput(f"an action is of type {kind}, but it holds whole numbers")
    if isinstance(action, Tensor):
        return action.to(world.device, torch.long)
    return torch.from_numpy(action.astype(np.int64)).to(world.device)


def _in_words(shape: tuple[int, ...]) -> str:
    if not shape:
        return "one whole number ()"
    slots = "1 slot" if shape[-1] == 1 else f"{shape[-1]} slots"
    return f"{slots} {shape}" if len(shape) == 1 else f"{shape[0]} rows of {slots} {shape}"


def fill_slates(
    columns: Int[Tensor, "user slot"], state: State[Any], world: SlateWorld[Any], *, strict: bool
) -> tuple[Int[Tensor, "user slot"], Int[Tensor, " user"]]:
    """Turn columns into slates of item ids, and count each row's invalid slots.

    A slot is invalid where its item stands higher up already, or may not be shown now.

    Args:
        columns: one for each slot.
        state: where the candidates are.
        world: the world.
        strict: refuse an invalid slot; otherwise it stays empty and is counted.

    Raises:
        BadInput: for a column that does not exist, and, if strict, for an invalid slot: row, slot and item.
    """
    count = world.catalog.n_items if state.candidates is None else state.candidates.shape[1]
    low, high = columns.aminmax()
    if int(low) < 0 or int(high) >= count:
        row, slot = _first((columns < 0) | (columns >= count))
        what = f"{'item' if state.candidates is None else 'column'} {int(columns[row, slot])}"
        raise BadInput(f"row {row}, slot {slot}: {what} is outside 0..{count - 1}, the action space")
    slate = columns if state.candidates is None else state.candidates.gather(1, columns)
    again = bad = repeated(slate)
    here = state.market.available
    if here is not None:
        bad = again | ~here[slate]
    if strict and bool(bad.any()):
        row, slot = _first(bad)
        why = "stands higher up already" if bool(again[row, slot]) else "may not be shown now: it is masked"
        raise BadInput(f"row {row}, slot {slot}: item {int(slate[row, slot])} {why}")
    return slate.masked_fill(bad, world.blank), bad.sum(1)


def repeated(slate: Int[Tensor, "user slot"]) -> Bool[Tensor, "user slot"]:
    """Mark each slot whose item stands higher up already: an item can be clicked once."""
    slots = slate.shape[1]
    if slate.numel() * slots <= 1 << 13:
        return (slate.unsqueeze(2) == slate.unsqueeze(1)).tril(-1).any(2)
    # A large batch has no room for every pair of slots at once: pairs of one distance after another.
    along = slate.T.to(torch.int32).contiguous()
    again = torch.zeros_like(along, dtype=torch.bool)
    for gap in range(1, slots):
        again[gap:] |= along[gap:] == along[:-gap]
    return again.T


def _first(where: Bool[Tensor, "user slot"]) -> tuple[int, int]:
    row, slot = where.nonzero()[0].tolist()
    return row, slot


def first_user(options: dict[str, Any] | None) -> int | None:
    """Return the user that the options of a reset ask for, if any.

    Raises:
        BadInput: for options that are no dict, an unknown option, and a user that is no whole number from 0.
    """
    if options is not None and not isinstance(options, dict):
        raise BadInput(f"options are {options!r}, but they are a dict such as {{'user': 3}}")
    for name in options or {}:
        if name != "user":
            raise BadInput(f"there is no option {name} of reset{nearest(name, ['user'])}")
    user = (options or {}).get("user")
    if user is None:
        return None
    if isinstance(user, bool) or not isinstance(user, int | np.integer) or not 0 <= user < 1 << 62:
        raise BadInput(f"option user is {user!r}, but it is a whole number from 0 to 2**62 - 1")
    return int(user)
