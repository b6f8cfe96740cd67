"""The faces of a world: `gymnasium.Env` for one user, `gymnasium.vector.VectorEnv` for a batch."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.registry import make_world
from envs.spaces import (
    action_space,
    fill_slates,
    first_user,
    observation_space,
    read_columns,
    seen,
    whole_number,
    yes_or_no,
)
from envs.world import SlateWorld, State
from simlab.errors import BadInput
from simlab.seeds import Seed

Observation = dict[str, Any]


class WorldEnv(gym.Env[Observation, Any]):
    """One user of a world as a `gymnasium.Env`. The page of the world says what it does.

    Observation: see `envs.spaces.observation_space`. Action: `MultiDiscrete([C] * slots)`, a column of the
    candidates for each slot, top first; without drawn candidates a column is an item id. Reward: the world's.
    `info["click"]` has the clicks per slot, `info["invalid"]` how many slots were invalid; `reset` gives
    `info["user"]`, the user's id.

    `reset(seed=s)` starts the first user of seed s; `reset()` goes on to the next user;
    `reset(options={"user": i})` starts user i. A user always begins in a fresh market.

    A slot is invalid that repeats an item from above, or shows one that is masked. By default it stays empty
    and is counted, because the action space has room for such slates: `action_space.sample()` draws them, and
    so does a learner such as PPO, whose run would end at its first step if they were refused.

    Args:
        world: the world.
        strict: refuse a slate with an invalid slot.
        flat: for slates of one item: the action is one column, `Discrete(C)`.

    Attributes:
        invalid_actions: invalid slots since the environment was made.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: SlateWorld[Any], *, strict: bool = False, flat: bool = False) -> None:
        yes_or_no(strict=strict, flat=flat)
        self.world = world
        self.strict = strict
        self.invalid_actions = 0
        self._seed: Seed | None = None
        self._next_user = 0
        self._state: State[Any] | None = None
        self._over = False
        self._shape = () if flat else (world.slots,)
        self.observation_space = observation_space(world)
        self.action_space = action_space(world, flat=flat)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new user.

        Raises:
            BadInput: for an unknown option, and for a user that is no whole number from 0.
        """
        user = first_user(options)
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            self._seed = Seed(int(self.np_random.integers(1 << 62)))
            self._next_user = 0
        user = self._next_user if user is None else user
        self._next_user = user + 1
        self._over = False
        with torch.inference_mode():
            self._state = self.world.reset(1, self._seed, user)
            return self._see(), {"user": user}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show one slate.

        Raises:
            BadInput: before the first reset, after the end of an episode, for an action of another shape or
                type or outside its space, and, if strict, for repeated and masked items.
        """
        if self._state is None or self._seed is None:
            raise BadInput("the environment has not been reset: call reset() before step()")
        if self._over:
            raise BadInput("the episode is over: call reset() before the next step()")
        with torch.inference_mode():  # nothing here is differentiated, and small operations cost a fifth less
            columns = read_columns(action, self._shape, self.world).view(1, -1)
            slate, invalid = fill_slates(columns, self._state, self.world, strict=self.strict)
            self._state, response = self.world.step(self._state, slate, self._seed)
            count = int(invalid)
            self.invalid_actions += count
            info = {"click": response.click[0].cpu().numpy().copy(), "invalid": count}
            ends = bool(response.terminated), bool(response.truncated)
            self._over = ends[0] or ends[1]
            return self._see(), float(response.reward), *ends, info

    def _see(self) -> Observation:
        assert self._state is not None
        return {k: v[0].cpu().numpy().copy() for k, v in seen(self.world, self._state).items()}


