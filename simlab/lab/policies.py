"""From the words of the command line to policies that act.

A word is a file of `simlab.policies`; what goes into its parentheses is what its class is made from. Beside
those stand the oracles, `learned(RANKER)` and `saved:FOLDER`. A ranker inside a policy is trained on clicks
made in the world, once, and shared by every policy and evaluation seed that asks for the same one.
"""

import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from simlab.errors import BadInput, nearest
from simlab.lab.grammar import Call
from simlab.lab.yaml_defaults import fit
from simlab.parts import names, part
from simlab.policy import Policy
from simlab.rankers.contract import Ranker
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.options import WorldOptions

OTHERS = ("oracle", "far-sighted", "learned", "saved")
"""Words that are not files of `simlab.policies`."""

LEARNING = ("debias", "rounds", "temperature", "collect_temperature")
"""Settings of learning that `learned(RANKER, …)` takes; see `agents.learned`."""

_NOT_ARGUMENTS = ("self", "name", "world")


@dataclass(frozen=True)
class Parameter:
    """One argument of a policy.

    Attributes:
        name: as it is written before "=".
        kind: "policy", "ranker", or the type hint of a plain value.
        needed: whether it has no default.
    """

    name: str
    kind: Any
    needed: bool


@dataclass
class Builder:
    """Builds the policies of one run, and trains what has to be trained, once.

    Attributes:
        world: where they act.
        seed: of all training.
        train_users: users from whose clicks rankers are trained; their ids count from 0.
        train_steps: slates shown to each of them; the world's horizon by default.
        report: is told of the progress, a sentence at a time.
    """

    world: Any
    seed: Seed
    train_users: int = 2000
    train_steps: int | None = None
    report: Callable[[str], None] = print
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
            return
        for parameter, value in _bind(call):
            if parameter.kind == "policy":
                self.check(value)
            elif parameter.kind == "ranker":
                self._check_ranker(value)
        if call.name == "learned":
            _check_learned(call)

    def build(self, call: Call) -> Policy:
        """Return the policy, trained if it has to be.

        Raises:
            BadInput: as `check` does.
        """
        if call.name == "saved":
            return _acting(_part("greedy")(self._saved(call)))
        bound = _bind(call)
        if call.name == "learned":
            settings = {p.name: v for p, v in bound if p.kind != "ranker"}
            return _acting(self._learn(next(v for p, v in bound if p.kind == "ranker"), settings))
        made = {p.name: self._value(p, v) for p, v in bound}
        kind = _part(call.name)
        if call.name in OTHERS:
            made["world"] = self.world
        return _acting(kind(**made))

    def ranker(self, call: Call) -> Ranker:
        """Return a saved ranker, or one trained on clicks made in the world."""
        if call.name == "saved":
            return self._saved(call)
        ranker = self._learn(call, {}).ranker
        assert isinstance(ranker, Ranker)
        return ranker

    def save(self, folder: Path) -> None:
        """Keep what was trained, each ranker in a folder of its own, for `saved:FOLDER`."""
        from simlab.training.store import save_ranker

        for key, agent in self._trained.items():
            name = re.sub(r"[^a-z0-9]+", "-", key.removeprefix("learned")).strip("-")
            save_ranker(agent.ranker, folder / name)

    def _value(self, parameter: Parameter, value: Any) -> Any:
        if parameter.kind == "policy":
            return self.build(value)
        return self.ranker(value) if parameter.kind == "ranker" else value

    def _check_ranker(self, call: Call) -> None:
        if call.name == "saved":
            self._saved(call)
        else:
            ranker_settings(call)

    def _saved(self, call: Call) -> Ranker:
        """Read a saved ranker, and refuse one that was made for another catalogue."""
        from simlab.training.store import load_ranker

        if not call.path:
            raise BadInput("saved needs the folder of a saved ranker: saved:FOLDER")
        ranker = load_ranker(Path(call.path))  # what it knows of the items is kept with it
        if ranker.sizes.n_items != self.world.catalog.n_items:
            raise BadInput(
                f"the ranker in {call.path} knows {ranker.sizes.n_items} items, "
                f"but the world has {self.world.catalog.n_items}"
            )
        return ranker.to(self.world.catalog.features.device)

    def _learn(self, call: Call, settings: dict[str, Any]) -> Any:
        """Train a ranker in the world, once for each ranker and settings of its learning."""
        key = f"learned({', '.join([str(call), *(f'{k}={v}' for k, v in sorted(settings.items()))])})"
        if key not in self._trained:
            from agents.learned import ClickRanker
            from simlab.lab.jobs import one_thread

            self.report(f"training {key} on {self.train_users} users")
            agent = ClickRanker(call.name.replace("-", "_"), ranker_settings(call), **settings)
            steps = self.world.horizon if self.train_steps is None else self.train_steps
            # One seed for all learners: they meet the same training users under the same luck.
            with one_thread():  # so that the weights do not depend on how many cores there are
                agent.learn(self.world, self.train_users, steps, self.seed.split("learn"), self.report)
            self._trained[key] = agent
        return self._trained[key]


