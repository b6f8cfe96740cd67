"""What every uplift learner is held to; `test_uplift_learners.py` runs each on each file of the room.

The world has an effect of 1 + x_0 (and 2 of a third arm) and outcomes that are linear in each arm, so linear
nuisances are right and quick. What a kind of learner cannot do is said in the tables at the top.
"""

import pickle
from inspect import signature
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from causal.uplift._deep import DeepLearner
from causal.uplift._econml import EconMLLearner
from causal.uplift.contract import Trial, UpliftLearner
from simlab.errors import BadInput

NUISANCES: dict[str, Any] = {
    "outcome_model": LinearRegression(),
    "propensity_model": LogisticRegression(),
    "effect_model": LinearRegression(),
    "folds": 3,
    "trees": 40,
}
"""Quick settings, for those that have them."""

DEEP: dict[str, Any] = {"epochs": 3, "shared": (8,), "heads": (8,), "folds": 0}

OWN: dict[str, dict[str, Any]] = {
    # A straight line of features and arm has one effect for everybody: products let it differ.
    "S-learner": {
        "outcome_model": make_pipeline(PolynomialFeatures(2, interaction_only=True), LinearRegression())
    },
}

ERROR = {"causal forest": 0.5, "class transformation": 0.35}
"""Root mean squared error of effects that have a spread of 1, where it is not below .15."""

BY_ROW = ("causal forest",)
"""Learners that draw rows by their place, so that their order matters beyond folds; deep ones do, too."""


def quick(kind: type[UpliftLearner], **more: Any) -> UpliftLearner:
    """Return a learner with settings that take a moment."""
    if issubclass(kind, DeepLearner):
        return kind(**DEEP | more)
    known = signature(kind).parameters
    settings = {k: v for k, v in NUISANCES.items() if k in known}
    made: UpliftLearner = kind(**settings | OWN.get(kind.name, {}) | more)
    return made


def drawn(n: int, seed: int, arms: int = 2) -> tuple[dict[str, Any], Any]:
    """Return what `fit` takes, and the effects of the rows, [round treated]."""
    luck = np.random.default_rng(seed)
    x = luck.normal(size=(n, 3))
    lean = np.exp(0.5 * x[:, 1:2] * (np.arange(arms) == 1))
    chance = lean / lean.sum(1, keepdims=True)
    arm = (luck.random(n)[:, None] > chance.cumsum(1)[:, :-1]).sum(1)
    effect = np.stack([1 + x[:, 0], np.full(n, 2.0)], 1)[:, : arms - 1]
    gain = np.where(arm > 0, effect[np.arange(n), np.maximum(arm - 1, 0)], 0.0)
    return {"X": x, "T": arm, "Y": x[:, 1] + gain + 0.5 * luck.normal(size=n)}, effect


def effects(learner: UpliftLearner, given: dict[str, Any], **more: Any) -> Any:
    """Return the effects that a clone finds in the rows it learns from."""
    return clone(learner).fit(**given, **more).effect(given["X"])


def rms(values: Any) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def one_sentence(error: pytest.ExceptionInfo[BadInput]) -> None:
    """Check that an error says what is wrong, and no more."""
    said = str(error.value)
    assert said
    assert "\n" not in said
    assert len(said) < 250


def check_settings_are_those_given(learner: UpliftLearner) -> None:
    """As in scikit-learn: clones have the same settings, and `fit` leaves them as they were."""
    before = {k: repr(v) for k, v in learner.get_params().items()}
    given, _ = drawn(200, 0)
    made = clone(learner)
    assert {k: repr(v) for k, v in made.get_params().items()} == before
    assert made.fit(**given) is made
    assert {k: repr(v) for k, v in made.get_params().items()} == before
    if "random_state" in before:
        assert made.set_params(random_state=3).get_params()["random_state"] == 3
    assert all(v == p.default or repr(v) == repr(p.default) for v, p in _defaults(type(learner)))


def _defaults(kind: type[UpliftLearner]) -> list[tuple[Any, Any]]:
    """Return each argument's stored value beside its parameter."""
    made = kind()
    return [(getattr(made, k), p) for k, p in signature(kind).parameters.items() if p.default is not p.empty]


