"""The face of a world for stable-baselines3: a native batch, without a wrapper for each user."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from envs.faces import Observation, WorldVectorEnv
from envs.registry import make_world
from envs.world import SlateWorld
from simlab.errors import BadInput


class WorldVecEnv(VecEnv):
    """A batch of users who share one market, as a `VecEnv` of stable-baselines3.

    Observations, actions, `strict` and `flat` are those of `envs.faces.WorldEnv`. It needs no wrapper:
    `PPO("MultiInputPolicy", make_sb3("simlab/Feed-v0", 64))`.

    A row whose episode ends begins again with a new user, and its info has `terminal_observation`,
    `TimeLimit.truncated`, and `episode` with return `r`, length `l` and seconds `t`. So neither `Monitor` nor
    `VecMonitor` is needed; `env_is_wrapped(Monitor)` says so to learners that ask. The info of every other
    row is an empty dict of its own: `click` and `invalid` have those of the whole batch.

    One array is broadcast where all rows see the same (the popularity of a whole catalogue): writing into one
    row of it writes into all. No later step looks at it.

    `seed(s)` holds from the next reset, and gives the same users as `reset(seed=s)` of the other faces; so do
    the options of `set_options`. Attributes and methods are those of the one batch, for every row alike.

    Args:
        world: the world.
        num_envs: B.
        strict: refuse a slate with a repeated or masked item; otherwise its slot stays empty.
        flat: for slates of one item: an action is one column a row, which DQN asks for.

    Attributes:
        batch: the vector face that this is a face of.
        click: the clicks of the last step [user slot].
        invalid: how many slots of each row were invalid at the last step [user].
    """

    def __init__(
        self, world: SlateWorld[Any], num_envs: int = 1, *, strict: bool = False, flat: bool = False
    ) -> None:
        self.batch = WorldVectorEnv(world, num_envs, strict=strict, flat=flat)
        super().__init__(num_envs, self.batch.single_observation_space, self.batch.single_action_space)
        self.click: Any = None
        self.invalid: Any = None
        self._actions: Any = None
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, dtype=np.int64)
        self._born = time.time()

    def reset(self) -> Observation:
        """Start a fresh market with new users.

        Raises:
            BadInput: where the options differ from row to row.
        """
        if any(options != self._options[0] for options in self._options):
            raise BadInput("the rows share one market, so they have the same options at a reset")
        found, _ = self.batch.reset(seed=self._seeds[0], options=self._options[0])
        self._reset_seeds()
        self._reset_options()
        self._return[:] = 0
        self._length[:] = 0
        return _writeable(found)

    def step_async(self, actions: Any) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Show one slate to each user, and begin again where an episode ends.

        Raises:
            BadInput: if no actions were given since the last step, and as `WorldVectorEnv.step`.
        """
        if self._actions is None:
            raise BadInput("there are no actions: call step_async(actions) before step_wait()")
        actions, self._actions = self._actions, None
        found, reward, terminated, truncated, about = self.batch.step(actions)
        self.click, self.invalid = about["click"], about["invalid"]
        self._return += reward
        self._length += 1
        # One dict a row costs 40 ns, a shared one would leak what a wrapper writes into it.
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = terminated | truncated
        seconds = round(time.time() - self._born, 6)
        for row in done.nonzero()[0].tolist():
            infos[row] = {
                "terminal_observation": about["final_obs"][row],
                "TimeLimit.truncated": bool(truncated[row]),
                "episode": {"r": float(self._return[row]), "l": int(self._length[row]), "t": seconds},
            }
        self._return[done] = 0
        self._length[done] = 0
        return _writeable(found), reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the batch."""
        self.batch.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, once for each row asked for."""
        value = getattr(self.batch, attr_name)
        return [value for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the batch.

        Raises:
            BadInput: for some rows only.
        """
        self._want_all(indices, f"the attribute {attr_name}")
        setattr(self.batch, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch once; every row gets its answer.

        Raises:
            BadInput: for some rows only, and for `reset` and `step`, which this class has itself.
        """
        self._want_all(indices, f"the method {method_name}")
        if method_name in ("reset", "step"):
            raise BadInput(f"the rows share one market: call {method_name} on the whole batch")
        answer = getattr(self.batch, method_name)(*method_args, **method_kwargs)
        return [answer for _ in range(self.num_envs)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Tell whether each row does what a wrapper would do: `Monitor`, whose `episode` infos are there."""
        return [issubclass(Monitor, wrapper_class) for _ in self._rows(indices)]

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        rows = list(self._get_indices(indices))
        for row in rows:
            if not -self.num_envs <= row < self.num_envs:
                raise BadInput(f"row {row} is not there: rows run from 0 to {self.num_envs - 1}")
        return rows

    def _want_all(self, indices: VecEnvIndices, what: str) -> None:
        if {row % self.num_envs for row in self._rows(indices)} != set(range(self.num_envs)):
            raise BadInput(f"{what} belongs to the whole batch, not to some of its rows: leave indices out")


def _writeable(found: Observation) -> Observation:
    """Return an observation that torch takes without a warning; what is broadcast stays one array."""
    given = {}
    for name, value in found.items():
        if not value.flags.writeable:
            one = np.ascontiguousarray(value[0]).copy()
            value = np.lib.stride_tricks.as_strided(one, value.shape, (0, *one.strides))
        given[name] = value
    return given


def make_sb3(
    name: str,
    num_envs: int = 1,
    *,
    view: str = "slate",
    keys: Sequence[str] | None = None,
    vectors: Tensor | None = None,
    strict: bool = False,
    flat: bool = False,
    device: str = "cpu",
    **settings: Any,
) -> WorldVecEnv:
    """Return a batch of users of the world with this id, for stable-baselines3.

    | view | an action of a row | the slate |
    |---|---|---|
    | slate | `MultiDiscrete([C] * K)`; `Discrete(C)` with `flat` | the columns, top first |
    | scores | `Box(C)` | the K best scores that may be shown |
    | protos | `Box(K, feat)` | slot by slot, the largest inner product with the items' vectors, no repeats |
    | proto | `Box(feat)` | the K largest inner products |
    | slots | `Discrete(C)`, K sub-steps a slate, with `action_masks()` | the columns, top first |

    >>> make_sb3("simlab/Feed-v0", 64, items=100, slots=3).action_space
    MultiDiscrete([100 100 100])
    >>> make_sb3("simlab/Feed-v0", 64, items=100, view="slots", keys=["features", "slot"]).action_space
    Discrete(100)

    Args:
        name: an id, or what else `envs.registry.find` takes.
        num_envs: B.
        view: what an action is.
        keys: which keys an observation has, to keep small networks small; None is all.
        vectors: of the items, for "protos" and "proto"; None is the catalogue's features.
        strict: refuse a slate with a repeated or masked item.
        flat: for slates of one item: an action is one column a row.
        device: where the world lives; arrays are on the CPU.
        settings: fields of the world's spec.

    Raises:
        BadInput: for an unknown view or key, with the nearest one, and for settings that do not fit the view.
    """
    from envs.sb3_views import make_view  # it builds on this file

    world = make_world(name, device, **settings)
    return make_view(world, num_envs, view=view, keys=keys, vectors=vectors, strict=strict, flat=flat)
