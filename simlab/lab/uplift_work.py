"""The work of `simlab uplift`: a trial in; effects of rows that no learner has seen, and measures, out.

All learners are judged by the same doubly robust scores, from nuisances of their own. Each fold's effects
come from a learner of its own, so rows are ranked within their fold: pooled, a learner that knows nothing
would seem to do harm, as a fold whose own effects are low has a learner that says high ones.
"""

import hashlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from causal.diagnostics import Verdict
from causal.targeting.calibration import Blp, Groups, blp, group_effects
from causal.targeting.curves import Ranked, auuc, qini, uplift_at
from causal.targeting.measure import Measure
from causal.targeting.rate import Band, autoc, rate_qini, toc
from causal.targeting.returns import Returns, returns
from causal.targeting.scores import Nuisances, aipw, average, deal, nuisances
from causal.targeting.truth import root_pehe
from causal.uplift.contract import Array, Average, Trial
from simlab.errors import BadInput
from simlab.files import whole, write_whole
from simlab.lab.uplift_budget import Budget, spend
from simlab.lab.uplift_data import Given, learners, load
from simlab.lab.uplift_drivers import drivers
from simlab.lab.uplift_verdict import verdict
from simlab.parts import part
from simlab.seeds import Seed

if TYPE_CHECKING:
    from simlab.lab.runs import Run
    from simlab.lab.uplift import UpliftConfig

SHARES = np.arange(1, 21) / 20
"""Where curves are drawn."""

_LEAST = 0.01
"""Estimated chances below it count as it, in scores and in curves."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A learner's effects of one arm, on rows that it has not seen, and what they are worth.

    Attributes:
        key: the learner's file.
        name: the learner's name in tables.
        ate: the average effect by the learner itself, fitted on all rows, and its standard error.
        effect: of each judged row.
        place: the row's place in its fold by effect, from 0 to 1; ties share their middle.
        autoc: area under the TOC curve.
        rate_qini: area under share times TOC.
        auuc: area under the uplift curve, outcomes gained a row.
        qini: Qini coefficient, 0 for a random order and 1 for the perfect curve.
        top: the difference of means among the top 30 %.
        blp: the best linear predictor of the effect, or None where all effects are equal.
        pehe: √PEHE where the truth is known.
        curve: gain of treating the top share by differences of means, outcomes a row.
    """

    key: str
    name: str
    ate: tuple[float, float]
    effect: Float[Array, " row"]
    place: Float[Array, " row"]
    autoc: Measure
    rate_qini: Measure
    auuc: Measure
    qini: Measure
    top: Measure | None
    blp: Blp | None
    pehe: Measure | None
    curve: Band


@dataclass(frozen=True, eq=False)
class Arm:
    """What was found of one arm against control.

    Attributes:
        label: of the arm.
        average: the mean of the scores over the judged rows, with its standard error.
        judged: the learners, the best first.
        toc: of the best.
        returns: of treating those first whom the best learner puts first.
        groups: effects of groups by the best learner's effect, lowest first, or None where all are equal.
        said: mean effect that the best learner says of each group.
        drivers: the ten features that move the best learner's effect most.
        truth: the true average effect, where it is known.
    """

    label: str
    average: Average
    judged: tuple[Judged, ...]
    toc: Band
    returns: Returns
    groups: Groups | None
    said: Float[Array, " group"]
    drivers: pd.DataFrame
    truth: float | None


@dataclass(frozen=True, eq=False)
class Result:
    """What an uplift run found.

    Attributes:
        given: the trial and what the guards saw.
        arms: each arm against control.
        frame: a row for each arm and learner.
        effects: a row for each row of the table: its fold, arm, outcome, scores and effects.
        rows: how many rows were judged.
        verdict: whether to believe it.
        notes: what the reader must know, in sentences.
        budget: whom `--budget` treats, if it was given.
    """

    given: Given
    arms: tuple[Arm, ...]
    frame: pd.DataFrame
    effects: pd.DataFrame
    rows: int
    verdict: Verdict
    notes: tuple[str, ...]
    budget: Budget | None = None