def check_same_seed_same_effects(learner: UpliftLearner) -> None:
    """Bits do not depend on the state of the world's generators, on earlier fits, or on a pickle."""
    given, _ = drawn(300, 1)
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    made = clone(learner).fit(**given)
    one, average = made.effect(given["X"]), made.ate()
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), torch_before)
    other, _ = drawn(200, 2)
    again = clone(learner).fit(**other).fit(**given)
    assert np.array_equal(again.effect(given["X"]), one)
    assert again.ate() == average
    kept = pickle.loads(pickle.dumps(made))
    assert np.array_equal(kept.effect(given["X"]), one)
    assert kept.ate() == average


def check_models_without_a_seed_get_one(learner: UpliftLearner) -> None:
    """Forests in pipelines that draw anew at each fit give the same effects and average twice."""
    given, _ = drawn(150, 17)
    loose: dict[str, Any] = {
        "outcome_model": make_pipeline(StandardScaler(), RandomForestRegressor(3, max_depth=3)),
        "propensity_model": make_pipeline(StandardScaler(), RandomForestClassifier(3, max_depth=2)),
        "effect_model": RandomForestRegressor(3, max_depth=3),
    }
    models = {k: v for k, v in loose.items() if k in learner.get_params()}
    if not models:  # nets have no other models, and their seed is checked above
        return
    for more in ({}, {"groups": np.arange(150) // 2, "control": 0}):
        one, two = (clone(learner).set_params(**models).fit(**given, **more) for _ in range(2))
        assert np.array_equal(one.effect(given["X"]), two.effect(given["X"]))
        assert one.ate() == two.ate()
        assert one.ate() == one.ate()


def check_threads_do_not_matter(learner: UpliftLearner) -> None:
    """One thread and two give the same effects."""
    given, _ = drawn(120, 3)
    if isinstance(learner, DeepLearner):
        learner = clone(learner).set_params(epochs=1)
    found, had = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found.append(effects(learner, given))
    torch.set_num_threads(had)
    assert np.abs(found[0] - found[1]).max() < 1e-8


def check_order_of_rows(learner: UpliftLearner) -> None:
    """With users folds do not depend on the order of rows, and then nothing does."""
    given, _ = drawn(300, 4)
    user = np.arange(300)
    order = np.random.default_rng(0).permutation(300)
    mixed = {k: v[order] for k, v in given.items()}
    one = clone(learner).fit(**given, groups=user)
    two = clone(learner).fit(**mixed, groups=user[order])
    if isinstance(learner, DeepLearner) or learner.name in BY_ROW:
        assert abs(one.ate().value[0] - two.ate().value[0]) < one.ate().stderr[0]
        return
    assert np.abs(one.effect(given["X"]) - two.effect(given["X"])).max() < 1e-4
    assert one.ate().value == pytest.approx(two.ate().value, abs=1e-4)


def check_no_effect_is_none(learner: UpliftLearner) -> None:
    """Arms are tossed and do nothing: the average is within four standard errors of 0."""
    given, _ = drawn(600, 5)
    luck = np.random.default_rng(6)
    given |= {"T": luck.integers(0, 2, 600), "Y": given["X"][:, 1] + luck.normal(size=600)}
    made = clone(learner).fit(**given, propensity=0.5)
    average = made.ate()
    assert abs(average.value[0]) < 4 * average.stderr[0]
    assert average.stderr[0] < 0.3
    if made.intervals:
        low, high = made.effect_interval(given["X"], 0.01)
        assert np.mean((low <= 0) & (high >= 0)) > 0.8


def check_a_linear_effect_is_found(learner: UpliftLearner) -> None:
    """Single effects are near, and the average is within four standard errors of the truth."""
    made = clone(learner)
    given, truth = drawn(1000 if isinstance(made, DeepLearner) else 2000, 7)
    if isinstance(made, DeepLearner):
        made.set_params(epochs=12, learning_rate=0.01, shared=(32,), heads=(32,))
    found = made.fit(**given).effect(given["X"])
    assert found.shape == given["T"].shape
    assert rms(found - truth[:, 0]) < ERROR.get(made.name, 0.3 if isinstance(made, DeepLearner) else 0.15)
    average = made.ate()
    assert abs(average.value[0] - truth.mean()) < 4 * average.stderr[0]
    assert 0.01 < average.stderr[0] < 0.1
    low, high = average.interval()[0]
    assert low < average.value[0] < high


def check_intervals(learner: UpliftLearner) -> None:
    """Intervals of single effects hold them, are wider for more confidence, or are refused in a sentence."""
    given, truth = drawn(800, 8)
    made = clone(learner).fit(**given)
    if not made.intervals:
        with pytest.raises(BadInput, match=f"{made.name} has no interval of single effects") as error:
            made.effect_interval(given["X"])
        return one_sentence(error)
    low, high = made.effect_interval(given["X"])
    effect = made.effect(given["X"])
    assert low.shape == high.shape == effect.shape
    assert (low <= effect).all()
    assert (effect <= high).all()
    wide_low, wide_high = made.effect_interval(given["X"], 0.01)
    assert (wide_low < low).all()
    assert (wide_high > high).all()
    # All rows share a few coefficients, so they are missed together: hence the wider level.
    assert np.mean((wide_low <= truth[:, 0]) & (truth[:, 0] <= wide_high)) > 0.8
    return None


def check_weights_are_copies(learner: UpliftLearner) -> None:
    """A row of weight 3 is a row that is there three times; rows of weight 0 are not there.

    Exact where folds are the same and nothing is drawn by row. The trees of a forest and the batches of a net
    draw rows, so there it is only nearer to the copies than to a learner that leaves out the weights.
    """
    given, _ = drawn(400, 9)
    given["Y"] = given["Y"] + given["T"] * (given["X"][:, 0] > 0)  # a bend, so that weights move every line
    luck = np.random.default_rng(10)
    weight = np.where(given["X"][:, 0] > 0, 3.0, 1.0)
    known: dict[str, Any] = {} if isinstance(learner, EconMLLearner) else {"propensity": 0.5}
    if known and "propensity_model" in learner.get_params():
        learner = clone(learner).set_params(propensity_model=None)
    if isinstance(learner, EconMLLearner) and not learner.weights:
        with pytest.raises(BadInput, match=f"{learner.name} takes no weights") as error:
            clone(learner).fit(**given, sample_weight=weight)
        return one_sentence(error)
    user = np.arange(400)
    times = np.repeat(user, weight.astype(int))
    copies = {k: v[times] for k, v in given.items()}
    lost = luck.integers(0, 400, 50)
    padded = {k: np.concatenate([v, v[lost] if k == "T" else -v[lost]]) for k, v in given.items()}
    more = {"sample_weight": np.concatenate([weight, np.zeros(50)]), "groups": np.append(user, user[:50])}
    with patch.object(EconMLLearner, "_splits", _by_user):
        weighed = clone(learner).fit(**given, **known, sample_weight=weight, groups=user)
        copied = clone(learner).fit(**copies, **known, groups=user[times])
        plain = clone(learner).fit(**given, **known, groups=user)
        rest = clone(learner).fit(**padded, **known, **more)
    each, wanted, without = (made.effect(given["X"]) for made in (weighed, copied, plain))
    assert np.array_equal(rest.effect(given["X"]), each)
    if isinstance(learner, DeepLearner) or learner.name in BY_ROW:
        gap = abs(weighed.ate().value[0] - copied.ate().value[0])
        assert gap < 0.5 * abs(weighed.ate().value[0] - plain.ate().value[0])
        return None
    assert np.abs(each - wanted).max() < 1e-4
    assert rms(each - without) > 0.02
    assert weighed.ate().stderr[0] == pytest.approx(copied.ate().stderr[0], rel=0.1)
    return None


def _by_user(self: EconMLLearner, trial: Trial) -> Any:
    """Return folds that a copy of a row does not change."""
    assert trial.user is not None
    fold = trial.user % self.folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(self.folds)]


EVENTS: list[tuple[set[float], set[float]]] = []
"""Of each prediction: the users that the model has seen, and those that it was asked about."""


class Seen(LinearRegression):  # type: ignore[misc]
    """A model of the outcome that notes its users, in the last column that is the same for all arms."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Seen":
        self.users_ = set(X[:, 2])
        super().fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> Any:
        EVENTS.append((self.users_, set(X[:, 2])))
        return super().predict(X)


class SeenChance(LogisticRegression):  # type: ignore[misc]
    """A model of the arm that notes its users."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SeenChance":
        self.users_ = set(X[:, 2])
        super().fit(X, y, sample_weight)
        return self

    def predict_proba(self, X: Any) -> Any:
        EVENTS.append((self.users_, set(X[:, 2])))
        return super().predict_proba(X)


CROSSED = ("R-learner", "DR-learner", "linear DR", "linear DML", "causal forest", "class transformation")
"""Learners that fit effects on what models say of users they have not seen; the average effect's standard
error is cross-fitted in all that EconML fits."""


def check_users_are_whole(learner: UpliftLearner) -> None:
    """No nuisance is asked about a user whom it has seen, and copies of users bring no precision."""
    given, _ = drawn(150, 11)
    user = np.arange(150) // 3
    given["X"][:, 2] = user
    if "propensity_model" in (asked := learner.get_params()):
        spies = {"outcome_model": Seen(), "propensity_model": SeenChance()}
        made = clone(learner).set_params(**{k: v for k, v in spies.items() if k in asked})
        EVENTS.clear()
        made.fit(**given, groups=user)
        if made.name in CROSSED:
            assert EVENTS
            assert all(not seen & held for seen, held in EVENTS)
        if isinstance(made, EconMLLearner):  # three folds, each with two outcomes and one chance
            EVENTS.clear()
            made.ate()
            assert sum(not seen & held for seen, held in EVENTS) == 9
    once = clone(learner).fit(**given, groups=np.arange(150)).ate()
    four = {k: np.repeat(v, 4, axis=0) for k, v in given.items()}
    again = clone(learner).fit(**four, groups=np.repeat(np.arange(150), 4)).ate()
    assert again.stderr[0] == pytest.approx(once.stderr[0], rel=0.3)


def check_what_features_may_be(learner: UpliftLearner) -> None:
    """A constant feature says nothing, and one feature is enough."""
    given, truth = drawn(300, 12)
    one = clone(learner).fit(**given)
    wide = given | {"X": np.column_stack([given["X"], np.full(300, 7.0)])}
    two = clone(learner).fit(**wide)
    assert abs(one.ate().value[0] - two.ate().value[0]) < one.ate().stderr[0]
    if not isinstance(learner, DeepLearner) and learner.name not in BY_ROW:
        assert np.abs(effects(learner, wide) - one.effect(given["X"])).max() < 1e-2
    narrow = given | {"X": given["X"][:, :1]}
    found = effects(learner, narrow)
    assert found.shape == (300,)
    assert np.isfinite(found).all()
    assert np.corrcoef(found, truth[:, 0])[0, 1] > 0.3 or isinstance(learner, DeepLearner)


def check_any_container(learner: UpliftLearner) -> None:
    """Arrays, lists, frames, booleans and labels are one trial; nothing that was given is changed."""
    given, _ = drawn(240, 13)
    given["X"], given["Y"] = (given["X"] > 0).astype(float), (given["Y"] > 0).astype(float)
    held = {k: v.copy() for k, v in given.items()}
    for v in given.values():
        v.flags.writeable = False
    wanted = effects(learner, given)
    assert all(np.array_equal(given[k], held[k]) for k in held)
    frame = pd.DataFrame(given["X"], columns=["age", "city", "past"], index=np.arange(240)[::-1])
    labels = np.array(["treated", "a control"])[1 - given["T"]]
    others = (
        {k: v.tolist() for k, v in given.items()},
        {"X": given["X"] > 0, "T": given["T"] > 0, "Y": given["Y"] > 0},
        {"X": frame, "T": pd.Series(given["T"], index=frame.index), "Y": pd.Series(given["Y"])},
        {"X": frame, "T": labels, "Y": given["Y"], "control": "a control"},
    )
    for other in others:
        made = clone(learner).fit(**other)
        assert np.abs(made.effect(other["X"]) - wanted).max() < 1e-9  # sums go by the layout in memory
        assert made.ate().arms == made.arms_[1:]
    assert made.arms_ == ("a control", "treated")
    assert made.names_ == ("age", "city", "past")
    assert made.n_features_in_ == 3


def check_several_arms(learner: UpliftLearner) -> None:
    """Each arm but control has its effect, under its label; or three arms are refused."""
    given, truth = drawn(1000, 14, arms=3)
    given["T"] = np.array(["none", "men", "women"])[given["T"]]
    if not learner.several:
        with pytest.raises(BadInput, match="takes two arms, and this trial has 3") as error:
            clone(learner).fit(**given, control="none")
        return one_sentence(error)
    made = clone(learner).fit(**given, control="none")
    assert made.arms_ == ("none", "men", "women")
    found = made.effect(given["X"])
    assert found.shape == (1000, 2)
    average = made.ate()
    assert average.arms == ("men", "women")
    assert len(average.value) == len(average.stderr) == 2
    for value, error, wanted in zip(average.value, average.stderr, truth.mean(0), strict=True):
        assert 0.01 < error < 0.2
        assert abs(value - wanted) < 4 * error
    if made.intervals:
        low, high = made.effect_interval(given["X"])
        assert low.shape == high.shape == found.shape
        assert (low <= high).all()
    return None


def check_refusals(learner: UpliftLearner) -> None:
    """What cannot be is a sentence that names it, before anything is learned."""
    given, _ = drawn(60, 15)
    hole = given["X"].copy()
    hole[7, 1] = np.nan
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"X": hole}, "feature x1, row 7: the value is missing or not finite|feature 1, row 7"),
        ({"Y": np.where(np.arange(60) == 9, np.inf, given["Y"])}, "column outcome, row 9"),
        ({"T": np.zeros(60)}, "column treatment has one value"),
        ({"T": given["T"][:50]}, "column treatment has 50 rows, but the features have 60"),
        ({"Y": given["Y"][:50]}, "column outcome has 50 rows, but the features have 60"),
        ({"sample_weight": np.full(60, -1.0)}, "column weight, row 0: -1 is negative"),
        ({"groups": np.arange(59)}, "column user has 59 rows"),
        ({"propensity": np.full(60, 1.5)}, "column propensity, row 0"),
        ({"control": "nobody"}, "control is 'nobody', but the arms are 0, 1"),
    )
    for change, words in wrong:
        with pytest.raises(BadInput, match=words) as error:
            clone(learner).fit(**given | change)
        one_sentence(error)
    fresh = clone(learner)
    asks = [fresh.effect, fresh.effect_interval] if fresh.intervals else [fresh.effect]
    for ask in asks:
        with pytest.raises(NotFittedError):
            ask(given["X"])
    with pytest.raises(NotFittedError):
        fresh.ate()
    fresh.fit(**given)
    with pytest.raises(BadInput, match="was fitted on 3 features, and these are 2") as error:
        fresh.effect(given["X"][:, :2])
    one_sentence(error)
    with pytest.raises(BadInput, match="row 7: the value is missing or not finite"):
        fresh.effect(hole)


def check_too_few(learner: UpliftLearner) -> None:
    """One treated row, or two users, is learned from or refused in a sentence, never by a library's error."""
    given, _ = drawn(60, 16)
    lonely = given | {"T": (np.arange(60) == 5).astype(int)}
    refused: list[str] = []
    for change in (lonely, given | {"groups": np.arange(60) // 30}):
        try:
            made = clone(learner).fit(**change)
            made.ate()
        except BadInput as error:
            refused.append(str(error))
            continue
        assert np.isfinite(made.effect(given["X"])).all()
    assert all(" fold" in said and "\n" not in said for said in refused)
    weight = 1.0 - given["T"]
    with pytest.raises(BadInput, match=r"takes no weights|arm 1 has no row among rows of weight above 0"):
        clone(learner).fit(**given, sample_weight=weight)


CHECKS = (
    check_settings_are_those_given,
    check_same_seed_same_effects,
    check_models_without_a_seed_get_one,
    check_threads_do_not_matter,
    check_order_of_rows,
    check_no_effect_is_none,
    check_a_linear_effect_is_found,
    check_intervals,
    check_weights_are_copies,
    check_users_are_whole,
    check_what_features_may_be,
    check_any_container,
    check_several_arms,
    check_refusals,
    check_too_few,
)
