"""From the words of the command line to policies that act.

A word is a file of `simlab.policies`, or an agent of the catalogue; what goes into its parentheses is what
its class is made from. Beside those stand the oracles and `saved:FOLDER`. An agent, and a ranker inside a
policy, is trained in the world, once, and shared by every policy and seed that asks for the same one.
"""

import hashlib
import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from simlab.errors import BadInput, nearest
from simlab.lab import agents
from simlab.lab.arguments import Bound, Parameter, bind
from simlab.lab.arguments import ranker_settings as ranker_settings
from simlab.lab.grammar import Call
from simlab.parts import names, part
from simlab.policy import Policy
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.options import WorldOptions

OTHERS = ("oracle", "far-sighted", "saved")
"""Words that are neither files of `simlab.policies` nor agents."""

_NOT_ARGUMENTS = ("self", "name", "world")


@dataclass
class Builder:
    """Builds the policies of one run, and trains what has to be trained, once.

    Attributes:
        world: where they act.
        seed: of all training.
        train_users: users that an agent meets in training; they are none of those of the results.
        train_steps: slates shown to each of them; the world's horizon by default.
        report: is told of the progress, a sentence at a time.
        keep: a folder that keeps each agent as soon as it is trained, for a run that goes on after a stop.
        past: how many items of history the saved rankers and agents look at.
    """

    world: Any
    seed: Seed
    train_users: int = 2000
    train_steps: int | None = None
    report: Callable[[str], None] = print
    keep: Path | None = None
    past: int = 0
    _trained: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, config: "WorldOptions", world: Any, report: Callable[[str], None]) -> "Builder":
        """Return the builder of a command's options."""
        seed = Seed(config.seed).split("train")
        return cls(world, seed, config.train_users, config.train_steps, report)

    def check(self, call: Call) -> None:
        """Refuse a policy that cannot be built, before anything is trained.

        Raises:
            BadInput: one sentence with what is wrong, and the nearest name.
        """
        if call.name == "saved":
            self._saved(call)
        elif call.name in agents.words():
            self._check_agent(call)
        elif (inner := _likeliest(call)) is not None:
            self.check(inner)
        else:
            for parameter, value in _bind(call):
                if parameter.kind == "policy":
                    self.check(value)
                elif parameter.kind == "ranker":
                    self._check_ranker(value)

    def build(self, call: Call) -> Policy:
        """Return the policy, trained if it has to be.

        Raises:
            BadInput: as `check` does.
        """
        if call.name == "saved":
            kept = self._saved(call)
            return _acting(_part("greedy")(kept) if isinstance(kept, Ranker) else kept)
        if call.name in agents.words():
            return _acting(self._learn(call))
        if (inner := _likeliest(call)) is not None:
            from agents.core.agent import Greedy

            return _acting(Greedy(self.build(inner)))
        made = {p.name: self._value(p, v) for p, v in _bind(call)}
        kind = _part(call.name)
        if call.name in OTHERS:
            made["world"] = self.world
        return _acting(kind(**made))

    def ranker(self, call: Call) -> Ranker:
        """Return a saved ranker, or one trained on clicks made in the world."""
        if call.name == "saved":
            return self._saved_ranker(call)
        ranker = self._learn(Call("learned", (call,))).ranker
        assert isinstance(ranker, Ranker)
        return ranker

    def save(self, folder: Path) -> None:
        """Keep what was trained, each in a folder of its own, for `saved:FOLDER`.

        Args:
            folder: of the rankers; agents go into the folder `agents` beside it.
        """
        from simlab.training.store import save_ranker

        taken: set[Path] = set()
        for key, agent in self._trained.items():
            ranked = key.startswith("learned(")
            name = _folder_name(key.removeprefix("learned") if ranked else key)
            place = (folder if ranked else folder.parent / "agents") / name
            again = 2
            while place in taken:  # two policies that differ by a sign alone
                place, again = place.with_name(f"{name}-{again}"), again + 1
            taken.add(place)
            if ranked:
                save_ranker(agent.ranker, place)
            else:
                agent.save(place)

    def _value(self, parameter: Parameter, value: Any) -> Any:
        if parameter.kind == "policy":
            return self.build(value)
        return self.ranker(value) if parameter.kind == "ranker" else value

    def _check_ranker(self, call: Call) -> None:
        if call.name == "saved":
            self._saved_ranker(call)
        else:
            ranker_settings(call)

    def _check_agent(self, call: Call) -> None:
        if not hasattr(self.world, "reset"):
            raise BadInput(
                f"{call.name} learns in a simulated world, so a log cannot say what it would do; "
                "write saved:FOLDER for one that was trained"
            )
        agents.check(call, self.world, self.train_users, self._steps())

    def _saved(self, call: Call) -> Any:
        """Read a saved ranker or agent, and refuse one that was made for another catalogue."""
        from simlab.training.store import load_ranker

        if not call.path:
            raise BadInput("saved needs the folder of a saved ranker or agent: saved:FOLDER")
        folder = Path(call.path)
        if agents.is_agent(folder):
            agent = agents.load(folder, self.world)
            self.past = max(self.past, agents.past_of(agent))
            return agent
        ranker = load_ranker(folder)  # what it knows of the items is kept with it
        if ranker.sizes.n_items != self.world.catalog.n_items:
            raise BadInput(
                f"the ranker in {call.path} knows {ranker.sizes.n_items} items, "
                f"but the world has {self.world.catalog.n_items}"
            )
        self.past = max(self.past, ranker.past)
        return ranker.to(self.world.catalog.features.device)

    def _saved_ranker(self, call: Call) -> Ranker:
        """Read a saved ranker where no agent will do."""
        kept = self._saved(call)
        if not isinstance(kept, Ranker):
            raise BadInput(f"{call.path} holds an agent, but a ranker is wanted here; write {call} alone")
        return kept

    def _steps(self) -> int:
        return int(self.world.horizon) if self.train_steps is None else self.train_steps

    def _learn(self, call: Call) -> Any:
        """Train an agent in the world, once for each agent and its settings."""
        key = _key(call)
        if key not in self._trained:
            budget = agents.budget_of(call, self.train_users, self._steps(), self.world.horizon)
            keep = None
            if self.keep is not None:
                digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
                keep = self.keep / f"{_folder_name(key)}-{digest}"
            if keep is not None and agents.is_kept(keep):
                self.report(f"{key} was trained before the stop")
            else:
                each = "" if call.name == "learned" else f" for {budget.steps} steps"
                self.report(f"training {key} on {budget.users} users{each}")
            # One seed for all learners: they meet the same training users under the same luck.
            self._trained[key] = agents.train(
                call, self.world, budget, self.seed.split("learn"), self.report, keep
            )
        return self._trained[key]