def uplift(config: "UpliftConfig", parts: Path) -> Result:
    """Read, guard, learn, judge.

    Args:
        config: the options.
        parts: the folder that keeps finished fits; those that it holds already are not made again.

    Raises:
        BadInput: for a trial that cannot answer, unless forced.
    """
    seed = Seed(config.seed)
    given = load(config, seed)
    trial = given.trial
    fold = _folds(config, trial, seed)
    _fills(config.groups, trial, fold >= 0)
    _same_trial(trial, parts)
    fits = _Fits(config, trial, fold, seed, parts)
    found, left_out = fits.make()
    rows = np.flatnonzero(fold >= 0)
    every = _nuisances(given, seed)
    gain = aipw(given.trial, mu=every.mu, e=every.e, clip=_LEAST)
    seen = trial if given.random else replace(trial, propensity=given.overlap.chance.clip(_LEAST))
    seen, gain = seen.rows(rows), gain[rows]
    arms = tuple(_arm(k, config, seen, gain, fold[rows], found, fits) for k in range(len(trial.arms) - 1))
    judging = Nuisances(every.mu[rows], every.e[rows], every.fold[rows])
    money = spend(config, trial.rows(rows), fold[rows], judging, _by_order(arms, found))
    return Result(
        given=given,
        arms=arms,
        frame=pd.concat([_frame(a, config.level, seen.effect is not None) for a in arms], ignore_index=True),
        effects=_effects(given, rows, fold[rows], gain, found, money),
        rows=len(rows),
        verdict=verdict(given, arms, config),
        notes=(*given.notes, *left_out, *_notes(config, given, rows)),
        budget=money,
    )


def _fills(groups: int, trial: Trial, judged: Bool[Array, " row"]) -> None:
    """Refuse more groups than can be filled, before anything is learned.

    Raises:
        BadInput: naming how many groups of two there are at most.
    """
    what, many = "rows", int(judged.sum())
    if trial.user is not None:
        what, many = "users", len(np.unique(trial.user[judged]))
    if many < 2 * groups:
        raise BadInput(
            f"groups is {groups}, but {many} judged {what} fill at most {many // 2} of two each, which a "
            "standard error takes"
        )


def stopped(run: "Run") -> str:
    """Say what a stopped run has kept."""
    done = len(list(run.parts.glob("*.npz"))) if run.parts.is_dir() else 0
    if not done:
        return "stopped before any learner was fitted; nothing is kept"
    fits = "1 fit is" if done == 1 else f"{done} fits are"
    return f"stopped; {fits} kept, go on with: simlab uplift --resume {run.folder}"


@dataclass(frozen=True, eq=False)
class _Learned:
    """One learner: effects of the rows it has not seen, and its own average effect."""

    kind: Any
    effect: Float[Array, "row treated"]
    value: Float[Array, " treated"]
    stderr: Float[Array, " treated"]


