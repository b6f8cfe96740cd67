"""Agents as words of the command line: their settings by name, their training, and their folders.

An agent's parentheses take its own settings, in one flat list: of the learner, of its networks
(`ranker=`, `hidden=`), its options, of the fit of its rankers (`epochs=`) and of its retrieval. `users=`
and `steps=` are its budget of training.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

import torch

from simlab.errors import BadInput, nearest
from simlab.files import write_whole
from simlab.lab.arguments import Bound, Parameter, bind, plain, ranker_settings
from simlab.lab.grammar import Call
from simlab.parts import names, part
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed
from simlab.training.store import first_line, read_json

BUDGET = (Parameter("users", int), Parameter("steps", int))
"""Of training: users who are met, and user-steps in all."""

LEARNING = ("debias", "rounds", "temperature", "collect_temperature")
"""Settings of learning that are those of a ranker that learns from clicks; see `agents.learned`."""

_FIXED = {
    *("self", "policy", "env", "seed", "verbose", "tensorboard_log", "_init_setup_model"),
    *("device", "policy_kwargs", "options", "stats_window_size"),
}
"""Of a learner of stable-baselines3: what the lab says, or what a command has no use for."""

_NETWORKS = {"body": str, "groups": str, "hidden": tuple[int, ...], "tally": bool}
"""Settings of a learner's networks, besides their ranker."""

_NOT_SETTINGS = {"self", "spec", "state", "earned", "luck", "ranker"}
_NOT_NESTED = {"device", "seed"}


@dataclass(frozen=True)
class Budget:
    """From how much an agent learns.

    Attributes:
        users: how many are met.
        steps: user-steps of each.
    """

    users: int
    steps: int


def words() -> list[str]:
    """Return the agents' names on the command line."""
    return [n.replace("_", "-") for n in names("agent")]


def bound(call: Call) -> Bound:
    """Give each argument of an agent's word to its setting.

    Raises:
        BadInput: for a setting that the agent does not have, with the nearest one, or a wrong value.
    """
    parameters = _parameters(call.name)
    kind = part("agent", call.name)
    if call.name != "learned":
        rankers = sum(p.kind == "ranker" for p in parameters)
        if any(not isinstance(v, Call) for v in call.positional) or len(call.positional) > rankers:
            raise BadInput(f"policy {call}: name its settings, such as {call.name}(SETTING=VALUE)")
    if _learner(kind) is not None and "options" in _signature(_learner(kind)):
        # A learner itself knows the names of its options: what is near no setting is left to it.
        known = [p.name for p in parameters]
        near = [k for k, _ in call.named if k not in known and "did you mean" not in nearest(k, known)]
        parameters += [Parameter(k, Any, place="options") for k in near]
    example = "learned(mf)" if call.name == "learned" else call.name
    return bind(call, parameters, example)


def make(call: Call) -> Any:
    """Return an agent that has not learned yet.

    Raises:
        BadInput: as `bound`, and for a value that the agent refuses.
    """
    given = bound(call)
    try:
        return _make(part("agent", call.name), [(p, v) for p, v in given if p not in BUDGET])
    except BadInput as wrong:
        raise BadInput(f"policy {call}: {wrong}") from None