def _acting(made: Any) -> Policy:
    assert isinstance(made, Policy), f"{type(made).__name__} is not a policy"
    return made


def known() -> list[str]:
    """Return every policy word."""
    return sorted({*(n.replace("_", "-") for n in names("policy")), *OTHERS})


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
    if name == "learned":
        from agents.learned import ClickRanker

        hints = get_type_hints(ClickRanker)
        return [Parameter("ranker", "ranker", True), *(Parameter(k, hints[k], False) for k in LEARNING)]
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


def _bind(call: Call) -> list[tuple[Parameter, Any]]:
    """Give each argument of a call to its parameter.

    Raises:
        BadInput: for an unknown word, and for an argument that is unknown, missing, double or wrong.
    """
    if call.name not in known():
        raise BadInput(f"there is no policy named {call.name}{nearest(call.name, known())}")
    parameters = _parameters(call.name)
    if len(call.positional) > len(parameters):
        takes = ", ".join(p.name for p in parameters) or "nothing"
        raise BadInput(f"policy {call} has {len(call.positional)} arguments, but {call.name} takes {takes}")
    given: dict[str, Any] = {p.name: v for p, v in zip(parameters, call.positional, strict=False)}
    for key, value in call.named:
        if key not in [p.name for p in parameters]:
            words = nearest(key, [p.name for p in parameters]) if parameters else "; it takes none"
            raise BadInput(f"policy {call.name} has no argument {key}{words}")
        if key in given:
            raise BadInput(f"policy {call}: {key} is given twice")
        given[key] = value
    for p in parameters:
        if p.needed and p.name not in given:
            raise BadInput(f"policy {call} needs {_article(p)}: {_example(call.name, parameters)}")
    return [(p, _checked(call, p, given[p.name])) for p in parameters if p.name in given]


def _checked(call: Call, parameter: Parameter, value: Any) -> Any:
    """Return an argument's value as its parameter wants it."""
    if parameter.kind in ("policy", "ranker"):
        if not isinstance(value, Call):
            raise BadInput(f"policy {call}: {parameter.name} is {value}, but it is a {parameter.kind}'s name")
        return value
    if isinstance(value, Call):
        if not value.is_word:
            raise BadInput(f"policy {call}: {parameter.name} is {value}, but it is a plain value")
        value = value.name
    return fit(value, parameter.kind, f"policy {call}: {parameter.name}")


def ranker_settings(call: Call) -> dict[str, Any]:
    """Return the settings of a ranker word such as mf(dim=32).

    Raises:
        BadInput: for a ranker or a setting that is not there, with the nearest one.
    """
    words = [n.replace("_", "-") for n in names("ranker")]
    if call.name not in words:
        raise BadInput(f"there is no ranker named {call.name}{nearest(call.name, words)}")
    if call.positional:
        raise BadInput(f"ranker {call}: name its settings, such as {call.name}(SETTING=VALUE)")
    spec = part("ranker", call.name).Spec  # type: ignore[attr-defined]
    hints = get_type_hints(spec)
    settings: dict[str, Any] = {}
    for key, value in call.named:
        if key not in hints:
            raise BadInput(
                f"ranker {call.name} has no setting {key}{nearest(key, [f.name for f in fields(spec)])}"
            )
        plain = value.name if isinstance(value, Call) and value.is_word else value
        settings[key] = fit(plain, hints[key], f"ranker {call}: {key}")
    return settings


def _check_learned(call: Call) -> None:
    """Refuse settings of learning that the learner itself refuses."""
    from agents.learned import ClickRanker

    try:
        ClickRanker(**{p.name: v for p, v in _bind(call) if p.kind != "ranker"})
    except BadInput as wrong:
        raise BadInput(f"policy {call}: {wrong}") from None


def _article(parameter: Parameter) -> str:
    return f"a {parameter.kind}" if parameter.kind in ("policy", "ranker") else parameter.name


def _example(name: str, parameters: list[Parameter]) -> str:
    words = {"policy": "popularity", "ranker": "mf"}
    return f"{name}({', '.join(words.get(str(p.kind), '0.1') for p in parameters if p.needed)})"
