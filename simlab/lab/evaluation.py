"""The work of `simlab evaluate`: log and policy in, estimates, diagnostics and a verdict out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import torch
from torch import Tensor

from causal.contract import Rounds, Score, Scores, Slates, ones
from causal.diagnostics import Diagnostics, Verdict, check_range, diagnose, verdict
from causal.evaluation import Estimate, estimate, evaluate, paired_difference, to_frame
from causal.intervals import KINDS
from causal.rewards import RewardModel, answers
from causal.rounds import rounds
from causal.tuning import family, tune
from simlab.errors import BadInput, nearest
from simlab.lab.evaluation_choice import Unit, applying, asked, check_estimators, with_model
from simlab.lab.evaluation_units import (
    COLUMN,
    Weighed,
    unit_of,
    weigh_slates,
    weigh_trajectories,
)
from simlab.lab.grammar import parse
from simlab.lab.log_source import LogSource, load, named, probability
from simlab.lab.reward_models import check_word, reward_model
from simlab.lab.stream_options import check_stream
from simlab.lab.targets import Target, make_target
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

_CUTS = (math.inf, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
_SHRINKS = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5)
KNOBS: dict[str, dict[str, tuple[float, ...]]] = {
    "ClippedIPS": {"clip": _CUTS},
    "ClippedDR": {"clip": _CUTS},
    "ClippedIIPS": {"clip": _CUTS},
    "SwitchDR": {"threshold": _CUTS},
    "DRos": {"shrinkage": (math.inf, 1.0, 10.0, 100.0, 1000.0, 10_000.0)},
    "SubGaussianIPS": {"shrinkage": _SHRINKS},
    "SubGaussianDR": {"shrinkage": _SHRINKS},
}
"""What `--tune` chooses from; first the value without bias, which wins where candidates are equal."""


@dataclass(frozen=True)
class Truth:
    """What the policy earns, known from elsewhere; or nearly so, where the words say why.

    Attributes:
        value: mean reward of a round.
        low: end of its interval, or the value itself.
        high: the other end.
        label: of the line in the figure.
        words: a sentence before the value, and one after it.
    """

    value: float
    low: float
    high: float
    label: str
    words: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Result:
    """What an evaluation found.

    Attributes:
        policy: the policy in its canonical words.
        frame: one row for each estimator.
        estimates: the same, with scores.
        logged: the mean reward of the log itself, with its interval.
        rounds: weights and rewards of the rounds that judged; None for a stream, whose rows are gone.
        diagnostics: of the weights and propensities; None for a stream.
        verdict: whether to believe the estimates.
        truth: what the policy earns by its own log, if there is one.
        notes: what the reader must know, in sentences.
        item_names: the owner's item ids.
        unit: what was weighed.
        short: name of each estimator without what tuning chose, which notes say.
        grouped: whether users are the units of every spread.
        weights: of a stream, one row for each kind of weight and slot.
        read: of a stream, how many files and rows were read and how long it took, a sentence.
        counts: of a stream, its files and rows by name.
    """

    policy: str
    frame: pd.DataFrame
    estimates: list[Estimate]
    logged: Estimate
    rounds: Rounds | None
    diagnostics: Diagnostics | None
    verdict: Verdict
    truth: Truth | None
    notes: tuple[str, ...]
    item_names: tuple[str, ...]
    unit: Unit = "round"
    short: tuple[str, ...] = ()
    grouped: bool = False
    weights: pd.DataFrame | None = None
    read: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LogMean:
    """The mean reward of a row: the value of the logging policy itself."""

    name: ClassVar[str] = "logged"
    needs: ClassVar[tuple[str, ...]] = ()
    leans: ClassVar[str] = ""
    unbiased: ClassVar[bool] = True
    streams: ClassVar[bool] = True

    def score(self, data: Rounds | Slates) -> Scores:
        """Add up what a row's slots earned."""
        reward = data.reward if data.reward.ndim == 1 else data.reward.sum(1)
        return (Score(reward, ones(reward)),)


