"""The face of a world for those who come from RecSim: its loop, its observations, its slates."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.registry import make_world
from envs.spaces import action_space, observation_space, read_columns, seen, whole_number
from envs.world import SlateWorld, State
from simlab.errors import BadInput
from simlab.seeds import Seed

Observation = dict[str, Any]


class RecSimStyle:
    """One user of a world behind the interface of RecSim's `RecSimGymEnv` (Ie et al. 2019, arXiv:1909.04847).

    `reset()` gives an observation, `step(slate)` gives observation, reward, done and info. An observation has
    `user` (the user's features), `doc` (an `OrderedDict` from document id, a string, to the features of the
    items that may be shown now) and `response` (a tuple with `{"click": 0 or 1}` for each slot; None before
    the first step). A slate holds places in `doc`; it may be shorter than K. The arrays are not for writing.

    It differs from RecSim in three ways: a seed fixes a run; `done` also tells a time limit, and
    `info["truncated"]` says which; repeats, places that do not exist and steps after the end are refused.

    Args:
        world: the world.
        seed: of the users and their luck.
    """

    game_over = False

    def __init__(self, world: SlateWorld[Any], seed: int = 0) -> None:
        self.world = world
        self.action_space = action_space(world)
        self._features = world.catalog.features.cpu().numpy().astype(np.float32)
        self._features.setflags(write=False)
        self._state: State[Any] | None = None
        self._here = np.arange(world.catalog.n_items)
        self.seed(seed)

    @property
    def observation_space(self) -> spaces.Dict:
        """The space of an observation with all C documents, whose ids change from step to step."""
        whole = observation_space(self.world)
        low, high = self._features.min(0), self._features.max(0)
        document = spaces.Box(low, np.where(high > low, high, low + 1), dtype=np.float32)
        columns = int(self.world.spec.candidates) or self.world.catalog.n_items
        return spaces.Dict(
            user=whole["features"],
            doc=spaces.Dict({str(place): document for place in range(columns)}),
            response=spaces.Tuple([spaces.Dict(click=spaces.Discrete(2))] * self.world.slots),
        )

    def seed(self, seed: int) -> None:
        """Begin again with the first user of this seed, at the next reset.

        Raises:
            BadInput: for a seed that is no whole number from 0.
        """
        self._seed = Seed(whole_number("seed", seed, 0))
        self.reset_sampler()

    def reset_sampler(self) -> None:
        """Begin again with the first user, at the next reset."""
        self._next_user = 0
        self._state = None

    def reset(self) -> Observation:
        """Start a new user."""
        with torch.inference_mode():
            self._state = self.world.reset(1, self._seed, self._next_user)
            self._next_user += 1
            return self._see(None)

    def step(self, slate: Any) -> tuple[Observation, float, bool, dict[str, Any]]:
        """Show one slate.

        Args:
            slate: places in `doc`, top first, at most K.

        Raises:
            BadInput: before a reset, after the end of an episode, and for a slate that is too long, holds
                what are no whole numbers, a place that does not exist, or a place twice.
        """
        if self._state is None:
            raise BadInput("there is no user: call reset() before step()")
        with torch.inference_mode():
            shown = self._slate(slate)
            self._state, response = self.world.step(self._state, shown.unsqueeze(0), self._seed)
            clicks = response.click[0, : len(slate)].int().tolist()
            seen_now = self._see(tuple({"click": click} for click in clicks))
            truncated = bool(response.truncated)
            done = truncated or bool(response.terminated)
            if done:
                self._state = None
            return seen_now, float(response.reward), done, {"truncated": truncated}

    def _slate(self, slate: Any) -> Tensor:
        """Return item ids, with empty slots where the slate is short."""
        world, shown = self.world, torch.full((self.world.slots,), self.world.blank, device=self.world.device)
        if np.ndim(slate) != 1:
            raise BadInput(f"a slate is a list of places in doc, such as [4, 1], not {slate!r}")
        if len(slate) > world.slots:
            raise BadInput(f"a slate has {len(slate)} places, but at most {world.slots}")
        if not len(slate):
            return shown
        places = read_columns(slate, (len(slate),), world)
        for slot, place in enumerate(places.tolist()):
            if not 0 <= place < len(self._here):
                raise BadInput(f"slot {slot}: place {place} is outside 0..{len(self._here) - 1}")
            if place in places[:slot]:
                raise BadInput(f"slot {slot}: place {place} stands higher up already")
        shown[: len(slate)] = torch.as_tensor(self._here[places.cpu().numpy()], device=world.device)
        return shown

    def _see(self, response: tuple[dict[str, int], ...] | None) -> Observation:
        assert self._state is not None
        found = {name: value[0].cpu().numpy() for name, value in seen(self.world, self._state).items()}
        here = found.get("candidates", np.arange(self.world.catalog.n_items))
        self._here = here[found["mask"] == 1] if "mask" in found else here
        documents = OrderedDict((str(item), self._features[item]) for item in self._here.tolist())
        return {"user": found["features"].copy(), "doc": documents, "response": response}

    # What RecSim's runner also calls; what happened is measured elsewhere here -----------------------

    def reset_metrics(self) -> None:
        """Do nothing."""

    def update_metrics(self, responses: Any, info: Any = None) -> None:
        """Do nothing."""

    def write_metrics(self, add_summary_fn: Any) -> None:
        """Do nothing."""


def make_recsim_style(name: str, seed: int = 0, device: str = "cpu", **settings: Any) -> RecSimStyle:
    """Return one user of the world with this id, behind RecSim's interface.

    >>> env = make_recsim_style("simlab/Feed-v0", items=20, slots=2)
    >>> first = env.reset()
    >>> observation, reward, done, info = env.step([4, 1])
    >>> len(observation["doc"]), len(observation["response"])
    (20, 2)
    """
    return RecSimStyle(make_world(name, device, **settings), seed)
