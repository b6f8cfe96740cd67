"""What every slate learner adds to stable-baselines3: a policy of the lab, safe files, exact resume."""

import inspect
import math
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.core.rows import Step, WorldRows, check_context, rows_of, world_of
from agents.core.saving import (
    file_of,
    filled,
    flat_tensors,
    optimizer_tensors,
    restore_optimizer,
    space_json,
    space_of,
)  # fmt: skip
from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.rankers.contract import hollow
from simlab.seeds import Seed
from simlab.slates import SlateDistribution
from simlab.training.store import read_tensors, write_tensors


class SlateAlgorithm(BaseAlgorithm):
    """A learner of slates, as a mixin in front of a class of stable-baselines3.

    `learn`, `predict`, callbacks, the logger and `evaluate_policy` are those of stable-baselines3. Besides,
    a learner is a `Policy` of the lab: `distribution(context, slots)` gives propensities. `save` writes one
    safetensors file with a JSON header, and `load` runs no code from it.

    A world's own batch (`make_sb3`) is stepped on tensors, without copies; any other environment through its
    arrays. All luck hangs from `seed`.

    Attributes:
        name: in tables and logs.
        kept: which settings are saved, and the attribute that holds each: numbers, words and lists of them.
        optimizers: names of the optimisers below the policy that are saved.
    """

    name: ClassVar[str]
    kept: ClassVar[Mapping[str, str]] = {}
    optimizers: ClassVar[tuple[str, ...]] = ("optimizer",)

    policy: Any
    tensors: bool = True
    reward_scale: float = 1.0
    _rows: Any = None
    _context: Context | None = None
    _luck: torch.Generator | None = None
    _returns: Tensor | None = None
    _lengths: Tensor | None = None
    _good: Mapping[str, Tensor] = MappingProxyType({})
    _newest: Mapping[str, Tensor] = MappingProxyType({})

    # As a policy of the lab ---------------------------------------------------------------------

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return the distribution over slates that this learner acts by now."""
        raise NotImplementedError

    def check_fits(self, context: Context) -> None:
        """Refuse users of another world.

        Raises:
            BadInput: for another number of features, and for items that are not there.
        """
        space = self.observation_space
        known = space.spaces if isinstance(space, spaces.Dict) else {}
        width = known["features"].shape[0] if "features" in known else 0  # type: ignore[index]
        check_context(context, self.policy.n_items, width)

    # The rows that it learns from ---------------------------------------------------------------

    def begin(self, past: int) -> Any:
        """Return the batch of users that is being learned from; it goes on where the last call stopped."""
        if self._rows is None:
            assert self.env is not None
            self._rows = rows_of(self.env, self.users_seed(), past, self.device, self.tensors)
            self._context = self._untold(self._rows.reset())
            n = self.env.num_envs
            self._returns = torch.zeros(n, device=self.device)
            self._lengths = torch.zeros(n, device=self.device)
        return self._rows

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Learn from another environment from now on, with new users."""
        super().set_env(env, force_reset)
        self._rows = None

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare `learn`. It may reset the environment, and then its users are seen anew."""
        before = self._last_obs
        found = super()._setup_learn(*args, **kwargs)
        self._good, self._newest = {}, self._snapshot()
        if self._last_obs is not before and not isinstance(self._rows, WorldRows):
            self._rows = None
        return found

    def own_seed(self, what: str) -> Seed:
        """Return the seed of a part of this learner's luck."""
        return Seed(int(self.seed or 0)).split(what)

    def users_seed(self) -> Seed:
        """Return the seed of new users: learning that goes on, from a file or elsewhere, meets other ones."""
        return self.own_seed("users").split(f"from step {self.num_timesteps}")

    @property
    def luck(self) -> torch.Generator:
        """The generator of what this learner draws itself."""
        if self._luck is None:
            self._luck = self.own_seed("draws").split(f"from step {self.num_timesteps}").torch(self.device)
        return self._luck

    def note_ends(self, ends: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Tell stable-baselines3 of finished episodes: (done, return, length) of each step."""
        if not ends:
            return
        done = torch.stack([d for d, _, _ in ends])
        if not bool(done.any()):
            return
        returns = torch.stack([r for _, r, _ in ends])[done].tolist()
        lengths = torch.stack([n for _, _, n in ends])[done].tolist()
        assert self.ep_info_buffer is not None
        few = self._stats_window_size
        self.ep_info_buffer.extend(
            {"r": r, "l": n, "t": 0.0} for r, n in zip(returns[-few:], lengths[-few:], strict=True)
        )

    def count_reward(self, reward: Tensor, done: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add a step's rewards to the running returns; return (done, return, length)."""
        assert self._returns is not None
        assert self._lengths is not None
        returns, lengths = self._returns + reward, self._lengths + 1
        self._returns, self._lengths = returns.masked_fill(done, 0.0), lengths.masked_fill(done, 0.0)
        return done, returns, lengths

    def tallied(self, context: Context, columns: Tensor, step: Step) -> Step:
        """Return the step with the sums of its users, where a critic wants them."""
        tally = getattr(self.policy, "tally", None)
        if tally is None:
            return step
        assert context.tally is not None
        found = context.tally + tally.more(context, columns, step.click, step.reward * self.reward_scale)
        fresh = found.masked_fill(step.done.unsqueeze(1), 0.0)
        now, last = replace(step.context, tally=fresh), replace(step.last, tally=found)
        return replace(step, context=now, last=last)

    def _untold(self, context: Context, tally: Tensor | None = None) -> Context:
        """Return the context of new users, or of those with these sums, where a critic wants them."""
        count = getattr(self.policy, "tally", None)
        if count is None:
            return context
        return replace(context, tally=count.start(len(context)) if tally is None else tally)

    def check_finite(self, loss: float) -> None:
        """Stop a training that diverged, with the last good weights.

        Raises:
            BadInput: naming the step, if the loss is not finite.
        """
        if math.isfinite(loss):
            # It was the loss of the weights before this turn; of those after it nothing is known yet.
            self._good, self._newest = self._newest, self._snapshot()
            return
        self.policy.load_state_dict(self._good or self._newest)
        for name in self.optimizers:  # what they remember is no number either
            getattr(self.policy, name).state.clear()
        raise BadInput(
            f"{self.name}: the loss is {loss} at step {self.num_timesteps}, so training stopped; the last "
            "good weights are back: try a smaller learning_rate"
        )

    def _snapshot(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.policy.state_dict().items()}

    # On disk --------------------------------------------------------------------------------------

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write weights, optimiser and settings as one safetensors file with a JSON header.

        Args:
            path: the file; `.safetensors` is added, and takes the place of the `.zip` that callbacks of
                stable-baselines3 ask for.
            exclude: must be None: there is nothing that could be left out.
            include: must be None.
        """
        path = Path(path)
        self._write(path.with_suffix(".safetensors") if path.suffix == ".zip" else path, {}, {})

    def save_run(self, path: Any) -> None:
        """Write everything that training goes on from, the world's users included; see `resume`.

        Raises:
            BadInput: where the environment is not a world's own batch, whose state cannot be kept.
        """
        rows = self.begin(self._past())
        if not isinstance(rows, WorldRows):
            raise BadInput("only a world's own batch (make_sb3) can be kept whole; use save for the weights")
        assert rows.state is not None
        assert self._returns is not None
        assert self._lengths is not None
        extra = flat_tensors(rows.state, "state")
        extra |= {"luck": self.luck.get_state(), "torch": torch.get_rng_state()}
        extra |= {"returns": self._returns, "lengths": self._lengths}
        if self._context is not None and self._context.tally is not None:
            extra["tally"] = self._context.tally
        extra |= {f"more.{k}": v for k, v in self._more().items()}
        self._write(
            path,
            extra,
            {"world": rows.world.name, "world spec": repr(rows.world.spec), "users": str(rows.seed.value)},
        )

    def resume(self, path: Any) -> "SlateAlgorithm":
        """Go on from what `save_run` wrote, and end with the same weights as without the pause.

        Call it on a learner that was built as the one that wrote the file; then call
        `learn(..., reset_num_timesteps=False)` with the steps that are left.

        Raises:
            BadInput: for a file of another learner, ranker or world.
        """
        where = file_of(path)
        tensors, facts = read_tensors(where)
        self._check(where, facts)
        if "world" not in facts:
            raise BadInput(f"{where} holds weights alone, and no run: use load")
        rows = self.begin(self._past())
        here = (rows.world.name, repr(rows.world.spec)) if isinstance(rows, WorldRows) else ("no world", "")
        there = (facts["world"], facts.get("world spec"))
        if here != there:
            what = " with other settings" if here[0] == there[0] else f", not in this {here[0]}"
            raise BadInput(f"{where} is of a run in {there[0]}{what}")
        if facts["n_envs"] != rows.num_envs:
            raise BadInput(
                f"{where} is of a run of {facts['n_envs']} users at a time, not of {rows.num_envs}"
            )
        self._restore(where, tensors, facts)
        state = {k: v.to(self.device) for k, v in tensors.items() if k.startswith("state.")}
        rows.state, rows.seed = filled(rows.state, state, "state"), Seed(int(facts["users"]))
        kept = tensors.get("tally")
        self._context = self._untold(rows._see(rows.state), None if kept is None else kept.to(self.device))
        self.luck.set_state(tensors["luck"])
        torch.set_rng_state(tensors["torch"])
        self._returns, self._lengths = tensors["returns"].to(self.device), tensors["lengths"].to(self.device)
        self._take({k.removeprefix("more."): v for k, v in tensors.items() if k.startswith("more.")})
        return self

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: Any,
        env: VecEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Read what `save` wrote; no code in the file is run.

        Args:
            path: the file.
            env: where to go on learning; of the same spaces. None to act only.
            device: where the weights go.
            custom_objects: must be None: there are no objects in the file.
            print_system_info: ignored.
            force_reset: ignored: learning goes on with new users.
            **kwargs: settings to change, such as `learning_rate`.

        Raises:
            BadInput: for a file that is missing, damaged, or of another learner or of other spaces.
        """
        where = file_of(path)
        tensors, facts = read_tensors(where)
        _check_learner(where, facts, cls.__name__)
        spaces_ = [space_of(facts[key]) for key in ("observation_space", "action_space")]
        if env is not None:
            _same_spaces(where, spaces_, env)
        known = inspect.signature(cls.__init__).parameters
        for key in kwargs:
            if key not in known:
                raise BadInput(f"{cls.__name__} has no setting {key}{nearest(key, known)}")
        settings = {k: back(v) for k, v in facts["settings"].items()} | kwargs
        settings["policy_kwargs"] = _policy_kwargs(facts)
        make: Any = cls
        model = make(env=env, device=device, _init_setup_model=False, **settings)
        model.observation_space, model.action_space = spaces_
        model.n_envs = facts["n_envs"] if env is None else env.num_envs
        model._setup_model()
        model._restore(where, tensors, facts)
        return model

    def _write(self, path: Any, extra: Mapping[str, Tensor], more: Mapping[str, Any]) -> None:
        tensors = {f"policy.{k}": v for k, v in self.policy.state_dict().items()}
        for name in self.optimizers:
            found = optimizer_tensors(getattr(self.policy, name))
            tensors |= {f"{name}.{k}": v for k, v in found.items()}
        shape = self._ranker_shape()
        facts = {
            "algorithm": type(self).__name__,
            "settings": {name: plain(name, getattr(self, of)) for name, of in self.kept.items()},
            "policy_kwargs": {
                k: plain(k, v) for k, v in self.policy_kwargs.items() if k not in ("catalog", "use_sde")
            },
            "catalog": shape,
            "n_items": self.policy.n_items,
            "observation_space": space_json(self.observation_space),
            "action_space": space_json(self.action_space),
            "n_envs": self.n_envs,
            "num_timesteps": self.num_timesteps,
            "updates": self._n_updates,
            **more,
        }
        # What two modules share is kept once, as its own tensor each: safetensors refuses shared storage.
        write_tensors(
            file_of(path), {k: v.detach().clone() for k, v in (tensors | dict(extra)).items()}, facts
        )

    def _restore(self, where: Path, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
        weights = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
        mine = self.policy.state_dict()
        wrong = sorted(k for k in set(mine) ^ set(weights)) or sorted(
            k for k in mine if mine[k].shape != weights[k].shape
        )
        if wrong:
            raise BadInput(f"{where} is of another network: {wrong[0]} differs")
        self.policy.load_state_dict(weights)
        for name in self.optimizers:
            kept = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            restore_optimizer(getattr(self.policy, name), kept)
        self.num_timesteps = int(facts["num_timesteps"])
        self._n_updates = int(facts["updates"])

    def _check(self, where: Path, facts: Mapping[str, Any]) -> None:
        _check_learner(where, facts, type(self).__name__)
        here = [space_json(self.observation_space), space_json(self.action_space)]
        if here != [facts.get("observation_space"), facts.get("action_space")]:
            raise BadInput(f"{where} is of a world with other spaces")

    def _ranker_shape(self) -> dict[str, Any]:
        """Return what decides the shapes of the ranker's item side."""
        for module in self.policy.modules():
            if hasattr(module, "catalog_shape"):
                shape: dict[str, Any] = module.catalog_shape
                return shape
        return {"features": 0, "fields": [], "vectors": 0}

    def _past(self) -> int:
        """Return how many items of history the networks ask for."""
        return max((int(m.past) for m in self.policy.modules() if hasattr(m, "catalog_shape")), default=0)

    def _more(self) -> dict[str, Tensor]:
        """Return what else a run needs, such as a replay buffer."""
        return {}

    def _take(self, more: dict[str, Tensor]) -> None:
        """Put back what `_more` returned."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_rows", "_context", "_luck", "_good", "_newest"]


class KeepRun(BaseCallback):
    """Keeps the whole run on disk every so many rollouts, so that a killed run resumes to the same result.

    Args:
        path: the file, written whole each time.
        every: rollouts between two files.
    """

    def __init__(self, path: str | Path, every: int = 10) -> None:
        super().__init__()
        if every < 1:
            raise BadInput(f"every is at least 1 rollout, not {every}")
        self.path, self.every, self.count = path, every, 0

    def _on_rollout_start(self) -> None:
        """Write between two rollouts: everything of the last one is learned."""
        if self.count and self.count % self.every == 0:
            assert isinstance(self.model, SlateAlgorithm)
            self.model.save_run(self.path)
        self.count += 1

    def _on_step(self) -> bool:
        return True


def with_catalog(policy_kwargs: Mapping[str, Any] | None, env: VecEnv | None) -> dict[str, Any]:
    """Return a policy's settings with what is known of the items of the environment's world."""
    settings = dict(policy_kwargs or {})
    world = world_of(env)
    if world is not None and "catalog" not in settings:
        settings["catalog"] = replace(world.catalog, features=world.catalog.features.float())
    return settings


HEADER = ("settings", "policy_kwargs", "catalog", "n_items", "observation_space", "action_space", "n_envs",
          "num_timesteps", "updates")  # fmt: skip
"""What the header of a learner's file tells of, besides its algorithm."""


def _check_learner(where: Path, facts: Mapping[str, Any], name: str) -> None:
    """Refuse the file of another learner, or of none."""
    if "algorithm" not in facts:
        raise BadInput(f"{where} was not written by a learner: it names no algorithm")
    if facts["algorithm"] != name:
        raise BadInput(f"{where} is of a {facts['algorithm']}, not of a {name}")
    for key in HEADER:
        if key not in facts:
            raise BadInput(f"{where} says nothing of its {key}")


def _policy_kwargs(facts: Mapping[str, Any]) -> dict[str, Any]:
    shape = facts["catalog"]
    settings = {k: back(v) for k, v in facts["policy_kwargs"].items()}
    if any(shape.values()):
        settings["catalog"] = hollow(shape, int(facts["n_items"]))
    return settings


def back(value: Any) -> Any:
    """Return a setting from JSON: lists were tuples."""
    if isinstance(value, dict):
        return {k: back(v) for k, v in value.items()}
    return tuple(back(v) for v in value) if isinstance(value, list) else value


def _same_spaces(where: Path, kept: list[spaces.Space[Any]], env: VecEnv) -> None:
    for name, space in zip(("observation", "action"), kept, strict=True):
        here = getattr(env, f"{name}_space")
        if space_json(here) != space_json(space):
            raise BadInput(f"{where} is of a world with another {name} space: {space}, not {here}")


def plain(name: str, value: Any) -> Any:
    """Return a setting as JSON.

    Raises:
        BadInput: for what is code, such as a schedule.
    """
    if isinstance(value, dict):
        return {k: plain(f"{name} {k}", v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(name, v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise BadInput(
        f"setting {name} is a {type(value).__name__}, which is no number or word and cannot be kept"
    )


def same_names(words: str) -> dict[str, str]:
    """Return settings that are held by attributes of their own names."""
    return {word: word for word in words.split()}


def linear(start: float, end: float | None) -> Any:
    """Return a learning rate, or a schedule that goes in a straight line from `start` to `end`."""
    if end is None:
        return start
    # The last roll-out may go beyond the budget.
    return lambda left: end + (start - end) * min(max(left, 0.0), 1.0)


def known_seed(seed: int | None) -> int:
    """Return a seed; a fresh one for None, as stable-baselines3 has it."""
    return secrets.randbelow(1 << 31) if seed is None else int(seed)