def check(config: "EvaluateConfig") -> None:
    """Refuse options that cannot be, before anything is read.

    Raises:
        BadInput: one sentence with the option, its value and the nearest known one.
    """
    check_estimators(config.estimators, None if config.unit == "auto" else config.unit)
    if not config.estimators:
        raise BadInput("--estimators is empty; name some, or all")
    if config.interval not in KINDS:
        raise BadInput(f"there is no interval named {config.interval}{nearest(config.interval, KINDS)}")
    if not 0 < config.level < 1:
        raise BadInput(f"level is {config.level}, but a coverage is between 0 and 1")
    if config.folds < 2:
        raise BadInput(f"folds is {config.folds}, but cross-fitting needs at least 2")
    if config.reward_model == "none" and config.folds != 3:
        raise BadInput(f"folds is {config.folds}, but --reward-model is none: there is nothing to cross-fit")
    if not 0 <= config.discount <= 1:
        raise BadInput(f"discount is {config.discount}, but it is in [0, 1]")
    if config.horizon is not None and config.horizon < 1:
        raise BadInput(f"horizon is {config.horizon}, but at least one step counts")
    if config.examination and config.unit in ("auto", "slate") and config.logger is None:
        raise BadInput("--examination needs --logger: how often users saw what the logger showed")
    if (
        config.examination
        and config.unit in ("auto", "slate")
        and not {"all", "pbm"} & set(config.estimators)
    ):
        raise BadInput("--examination is for the estimator pbm, and --estimators does not name it")
    if any(not 0 <= x <= 1 for x in config.examination):
        wrong = next(x for x in config.examination if not 0 <= x <= 1)
        raise BadInput(f"examination has {wrong}, but it is a chance between 0 and 1")
    if config.logger is not None and config.logger.startswith(COLUMN):
        raise BadInput("--logger is a policy: the chances of the logger are column slot_propensity anyway")
    if config.truth is not None and not math.isfinite(config.truth):
        raise BadInput(f"truth is {config.truth}, but a policy's value is a finite number")
    check_word(config.reward_model)
    check_stream(config)
    named(config.log)
    for words in (config.policy, config.logger, config.versus):
        if words is not None and not words.startswith(COLUMN):
            parse(words)


def evaluate_log(config: "EvaluateConfig") -> Result:
    """Evaluate.

    Raises:
        BadInput: for a log or a policy that cannot be, and for a log that cannot answer, unless forced.
    """
    seed = Seed(config.seed)
    source = load(config)
    unit = unit_of(config, source)
    if config.reward_range is not None:
        check_range(source.log.reward.double(), *config.reward_range)
    target = _target(config, config.policy, source, seed)
    other = None if config.versus is None else _target(config, config.versus, source, seed)
    if other is not None:  # both are judged on rounds that neither has learned from
        judge = min(target.log, other.log, key=len)
        target, other = replace(target, log=judge), replace(other, log=judge)
    weighed, found = _weigh(config, source, target, unit, seed)
    kind, level, luck = config.interval, config.level, seed.split("intervals")
    estimates = _estimates(config, weighed, luck)
    logged = estimate(LogMean(), weighed.rounds, kind, level, seed=luck)
    frame = to_frame(estimates)
    lifts = [
        paired_difference(e.scores, logged.scores, kind, level, group=weighed.rounds.group, seed=luck)
        for e in estimates
    ]
    frame["lift"] = [d.value for d in lifts]
    frame["lift_low"] = [d.interval.low for d in lifts]
    frame["lift_high"] = [d.interval.high for d in lifts]
    notes = (*target.notes, *weighed.notes)
    if other is not None:
        against, _ = _weigh(config, source, other, unit, seed)
        gains = _gains(config, (weighed, estimates), (against, _estimates(config, against, luck)), luck)
        for column, of in (("versus", "value"), ("versus_low", "low"), ("versus_high", "high")):
            frame[column] = [gains.get(e.name, {}).get(of, math.nan) for e in weighed.estimators]
        about = [n for n in (*other.notes, *against.notes) if n not in notes]
        notes = (
            *notes,
            *(f"Of {other.name}: {n}" for n in about),
            f"versus is the difference to {other.name}, paired on the same {len(judge):,} rounds.",
        )
    short = tuple(e.name for e in weighed.estimators)
    if config.tune != "none" and not any(type(e).__name__ in KNOBS for e in weighed.estimators):
        notes += (f"No estimator here has anything that --tune {config.tune} could choose.",)
    notes += tuple(f"Tuned: {e.name}." for e, name in zip(estimates, short, strict=True) if e.name != name)
    return Result(
        policy=target.name,
        frame=frame,
        estimates=estimates,
        logged=logged,
        rounds=weighed.rounds,
        diagnostics=found,
        verdict=weighed.verdict,
        truth=_truth(config, source, target),
        notes=notes,
        item_names=target.log.item_names,
        unit=unit,
        short=short,
        grouped=weighed.rounds.group is not None,
    )


def _weigh(
    config: "EvaluateConfig", source: LogSource, target: Target, unit: Unit, seed: Seed
) -> tuple[Weighed, Diagnostics]:
    """Weigh each unit of a log for a target, and look at the weights."""
    if unit == "round":
        return _weigh_rounds(config, source, target, seed)
    weigh = weigh_slates if unit == "slate" else weigh_trajectories
    weighed = weigh(config, source, target, seed)
    return weighed, diagnose(weighed.rounds)


