"""What one log of the promotion world says, beside the truth: averages, deciles, policies, slates.

A log is a trial of fresh users. Every function here takes a setting (who is shown the item), a number of rows
and the number of the log, and returns plain numbers, so that logs can be made in any process and kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor

from causal.targeting.calibration import group_effects
from causal.targeting.policies import by_score
from causal.targeting.scores import aipw, average, nuisances
from causal.targeting.value import value
from causal.uplift.causal_forest import CausalForest
from causal.uplift.class_transformation import ClassTransformation
from causal.uplift.contract import Average, Trial, UpliftLearner
from causal.uplift.dr_learner import DRLearner
from causal.uplift.dragonnet import DragonNet
from causal.uplift.linear_dml import LinearDML
from causal.uplift.linear_dr import LinearDR
from causal.uplift.r_learner import RLearner
from causal.uplift.s_learner import SLearner
from causal.uplift.t_learner import TLearner
from causal.uplift.tarnet import TARNet
from causal.uplift.x_learner import XLearner
from envs.oracles import Oracle
from envs.rollout import roll
from envs.trial import Trial as Drawn
from envs.users.promotion import Promotion
from simlab.context import Context
from simlab.policies.random import Random
from simlab.seeds import Seed
from simlab.slates import Deterministic, SlateDistribution
from simlab.slates.contract import masked, top
from simlab.statistics import paired_interval

Array = NDArray[np.float64]
Found = dict[str, Any]

GROUPS = 10
SHARE = 0.3
"""Of the users whom a policy treats."""

ITEMS_EACH = 6
"""Rows of a user where users have several."""

USERS, STEPS, SLOTS = 500, 20, 5
"""Of the shop that shows slates."""


@dataclass(frozen=True)
class Setting:
    """Who is shown the item.

    Attributes:
        name: in tables.
        exposure: arguments of `Promotion.trial`.
        known: whether learners and scores are told the true chance given what can be seen.
        words: what it is.
    """

    name: str
    exposure: Mapping[str, Any]
    known: bool
    words: str


SETTINGS = {
    s.name: s
    for s in (
        Setting("experiment", {}, True, "Half of the users are shown the item; the chance is known."),
        Setting("experiment, chances estimated", {}, False, "The same, but chances are estimated."),
        Setting(
            "observed confounding",
            {"confounding": 0.7},
            False,
            "Who is inclined to buy is shown the item more often: 0.7 logits of exposure for a logit of "
            "inclination that can be seen. Chances are estimated.",
        ),
        Setting(
            "heavy confounding",
            {"confounding": 1.5, "treated": 0.3},
            False,
            "As above with 1.5 logits, and fewer are shown: chances run from .02 to .98, and for 16 users in "
            "100 one arm has a chance below .05. Chances are estimated.",
        ),
        Setting(
            "hidden confounding",
            {"confounding": 0.7, "hidden": 1.0},
            False,
            "Exposure follows an inclination that no column shows, too. Nothing that reads the log can be "
            "right.",
        ),
    )
}


@cache
def world(**settings: Any) -> Promotion:
    """Return the world at its default settings, or at some others."""
    torch.set_num_threads(1)
    return Promotion(Promotion.Spec(**settings))


def seed_of(setting: str, what: str, log: int) -> Seed:
    """Return the seed of a log: no two settings or purposes share users."""
    return Seed(0).split(f"{setting}, {what}").split(log)


def draw(setting: Setting, n: int, seed: Seed) -> tuple[Drawn, Trial]:
    """Return a trial with its truth, and what a learner may see of it."""
    drawn = world().trial(n, seed, **setting.exposure)
    chance = drawn.visible.numpy() if setting.known else None
    return drawn, Trial.of(drawn.X.numpy(), drawn.T.numpy(), drawn.Y.numpy(), propensity=chance)


def logistic() -> LogisticRegression:
    """Return the nuisance of most cells: right for chances but for the floor, and nearly for outcomes."""
    return LogisticRegression(max_iter=1000)


def learners(log: int, known: bool = False, outcome: Any = None) -> dict[str, UpliftLearner]:
    """Return the cheap learners, on logistic and linear nuisances or a given outcome model."""
    chance: Any = {
        "propensity_model": None if known else logistic(),
        "folds": 3,
        "random_state": log,
    }
    both: Any = {"outcome_model": logistic() if outcome is None else outcome, **chance}
    linear: Any = {**both, "effect_model": LinearRegression()}
    return {
        "S-learner": SLearner(**both),
        "T-learner": TLearner(**both),
        "X-learner": XLearner(**linear),
        "R-learner": RLearner(**linear),
        "DR-learner": DRLearner(**linear),
        "linear DR": LinearDR(**both),
        "linear DML": LinearDML(**both),
        "class transformation": ClassTransformation(logistic(), **chance),
    }


def dear(log: int, known: bool) -> dict[str, UpliftLearner]:
    """Return the learners that take up to a second or two."""
    chance = None if known else logistic()
    return {
        "causal forest": CausalForest(logistic(), chance, trees=100, leaf=30, folds=3, random_state=log),
        "TARNet, in-sample": TARNet(epochs=15, random_state=log),
        "TARNet, two folds": TARNet(epochs=15, folds=2, random_state=log),
        "DragonNet, two folds": DragonNet(epochs=15, folds=2, random_state=log),
    }


NO_OUTCOME = ("T-learner", "X-learner", "R-learner", "DR-learner", "linear DR", "linear DML")
"""Learners that are tried with an outcome model that knows nothing; of an S-learner nothing would be left."""


def difference(trial: Trial) -> Average:
    """Return the difference of the arms' mean outcomes, with Neyman's standard error."""
    treated, control = trial.y[trial.arm == 1], trial.y[trial.arm == 0]
    error = np.sqrt(treated.var(ddof=1) / len(treated) + control.var(ddof=1) / len(control))
    value = float(treated.mean() - control.mean())
    return Average((value,), (float(error),), trial.arms[1:], "difference of means")


def _ate(drawn: Drawn, found: Mapping[str, Average]) -> Found:
    return {"truth": drawn.ate, "found": {k: [v.value[0], v.stderr[0]] for k, v in found.items()}}


def scored(setting: str, n: int, log: int) -> Found:
    """Average effect by the difference of means and by doubly robust scores."""
    drawn, trial = draw(SETTINGS[setting], n, seed_of(setting, "scores", log))
    scores = average(aipw(trial, seed=Seed(log)), trial)
    return _ate(drawn, {"difference of means": difference(trial), "doubly robust scores": scores})


def averaged(setting: str, n: int, log: int) -> Found:
    """Average effect by the cheap learners, then again with an outcome model that knows only the mean."""
    how = SETTINGS[setting]
    drawn, trial = draw(how, n, seed_of(setting, "learners", log))
    found = {name: one.learn(trial).ate() for name, one in learners(log, how.known).items()}
    if "confounding" in setting:
        poor = learners(log, how.known, DummyClassifier(strategy="prior"))
        found |= {f"{name}, no outcome model": poor[name].learn(trial).ate() for name in NO_OUTCOME}
    return _ate(drawn, found)


def dearly(setting: str, n: int, log: int) -> Found:
    """Average effect by forests and networks."""
    how = SETTINGS[setting]
    drawn, trial = draw(how, n, seed_of(setting, "dear", log))
    return _ate(drawn, {name: one.learn(trial).ate() for name, one in dear(log, how.known).items()})


def clustered(setting: str, n: int, log: int) -> Found:
    """Average effect where each user has several rows, of several items, all shown or none.

    The world's hidden inclination is three times as strong, so the rows of a user are alike.
    """
    seed = seed_of(setting, "clustered", log)
    many = [world(hidden=3.0).trial(n // ITEMS_EACH, seed, item=i) for i in range(ITEMS_EACH)]
    x, arm, y, tau, user = (
        np.concatenate([getattr(d, k).numpy() for d in many]) for k in ("X", "T", "Y", "cate", "user")
    )
    item = np.repeat(np.eye(ITEMS_EACH), n // ITEMS_EACH, axis=0)
    trial = Trial.of(np.concatenate([x, item], 1), arm, y, propensity=0.5, user=user)
    rows = Trial.of(trial.x, arm, y, propensity=0.5)
    scores = aipw(trial, seed=Seed(log))
    found = {"clustered by user": average(scores, trial), "rows as independent": average(scores, rows)}
    for name in ("linear DR", "DR-learner"):
        found[f"{name}, clustered by user"] = learners(log, known=True)[name].learn(trial).ate()
    return {
        "truth": float(tau.mean()),
        "found": {k: [v.value[0], v.stderr[0]] for k, v in found.items()},
    }


def fresh(setting: str, n: int, log: int) -> Found:
    """Deciles of fresh rows by a learner's effect, and whom it would treat, beside the truth.

    The learner sees other users; the scores of fresh users are made from fresh users alone. The gap of two
    policies is between two rules, "the best share by this score", so its truth is of all users.
    """
    how, seed = SETTINGS[setting], seed_of(setting, "fresh", log)
    _, train = draw(how, n, seed.split("train"))
    drawn, test = draw(how, n, seed.split("test"))
    tau = drawn.cate.numpy()
    given = nuisances(test, seed=Seed(log))
    scores = aipw(test, mu=given.mu, e=given.e)[:, 0]
    shown = train.arm == 1
    chance = logistic().fit(train.x[shown], train.y[shown])

    def likely(x: Array) -> Array:
        found: Array = chance.predict_proba(x)[:, 1]
        return found

    x, effects = everybody()
    gains = {
        "random": SHARE * float(effects.mean()),
        "probability": gain(likely(x), effects),
        "oracle": gain(effects, effects),
    }
    found: Found = {"deciles": {}, "gaps": {}, "gains": gains}
    byp = value(by_score(likely(test.x), share=SHARE, name="probability"), test, given)
    for name in ("linear DR", "T-learner"):
        learner = learners(log, how.known)[name].learn(train)
        effect = learner.effect(test.x)
        groups = group_effects(scores, effect, GROUPS)
        parts = np.array_split(np.argsort(effect, kind="stable"), GROUPS)
        truth = [float(tau[part].mean()) for part in parts]
        found["deciles"][name] = [groups.effect.tolist(), groups.stderr.tolist(), truth]
        gains[name] = gain(learner.effect(x), effects)
        gap = value(by_score(effect, share=SHARE, name="effect"), test, given).minus(byp)
        found["gaps"][name] = [gap.value, gap.stderr, gains[name] - gains["probability"]]
    return found


@cache
def everybody() -> tuple[Array, Array]:
    """Return the covariates and true effects of 100,000 users, who stand for all there could be."""
    drawn = world().trial(100_000, Seed(0).split("everybody"))
    return drawn.X.numpy(), drawn.cate.numpy()


def gain(priority: Array, effect: Array) -> float:
    """Return what treating the share that comes first gains, a user of all."""
    many = round(SHARE * len(priority))
    return float(effect[np.argpartition(-priority, many)[:many]].sum() / len(priority))


# Slates ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sorted:
    """Show the items with the highest learned scores, best slot first.

    Attributes:
        score: features of pairs, [pair feat], to the score of each pair.
        catalog: features of items, [item feat].
        name: of the policy.
    """

    score: Callable[[Array], Array]
    catalog: Float[Tensor, "item feat"]
    name: str

    def distribution(self, context: Context, slots: int) -> SlateDistribution:
        """Return all mass on one slate."""
        users, cands = context.candidates.shape
        d = (self.catalog.shape[1] - 1) // 2
        x = context.features[:, :d].double()
        item = self.catalog[context.candidates].double().reshape(users * cands, -1)
        pairs = crossed(x.repeat_interleave(cands, 0).numpy(), item.numpy())
        score = torch.from_numpy(self.score(pairs)).reshape(users, cands)
        return Deterministic(top(masked(score.float(), context.mask), slots), cands)


def crossed(x: Array, item: Array) -> Array:
    """Return the products of a user's covariates with both directions of an item, and its popularity.

    A learner on them still has to find which direction moves and which sells.
    """
    d = x.shape[1]
    return np.concatenate([x * item[:, :d], x * item[:, d : 2 * d], item[:, 2 * d :]], 1)


def slates(setting: str, n: int, log: int) -> Found:
    """Learn from a log of single offers, then fill slates of five under position bias; returns a user-step.

    Args:
        setting: who was shown an item in the log.
        n: rows of the log, each of an item drawn at random.
        log: its number.
    """
    shop = world(slots=SLOTS, position_bias=1.0)
    seed = seed_of(setting, "slates", log)
    drawn = shop.trial(n, seed.split("train"), item=None, **SETTINGS[setting].exposure)
    d = shop.spec.covariates
    x = drawn.X.numpy()
    pairs = crossed(x[:, :d], x[:, d:])
    trial = Trial.of(pairs, drawn.T.numpy(), drawn.Y.numpy())
    learner = learners(log)["linear DR"].learn(trial)
    bought = logistic().fit(pairs[trial.arm == 1], trial.y[trial.arm == 1])
    items = shop.catalog.features
    policies: list[Any] = [
        Sorted(learner.effect, items, "effect"),
        Sorted(lambda z: np.asarray(bought.predict_proba(z)[:, 1]), items, "probability"),
        Oracle(shop),
        Random(),
    ]
    luck = seed.split("test")
    state = shop.reset(USERS, luck.split("world"))  # as `roll` begins: users stay as they are
    returns, exact = {}, {}
    for policy in policies:
        met = roll(shop, policy, USERS, luck, steps=STEPS)
        returns[policy.name] = met.reward.double().mean(0)
        exact[policy.name] = float(shop.expected_reward(state, met.slate[0]).double().mean())
    apart = paired_interval(returns["effect"], returns["probability"])
    return {
        "returns": {name: float(r.mean()) for name, r in returns.items()},
        "exact": exact,
        "users": [apart.mean, apart.stderr],
    }


CELLS: dict[str, Callable[[str, int, int], Found]] = {
    "scores": scored,
    "learners": averaged,
    "dear": dearly,
    "clustered": clustered,
    "fresh": fresh,
    "slates": slates,
}
