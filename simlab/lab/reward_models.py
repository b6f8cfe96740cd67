"""Reward models by the words of the command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simlab.errors import BadInput, nearest
from simlab.lab.grammar import parse
from simlab.lab.policies import ranker_settings
from simlab.parts import names, part

if TYPE_CHECKING:
    from causal.cascade_reward import CascadeModel
    from causal.q_models import QModel
    from causal.rewards import RewardModel
    from simlab.context import Catalog
    from simlab.log import Log

LARGE = 300
"""Above this many items, auto does not lay out a dense column for each: it counts clicks instead."""

KNOWN = ("auto", "none", "logistic", "ridge", "gradient-boosting")
"""The words that are not rankers or import paths."""


def check_word(word: str) -> None:
    """Refuse a word that names no reward model, before anything is read.

    Raises:
        BadInput: with the nearest word.
    """
    if word in KNOWN:
        return
    if "." in word.partition("(")[0]:
        _estimator(word, binary=False)
        return
    call = parse(word)
    if call.name.replace("-", "_") not in names("ranker"):
        rankers = [n.replace("_", "-") for n in names("ranker")]
        raise BadInput(f"there is no reward model named {word}{nearest(call.name, [*KNOWN, *rankers])}")
    ranker_settings(call)


def reward_model(word: str, log: "Log", catalog: "Catalog | None" = None) -> "RewardModel | None":
    """Return the recipe that a word names, or None for "none".

    Args:
        word: one of `KNOWN`, a ranker with settings such as mf(dim=8), or an import path.
        log: whose rewards decide between a classifier and a regressor.
        catalog: the items, if more is known of them than their number.
    """
    if word == "none":
        return None
    binary = bool(((log.reward == 0) | (log.reward == 1)).all()) if log.slots == 1 else _clicks(log)
    if word == "auto" and log.n_items > LARGE and binary:
        word = "popularity(by=rate)"
    known = catalog if catalog is not None and catalog.features.shape[1] else None
    if word in KNOWN or "." in word.partition("(")[0]:
        from causal.sklearn_reward import SklearnReward

        return SklearnReward(_estimator(word, binary), known)
    from causal.rewards import RankerReward
    from simlab.rankers.contract import Ranker, Sizes

    call = parse(word)
    family: Any = part("ranker", call.name)
    settings = ranker_settings(call)

    def make(sizes: Sizes) -> Ranker:
        ranker = family.build(sizes, settings, catalog)
        assert isinstance(ranker, Ranker)
        return ranker

    return RankerReward(make, past=make(Sizes(1, log.n_items)).past)


def cascade_model(word: str, log: "Log", catalog: "Catalog") -> "CascadeModel":
    """Return the recipe of a model of what is still to come in a slate that a reward model's word names.

    It regresses sums of clicks, so logistic and auto become ridge. A ranker models each item alone, and what
    is still to come is their sum.

    Args:
        word: as in `reward_model`.
        log: whose catalogue's size decides what auto is: above `LARGE` items, rates of clicks.
        catalog: the items.
    """
    from causal.cascade_reward import AdditiveCascade, SklearnCascade

    if word == "auto" and log.n_items > LARGE:
        word = "popularity(by=rate)"
    if word in KNOWN or "." in word.partition("(")[0]:
        known = catalog if catalog.features.shape[1] else None
        plain = "ridge" if word in ("auto", "logistic") else word
        return SklearnCascade(_estimator(plain, binary=False), known)
    model = reward_model(word, log, catalog)
    assert model is not None
    return AdditiveCascade(model)


def q_model(word: str, log: "Log", catalog: "Catalog") -> "QModel":
    """Return the recipe of a Q-model for fitted-Q evaluation that a reward model's word names.

    Returns are no probabilities, so logistic and auto become ridge.

    Args:
        word: as in `reward_model`.
        log: whose catalogue's size decides what auto is: above `LARGE` items, a ranker.
        catalog: the items.
    """
    from causal.q_models import RankerQ, SklearnQ
    from simlab.rankers.contract import Ranker, Sizes

    if word == "auto" and log.n_items > LARGE:
        word = "mf"
    if word in KNOWN or "." in word.partition("(")[0]:
        known = catalog if catalog.features.shape[1] else None
        plain = "ridge" if word in ("auto", "logistic") else word
        return SklearnQ(_estimator(plain, binary=False), known)
    call = parse(word)
    family: Any = part("ranker", call.name)
    settings = ranker_settings(call)

    def make(sizes: Sizes) -> Ranker:
        ranker = family.build(sizes, settings, catalog)
        assert isinstance(ranker, Ranker)
        return ranker

    return RankerQ(make, past=make(Sizes(1, log.n_items)).past)


def _clicks(log: "Log") -> bool:
    return log.click is None or bool(((log.click == 0) | (log.click == 1)).all())


def _estimator(word: str, binary: bool) -> Any:
    if word == "auto":
        word = "logistic" if binary else "ridge"
    if word == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=10.0, max_iter=1000)
    if word == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1.0)
    if word == "gradient-boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        return HistGradientBoostingClassifier() if binary else HistGradientBoostingRegressor()
    try:
        made = _imported(word)()
    except TypeError as error:
        raise BadInput(f"{word} cannot be made without arguments: {error}") from None
    from sklearn.base import is_clusterer, is_outlier_detector

    if is_clusterer(made) or is_outlier_detector(made):
        raise BadInput(f"{word} predicts labels of its own, not rewards: give a regressor or a classifier")
    return made


def _imported(path: str) -> Any:
    """Return the class at an import path."""
    where, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(where), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"there is no reward model at {path}: {error}") from None
    if not (isinstance(found, type) and hasattr(found, "fit") and hasattr(found, "predict")):
        raise BadInput(f"{path} is not a scikit-learn estimator: it has no fit and predict")
    return found