def _estimates(config: "EvaluateConfig", weighed: Weighed, luck: Seed) -> list[Estimate]:
    """Apply the estimators, those with a knob tuned if that was asked for."""
    if config.tune == "none":
        return evaluate(weighed.data, weighed.estimators, config.interval, config.level, seed=luck)
    found = []
    for e in weighed.estimators:
        values = next((v for kind, v in KNOBS.items() if type(e).__name__ == kind), None)
        if values is None:
            found.append(estimate(e, weighed.data, config.interval, config.level, seed=luck))
        else:
            chosen = tune(
                family(e, **values),
                weighed.data,
                config.tune,
                reference=0 if config.tune in ("mse", "cv") else None,
                seed=luck.split("tune"),
            )
            found.append(chosen.estimate(config.interval, config.level, seed=luck))
    return found


def _gains(
    config: "EvaluateConfig",
    mine: tuple[Weighed, list[Estimate]],
    theirs: tuple[Weighed, list[Estimate]],
    luck: Seed,
) -> dict[str, dict[str, float]]:
    """Return the paired difference of two targets by the name of each estimator that both have."""
    beside = {e.name: found for e, found in zip(theirs[0].estimators, theirs[1], strict=True)}
    out = {}
    for e, found in zip(mine[0].estimators, mine[1], strict=True):
        if e.name in beside:
            gain = paired_difference(
                found.scores,
                beside[e.name].scores,
                config.interval,
                config.level,
                group=mine[0].rounds.group,
                seed=luck,
            )
            out[e.name] = {"value": gain.value, "low": gain.interval.low, "high": gain.interval.high}
    return out


def _weigh_rounds(
    config: "EvaluateConfig", source: LogSource, target: Target, seed: Seed
) -> tuple[Weighed, Diagnostics]:
    """Weigh each round as a whole, and judge the one set of weights.

    Raises:
        BadInput: for a log that cannot answer, unless forced.
    """

    def weighed(model: RewardModel | None) -> Rounds:
        return rounds(
            target.log,
            target.policy,
            model,
            folds=config.folds,
            seed=seed.split("folds"),
            past=target.past,
            page_slots=source.page_slots if target.log.position is not None else None,
        )

    def recipe() -> RewardModel | None:
        answers(target.log)
        return reward_model(config.reward_model, target.log, source.catalog)

    chosen = asked(config, "round")
    data, notes = with_model(config, chosen, target, recipe, weighed)
    policy = None if isinstance(target.policy, Tensor) else target.policy
    found = diagnose(
        data,
        target.log,
        policy,
        past=target.past,
        page_slots=source.page_slots,
        reward_range=config.reward_range,
    )
    said = verdict(found)
    if said.level == "refused" and not config.force:
        raise BadInput(said.sentences[0])
    return Weighed(data, data, applying(config, chosen, data), said, notes), found


def _target(config: "EvaluateConfig", words: str, source: LogSource, seed: Seed) -> Target:
    if words.startswith(COLUMN):
        name = words.removeprefix(COLUMN).strip()
        if not name:
            raise BadInput("column: needs the name of a column, column:NAME")
        chance = probability(config, name, source.log)
        return Target(words, source.log, chance, notes=(column_note(name),))
    campaign = getattr(source.dataset, "campaign", None)
    return make_target(words, source.log, source.catalog, seed, campaign)


_CAVEATS = {
    "random": "",
    "bts": " It went on learning while it logged, and the policy evaluated here stays at its priors, so "
    "the two values are near but not the same.",
}


def column_note(name: str) -> str:
    """Say what a column cannot tell of a policy."""
    return f"Column {name} says how likely the policy is to do what was logged, and nothing of the rest."


def given(value: float) -> Truth:
    """Return the truth that `--truth` says."""
    words = ("The policy is known to earn", "given with --truth.")
    return Truth(value, value, value, "known value", words)


def _truth(config: "EvaluateConfig", source: LogSource, target: Target) -> Truth | None:
    """Return the value that the options give, or that the policy's own log in the same data set shows."""
    if config.truth is not None:
        return given(config.truth)
    logger = str(getattr(source.dataset, "policy", ""))
    twin = {("random", "bernoulli-ts"): "bts", ("bts", "random"): "random"}.get((logger, target.name))
    if twin is None:
        return None
    own = replace(source.dataset, policy=twin).load()
    reward = own.reward.double()
    mean = estimate(LogMean(), Rounds(reward, torch.ones_like(reward)), "student-t", config.level)
    clicks = int(reward.sum())
    return Truth(
        mean.value,
        mean.interval.low,
        mean.interval.high,
        f"{twin}'s own log",
        (
            f"Where the policy {twin} acted itself, it earned",
            f"mean of the {len(own):,} rounds that it logged ({clicks} clicks)." + _CAVEATS[twin],
        ),
    )
