"""Other views of the action for stable-baselines3: item scores, proto-vectors, and slot by slot."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from envs.faces import Observation
from envs.sb3 import WorldVecEnv
from envs.spaces import columns_of, read_columns
from envs.world import SlateWorld, State
from simlab.context import PAD
from simlab.errors import BadInput, nearest
from simlab.slates.contract import top

VIEWS = ("slate", "scores", "protos", "proto", "slots")
"""What an action is; see `envs.sb3.make_sb3`."""

MOST_SCORES = 100_000
"""Columns above which nobody wants a number for each of them in every action."""

ROOM = 1 << 24
"""Numbers that one block of inner products may hold."""


class ViewVecEnv(WorldVecEnv):
    """A `WorldVecEnv` that gives some keys of its observations only.

    Args:
        world: the world.
        num_envs: B.
        keys: which keys an observation has; None is all.
        strict: refuse a slate with a repeated or masked item; otherwise its slot stays empty.
        flat: for slates of one item: an action is one column a row.

    Raises:
        BadInput: for no keys, and for one that is not there.
    """

    def __init__(
        self,
        world: SlateWorld[Any],
        num_envs: int = 1,
        *,
        keys: Sequence[str] | None = None,
        strict: bool = False,
        flat: bool = False,
    ) -> None:
        super().__init__(world, num_envs, strict=strict, flat=flat)
        whole = self._keys()
        self.keys = _known_keys(keys, whole)
        self.observation_space = spaces.Dict({key: whole[key] for key in self.keys})

    def _keys(self) -> dict[str, spaces.Space[Any]]:
        """Return the spaces of all keys that there are."""
        space = self.batch.single_observation_space
        assert isinstance(space, spaces.Dict)
        return dict(space.spaces)

    def reset(self) -> Observation:
        """Start a fresh market with new users."""
        return self._pick(super().reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Show one slate to each user, and begin again where an episode ends.

        Raises:
            BadInput: as `WorldVecEnv.step_wait`.
        """
        found, reward, done, infos = super().step_wait()
        assert isinstance(found, dict)
        for row in done.nonzero()[0].tolist():
            infos[row]["terminal_observation"] = self._pick(infos[row]["terminal_observation"])
        return self._pick(found), reward, done, infos

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, or a space of this view, once for each row asked for."""
        if attr_name in ("observation_space", "action_space", *self._own()):
            return [getattr(self, attr_name) for _ in self._rows(indices)]
        return super().get_attr(attr_name, indices)

    def _own(self) -> tuple[str, ...]:
        """Return what else is asked of this view, and not of the batch."""
        return ()

    def _pick(self, found: Observation) -> Observation:
        return {key: found[key] for key in self.keys}

    def _state(self) -> State[Any]:
        state = self.batch._state
        if state is None:
            raise BadInput("the environment has not been reset: call reset() before step()")
        return state


class ScoresVecEnv(ViewVecEnv):
    """An action is a score for each column; the K best that may be shown are the slate, best on top.

    Ties go to the lower column. Only the order counts, so scores beyond the Box are taken as they are. Where
    fewer items may be shown than there are slots, the others stay empty and count as invalid.

    Args:
        world: the world.
        num_envs: B.
        keys: which keys an observation has; None is all.
        strict: refuse a slate with a slot that stays empty.

    Raises:
        BadInput: where there are more than 100,000 columns.
    """

    def __init__(
        self,
        world: SlateWorld[Any],
        num_envs: int = 1,
        *,
        keys: Sequence[str] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(world, num_envs, keys=keys, strict=strict)
        self.columns = columns_of(world)
        if self.columns > MOST_SCORES:
            raise BadInput(
                f'view "scores" wants a number for each of {self.columns:,} columns in every action: '
                f'take view "protos" above {MOST_SCORES:,}, or draw candidates'
            )
        self.action_space = spaces.Box(-1, 1, (self.columns,), np.float32)

    def step_async(self, actions: Any) -> None:
        """Take the scores of the next step.

        Raises:
            BadInput: before the first reset, for another shape, and for what is not finite.
        """
        scores = _numbers(actions, (self.num_envs, self.columns), "scores", self.batch.world.device)
        may = _may_be_shown(self._state())
        super().step_async(top(scores if may is None else scores.masked_fill(~may, -torch.inf), _k(self)))


class ProtosVecEnv(ViewVecEnv):
    """An action is a wish in the space of the items' vectors: for each slot, or one for the slate.

    From the top slot down, each slot shows the item with the largest inner product with its wish among those
    that may be shown and do not stand higher up. One wish for the slate shows the K largest. The search is
    exact, over the whole catalogue or the row's candidates, in blocks of users.

    Source: Dulac-Arnold et al. (2015), "Deep reinforcement learning in large discrete action spaces".
    Differs: inner products, as rankers score, for Euclidean distances; no critic looks at the neighbours.

    Args:
        world: the world.
        num_envs: B.
        single: one vector for the whole slate.
        vectors: of the items; None is what the catalogue knows of them: its features, or its vectors.
        keys: which keys an observation has; None is all.
        strict: refuse a slate with a slot that stays empty.

    Raises:
        BadInput: for vectors of another number of items or with what is not finite, and where none are known.
    """

    def __init__(
        self,
        world: SlateWorld[Any],
        num_envs: int = 1,
        *,
        single: bool = False,
        vectors: Tensor | None = None,
        keys: Sequence[str] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(world, num_envs, keys=keys, strict=strict)
        self.vectors = _vectors(world, vectors)
        width = self.vectors.shape[1]
        self.action_space = spaces.Box(-1, 1, (width,) if single else (world.slots, width), np.float32)

    def step_async(self, actions: Any) -> None:
        """Take the vectors of the next step.

        Raises:
            BadInput: before the first reset, for another shape, and for what is not finite.
        """
        assert self.action_space.shape is not None
        shape = (self.num_envs, *self.action_space.shape)
        wish = _numbers(actions, shape, "vectors", self.vectors.device)
        state = self._state()
        few, may = state.candidates, _may_be_shown(state)
        count = columns_of(self.batch.world)
        block = max(1, ROOM // (count if few is None else count * self.vectors.shape[1]))
        found = []
        for first in range(0, len(wish), block):
            rows = slice(first, first + block)
            some = wish[rows], None if few is None else few[rows], None if may is None else may[rows]
            found.append(self._nearest(*some))
        super().step_async(torch.cat(found))

    def _nearest(
        self,
        wish: Float[Tensor, "user *slot width"],
        few: Int[Tensor, "user cand"] | None,
        may: Bool[Tensor, "user cand"] | None,
    ) -> Int[Tensor, "user slot"]:
        near = None if few is None else self.vectors[few]

        def scores(one: Float[Tensor, "user width"]) -> Float[Tensor, "user cand"]:
            inner = one @ self.vectors.T if near is None else (near @ one.unsqueeze(2)).squeeze(2)
            return inner if may is None else inner.masked_fill(~may, -torch.inf)

        if wish.dim() == 2:
            return top(scores(wish), _k(self))
        columns = torch.empty(wish.shape[:2], dtype=torch.long, device=wish.device)
        for slot in range(wish.shape[1]):
            left = scores(wish[:, slot]).scatter_(1, columns[:, :slot], -torch.inf)
            columns[:, slot] = left.argmax(1)
        return columns


class SlotsVecEnv(ViewVecEnv):
    """The slate is filled slot by slot, top first: an action is one column, and K sub-steps are one slate.

    The slate is shown after its last slot: reward and ends come then, and the other sub-steps earn 0. Steps,
    lengths and discounts are those of sub-steps: take gamma ** (1 / K) for a discount of gamma a slate.

    `action_masks()` says what may stand in the slot: what is there now and does not stand higher up.
    sb3-contrib's `MaskablePPO` asks for it by itself. Without masks, a column that may not be chosen leaves
    its slot empty and counts as invalid. A row in which nothing is left has no column that may be chosen.

    An observation has four keys more, `keys` may leave them out:

    | key | shape | what |
    |---|---|---|
    | slate | slot | item ids so far, -1 where a slot is empty |
    | slate_features | slot, feat | the catalogue's features of these items, 0 where a slot is empty |
    | slot | slot | 1 at the slot that is filled next |
    | mask | cand | 1 where the column may be chosen |

    Args:
        world: the world.
        num_envs: B.
        keys: which keys an observation has; None is all.
        strict: refuse a column that may not be chosen.

    Attributes:
        click: the clicks of the last slate [user slot].
        invalid: how many slots of each row's last slate were invalid [user].
    """

    def __init__(
        self,
        world: SlateWorld[Any],
        num_envs: int = 1,
        *,
        keys: Sequence[str] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(world, num_envs, keys=keys, strict=strict)
        self.columns = columns_of(world)
        self.action_space = spaces.Discrete(self.columns)
        self._features = world.catalog.features.cpu().numpy().astype(np.float32)
        self._slot = 0
        self._seen: Observation = {}
        self._free: Any = None
        self._chosen: Any = None
        self._items: Any = None

    def _keys(self) -> dict[str, spaces.Space[Any]]:
        world = self.batch.world
        slots, known = world.slots, world.catalog.features.cpu().numpy().astype(np.float32)
        more: dict[str, spaces.Space[Any]] = {
            "slate": spaces.Box(PAD, max(world.catalog.n_items - 1, 1), (slots,), np.int64),
            "slot": spaces.Box(0, 1, (slots,), np.float32),
            "mask": spaces.Box(0, 1, (columns_of(world),), np.int8),
        }
        if known.shape[1]:
            low, high = np.minimum(known.min(0), 0), np.maximum(known.max(0), 0)
            high = np.where(high > low, high, low + 1)
            shape = slots, known.shape[1]
            ends = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
            more["slate_features"] = spaces.Box(*ends, dtype=np.float32)
        return super()._keys() | more

    def _own(self) -> tuple[str, ...]:
        return ("action_masks",)

    def action_masks(self) -> Any:
        """Return what may stand in the next slot of each row, as an array [user cand].

        Raises:
            BadInput: before the first reset.
        """
        self._state()
        return self._free.copy()

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; `action_masks` is each row's own."""
        if method_name == "action_masks":
            masks = self.action_masks(*method_args, **method_kwargs)
            return [masks[row] for row in self._rows(indices)]
        return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def reset(self) -> Observation:
        """Start a fresh market with new users and empty slates."""
        self._begin(WorldVecEnv.reset(self))
        return self._see()

    def step_wait(self) -> VecEnvStepReturn:
        """Fill one slot of each row; show the slates after the last one.

        Raises:
            BadInput: without actions, before the first reset, for another shape or type, for a column that is
                not there, and, if strict, for one that may not be chosen.
        """
        if self._actions is None:
            raise BadInput("there are no actions: call step_async(actions) before step_wait()")
        actions, self._actions = self._actions, None
        self._fill(actions)
        if self._slot < _k(self):
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            nothing = np.zeros(self.num_envs, dtype=np.float32)
            return self._see(), nothing, np.zeros(self.num_envs, dtype=bool), infos
        self._actions = self._chosen
        found, reward, done, infos = WorldVecEnv.step_wait(self)
        self._begin(found)
        for row in done.nonzero()[0].tolist():
            last = infos[row]["terminal_observation"]
            empty = {key: value[row].copy() for key, value in self._slate().items()}
            empty["mask"] = last.get("mask", np.ones(self.columns, dtype=np.int8))
            infos[row]["terminal_observation"] = self._pick(last | empty)
            infos[row]["episode"]["l"] *= _k(self)
        return self._see(), reward, done, infos

    def _fill(self, actions: Any) -> None:
        """Put a column into the next slot of each row."""
        state = self._state()
        column = read_columns(actions, (self.num_envs,), self.batch.world).cpu().numpy()
        rows, slot = np.arange(self.num_envs), self._slot
        outside = (column < 0) | (column >= self.columns)
        if outside.any():
            row = int(outside.argmax())
            raise BadInput(f"row {row}: column {column[row]} is outside 0..{self.columns - 1}")
        free = self._free[rows, column]
        if self.batch.strict and not free.all():
            row = int(free.argmin())
            raise BadInput(f"row {row}, slot {slot}: column {column[row]} may not be chosen: it is masked")
        few = state.candidates
        item = column if few is None else few.cpu().numpy()[rows, column]
        self._free[rows, column] = False
        self._chosen[:, slot] = column
        self._items[:, slot] = np.where(free, item, PAD)
        self._slot = slot + 1

    def _begin(self, found: Any) -> None:
        """Start empty slates under what is seen now."""
        self._seen, self._slot = found, 0
        may = _may_be_shown(self._state())
        shape = self.num_envs, self.columns
        self._free = np.ones(shape, dtype=bool) if may is None else may.expand(shape).cpu().numpy().copy()
        self._chosen = np.zeros((self.num_envs, _k(self)), dtype=np.int64)
        self._items = np.full((self.num_envs, _k(self)), PAD, dtype=np.int64)

    def _slate(self) -> Observation:
        """Return what stands in the slates so far."""
        slot = np.zeros((self.num_envs, _k(self)), dtype=np.float32)
        slot[:, self._slot] = 1
        found = {"slate": self._items.copy(), "slot": slot, "mask": self._free.astype(np.int8)}
        if "slate_features" in self.keys:
            found["slate_features"] = np.where(
                (self._items >= 0)[..., None], self._features[self._items], np.float32(0)
            )
        return found

    def _see(self) -> Observation:
        """Return what is seen, in arrays of the caller's own."""
        now = self._slate()
        return {key: now[key] if key in now else _copied(self._seen[key]) for key in self.keys}


