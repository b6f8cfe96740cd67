"""An environment that does what a script says: every reward, click and end is known before."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

Array = NDArray[Any]


class Scripted(VecEnv):
    """B rows; what is seen is (row, user of the row, step of the episode, step of all).

    Args:
        ends: "." goes on, "T" terminates, "L" is the time limit; one word a row, repeated for ever.
        reward: of a step of all; one number a row.
        items: in the catalogue.
        slots: K; 0 is one slot as `Discrete`.
        click: of a step of all: the clicks; none if not given.
        mask: of a step of all: 1 where a candidate may be shown; everything if not given.
        change: changes what is seen just before it is given away.
    """

    def __init__(
        self,
        *ends: str,
        reward: Callable[[int], Any] = lambda t: 1.0,
        items: int = 5,
        slots: int = 2,
        click: Callable[[int], Any] | None = None,
        mask: Callable[[int], Any] | None = None,
        change: Callable[[int, dict[str, Array]], None] = lambda t, seen: None,
    ) -> None:
        self.ends, self.reward, self.click, self.mask, self.change = ends, reward, click, mask, change
        self.wide, self.t = max(slots, 1), 0
        seen: dict[str, spaces.Space[Any]] = {
            "features": spaces.Box(-1e6, 1e6, (4,), np.float32),
            "history": spaces.Box(-1, items - 1, (self.wide,), np.int64),
            "feedback": spaces.Box(0, 1, (self.wide,), np.float32),
        }
        if mask is not None:
            seen["mask"] = spaces.Box(0, 1, (items,), np.int8)
        acts: spaces.Space[Any] = spaces.MultiDiscrete([items] * slots) if slots else spaces.Discrete(items)
        super().__init__(len(ends), spaces.Dict(seen), acts)
        self.shown: list[Array] = []
        self._begin()

    def _begin(self) -> None:
        n = self.num_envs
        self.user, self.age = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        self.history, self.feedback = np.full((n, self.wide), -1), np.zeros((n, self.wide), dtype=np.float32)

    def _see(self) -> dict[str, Array]:
        row = np.arange(self.num_envs)
        features = np.stack([row, self.user, self.age, np.full_like(row, self.t)], 1).astype(np.float32)
        seen = {"features": features, "history": self.history.copy(), "feedback": self.feedback.copy()}
        if self.mask is not None:
            seen["mask"] = np.broadcast_to(self.mask(self.t), (self.num_envs, len(self.mask(self.t)))).astype(
                np.int8
            )
        self.change(self.t, seen)
        return seen

    def reset(self) -> Any:
        self._begin()
        self.t = 0
        return self._see()

    def step_async(self, actions: Any) -> None:
        self.shown.append(np.asarray(actions).reshape(self.num_envs, -1))

    def step_wait(self) -> Any:
        n, t = self.num_envs, self.t
        marks = [word[t % len(word)] for word in self.ends]
        reward = np.broadcast_to(np.asarray(self.reward(t), dtype=np.float32), (n,)).copy()
        self.history = self.shown[-1].copy()
        if self.click is not None:
            self.feedback = np.broadcast_to(np.asarray(self.click(t), np.float32), (n, self.wide)).copy()
        self.t, self.age = t + 1, self.age + 1
        last, infos = self._see(), [dict[str, Any]() for _ in range(n)]
        done = np.array([mark != "." for mark in marks])
        for row in done.nonzero()[0]:
            infos[row]["terminal_observation"] = {k: v[row].copy() for k, v in last.items()}
            infos[row]["TimeLimit.truncated"] = marks[row] == "L"
        self.user = self.user + done
        self.age[done] = 0
        self.history[done] = -1
        self.feedback[done] = 0
        return self._see(), reward, done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