@dataclass(frozen=True, eq=False)
class _Fits:
    """The fits of a run: each learner without each fold, and on all rows."""

    config: "UpliftConfig"
    trial: Trial
    fold: Int[Array, " round"]
    seed: Seed
    parts: Path

    def make(self) -> tuple[dict[str, _Learned], list[str]]:
        """Fit all, and return what was learned and who was left out."""
        from simlab.lab.compare import progress_bar

        wanted = learners(self.config)
        count = int(self.fold.max()) + 1
        meant = {w.replace("-", "_") for w in self.config.learners}
        found: dict[str, _Learned] = {}
        left_out: list[str] = []
        with ExitStack() as stack:
            step: Callable[[], None] = lambda: None  # noqa: E731
            if _terminal():
                step = progress_bar(stack, "fits", len(wanted) * (count + 1))
            for key in wanted:
                try:
                    found[key] = self._learn(key, count, step)
                except BadInput as why:
                    if key in meant:
                        raise
                    left_out.append(f"{key.replace('_', '-')} is left out: {why}.")
        if not found:
            raise BadInput(f"no learner takes this trial: {left_out[0]}")
        return found, left_out

    def whole(self, key: str) -> Any:
        """Return a learner of all rows."""
        return self.fresh(key, "all").learn(self.trial)

    def fresh(self, key: str, fold: str) -> Any:
        """Return a learner that has seen nothing."""
        kind: Any = part("uplift learner", key)
        luck = self.seed.split("learn").split(key).split(fold).numpy()
        return kind(random_state=int(luck.integers(2**31 - 1)))

    def _learn(self, key: str, count: int, step: Callable[[], None]) -> _Learned:
        treated = len(self.trial.arms) - 1
        effect = np.zeros((len(self.trial), treated))
        for k in range(count):
            held = np.flatnonzero(self.fold == k)

            def fit(k: int = k, held: Array = held) -> dict[str, Array]:
                learner = self.fresh(key, str(k)).learn(self.trial.rows(self.fold != k))
                return {"effect": learner.effect(self.trial.x[held]).reshape(len(held), treated)}

            effect[held] = self._kept(f"{key}-fold{k}", fit)["effect"]
            step()

        def all_rows() -> dict[str, Array]:
            own = self.whole(key).ate()
            return {"value": np.array(own.value), "stderr": np.array(own.stderr)}

        own = self._kept(f"{key}-all", all_rows)
        step()
        return _Learned(part("uplift learner", key), effect[self.fold >= 0], own["value"], own["stderr"])

    def _kept(self, name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return what an earlier start of this run has kept, or make and keep it."""
        path = self.parts / f"{name}.npz"
        if path.is_file():
            with np.load(path) as kept:
                return dict(kept)
        made = make()
        with whole(path) as hidden, hidden.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        return made


def _terminal() -> bool:
    from rich.console import Console

    return Console(stderr=True).is_terminal


def _same_trial(trial: Trial, parts: Path) -> None:
    """Refuse to go on with the fits of another trial."""
    digest = hashlib.blake2b(repr((trial.arms, trial.names, trial.x.shape)).encode(), digest_size=16)
    for values in (trial.x, trial.arm, trial.y, trial.weight, trial.user, trial.propensity):
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    parts.mkdir(parents=True, exist_ok=True)
    note = parts / "trial.txt"
    if note.is_file() and note.read_text("utf-8") != digest.hexdigest():
        raise BadInput("the data have changed since the run was stopped, so it cannot be resumed")
    write_whole(note, digest.hexdigest().encode())


def _folds(config: "UpliftConfig", trial: Trial, seed: Seed) -> Int[Array, " round"]:
    """Return the fold of each row; -1 where it is only learned from."""
    luck = seed.split("folds")
    if config.test_share is None:
        fold = deal(trial, config.folds, luck)
    else:
        units = len(trial) if trial.user is None else len(np.unique(trial.user))
        pieces = min(units, 100)
        fold = np.where(deal(trial, pieces, luck) < round(config.test_share * pieces), 0, -1)
    for k in range(int(fold.max()) + 1):
        for side, word in ((fold != k, "outside"), (fold == k, "in")):
            lost = np.setdiff1d(np.arange(len(trial.arms)), trial.arm[side])
            if len(lost):
                label = trial.arms[lost[0]]
                raise BadInput(f"arm {label!r} has no rows {word} fold {k}, so effects cannot be judged")
    if fold.max() < 0 or (config.test_share is not None and (fold == 0).all()):
        raise BadInput(f"test-share is {config.test_share}, which leaves no rows to learn from or to judge")
    return fold


def _nuisances(given: Given, seed: Seed) -> Nuisances:
    """Return outcomes by boosted trees, out of fold, and chances of arms: what judges all learners."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    binary = given.trial.binary
    kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
    model = kind(max_iter=100, max_leaf_nodes=15, learning_rate=0.05, random_state=0)
    return nuisances(given.trial, model, folds=5, seed=seed.split("judge"), e=given.overlap.chance)


def _arm(
    k: int,
    config: "UpliftConfig",
    trial: Trial,
    gains: Float[Array, "row treated"],
    fold: Int[Array, " row"],
    found: dict[str, _Learned],
    fits: _Fits,
) -> Arm:
    """Judge all learners' effects of one arm."""
    gain = gains[:, k]
    weight = np.ones(len(trial)) if trial.weight is None else trial.weight
    judged = [_judge(key, one, k, trial, gain, fold, weight) for key, one in found.items()]
    judged.sort(key=lambda j: (-j.autoc.value, j.name))
    best = judged[0]
    about: dict[str, Any] = {"weight": trial.weight, "user": trial.user}
    groups, said = None, np.zeros(0)
    if np.ptp(best.place) > 0:
        groups = group_effects(gain, best.place, config.groups, **about)
        said = group_effects(best.effect, best.place, config.groups, **about).effect
    whole_trial = fits.trial
    own = average(gains, trial)
    label = str(trial.arms[k + 1])
    return Arm(
        label=label,
        average=Average((own.value[k],), (own.stderr[k],), (trial.arms[k + 1],), own.how),
        judged=tuple(judged),
        toc=toc(best.place, gain, SHARES, **about),
        returns=returns(best.place, gain, value=config.value, cost=config.cost, shares=SHARES, **about),
        groups=groups,
        said=said,
        drivers=drivers(fits.whole(best.key), k, whole_trial, trial, gain, fits.seed.split("drivers")),
        truth=None if trial.effect is None else float(np.average(trial.effect[:, k], weights=weight)),
    )


def _judge(
    key: str,
    one: _Learned,
    k: int,
    trial: Trial,
    gain: Float[Array, " row"],
    fold: Int[Array, " row"],
    weight: Float[Array, " row"],
) -> Judged:
    effect = one.effect[:, k]
    place = places(effect, fold, weight)
    about: dict[str, Any] = {"weight": trial.weight, "user": trial.user}
    ranked = Ranked.of(trial, place, arm=trial.arms[k + 1])
    predictor = None
    if np.ptp(place) > 0:
        predictor = blp(gain, _centred(effect, fold, weight), **about)
    return Judged(
        key=key,
        name=one.kind.name,
        ate=(float(one.value[k]), float(one.stderr[k])),
        effect=effect,
        place=place,
        autoc=autoc(place, gain, **about),
        rate_qini=rate_qini(place, gain, **about),
        auuc=auuc(ranked, "row"),
        qini=qini(ranked, "perfect"),
        top=_top(ranked, 0.3),
        blp=predictor,
        pehe=None if trial.effect is None else root_pehe(trial.effect[:, k], effect, **about),
        curve=_gains(ranked),
    )


def places(
    effect: Float[Array, " row"], fold: Int[Array, " row"], weight: Float[Array, " row"]
) -> Float[Array, " row"]:
    """Return each row's place in its fold by effect, from 0 to 1 by weight; equal effects share their middle.

    >>> places(np.array([3.0, 1.0, 1.0, 9.0]), np.array([0, 0, 1, 1]), np.ones(4)).tolist()
    [0.75, 0.25, 0.25, 0.75]
    """
    found = np.zeros(len(effect))
    for k in np.unique(fold):
        rows = np.flatnonzero(fold == k)
        _, block = np.unique(effect[rows], return_inverse=True)
        mass = np.bincount(block, weight[rows])
        total = mass.sum()
        middle = (np.cumsum(mass) - mass / 2) / (total if total > 0 else 1.0)
        found[rows] = middle[block]
    return found


def _centred(effect: Array, fold: Int[Array, " row"], weight: Float[Array, " row"]) -> Float[Array, " row"]:
    """Return effects less their mean in their fold."""
    total = np.bincount(fold, weight)
    mean = np.bincount(fold, weight * effect) / np.where(total > 0, total, 1.0)
    found: Array = effect - mean[fold]
    return found


def _top(ranked: Ranked, share: float) -> Measure | None:
    try:
        return uplift_at(ranked, share)
    except BadInput:  # one arm only among them
        return None


def _gains(ranked: Ranked) -> Band:
    """Return share · uplift at the share: outcomes gained a row if the top share is treated."""
    found = [_top(ranked, float(u)) for u in SHARES]
    value = np.array([math.nan if m is None else m.value for m in found])
    error = np.array([math.nan if m is None else m.stderr for m in found])
    return Band(SHARES, SHARES * value, SHARES * error, "uplift curve")


def _frame(arm: Arm, level: float, known: bool) -> pd.DataFrame:
    """Return a row for each learner of an arm, the best first."""
    best = arm.judged[0]
    rows = []
    for j in arm.judged:
        ate = Average((j.ate[0],), (j.ate[1],), (arm.label,), "").interval(level)[0]
        row: dict[str, Any] = {"arm": arm.label, "learner": j.name}
        row |= {"ate": j.ate[0], "ate_stderr": j.ate[1], "ate_low": ate[0], "ate_high": ate[1]}
        for name, m in (
            ("auuc", j.auuc),
            ("qini", j.qini),
            ("autoc", j.autoc),
            ("rate_qini", j.rate_qini),
            ("behind", best.autoc.minus(j.autoc)),
            ("uplift_at_30", j.top),
            *([("root_pehe", j.pehe)] if known else []),
        ):
            low, high = (math.nan, math.nan) if m is None else m.interval(level)
            row[name] = math.nan if m is None else m.value
            row |= {f"{name}_stderr": math.nan if m is None else m.stderr}
            row |= {f"{name}_low": low, f"{name}_high": high}
        low, high = (math.nan, math.nan) if j.blp is None else j.blp.interval(level)
        row["slope"] = math.nan if j.blp is None else j.blp.slope
        row |= {"slope_stderr": math.nan if j.blp is None else j.blp.stderr}
        row |= {"slope_low": low, "slope_high": high, "n": len(j.effect)}
        rows.append(row)
    return pd.DataFrame(rows)


def _effects(
    given: Given,
    rows: Int[Array, " row"],
    fold: Int[Array, " row"],
    gain: Float[Array, "row treated"],
    found: dict[str, _Learned],
    money: Budget | None,
) -> pd.DataFrame:
    """Return the effects of the judged rows, and each arm's chance by the budget of the best order."""
    trial = given.trial
    several = len(trial.arms) > 2
    columns: dict[str, Any] = {
        "row": given.row[rows],
        "fold": fold,
        "arm": [str(trial.arms[a]) for a in trial.arm[rows]],
        "outcome": trial.y[rows],
        "chance": given.overlap.chance[rows, trial.arm[rows]],
    }
    for k, label in enumerate(trial.arms[1:]):
        end = f":{label}" if several else ""
        columns[f"score{end}"] = gain[:, k]
        for key, one in found.items():
            columns[f"{key.replace('_', '-')}{end}"] = one.effect[:, k]
        if money is not None:
            columns[f"treat{end}"] = money.spent[0].chance[:, k + 1]
    return pd.DataFrame(columns)


def _by_order(
    arms: tuple[Arm, ...], found: dict[str, _Learned]
) -> dict[str, tuple[str, Float[Array, "row treated"]]]:
    """Return each learner's name and effects, the one of the largest mean AUTOC of all arms first."""
    total = {key: sum(j.autoc.value for arm in arms for j in arm.judged if j.key == key) for key in found}
    ranked = sorted(found, key=lambda key: (-total[key], found[key].kind.name))
    return {key: (found[key].kind.name, found[key].effect) for key in ranked}


def _notes(config: "UpliftConfig", given: Given, rows: Int[Array, " row"]) -> tuple[str, ...]:
    """Say what the numbers rest on."""
    said = []
    if not given.random:
        said.append(
            "Features tell the arm, so it was not given at random: chances of arms are estimated, means are "
            "weighted by them, and everything rests on no unseen cause of both treatment and outcome."
        )
    elif not given.overlap.known:
        said.append(
            "No chances of arms were given; features do not tell the arm, so it is taken as given at random."
        )
    if len(given.trial.arms) > 2:
        said.append("Each arm is compared with control; learners learn all arms together.")
    if config.test_share is not None:
        said.append(f"Learners are judged on {len(rows):,} rows that they have not seen.")
    return tuple(said)