class WorldVectorEnv(VectorEnv[Observation, Any, Any]):
    """A batch of users who share one market, as a native `gymnasium.vector.VectorEnv`.

    Observations, actions, `strict` and `flat` are those of `WorldEnv`, with a leading user axis;
    `info["invalid"]` counts each row's invalid slots.

    Autoreset is SAME_STEP: the step that ends an episode returns the first observation of the row's next
    user, and `info["final_obs"]` (with the mask `info["_final_obs"]`) has the last one of the user who left:
    one dict a row, or, with `tensors`, one dict of whole batches.
    The next user of row i has the id i + num_envs, i + 2 num_envs, …. The market is never reset by a step.

    Args:
        world: the world.
        num_envs: B.
        tensors: give and take torch tensors on the world's device, without any copy: do not write into them.
        strict: refuse a slate with a repeated or masked item; otherwise its slot stays empty.
        flat: for slates of one item: an action is one column a row.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        world: SlateWorld[Any],
        num_envs: int = 1,
        *,
        tensors: bool = False,
        strict: bool = False,
        flat: bool = False,
    ) -> None:
        super().__init__()
        yes_or_no(tensors=tensors, strict=strict, flat=flat)
        self.world = world
        self.num_envs = num_envs = whole_number("num_envs", num_envs, 1)
        self.tensors = tensors
        self.strict = strict
        self.render_mode = None
        self._seed: Seed | None = None
        self._state: State[Any] | None = None
        self._invalid = torch.zeros((), dtype=torch.long, device=world.device)
        self._shape = (num_envs,) if flat else (num_envs, world.slots)
        self.single_observation_space = observation_space(world)
        self.single_action_space = action_space(world, flat=flat)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def invalid_actions(self) -> int:
        """Invalid slots of all rows since the environment was made."""
        return int(self._invalid)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a fresh market with new users.

        One seed is enough for the whole batch, because every row's luck is keyed by its user. A list of
        seeds is taken as one seed: its hash. `options={"user": i}` gives the first row user i, the next one
        user i + 1, ….

        Raises:
            BadInput: for an unknown option, a user that is no whole number from 0, and a list of seeds of
                another length than the batch.
        """
        first = first_user(options)
        one = self._one_seed(seed)
        super().reset(seed=one)
        if one is not None or self._seed is None:
            self._seed = Seed(int(self.np_random.integers(1 << 62)))
        else:
            self._seed = self._seed.split("next market")
        with self._mode():
            self._state = self.world.reset(self.num_envs, self._seed, first or 0)
            return self._see(self._state), {}

    def _one_seed(self, seed: int | list[int | None] | None) -> int | None:
        if seed is None or isinstance(seed, int | np.integer):
            return None if seed is None else int(seed)
        if not isinstance(seed, list | tuple):
            raise BadInput(f"seed is {seed!r}, but it is None, a whole number, or a list of one for each row")
        if len(seed) != self.num_envs:
            raise BadInput(f"seed has {len(seed)} entries, but there are {self.num_envs} rows")
        known = [None if s is None else whole_number(f"seed of row {i}", s, 0) for i, s in enumerate(seed)]
        return None if all(s is None for s in known) else Seed(0).split(str(known)).value >> 32

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Show one slate to each user; rows that end begin again with a new user.

        Raises:
            BadInput: before the first reset, for an action of another shape or type or outside its space,
                and, if strict, for repeated and masked items.
        """
        if self._state is None or self._seed is None:
            raise BadInput("the environment has not been reset: call reset() before step()")
        with self._mode():
            columns = read_columns(actions, self._shape, self.world).view(self.num_envs, -1)
            slate, invalid = fill_slates(columns, self._state, self.world, strict=self.strict)
            after, response = self.world.step(self._state, slate, self._seed)
            self._invalid = self._invalid + invalid.sum()
            done = response.terminated | response.truncated
            info: dict[str, Any] = {"click": self._give(response.click), "invalid": self._give(invalid)}
            if bool(done.any()):
                info["_final_obs"] = self._give(done)
                info["final_obs"] = self._see(after) if self.tensors else self._last(after, done)
                after = self.world.renew(after, done, self.num_envs, self._seed)
            self._state = after
            reward = response.reward if self.tensors else response.reward.double()
            outcome = self._give(reward), self._give(response.terminated), self._give(response.truncated)
            return self._see(after), *outcome, info

    def _mode(self) -> AbstractContextManager[Any]:
        """Return the mode of torch to work in: tensors that are handed out may be learned from."""
        return nullcontext() if self.tensors else torch.inference_mode()

    def _last(self, state: State[Any], done: Tensor) -> Any:
        """Return the last observations of finished rows, one object a row, as Gymnasium's wrappers want."""
        rows = done.nonzero().squeeze(1)
        found = {k: v.cpu().numpy() for k, v in seen(self.world, self.world.rows(state, rows)).items()}
        last = np.full(self.num_envs, None, dtype=object)
        for i, row in enumerate(rows.tolist()):
            last[row] = {name: value[i].copy() for name, value in found.items()}
        return last

    def _give(self, value: Tensor) -> Any:
        """Hand out a value; an array is the caller's own."""
        return value if self.tensors else value.cpu().numpy().copy()

    def _see(self, state: State[Any]) -> Observation:
        """Return what is seen. What all rows share is one array, broadcast, which cannot be written to."""
        found = seen(self.world, state)
        if self.tensors:
            return found
        given = {}
        for name, value in found.items():
            if value.stride(0) == 0:
                given[name] = np.broadcast_to(self._give(value[0]), tuple(value.shape))
            else:
                given[name] = self._give(value) if name in ("features", "candidates") else value.cpu().numpy()
        return given


def make_env(
    world_id: str,
    device: str = "cpu",
    *,
    strict: bool = False,
    flat: bool = False,
    render_mode: str | None = None,
    **settings: Any,
) -> WorldEnv:
    """Return one user of the world with this id; `gymnasium.make` calls it.

    Raises:
        BadInput: for a render mode, since there are none, and for settings that the world does not have.
    """
    _no_picture(render_mode)
    return WorldEnv(make_world(world_id, device, **settings), strict=strict, flat=flat)


def make_vector(
    world_id: str,
    num_envs: int = 1,
    *,
    tensors: bool = False,
    strict: bool = False,
    flat: bool = False,
    device: str = "cpu",
    render_mode: str | None = None,
    **settings: Any,
) -> WorldVectorEnv:
    """Return a batch of users of the world with this id; `gymnasium.make_vec` calls it.

    Raises:
        BadInput: as `make_env`.
    """
    _no_picture(render_mode)
    world = make_world(world_id, device, **settings)
    return WorldVectorEnv(world, num_envs, tensors=tensors, strict=strict, flat=flat)


def _no_picture(render_mode: str | None) -> None:
    if render_mode is not None:
        raise BadInput(f"render_mode is {render_mode!r}, but a world draws no pictures: leave it out")