def make_view(
    world: SlateWorld[Any],
    num_envs: int = 1,
    *,
    view: str = "slate",
    keys: Sequence[str] | None = None,
    vectors: Tensor | None = None,
    strict: bool = False,
    flat: bool = False,
) -> WorldVecEnv:
    """Return a batch of users whose actions are seen in this view; see `envs.sb3.make_sb3`.

    Raises:
        BadInput: for an unknown view, with the nearest one, for `flat` and `vectors` with a view that does
            not take them, and as the views.
    """
    if view not in VIEWS:
        raise BadInput(f"there is no view {view!r} of an action{nearest(str(view), list(VIEWS))}")
    if flat and view != "slate":
        raise BadInput(f'flat is for view "slate", not for view "{view}"')
    if vectors is not None and view not in ("protos", "proto"):
        raise BadInput(f'vectors are for the views "protos" and "proto", not for view "{view}"')
    if view == "scores":
        return ScoresVecEnv(world, num_envs, keys=keys, strict=strict)
    if view == "slots":
        return SlotsVecEnv(world, num_envs, keys=keys, strict=strict)
    if view in ("protos", "proto"):
        single = view == "proto"
        return ProtosVecEnv(world, num_envs, single=single, vectors=vectors, keys=keys, strict=strict)
    if keys is not None:
        return ViewVecEnv(world, num_envs, keys=keys, strict=strict, flat=flat)
    return WorldVecEnv(world, num_envs, strict=strict, flat=flat)


