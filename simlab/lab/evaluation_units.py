"""What is weighed: rounds, the slots of slates, or trajectories; and a verdict on each estimator's weights.

For rounds there is one set of weights and one verdict. Estimators of slates and trajectories lean on
different weights: those of whole slates may rest on two rows where those of slots are fine. So each is judged
by its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from causal.cascade_reward import CascadeModel
from causal.contract import Rounds, Scored, SignedRounds, Slates, Trajectories
from causal.diagnostics import Verdict, mean_sentence, share_sentence
from causal.evaluation import effective, overlap
from causal.fqe import fqe
from causal.q_models import QModel
from causal.slates import marginals_error, slates
from causal.trajectories import trajectories
from simlab.errors import BadInput
from simlab.lab.evaluation_choice import Unit, applying, asked, whole_note, with_model
from simlab.lab.log_source import LogSource
from simlab.lab.reward_models import cascade_model, q_model
from simlab.lab.targets import Target, make_target
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.evaluate import EvaluateConfig

COLUMN = "column:"
"""What begins the words of a policy that is a column of the log."""


MEAN_ONE = ("weight", "joint", "marginal", "cascade", "pseudo", "whole", "prefix")
"""Weights whose mean is 1 at every slot or step where propensities are right and the logger can do all."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """What is to be scored.

    Attributes:
        data: of each unit.
        rounds: reward and weight of each unit, for the figures and the diagnostics: the weights of the
            estimator that has the most effective rows.
        estimators: that are judged fit, the simplest first.
        verdict: on the weights of each estimator.
        notes: what the reader must know, in sentences.
    """

    data: Scored
    rounds: Rounds
    estimators: list[Any]
    verdict: Verdict
    notes: tuple[str, ...] = ()


def unit_of(config: "EvaluateConfig", source: LogSource) -> Unit:
    """Return what is weighed.

    Raises:
        BadInput: for options that go with another unit, and slots where rows have one item.
    """
    slots = source.log.slots > 1 and not config.policy.startswith(COLUMN)  # a column is of whole slates
    unit: Unit = ("slate" if slots else "round") if config.unit == "auto" else config.unit
    if unit == "slate" and source.log.slots == 1:
        raise BadInput("--unit slate needs several items a row, and this log has one; use --unit round")
    check_unit(config, unit)
    return unit


def check_unit(config: "EvaluateConfig", unit: Unit) -> None:
    """Refuse options that go with another unit.

    Raises:
        BadInput: naming the option and its unit.
    """
    for name, given, owner in (
        ("--logger", config.logger is not None, "slate"),
        ("--examination", bool(config.examination), "slate"),
        ("--discount", config.discount != 1.0, "trajectory"),
        ("--horizon", config.horizon is not None, "trajectory"),
    ):
        if given and unit != owner:
            raise BadInput(f"{name} is for --unit {owner}, and this evaluation weighs each {unit}")


def weigh_slates(config: "EvaluateConfig", source: LogSource, target: Target, seed: Seed) -> Weighed:
    """Weigh the slates of a log, and judge each estimator by the weights that it leans on.

    Raises:
        BadInput: if no estimator can be believed, unless forced.
    """
    aim = target.policy
    if isinstance(aim, Tensor):
        raise BadInput(
            "a column says how likely a whole slate is, and estimators of slates need more; use --unit round"
        )
    logger = None
    if config.logger is not None:
        logger = make_target(config.logger, source.log, source.catalog, seed.split("logger"))
        if len(logger.log) != len(source.log):
            raise BadInput(f"--logger {config.logger} learns from the log, so it cannot have logged it")
    policy = None if logger is None else logger.policy
    assert not isinstance(policy, Tensor)
    alpha = None
    if config.examination:
        if len(config.examination) != source.log.slots:
            have = len(config.examination)
            raise BadInput(f"--examination has {have} numbers, but slates have {source.log.slots} slots")
        alpha = torch.tensor(config.examination, dtype=torch.float64)

    def weighed(model: CascadeModel | None) -> Slates:
        return slates(
            target.log,
            aim,
            logger=policy,
            examination=alpha,
            reward_model=model,
            folds=config.folds,
            seed=seed.split("folds"),
            past=target.past,
        )

    chosen, why = asked(config, "slate"), ""
    if logger is None:
        why = "a model of slates needs --logger, the policy that logged them"
    elif target.log.click is None:
        why = "a model of slates needs what each slot earned, and the log has one reward a slate"
    data, left = with_model(
        config,
        chosen,
        target,
        lambda: cascade_model(config.reward_model, target.log, source.catalog),
        weighed,
        why,
    )
    chosen = applying(config, chosen, data)
    total = data.reward.sum(1)
    kept, said, best = _judged(config, chosen, data)
    error = marginals_error(data) if data.marginal_error is not None else ""
    notes = [f"{error[0].upper()}{error[1:]}."] if error else []
    notes += [*whole_note(config, data), *left]
    if config.logger is None:
        notes.append("Say with --logger who logged the slates, and more estimators apply.")
    return Weighed(data, SignedRounds(total, best, group=data.group), kept, said, tuple(notes))


def weigh_trajectories(config: "EvaluateConfig", source: LogSource, target: Target, seed: Seed) -> Weighed:
    """Weigh the sessions of a log, and judge each estimator by the weights that it leans on.

    Raises:
        BadInput: if no estimator can be believed, unless forced.
    """

    def weighed(recipe: QModel | None) -> Trajectories:
        q = None
        if recipe is not None:
            assert not isinstance(target.policy, Tensor)
            q = fqe(
                target.log,
                target.policy,
                recipe,
                config.discount,
                horizon=config.horizon,
                folds=config.folds,
                past=target.past,
                seed=seed.split("fqe"),
            )
        return trajectories(
            target.log, target.policy, config.discount, q, horizon=config.horizon, past=target.past
        )

    chosen = asked(config, "trajectory")
    data, notes = with_model(
        config, chosen, target, lambda: q_model(config.reward_model, target.log, source.catalog), weighed
    )
    chosen = applying(config, chosen, data)
    kept, said, best = _judged(config, chosen, data)
    total = (data.reward * data.gammas).sum(1)
    return Weighed(data, Rounds(total, best, group=data.group), kept, said, notes)


def _judged(
    config: "EvaluateConfig", chosen: list[Any], data: Slates | Trajectories
) -> tuple[list[Any], Verdict, Float[Tensor, " round"]]:
    """Judge each estimator by its own weights.

    Returns:
        Those that may be printed, the verdict, and the weights of the one with the most effective rows.

    Raises:
        BadInput: if there is none, unless forced.
    """
    best, most = torch.ones(len(data), dtype=torch.float64), -1.0
    measured: list[tuple[float, float]] = []
    for estimator in chosen:
        measured.append(overlap(estimator, data))
        if estimator.leans and measured[-1][0] > most:
            most, weight = measured[-1][0], getattr(data, estimator.leans)
            best = weight if weight.ndim == 1 else min(weight.unbind(1), key=effective)
    kept, said = judge(chosen, measured, len(data), force=config.force)
    tested = {e.leans: _means(getattr(data, e.leans)) for e in kept if e.leans in MEAN_ONE}
    kept, said = by_mean(tested, kept, {e.name: e.leans for e in kept}, said, config.force)
    return kept, said, best


def _means(weight: Float[Tensor, "round *slot"]) -> tuple[Float[Tensor, " slot"], Float[Tensor, " slot"]]:
    """Return the mean weight of each slot or step, and its z-score against 1, with rows as independent."""
    each = weight.reshape(len(weight), -1)
    off = each.mean(0) - 1
    z = off / (each.std(0) / len(each) ** 0.5)
    return off + 1, torch.where(off.abs() < 1e-6, 0.0, z)  # propensities may have been float32


def by_mean(
    means: Mapping[str, tuple[Float[Tensor, " slot"], Float[Tensor, " slot"]]],
    kept: Sequence[Any],
    leans: Mapping[str, str],
    said: Verdict,
    force: bool,
) -> tuple[list[Any], Verdict]:
    """Judge by the mean weight of the worst slot or step what effective rows have let through.

    Args:
        means: of each set of weights, the means and their z-scores against 1.
        kept: the estimators so far.
        leans: the set of weights of each estimator, by its name.
        said: the verdict so far.
        force: keep those that are refused.

    Returns:
        Those that may be printed, and the verdict.

    Raises:
        BadInput: if there is none, unless forced.
    """
    alike: dict[str, list[str]] = {}
    for e in kept:
        if e.leans in MEAN_ONE:
            alike.setdefault(leans[e.name], []).append(e.name)
    tests = sum(len(means[key][0]) for key in alike)
    told: dict[str, tuple[int, str]] = {}
    for key, who in alike.items():
        mean, z = means[key]
        slot = int(z.abs().argmax())
        where = f"{', '.join(who)}: " + (
            f"at {'step' if key == 'prefix' else 'slot'} {slot} " if len(z) > 1 else ""
        )
        told[key] = mean_sentence(float(mean[slot]), float(z[slot]), tests, where)
    if not any(level for level, _ in told.values()):
        return list(kept), said
    sentences = [text for level, text in sorted(told.values(), reverse=True) if level]
    left = [e for e in kept if force or told.get(leans[e.name], (0, ""))[0] < 2]
    if not any(e.leans for e in left):
        raise BadInput(sentences[0])
    worst = max(told.get(leans[e.name], (0, ""))[0] for e in left)
    before = () if said.level == "ok" else said.sentences
    level = said.level if worst == 0 or said.level == "refused" else "refused" if worst == 2 else "caution"
    return left, Verdict(level, (*before, *sentences))


def judge(
    chosen: Sequence[Any], measured: Sequence[tuple[float, float]], n: int, *, force: bool
) -> tuple[list[Any], Verdict]:
    """Judge each estimator by the effective rows and the largest share of its own weights.

    Args:
        chosen: the estimators.
        measured: both numbers for each; not looked at where an estimator leans on no weight.
        n: number of rows.
        force: keep those that are refused.

    Returns:
        Those that may be printed, and the verdict.

    Raises:
        BadInput: if there is none, unless forced.
    """
    found: dict[str, tuple[int, str]] = {}
    alike: dict[tuple[int, str], list[str]] = {}
    most = -1.0
    steadiest: tuple[int, str] | None = None
    for estimator, (ess, share) in zip(chosen, measured, strict=True):
        if not estimator.leans:
            found[estimator.name] = (0, "")
            continue
        found[estimator.name] = share_sentence(ess, n, share)
        alike.setdefault(found[estimator.name], []).append(estimator.name)
        if ess > most:
            most, steadiest = ess, found[estimator.name]
    refused = [name for name, (level, _) in found.items() if level == 2]
    kept = [e for e in chosen if force or e.name not in refused]
    if not any(e.leans for e in kept):
        if steadiest is None:
            raise BadInput("no estimator that weighs applies to this log")
        raise BadInput(f"{', '.join(alike[steadiest])}: {steadiest[1]}")
    sentences = [
        f"{', '.join(who)}: {words}" for (level, words), who in sorted(alike.items(), reverse=True) if level
    ]
    worst = max((level for e in kept for level in (found[e.name][0],)), default=0)
    level: Literal["ok", "caution", "refused"] = ("ok", "caution", "refused")[worst]
    if not sentences:
        sentences = [f"{most:,.0f} effective rows of {n:,} behind the steadiest estimator: ok"]
    return kept, Verdict(level, tuple(sentences))
