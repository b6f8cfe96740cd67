"""What treatment did for each row, without bias: doubly robust and inverse-propensity scores of a trial.

The score of arm k in row i is

    Γ = μ_k(x) - μ_0(x) + 1{a = k} (y - μ_k(x)) / e_k(x) - 1{a = 0} (y - μ_0(x)) / e_0(x)

(Robins, Rotnitzky and Zhao 1994): its mean given x is the effect if μ or e is right. Its mean over any rows
is their average effect, so metrics, policies and average effects all read it. With μ = 0 it is the
inverse-propensity score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from causal.targeting.measure import measure, table, weights
from causal.uplift.contract import Average, Trial
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.errors import BadInput
from simlab.seeds import Seed

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Nuisances:
    """What each row would bring under each arm, and how likely it was to get it.

    Attributes:
        mu: expected outcome under each arm, control first.
        e: chance of each arm.
        fold: the fold of each row, whose models have not seen it; -1 where nothing was fitted.
    """

    mu: Float[Array, "round arm"]
    e: Float[Array, "round arm"]
    fold: Int[Array, " round"]


def aipw(
    trial: Trial,
    outcome_model: Any = None,
    propensity_model: Any = None,
    folds: int = 5,
    seed: Seed = Seed(0),
    *,
    mu: Any = None,
    e: Any = None,
    clip: float = 0.01,
) -> Float[Array, "round treated"]:
    """Return doubly robust scores, from models that have not seen the row (cross-fitting).

    Args:
        trial: features, arms, outcomes; known chances of arms are used as they are.
        outcome_model: a scikit-learn regressor, or a classifier for outcomes 0 and 1, such as any ranker's
            (`simlab.adapters.nuisance`); one is fitted for each arm. By default linear, or logistic for 0 and
            1.
        propensity_model: a classifier of the arm. By default logistic.
        folds: how many; users are kept whole, and arms are shared evenly where there are no users.
        seed: who is in which fold, and of models that have no seed of their own.
        mu: ready expected outcomes, [round arm], instead of an outcome model.
        e: ready chances, [round arm], or the chance of treatment [round] or one number for two arms.
        clip: chances below it count as it, as in EconML's `DRTester`.

    Raises:
        BadInput: for shapes that do not fit, chances out of (0, 1), too few rows of an arm, or folds below 2.
    """
    found = nuisances(trial, outcome_model, propensity_model, folds, seed, mu=mu, e=e)
    return _score(trial, found.mu, found.e, clip)


def ipw(
    trial: Trial,
    propensity_model: Any = None,
    folds: int = 5,
    seed: Seed = Seed(0),
    *,
    e: Any = None,
    clip: float = 0.01,
) -> Float[Array, "round treated"]:
    """Return inverse-propensity scores y (1{a = k} / e_k - 1{a = 0} / e_0); arguments as for `aipw`.

    Raises:
        BadInput: as `aipw`.
    """
    zero = np.zeros((len(trial), len(trial.arms)))
    found = nuisances(trial, None, propensity_model, folds, seed, mu=zero, e=e)
    return _score(trial, zero, found.e, clip)


def nuisances(
    trial: Trial,
    outcome_model: Any = None,
    propensity_model: Any = None,
    folds: int = 5,
    seed: Seed = Seed(0),
    *,
    mu: Any = None,
    e: Any = None,
) -> Nuisances:
    """Return outcomes and chances of each arm, fitted without the row's own fold; arguments as for `aipw`.

    Raises:
        BadInput: as `aipw`.
    """
    rows, arms = len(trial), len(trial.arms)
    ready_mu = None if mu is None else _ready("mu", table("mu", mu, rows), arms)
    if e is None and propensity_model is None:
        e = trial.propensity
    ready_e = None if e is None else _ready("e", _chances(e, rows, arms), arms)
    fold = np.full(rows, -1, dtype=np.int64)
    if ready_mu is not None and ready_e is not None:
        return Nuisances(ready_mu, ready_e, fold)
    fold = deal(trial, folds, seed)
    outcome_model, propensity_model = (
        None if model is None else seeded(model, seed.split(name).value)
        for name, model in (("outcome model", outcome_model), ("propensity model", propensity_model))
    )
    out_mu, out_e = np.zeros((rows, arms)), np.zeros((rows, arms))
    for number in range(folds):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        known = trial.arm[train]
        lost = np.setdiff1d(np.arange(arms), known)
        if len(lost):
            raise BadInput(
                f"arm {trial.arms[lost[0]]!r} has no rows outside fold {number} to learn from: "
                "take fewer folds"
            )
        if ready_mu is None:
            for arm in range(arms):
                own = train[known == arm]
                out_mu[held, arm] = _outcomes(trial, outcome_model, own, held)
        if ready_e is None:
            out_e[held] = _arms(trial, propensity_model, train, held)
    return Nuisances(out_mu if ready_mu is None else ready_mu, out_e if ready_e is None else ready_e, fold)


def deal(trial: Trial, folds: int, seed: Seed) -> Int[Array, " round"]:
    """Deal users to folds at random, whole; without users, the rows of each arm evenly.

    Raises:
        BadInput: for fewer than 2 folds, or fewer users or rows than folds.
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    luck = seed.split("folds").numpy()
    if trial.user is not None:
        names, where, count = np.unique(trial.user, return_inverse=True, return_counts=True)
        if len(names) < folds:
            raise BadInput(f"the trial has {len(names)} users, too few for {folds} folds")
        mixed = luck.permutation(len(names))
        order = mixed[np.argsort(-count[mixed], kind="stable")]
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names)) % folds
        return place[where]
    if len(trial) < folds:
        raise BadInput(f"the trial has {len(trial)} rows, too few for {folds} folds")
    mixed = luck.permutation(len(trial))
    by_arm = mixed[np.argsort(trial.arm[mixed], kind="stable")]
    fold = np.empty(len(trial), dtype=np.int64)
    fold[by_arm] = np.arange(len(trial)) % folds
    return fold