def _folder_name(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", key.lower())[:80].strip("-")


def _key(call: Call) -> str:
    """Write an agent with its settings in one order: what says the same is trained once."""
    given = {p.name: v for p, v in agents.bound(call)}
    first = (given.pop("ranker"),) if "ranker" in given else ()
    rest = {k: Call("none") if v is None else Call(v) if isinstance(v, str) else v for k, v in given.items()}
    return str(Call(call.name, first, tuple(sorted(rest.items()))))


def _likeliest(call: Call) -> Call | None:
    """Return the agent in `greedy(AGENT)`, whose likeliest slate is shown; a ranker is another matter."""
    if call.name != "greedy" or len(call.positional) != 1 or call.named:
        return None
    inner = call.positional[0]
    if not isinstance(inner, Call):
        return None
    kept = inner.name == "saved" and agents.is_agent(Path(inner.path))
    return inner if inner.name in agents.words() or kept else None


def _acting(made: Any) -> Policy:
    assert isinstance(made, Policy), f"{type(made).__name__} is not a policy"
    return made


def known() -> list[str]:
    """Return every policy word."""
    return sorted({*(n.replace("_", "-") for n in names("policy")), *agents.words(), *OTHERS})


def _part(name: str) -> Any:
    """Return the class of a policy word."""
    if name == "oracle":
        from envs.oracles import Oracle

        return Oracle
    if name == "far-sighted":
        from envs.oracles import FarSighted

        return FarSighted
    return part("policy", name)


def _parameters(name: str) -> list[Parameter]:
    """Return what a policy's parentheses may hold, read from its class."""
    kind = _part(name)
    hints = get_type_hints(kind.__init__)
    found = []
    for p in inspect.signature(kind.__init__).parameters.values():
        if p.name not in _NOT_ARGUMENTS and not p.name.startswith("_"):
            found.append(Parameter(p.name, _kind(hints.get(p.name, Any)), p.default is p.empty))
    return found


def _kind(hint: Any) -> Any:
    """Return "policy", "ranker", or the hint of a plain value."""
    for option in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if inspect.isclass(option) and issubclass(option, Ranker):
            return "ranker"
        if option is Policy:
            return "policy"
    return hint


def _bind(call: Call) -> Bound:
    """Give each argument of a policy's word to its parameter.

    Raises:
        BadInput: for an unknown word, and for an argument that is unknown, missing, double or wrong.
    """
    if call.name not in known():
        raise BadInput(f"there is no policy named {call.name}{nearest(call.name, known())}")
    parameters = _parameters(call.name)
    examples = {"policy": "popularity", "ranker": "mf"}
    needed = ", ".join(examples.get(str(p.kind), "0.1") for p in parameters if p.needed)
    return bind(call, parameters, f"{call.name}({needed})")
