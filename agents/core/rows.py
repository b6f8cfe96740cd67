"""A batch of users, stepped on tensors: our own worlds without a copy, any other `VecEnv` through arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from envs.sb3 import WorldVecEnv
from envs.spaces import repeated
from envs.world import SlateWorld, State
from simlab.context import PAD, Context
from simlab.errors import BadInput
from simlab.seeds import Seed


@dataclass(frozen=True)
class Step:
    """What came of one slate for each user.

    Attributes:
        context: what is seen now; where an episode ended, of the row's next user.
        last: what was seen after the slate by the user who saw it; it differs from `context` only where an
            episode ended, and is the same object where none did.
        reward: what the step was worth.
        click: what was clicked; zeros where the environment does not say.
        terminated: the user is gone for good.
        truncated: the user's time was up.
    """

    context: Context
    last: Context
    reward: Float[Tensor, " user"]
    click: Float[Tensor, "user slot"]
    terminated: Bool[Tensor, " user"]
    truncated: Bool[Tensor, " user"]

    @property
    def done(self) -> Bool[Tensor, " user"]:
        """Whether the row begins again with a new user."""
        return self.terminated | self.truncated

    @property
    def earned(self) -> Float[Tensor, "user slot"]:
        """Return what each slot earned: its share of the clicks, times the reward; 0 without clicks."""
        total = self.click.sum(1, keepdim=True)
        return self.click * (self.reward.unsqueeze(1) / total.clamp(min=1))


@runtime_checkable
class Rows(Protocol):
    """A batch of users."""

    num_envs: int

    def reset(self) -> Context:
        """Start new users."""
        ...

    def step(self, columns: Int[Tensor, "user slot"]) -> Step:
        """Show each user a slate of columns of the candidates."""
        ...


class WorldRows:
    """A world, stepped without any copy.

    Args:
        world: the world.
        num_envs: users at a time.
        seed: of the users and their luck.
        past: how many items of history are asked for.

    Attributes:
        repeats: slates may show an item again, which leaves the lower slot empty, as in `envs.faces`. They
            are not looked for otherwise, to save the time.
    """

    repeats: bool = False

    def __init__(self, world: SlateWorld[Any], num_envs: int, seed: Seed, past: int) -> None:
        self.world, self.num_envs, self.seed, self.past = world, num_envs, seed, past
        self.state: State[Any] | None = None

    def reset(self) -> Context:
        """Start new users in a fresh market."""
        self.state = self.world.reset(self.num_envs, self.seed)
        return self._see(self.state)

    def step(self, columns: Int[Tensor, "user slot"]) -> Step:
        """Show slates; rows that end begin again with new users, in the same market."""
        assert self.state is not None, "reset comes first"
        slate = columns if self.state.candidates is None else self.state.candidates.gather(1, columns)
        if self.repeats:
            slate = slate.masked_fill(repeated(slate), self.world.blank)
        after, response = self.world.step(self.state, slate, self.seed)
        last = context = self._see(after)
        done = response.terminated | response.truncated
        if bool(done.any()):
            after = self.world.renew(after, done, self.num_envs, self.seed)
            context = self._see(after)
        self.state = after
        return Step(context, last, response.reward, response.click, response.terminated, response.truncated)

    def _see(self, state: State[Any]) -> Context:
        return lean(self.world.observe(state, self.past), self.past)


class EnvRows:
    """Any `VecEnv` whose observations have the keys of `envs.spaces.observation_space`, through its arrays.

    Args:
        env: the environment, wrapped or not.
        past: how many items of history are asked for.
        device: where tensors are wanted.

    Raises:
        BadInput: for an observation or action space that is not one of slates.
    """

    def __init__(self, env: VecEnv, past: int, device: torch.device | str = "cpu") -> None:
        self.env, self.past, self.device = env, past, torch.device(device)
        self.num_envs = env.num_envs
        self.n_items = n_items_of(env.observation_space, env.action_space)
        self.slots = slots_of(env.action_space)
        self.flat = isinstance(env.action_space, spaces.Discrete)

    def reset(self) -> Context:
        """Start new users."""
        found = self.env.reset()
        assert isinstance(found, dict)
        return self._see(found)

    def step(self, columns: Int[Tensor, "user slot"]) -> Step:
        """Show slates; the environment begins finished rows again."""
        given = columns.cpu().numpy()
        found, reward, done, infos = self.env.step(given[:, 0] if self.flat else given)
        assert isinstance(found, dict)
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
        context = last = self._see(found)
        if done.any():
            ends = done.nonzero()[0]
            merged = {k: np.array(v, copy=True) for k, v in found.items()}
            for row in ends:
                for key, value in infos[row]["terminal_observation"].items():
                    merged[key][row] = value
            last = self._see(merged)
        seen = self._see(found if not done.any() else merged, past=self.slots)
        click = (seen.feedback if seen.feedback.shape[1] == self.slots else torch.zeros_like(columns)).float()
        return Step(
            context,
            last,
            torch.as_tensor(reward, dtype=torch.float32, device=self.device),
            click,
            torch.as_tensor(done & ~cut, device=self.device),
            torch.as_tensor(cut, device=self.device),
        )

    def _see(self, observation: dict[str, Any], past: int | None = None) -> Context:
        tensors = {k: torch.as_tensor(v, device=self.device) for k, v in observation.items() if k in KEYS}
        return lean(context_of(tensors, self.n_items), self.past if past is None else past)


KEYS = ("features", "history", "feedback", "candidates", "mask")
"""Keys of an observation that a learner looks at."""


def rows_of(env: VecEnv, seed: Seed, past: int, device: torch.device | str, tensors: bool = True) -> Rows:
    """Return the fastest way to step an environment.

    Args:
        env: a world's own batch is stepped without copies; a wrapped one, or another, through arrays.
        seed: of a world's users.
        past: how many items of history are asked for.
        device: where tensors are wanted.
        tensors: whether the way without copies may be taken.
    """
    if tensors and type(env) is WorldVecEnv and env.batch.world.device.type == torch.device(device).type:
        return WorldRows(env.batch.world, env.num_envs, seed, past)
    return EnvRows(env, past, device)


def world_of(env: VecEnv | None) -> SlateWorld[Any] | None:
    """Return the world behind an environment, through any wrappers; None where there is none."""
    inner: Any = None if env is None else env.unwrapped
    return inner.batch.world if isinstance(inner, WorldVecEnv) else None


def lean(context: Context, past: int) -> Context:
    """Return a context to learn from: the newest `past` of the history, and no popularity."""
    width = context.history.shape[1]
    if width > past:
        context = replace(
            context, history=context.history[:, width - past :], feedback=context.feedback[:, width - past :]
        )
    return replace(context, popularity=None)


def context_of(observation: dict[str, Tensor], n_items: int) -> Context:
    """Return a batch of observations as a context.

    Args:
        observation: by the keys of `envs.spaces.observation_space`, each with a leading user axis; numbers of
            any type, as replay buffers make ids floats.
        n_items: size of the catalogue.

    Raises:
        BadInput: without any of the keys, and for an id outside the catalogue (looked for on a CPU only).
    """
    some = next((observation[key] for key in KEYS if key in observation), None)
    if some is None:
        raise BadInput(f"an observation has the keys {', '.join(observation)}, and none of {', '.join(KEYS)}")
    known = {key: observation[key] for key in KEYS if key in observation}
    _check_ids(known, n_items)
    context = Context.of(
        torch.zeros(len(some), dtype=torch.long, device=some.device),
        n_items,
        features=known["features"].float() if "features" in known else None,
        history=known["history"].long() if "history" in known else None,
        feedback=known["feedback"].float() if "feedback" in known else None,
        candidates=known["candidates"].long() if "candidates" in known else None,
    )
    return context if "mask" not in known else replace(context, mask=known["mask"] > 0.5)


def check_context(context: Context, n_items: int, features: int) -> None:
    """Refuse what another world shows: other features, and items that are not there (on a CPU only).

    Raises:
        BadInput: naming what differs.
    """
    if context.features.shape[1] != features:
        have = context.features.shape[1]
        raise BadInput(f"{have} features are known of each user here, but this was learned from {features}")
    _check_ids({"history": context.history, "candidates": context.candidates}, n_items)


def _check_ids(known: dict[str, Tensor], n_items: int) -> None:
    for key, least in (("history", PAD), ("candidates", 0)):
        ids = known.get(key)
        if ids is None or ids.device.type != "cpu" or not ids.numel():
            continue
        ids = ids[:1] if ids.stride(0) == 0 else ids
        low, high = ids.aminmax()
        whole = not ids.is_floating_point() or bool((ids == ids.round()).all())
        if least <= low and high < n_items and whole:
            continue
        row, place = (
            int(i) for i in (~((ids >= least) & (ids < n_items) & (ids == ids.round()))).nonzero()[0]
        )
        hint = "" if whole else "; if VecNormalize changed it, give it norm_obs=False or norm_obs_keys"
        raise BadInput(
            f"row {row}, {key}, place {place}: {ids[row, place].item():.6g} is no item: they run from 0 "
            f"to {n_items - 1}{' (-1 pads)' if least else ''}{hint}"
        )


def n_items_of(observation: spaces.Space[Any], action: spaces.Space[Any]) -> int:
    """Return the size of the catalogue that spaces speak of.

    Raises:
        BadInput: for spaces that are not those of slates.
    """
    if not isinstance(observation, spaces.Dict) or not set(observation.spaces) & set(KEYS):
        what = type(observation).__name__
        raise BadInput(f"the observation space is a {what}, but here it is a Dict with {', '.join(KEYS)}")
    slots_of(action)
    if "candidates" in observation.spaces:
        box = observation["candidates"]
        assert isinstance(box, spaces.Box)
        return int(box.high.max()) + 1
    return int(action.n) if isinstance(action, spaces.Discrete) else int(action.nvec.max())  # type: ignore[attr-defined]


def slots_of(action: spaces.Space[Any]) -> int:
    """Return K of an action space.

    Raises:
        BadInput: for what is no space of slates.
    """
    if isinstance(action, spaces.Discrete):
        return 1
    if not isinstance(action, spaces.MultiDiscrete) or action.nvec.ndim != 1:
        raise BadInput(
            f"the action space is a {type(action).__name__}, but a slate is MultiDiscrete([C] * slots)"
        )
    if len(set(action.nvec.tolist())) > 1:
        raise BadInput(f"the slots of a slate choose from {sorted(set(action.nvec.tolist()))} columns each")
    if int(action.nvec[0]) < len(action.nvec):
        raise BadInput(f"there are {int(action.nvec[0])} candidates for a slate of {len(action.nvec)} slots")
    return len(action.nvec)


def stacked(contexts: Sequence[Context]) -> Context:
    """Return contexts below one another, step by step; what all rows of a step share is taken from the first.

    Without drawn candidates all steps share the catalogue, and it stays one row.
    """
    first, n = contexts[0], sum(len(c) for c in contexts)
    if len(contexts) == 1:
        return first

    def join(name: str) -> Tensor | None:
        parts: list[Any] = [getattr(c, name) for c in contexts]
        one = parts[0]
        if one is None:
            return None
        if one.dim() == 2 and one.stride(0) == 0 and len(first) > 1 and name in ("candidates", "mask"):
            same = (
                name == "candidates"
                or one.stride(1) == 0
                or all(p.data_ptr() == one.data_ptr() for p in parts)
            )
            if same:
                shared: Tensor = one[:1].expand(n, -1)
                return shared
        return torch.cat(parts)

    return Context(**{f.name: join(f.name) for f in fields(Context)})  # type: ignore[arg-type]


Watch = Callable[[str], None]
"""Is told a sentence of what happens."""