def average(scores: Any, trial: Trial) -> Average:
    """Return the mean score of each arm but control: the average effect, clustered by user.

    >>> import numpy as np
    >>> trial = Trial.of(np.zeros((4, 1)), [0, 1, 0, 1], [0.0, 1, 0, 3], propensity=0.5)
    >>> found = average(ipw(trial), trial)
    >>> found.value, round(found.stderr[0], 4)
    ((2.0,), 1.4142)

    Raises:
        BadInput: for another number of rows or arms.
    """
    gain = table("scores", scores, len(trial))
    if gain.shape[1] != len(trial.arms) - 1:
        raise BadInput(
            f"scores have {gain.shape[1]} columns, but there are {len(trial.arms) - 1} treated arms"
        )
    weight = weights(trial.weight, len(trial))
    share = weight / weight.sum()
    found = [measure(share @ g, share * (g - share @ g), trial.user, "average effect") for g in gain.T]
    return Average(
        tuple(m.value for m in found), tuple(m.stderr for m in found), trial.arms[1:], "mean of scores"
    )


def pick(
    priority: Any, scores: Any
) -> tuple[Float[Array, " round"], Float[Array, " round"], Int[Array, " round"]]:
    """Return each row's best arm by priority: (its priority, its score, its number from 1).

    Args:
        priority: [round treated], what an arm is worth to a policy.
        scores: [round treated], what it did (`aipw`).

    Raises:
        BadInput: for two shapes.
    """
    rank, gain = table("priority", priority), table("scores", scores)
    if rank.shape != gain.shape:
        raise BadInput(f"priority has shape {rank.shape}, but scores have {gain.shape}")
    best, every = rank.argmax(1), np.arange(len(rank))
    return rank[every, best], gain[every, best], best + 1


def _score(
    trial: Trial, mu: Float[Array, "round arm"], e: Float[Array, "round arm"], clip: float
) -> Float[Array, "round treated"]:
    each = mu.copy()
    every = np.arange(len(trial))
    left = trial.y - mu[every, trial.arm]
    each[every, trial.arm] += left / np.maximum(e[every, trial.arm], clip)
    found: Array = each[:, 1:] - each[:, :1]
    return found


def _ready(name: str, values: Float[Array, "round arm"], arms: int) -> Float[Array, "round arm"]:
    if values.shape[1] != arms:
        raise BadInput(f"{name} has {values.shape[1]} columns, but there are {arms} arms")
    return values


def _chances(e: Any, rows: int, arms: int) -> Float[Array, "round arm"]:
    found = np.asarray(e, dtype=np.float64)
    if found.ndim < 2 and arms == 2:
        treated = np.broadcast_to(found, (rows,)) if found.ndim == 0 or len(found) == rows else found
        found = np.stack([1 - treated, treated], 1)
    elif found.ndim == 1 and len(found) == arms:
        found = np.broadcast_to(found, (rows, arms)).copy()
    found = table("e", found, rows)
    wrong = np.argwhere((found <= 0) | (found >= 1))
    if len(wrong):
        row, arm = wrong[0]
        raise BadInput(f"e, row {row}, arm {arm}: {found[row, arm]:g} is no chance in (0, 1)")
    return found


def _outcomes(
    trial: Trial, model: Any, own: Int[Array, " train"], held: Int[Array, " held"]
) -> Float[Array, " held"]:
    """Fit one arm's outcome and predict it."""
    y = trial.y[own]
    if (y == y[0]).all():
        return np.full(len(held), y[0])
    if model is None:
        model = LogisticRegression(max_iter=1000) if trial.binary else LinearRegression()
        model = make_pipeline(StandardScaler(), model)
    classes = is_classifier(model)
    if classes and not trial.binary:
        raise BadInput("outcome_model is a classifier, but the outcome is not 0 or 1: take a regressor")
    fitted = _fit(model, trial, own, y.astype(np.int64) if classes else y)
    if not classes:
        return np.asarray(fitted.predict(trial.x[held]), dtype=np.float64).reshape(len(held))
    chance = np.asarray(fitted.predict_proba(trial.x[held]), dtype=np.float64)
    return chance[:, list(fitted.classes_).index(1)]


def _arms(
    trial: Trial, model: Any, train: Int[Array, " train"], held: Int[Array, " held"]
) -> Float[Array, "held arm"]:
    """Fit the arm and predict its chances."""
    if model is None:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if not hasattr(model, "predict_proba"):
        raise BadInput(f"propensity_model {type(model).__name__} has no predict_proba: take a classifier")
    fitted = _fit(model, trial, train, trial.arm[train])
    return np.asarray(fitted.predict_proba(trial.x[held]), dtype=np.float64)


def _fit(model: Any, trial: Trial, rows: Int[Array, " train"], target: Array) -> Any:
    weight = None if trial.weight is None else trial.weight[rows]
    return fit_weighted(clone(model), trial.x[rows], target, weight)
