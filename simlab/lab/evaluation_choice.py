"""Which estimators run, and with which model: those that were asked for, or all that a log allows.

What is named must be had, or one sentence refuses. What is left to the defaults is left out where it cannot
be had, and one sentence says so.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor

from causal.contract import Scored, Slates, lacking, possible
from simlab.errors import BadInput, nearest
from simlab.lab.targets import Target
from simlab.parts import names, part

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

Unit = Literal["round", "slate", "trajectory"]

KINDS: dict[Unit, str] = {
    "round": "estimator",
    "slate": "slate estimator",
    "trajectory": "trajectory estimator",
}
"""The kind of part that scores each unit."""

UNNAMED = ("auto", "none")
"""Words of `--reward-model` that name none."""

MODELLED = frozenset({"q_logged", "q_target", "v_target"})
"""Fields that a model fills."""

WHOLE = (
    "Estimators that weigh slots are left out: they need what each slot earned, and the log has one reward a "
    "slate."
)

Data = TypeVar("Data", bound=Scored)


def check_estimators(chosen: Sequence[str], unit: Unit | None = None) -> None:
    """Refuse a name that no estimator has.

    Args:
        chosen: the words of the command line.
        unit: what is weighed, where it is known; else any kind will do.

    Raises:
        BadInput: with the nearest name, or the unit that the name belongs to.
    """
    every = {u: [n.replace("_", "-") for n in names(kind)] for u, kind in KINDS.items()}
    known = [n for u in every if unit in (None, u) for n in every[u]]
    for name in chosen:
        if name == "all" or name in known:
            continue
        homes = [u for u in every if name in every[u]]
        if homes:
            raise BadInput(
                f"estimator {name} is for --unit {homes[0]}, and this evaluation weighs each {unit}"
            )
        raise BadInput(f"there is no estimator named {name}{nearest(name, [*known, 'all'])}")


def asked(config: "EvaluateConfig", unit: Unit) -> list[Any]:
    """Return the estimators that were asked for, in that order, or all of a kind, the simplest first.

    Raises:
        BadInput: for a name of another kind.
    """
    check_estimators(config.estimators, unit)
    if "all" not in config.estimators:
        return [part(KINDS[unit], name)() for name in dict.fromkeys(config.estimators)]
    every: list[Any] = [part(KINDS[unit], name)() for name in names(KINDS[unit])]
    return sorted(every, key=lambda e: (len(e.needs), len(e.name)))


def applying(config: "EvaluateConfig", chosen: Sequence[Any], data: Scored) -> list[Any]:
    """Return the estimators that have all they need.

    Raises:
        BadInput: for one that was named and lacks something.
    """
    if "all" in config.estimators:
        return [e for e in chosen if possible(e, data)]
    for e in chosen:
        missing = lacking(e, data)
        if missing:
            raise BadInput(f"{e.name} needs {missing}")
    return list(chosen)


def whole_note(config: "EvaluateConfig", data: Scored) -> tuple[str, ...]:
    """Say that slots cannot be told apart, if that leaves estimators out."""
    everything = "all" in config.estimators
    return (WHOLE,) if everything and isinstance(data, Slates) and not data.per_slot else ()


def with_model(
    config: "EvaluateConfig",
    chosen: Sequence[Any],
    target: Target,
    recipe: Callable[[], Any],
    make: Callable[[Any], Data],
    why: str = "",
) -> tuple[Data, tuple[str, ...]]:
    """Weigh a log with the model that `--reward-model` means, or without one where defaults allow it.

    Args:
        config: the options.
        chosen: the estimators.
        target: what is to be evaluated.
        recipe: of the model.
        make: weighs the log, given the recipe or None.
        why: no model can be had, if that is known.

    Returns:
        The weighed log, and what was left out, in sentences.

    Raises:
        BadInput: if a model or an estimator that needs one was named, and the model cannot be had.
    """
    wanting = [e for e in chosen if MODELLED & set(e.needs)]
    word = config.reward_model
    named = word not in UNNAMED
    if not wanting:
        return make(None), (f"No estimator here needs --reward-model {word}.",) if named else ()
    if isinstance(target.policy, Tensor):
        why = "a reward model needs to know all that the policy does, and a column does not say it"
    elif word == "none":
        why = "there is no reward model"
    if why and named:
        raise BadInput(f"--reward-model {word} cannot be used: {why}")
    if not why:
        try:
            return make(recipe()), ()
        except BadInput as reason:
            if named:
                raise
            why = str(reason)
    data = make(None)  # if more than the model is wrong, this says it
    if "all" not in config.estimators:
        raise BadInput(f"{wanting[0].name} needs a reward model: {why}")
    left = [e.name for e in wanting if not any(map(data.lacking, set(e.needs) - MODELLED))]
    sentence = f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} left out: {why}."
    return data, (sentence,) if left else ()