def _k(env: WorldVecEnv) -> int:
    return int(env.batch.world.slots)


def _known_keys(keys: Sequence[str] | None, whole: dict[str, Any]) -> tuple[str, ...]:
    if keys is None:
        return tuple(whole)
    if isinstance(keys, str) or not len(keys):
        raise BadInput(f"keys are {keys!r}, but they are a list of one or more of {', '.join(whole)}")
    for key in keys:
        if key not in whole:
            raise BadInput(f"there is no key {key!r} of an observation{nearest(str(key), list(whole))}")
    return tuple(key for key in whole if key in keys)


def _may_be_shown(state: State[Any]) -> Bool[Tensor, "user cand"] | None:
    """Return which columns may be shown now; None is all."""
    here, few = state.market.available, state.candidates
    if here is None:
        return None
    return here.expand(len(state.user), -1) if few is None else here[few]


def _vectors(world: SlateWorld[Any], vectors: ArrayLike | Tensor | None) -> Float[Tensor, "item width"]:
    known = world.catalog
    if vectors is None:
        vectors = known.features if known.features.shape[1] else known.vectors
    if vectors is None:
        raise BadInput(f"nothing is known of the items of {world.name}: give vectors=, a row for each item")
    found = torch.as_tensor(vectors).to(world.device, torch.float32)
    if found.dim() != 2 or len(found) != known.n_items or not found.shape[1]:
        raise BadInput(f"vectors have shape {tuple(found.shape)}, but {known.n_items} items have a row each")
    if not bool(found.isfinite().all()):
        item = int((~found.isfinite()).any(1).nonzero()[0])
        raise BadInput(f"vectors, row {item}: what is not finite is no vector of an item")
    return found


def _numbers(action: Any, shape: tuple[int, ...], what: str, device: torch.device) -> Float[Tensor, "*shape"]:
    """Return an action as finite numbers of this shape."""
    if not isinstance(action, Tensor):
        try:
            action = np.asarray(action)
        except ValueError:
            raise BadInput("an action is ragged: its rows do not have the same length") from None
        if action.dtype.kind not in "iuf":
            raise BadInput(f"an action is of type {action.dtype.name}, but it holds numbers: {what}")
        action = torch.from_numpy(np.array(action, copy=True))
    if tuple(action.shape) != shape:
        raise BadInput(f"an action has shape {tuple(action.shape)}, but it is {what} of shape {shape}")
    found: Tensor = action.to(device, torch.float32)
    if not bool(found.isfinite().all()):
        row, *place = (int(i) for i in (~found.isfinite()).nonzero()[0])
        value = float(found[(row, *place)])
        raise BadInput(f"row {row} of an action: {what} hold {value} at {place}, but they are finite numbers")
    return found


def _copied(value: Any) -> Any:
    """Return a copy; what is broadcast stays one row."""
    if value.strides[0]:
        return value.copy()
    one = value[0].copy()
    return np.lib.stride_tricks.as_strided(one, value.shape, (0, *one.strides))
