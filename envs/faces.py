"""The faces of a world: `gymnasium.Env` for one user, `gymnasium.vector.VectorEnv` for a batch."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Int
from torch import Tensor

from envs.contract import Response
from envs.registry import make_world
from envs.world import SlateWorld, State
from simlab.context import PAD, Context
from simlab.errors import BadInput
from simlab.seeds import Seed

Observation = dict[str, Any]


def observation_space(world: SlateWorld[Any]) -> spaces.Dict:
    """Return the space of one user's observation.

    `features` [feat], `history` [past] (item ids, newest last, -1 pads), `feedback` [past] and `popularity`
    [item]. Ids are a Box, because wrappers turn MultiDiscrete observations into one-hot vectors.
    """
    items, past = world.catalog.n_items, world.remember * world.slots
    width, bound = world.observe(world.reset(1, Seed(0))).features.shape[1], world.feature_bound
    return spaces.Dict(
        features=spaces.Box(-bound, bound, (width,), np.float32),
        history=spaces.Box(PAD, items - 1, (past,), np.int64),
        feedback=spaces.Box(0, 1, (past,), np.float32),
        popularity=spaces.Box(0, items + 1, (items,), np.float32),
    )


def without_repeats(slate: Int[Tensor, "user slot"], blank: int) -> Int[Tensor, "user slot"]:
    """Leave a slot empty whose item already stands higher up: an item can be clicked once."""
    same = slate.unsqueeze(2) == slate.unsqueeze(1)
    return slate.masked_fill(same.tril(-1).any(2), blank)


def _observation(context: Context) -> dict[str, Tensor]:
    assert context.popularity is not None
    return {
        "features": context.features,
        "history": context.history,
        "feedback": context.feedback,
        "popularity": context.popularity,
    }


class WorldEnv(gym.Env[Observation, Any]):
    """One user of a world as a `gymnasium.Env`. The page of the world says what it does.

    Observation: see `observation_space`. Action: `MultiDiscrete([items] * slots)`, top first; a slot that
    repeats an item from above stays empty. Reward: clicks. `info["click"]` has them per slot.
    `reset(seed=s)` starts the first user of seed s; `reset()` goes on to the next user.

    Args:
        world: the world.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: SlateWorld[Any]) -> None:
        self.world = world
        self._seed: Seed | None = None
        self._next_user = 0
        self._state: State[Any] | None = None
        self.observation_space = observation_space(world)
        self.action_space = spaces.MultiDiscrete([world.catalog.n_items] * world.slots)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a new user."""
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            self._seed = Seed(int(self.np_random.integers(1 << 62)))
            self._next_user = 0
        self._state = self.world.reset(1, self._seed, self._next_user)
        self._next_user += 1
        return self._see(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show one slate.

        Raises:
            BadInput: before the first reset, and for item ids that do not exist.
        """
        if self._state is None or self._seed is None:
            raise BadInput("the environment has not been reset: call reset() before step()")
        slate = _slate(action, 1, self.world)
        self._state, response = self.world.step(self._state, slate, self._seed)
        info = {"click": response.click[0].cpu().numpy()}
        ends = bool(response.terminated[0]), bool(response.truncated[0])
        return self._see(), float(response.reward[0]), *ends, info

    def _see(self) -> Observation:
        assert self._state is not None
        seen = _observation(self.world.observe(self._state))
        return {name: value[0].cpu().numpy().copy() for name, value in seen.items()}