def check(call: Call, world: Any, users: int, steps: int) -> None:
    """Refuse an agent that cannot learn in this world, before anything is trained.

    A learner of stable-baselines3 is built once for it: only then does it look at all of its settings.

    Raises:
        BadInput: one sentence with what is wrong.
    """
    agent = make(call)
    budget = budget_of(call, users, steps, world.horizon)
    if _learner(type(agent)) is None:
        return
    from envs.sb3 import WorldVecEnv

    envs = min(agent.num_envs, budget.users)
    settings = dict(agent.settings)
    if "n_steps" in _signature(agent.algorithm):
        wished = settings.get("n_steps", _signature(agent.algorithm)["n_steps"].default)
        settings["n_steps"] = max(1, min(wished, budget.users * budget.steps // envs))
    try:
        agent.algorithm(env=WorldVecEnv(world, envs), seed=0, device=world.device, **settings)
    except BadInput as wrong:
        raise BadInput(f"policy {call}: {wrong}") from None
    except (TypeError, ValueError) as wrong:
        raise BadInput(f"policy {call} cannot be built ({first_line(wrong)})") from wrong


def budget_of(call: Call, users: int, steps: int, horizon: int) -> Budget:
    """Return from how much an agent learns.

    `users=` alone are users of `steps` slates each; `steps=` alone is so many slates in all, of as many users
    as that takes; both are `steps=` slates in all, of `users=` users.

    Args:
        call: the agent's word.
        users: where it says nothing.
        steps: slates shown to each user.
        horizon: the world's time limit.

    Raises:
        BadInput: for less than one, and for more slates of a user than the world's time limit.
    """
    said = {p.name: v for p, v in bound(call) if p in BUDGET}
    for key, value in said.items():
        if value < 1:
            raise BadInput(f"policy {call}: {key} is {value}, but an agent learns from at least one")
    if "steps" not in said:
        return Budget(said.get("users", users), steps)
    total = said["steps"]
    users = said.get("users", -(-total // steps))
    each = -(-total // users)
    if each > horizon and _learner(part("agent", call.name)) is None:
        raise BadInput(
            f"policy {call}: {total} steps of {users} users are {each} of each, but the world's time limit "
            f"is {horizon}; take more users"
        )
    return Budget(users, each)


def train(
    call: Call,
    world: Any,
    budget: Budget,
    seed: Seed,
    report: Callable[[str], None],
    keep: Path | None = None,
) -> Any:
    """Return a trained agent as `load` reads it: without what only learning needs, such as a replay buffer.

    Args:
        call: the agent's word.
        world: where it learns.
        budget: from how much.
        seed: of everything random.
        report: is told of the progress.
        keep: a folder that keeps it; one that is kept there already is not trained again.
    """
    from simlab.lab.jobs import one_thread

    if keep is not None and is_kept(keep):
        return load(keep, world)
    agent = make(call)
    with one_thread():  # so that the weights do not depend on how many cores there are
        agent.learn(world, budget.users, budget.steps, seed, report)
    if keep is not None:
        agent.save(keep)
        write_whole(keep / "done.json", (json.dumps({"policy": str(call)}) + "\n").encode())
        return load(keep, world)
    with TemporaryDirectory() as folder:
        agent.save(Path(folder))
        return load(Path(folder), world)


def is_kept(folder: Path) -> bool:
    """Tell whether `train` has kept an agent here, whole."""
    return (folder / "done.json").is_file()


def is_agent(folder: Path) -> bool:
    """Tell whether a folder keeps an agent."""
    return (folder / "agent.json").is_file()


def load(folder: Path, world: Any) -> Any:
    """Read an agent.

    Raises:
        BadInput: for a file that is missing or damaged, and for an agent of another catalogue.
    """
    name = str(read_json(folder / "agent.json").get("agent"))
    if name not in names("agent"):
        raise BadInput(f"{folder / 'agent.json'} names no agent{nearest(name, names('agent'))}")
    agent: Any = part("agent", name)
    agent = agent.load(folder)
    for known in _catalogues(agent):
        if known != world.catalog.n_items:
            raise BadInput(
                f"the agent in {folder} knows {known} items, but the world has {world.catalog.n_items}"
            )
    _move(agent, world.catalog.features.device)
    return agent


def past_of(agent: Any) -> int:
    """Return how many items of history an agent looks at."""
    past = max((r.past for r in _rankers(agent)), default=0)
    model = getattr(agent, "model", None)
    spaces = getattr(getattr(model, "observation_space", None), "spaces", {})
    return min(past, spaces["history"].shape[0]) if "history" in spaces else past


def _rankers(agent: Any) -> list[Ranker]:
    """Return every ranker in an agent."""
    model = getattr(agent, "model", None)
    if model is not None:
        return [m for m in model.policy.modules() if isinstance(m, Ranker)]
    held = [agent, getattr(agent, "first", None), getattr(agent, "second", None)]
    found = [getattr(a, "ranker", None) for a in held]
    return [r for r in found if isinstance(r, Ranker)]


def _catalogues(agent: Any) -> set[int]:
    """Return the numbers of items that an agent knows."""
    model = getattr(agent, "model", None)
    return {model.policy.n_items} if model is not None else {r.sizes.n_items for r in _rankers(agent)}


def _move(agent: Any, device: torch.device) -> None:
    """Move what an agent has learned to where the world is."""
    model = getattr(agent, "model", None)
    if model is not None:
        model.policy.to(device)
        model.device = device
    for ranker in _rankers(agent):
        ranker.to(device)
    state = getattr(agent, "state", {})
    for key in state:
        state[key] = state[key].to(device)


def _learner(kind: Any) -> Any:
    """Return the class of stable-baselines3 behind an agent, or None."""
    return getattr(kind, "algorithm", None)


def _signature(kind: Any) -> Any:
    return inspect.signature(kind.__init__).parameters


def _parameters(name: str) -> list[Parameter]:
    """Return what an agent's parentheses may hold, read from its class."""
    kind = part("agent", name)
    found = _of_learner(kind) if _learner(kind) is not None else _of_dataclass(kind, needed=name == "learned")
    return [*found, *BUDGET]


def _of_learner(kind: Any) -> list[Parameter]:
    """Return the settings of a learner of stable-baselines3, and of its networks."""
    algorithm = kind.algorithm
    hints = get_type_hints(algorithm.__init__)
    found = [Parameter("ranker", "ranker", place="policy_kwargs")]
    found += [Parameter(k, hints.get(k, Any)) for k in _signature(algorithm) if k not in _FIXED]
    found += [Parameter("num_envs", int), Parameter("greedy", bool)]
    policy = algorithm.policy_aliases["SlatePolicy"]
    takes = {k for base in policy.__mro__ if "__init__" in vars(base) for k in _signature(base)}
    return found + [Parameter(k, h, place="policy_kwargs") for k, h in _NETWORKS.items() if k in takes]


def _of_dataclass(kind: Any, *, needed: bool) -> list[Parameter]:
    """Return the settings of an agent that is a dataclass, and of the dataclasses in it."""
    from agents.learned import ClickRanker

    hints = get_type_hints(kind)
    found: list[Parameter] = []
    nested: list[Parameter] = []
    for name in _signature(kind):
        hint = hints.get(name)
        if name in _NOT_SETTINGS:
            continue
        if name == "family":
            found.insert(0, Parameter("ranker", "ranker", needed))
        elif hint is ClickRanker:
            found.append(Parameter(name, "ranker"))
        elif is_dataclass(hint):
            nested += _inside(hint, name)
        else:
            found.append(Parameter(name, hint))
    if any(h is ClickRanker for h in hints.values()):
        own = get_type_hints(ClickRanker)
        nested = [Parameter(k, own[k], place="stages") for k in LEARNING] + nested
        nested += _inside(own["settings"], "settings")
    taken = {p.name for p in (*found, *BUDGET)}
    return found + [p for p in nested if p.name not in taken]


def _inside(kind: Any, place: str) -> list[Parameter]:
    """Return the settings of a dataclass within an agent."""
    hints = get_type_hints(kind)
    return [Parameter(f.name, hints[f.name], place=place) for f in fields(kind) if f.name not in _NOT_NESTED]


def _make(kind: Any, given: Bound) -> Any:
    """Build an agent from its settings, each in its place."""
    groups: dict[str, dict[str, Any]] = {}
    for p, value in given:
        if p.kind == "ranker":
            value = (value.name.replace("-", "_"), ranker_settings(value))
        elif p.kind is Any:
            value = _written(plain(value))
        groups.setdefault(p.place, {})[p.name] = _written(value) if p.kind is str else value
    own = groups.pop("", {})
    if _learner(kind) is not None:
        networks = groups.get("policy_kwargs", {})
        if "ranker" in networks:
            networks["ranker"], networks["spec"] = networks["ranker"]
        return kind(**own, **{k: v for k, v in groups.items() if v})
    from agents.learned import ClickRanker

    if "ranker" in own:
        own["family"], own["spec"] = own.pop("ranker")
    settings, hints = {f.name: f for f in fields(kind)}, get_type_hints(kind)
    stages = {**groups.pop("stages", {})}
    if any(h is ClickRanker for h in hints.values()):
        if "settings" in groups:
            stages["settings"] = get_type_hints(ClickRanker)["settings"](**groups.pop("settings"))
        for key in (k for k, h in hints.items() if h is ClickRanker):
            default: Any = settings[key].default_factory
            family, spec = own.get(key, (default().family, {}))
            own[key] = ClickRanker(family, spec, **stages)
    for key, values in groups.items():
        default = settings[key].default_factory
        own[key] = replace(default(), **values)
    return kind(**own)


def _written(value: Any) -> Any:
    """Return words as agents write them: top_k, where the language of policies has top-k."""
    return value.replace("-", "_") if isinstance(value, str) else value