class WorldVectorEnv(VectorEnv[Observation, Any, Any]):
    """A batch of users who share one market, as a native `gymnasium.vector.VectorEnv`.

    Autoreset is SAME_STEP: the step that ends an episode returns the first observation of the row's next
    user, and `info["final_obs"]` (with the mask `info["_final_obs"]`) has the last one of the user who left:
    one dict a row, or, with `tensors`, one dict of whole batches.
    The next user of row i has the id i + num_envs, i + 2 num_envs, …. The market is never reset by a step.

    Args:
        world: the world.
        num_envs: B.
        tensors: give and take torch tensors on the world's device, without any copy.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, world: SlateWorld[Any], num_envs: int = 1, *, tensors: bool = False) -> None:
        super().__init__()
        self.world = world
        self.num_envs = num_envs
        self.tensors = tensors
        self.render_mode = None
        self._seed: Seed | None = None
        self._state: State[Any] | None = None
        self.single_observation_space = observation_space(world)
        self.single_action_space = spaces.MultiDiscrete([world.catalog.n_items] * world.slots)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a fresh market with new users.

        One seed is enough for the whole batch, because every row's luck is keyed by its user. A list of
        seeds is taken as one seed: its hash.
        """
        one = seed if seed is None or isinstance(seed, int) else Seed(0).split(str(list(seed))).value >> 32
        super().reset(seed=one)
        if one is not None or self._seed is None:
            self._seed = Seed(int(self.np_random.integers(1 << 62)))
        else:
            self._seed = self._seed.split("next market")
        self._state = self.world.reset(self.num_envs, self._seed)
        return self._see(self._state), {}

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Show one slate to each user; rows that end begin again with a new user.

        Raises:
            BadInput: before the first reset, and for item ids that do not exist.
        """
        if self._state is None or self._seed is None:
            raise BadInput("the environment has not been reset: call reset() before step()")
        slate = _slate(actions, self.num_envs, self.world)
        after, response = self.world.step(self._state, slate, self._seed)
        done = response.terminated | response.truncated
        info: dict[str, Any] = {"click": self._give(response.click)}
        if bool(done.any()):
            info["_final_obs"] = self._give(done)
            info["final_obs"] = self._see(after) if self.tensors else self._last(after, done)
            after = self.world.renew(after, done, self.num_envs, self._seed)
        self._state = after
        return self._see(after), *self._outcome(response), info

    def _outcome(self, response: Response) -> tuple[Any, Any, Any]:
        reward = response.reward if self.tensors else response.reward.double()
        return self._give(reward), self._give(response.terminated), self._give(response.truncated)

    def _last(self, state: State[Any], done: Tensor) -> Any:
        """Return the last observations of finished rows, one object a row, as Gymnasium's wrappers want."""
        rows = done.nonzero().squeeze(1)
        context = self.world.observe(self.world.rows(state, rows))
        seen = {k: v.cpu().numpy() for k, v in _observation(context).items()}
        last = np.full(self.num_envs, None, dtype=object)
        for i, row in enumerate(rows.tolist()):
            last[row] = {name: value[i] for name, value in seen.items()}
        return last

    def _give(self, value: Tensor) -> Any:
        return value if self.tensors else value.cpu().numpy()

    def _see(self, state: State[Any]) -> Observation:
        seen = _observation(self.world.observe(state))
        if self.tensors:
            return seen
        # The market's popularity is one row, broadcast: no copy per user.
        given = {k: v.cpu().numpy() for k, v in seen.items() if k != "popularity"}
        shared = state.popularity.cpu().numpy()
        return given | {"popularity": np.broadcast_to(shared, (self.num_envs, len(shared)))}


def _slate(action: Any, rows: int, world: SlateWorld[Any]) -> Int[Tensor, "user slot"]:
    """Turn an action into a slate of item ids without repeats."""
    slate = torch.as_tensor(action, device=world.device).long().reshape(rows, -1)
    if slate.shape[1] != world.slots:
        raise BadInput(f"an action has {slate.shape[1]} items, but the slate has {world.slots} slots")
    low, high = int(slate.min()), int(slate.max())
    if low < 0 or high >= world.catalog.n_items:
        wrong = low if low < 0 else high
        raise BadInput(f"an action holds item {wrong}, but items run from 0 to {world.catalog.n_items - 1}")
    return without_repeats(slate, world.blank)


def make_env(world_id: str, device: str = "cpu", **settings: Any) -> WorldEnv:
    """Return one user of the world with this id; `gymnasium.make` calls it."""
    return WorldEnv(make_world(world_id, device, **settings))


def make_vector(
    world_id: str, num_envs: int = 1, *, tensors: bool = False, device: str = "cpu", **settings: Any
) -> WorldVectorEnv:
    """Return a batch of users of the world with this id; `gymnasium.make_vec` calls it."""
    return WorldVectorEnv(make_world(world_id, device, **settings), num_envs, tensors=tensors)
