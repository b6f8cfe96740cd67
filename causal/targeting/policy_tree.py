"""Policy trees and forests: a rule that can be read, grown to gain the most on doubly robust scores.

A region of the features gets the arm whose mean score there is highest. The score of arm a is
worth · Γ_a - cost_a, with Γ from `causal.targeting.scores.aipw`; control's is 0. The trees are EconML's,
those of its `DRPolicyTree` and `DRPolicyForest`; scores are ours, so that costs are exact, known chances of
each row are used, and folds keep users whole.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from causal.targeting.measure import Array, Measure
from causal.targeting.policies import Assignment, costs, worths
from causal.targeting.scores import Nuisances, aipw, deal
from causal.targeting.value import value
from causal.uplift._econml import asked
from causal.uplift._rows import counted
from causal.uplift.contract import Trial, _numbers
from simlab.errors import BadInput
from simlab.seeds import Seed


class _Policy(BaseEstimator):  # type: ignore[misc]
    """What the tree and the forest share; a kind writes `_grow`."""

    name: ClassVar[str]

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        *,
        cost: Any = 0.0,
        worth: float | int = 1.0,
        depth: int | None = None,
        leaf: int = 20,
        folds: int = 5,
        clip: float = 0.01,
        random_state: int = 0,
    ) -> None:
        self.outcome_model = outcome_model
        self.propensity_model = propensity_model
        self.cost = cost
        self.worth = worth
        self.depth = depth
        self.leaf = leaf
        self.folds = folds
        self.clip = clip
        self.random_state = random_state

    def _grow(self) -> Any:
        """Return EconML's model, not yet grown."""
        raise NotImplementedError

    def fit(
        self, X: Any, T: Any, Y: Any, *, sample_weight: Any = None, groups: Any = None, **more: Any
    ) -> "_Policy":
        """Grow from arrays or DataFrames, as `UpliftLearner.fit`.

        Raises:
            BadInput: in one sentence, for data that cannot be.
        """
        return self.learn(Trial.of(X, T, Y, weight=sample_weight, user=groups, **more))

    def learn(self, trial: Trial) -> "_Policy":
        """Grow from a trial.

        Raises:
            BadInput: for a depth, leaf, cost or worth that cannot be, an arm whose rows all have weight 0, or
                fewer rows than two leaves.
        """
        if self.depth is not None and self.depth < 1:
            raise BadInput(f"depth is at least 1, or None for any, not {self.depth}")
        if self.leaf < 1:
            raise BadInput(f"leaf is at least 1 row, not {self.leaf}")
        trial = counted(trial)
        if len(trial) < 4 * self.leaf:
            raise BadInput(f"the trial has {len(trial)} rows, too few for honest leaves of {self.leaf} rows")
        seed = self.random_state
        outcome, chance = asked(self.outcome_model, seed), asked(self.propensity_model, seed)
        gain = aipw(trial, outcome, chance, self.folds, Seed(seed), clip=self.clip)
        net = worths(gain, self.worth) - costs(self.cost, 1, len(trial.arms) - 1)
        self.arms_, self.names_, self.n_features_in_ = trial.arms, trial.names, trial.x.shape[1]
        score = np.column_stack([np.zeros(len(trial)), net])
        self.model_ = self._grow().fit(trial.x, score, sample_weight=trial.weight)
        return self

    def chances(self, X: Any) -> Float[Array, "round arm"]:
        """Return each arm's chance, control first: 1 for a tree's arm, a forest's votes.

        Raises:
            BadInput: for another number of features, or what is not finite.
        """
        x = self._features(X)
        return np.asarray(self.model_.predict_proba(x), dtype=np.float64)

    def recommend(self, X: Any) -> Array:
        """Return the label of the arm of each row; of equal votes the first arm.

        Raises:
            BadInput: as `chances`.
        """
        said = self.chances(X).argmax(1)
        found: Array = np.asarray(self.arms_)[said]
        return found

    def assign(self, X: Any) -> Assignment:
        """Return the recommended arms as an assignment, for `causal.targeting.value`.

        Raises:
            BadInput: as `chances`.
        """
        return Assignment.fixed(self.chances(X).argmax(1), len(self.arms_), self.name)

    def gain(self, X: Any) -> Float[Array, "round arm"]:
        """Return what each arm is worth above control, net of costs, by the half of the rows kept for it.

        A leaf's mean, or the forest's mean over trees. The other half has chosen the splits.

        Raises:
            BadInput: as `chances`.
        """
        x = self._features(X)
        return np.asarray(self.model_.predict_value(x), dtype=np.float64)

    def value(self, trial: Trial, found: Nuisances | None = None) -> Measure:
        """Return what a row of another trial would bring under the rule, net of costs: doubly robust.

        The rows must not be those that it was grown on; for those see `crossed`.

        Args:
            trial: with the same arms in the same order.
            found: its nuisances (`causal.targeting.scores.nuisances`), cross-fitted by default.

        Raises:
            BadInput: for other arms or features.
        """
        check_is_fitted(self, "model_")
        if trial.arms != self.arms_:
            said, here = (", ".join(map(repr, a)) for a in (self.arms_, trial.arms))
            raise BadInput(f"{self.name} was grown on the arms {said}, and this trial has {here}")
        how: dict[str, Any] = {"cost": self.cost, "worth": self.worth, "clip": self.clip}
        return value(self.assign(trial.x), trial, found, **how, seed=Seed(self.random_state))

    def crossed(self, trial: Trial, folds: int = 5) -> Assignment:
        """Return each row's arm by a clone that was grown without it and without its user.

        Its `causal.targeting.value.value` on the same trial is honest. It judges this way of growing on
        somewhat fewer rows, and not one tree.

        Raises:
            BadInput: as `learn`, or for fewer rows or users than folds.
        """
        fold = deal(trial, folds, Seed(self.random_state).split("crossed"))
        arm = np.zeros(len(trial), dtype=np.int64)
        for number in range(folds):
            here = fold == number
            grown = clone(self).learn(trial.rows(~here))
            arm[here] = grown.chances(trial.x[here]).argmax(1)
        return Assignment.fixed(arm, len(trial.arms), self.name)

    def _features(self, X: Any) -> Float[Array, "round feat"]:
        check_is_fitted(self, "model_")
        x = _numbers(X, tuple(str(c) for c in getattr(X, "columns", self.names_)))
        if x.shape[1] != self.n_features_in_:
            raise BadInput(
                f"{self.name} was grown on {self.n_features_in_} features, and these are {x.shape[1]}"
            )
        return x


class PolicyTree(_Policy):
    """A tree whose leaves say which arm to give; EconML's policy tree on doubly robust scores.

    Honest: half of the rows choose the splits, the other half the arms of the leaves. It is grown greedily,
    so a rule that only two splits together make (an exclusive or) can be missed. EconML halves the rows, not
    the users: with several rows a user, `gain` is too good, and only `value` on other users or of `crossed`
    is honest.

    Source: Athey and Wager (2021), "Policy learning with observational data", Econometrica; EconML 0.17,
    `DRPolicyTree`.

    Args:
        outcome_model: of the outcome of each arm; any scikit-learn model or ranker, as in `aipw`.
        propensity_model: of the arm; by default the trial's known chances, and logistic regression where it
            knows none.
        cost: of giving each treated arm to a row: one number, or one an arm. Control costs nothing.
        worth: of one unit of the outcome, in the cost's unit; below 0 where the outcome is a harm.
        depth: splits on the way to a leaf at most; None for any.
        leaf: rows of a leaf at least, in each half.
        folds: of the scores' cross-fitting; users are kept whole.
        clip: chances below it count as it.
        random_state: seed of folds and halves.

    >>> g = np.random.default_rng(0)
    >>> x, t = g.normal(size=(4000, 2)), g.integers(0, 2, 4000)
    >>> y = x[:, 1] + t * np.where(x[:, 0] > 0, 1, -1)
    >>> tree = PolicyTree(depth=1).fit(x, t, y, propensity=0.5, names=("age", "visits"))
    >>> tree.recommend([[1.0, 0.0], [-1.0, 0.0]]).tolist()
    [1, 0]
    """

    name: ClassVar[str] = "policy tree"

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        *,
        cost: Any = 0.0,
        worth: float | int = 1.0,
        depth: int | None = 2,
        leaf: int = 20,
        folds: int = 5,
        clip: float = 0.01,
        random_state: int = 0,
    ) -> None:
        more: dict[str, Any] = {"depth": depth, "leaf": leaf, "folds": folds, "clip": clip}
        models = outcome_model, propensity_model
        super().__init__(*models, cost=cost, worth=worth, **more, random_state=random_state)

    def _grow(self) -> Any:
        from econml.policy import PolicyTree as Tree

        return Tree(max_depth=self.depth, min_samples_leaf=self.leaf, random_state=self.random_state)

    def rules(self) -> str:
        """Return the rule, a line for each leaf, with what its arm brings above control and how many get it.

        Leaves under one split that get the same arm are one line. Shares are of the rows that chose the
        arms. Numbers have four digits.
        """
        check_is_fitted(self, "model_")
        return "\n".join(self._lines(0, []))

    def _lines(self, node: int, path: list[str]) -> Iterator[str]:
        tree = self.model_.tree_
        arms = set(self._arms_under(node))
        if len(arms) == 1:
            arm = arms.pop()
            share = tree.weighted_n_node_samples[node] / tree.weighted_n_node_samples[0]
            brings = "" if arm == 0 else f", {tree.value[node, arm, 0]:+.4g} a row"
            where = f"if {' and '.join(path)}" if path else "always"
            yield f"{where}: {self.arms_[arm]}{brings} ({share:.1%} of rows)"
            return
        name, cut = self.names_[tree.feature[node]], tree.threshold[node]
        yield from self._lines(int(tree.children_left[node]), [*path, f"{name} <= {cut:.4g}"])
        yield from self._lines(int(tree.children_right[node]), [*path, f"{name} > {cut:.4g}"])

    def _arms_under(self, node: int) -> Iterator[int]:
        tree = self.model_.tree_
        if tree.children_left[node] < 0:
            yield int(tree.value[node, :, 0].argmax())
            return
        yield from self._arms_under(int(tree.children_left[node]))
        yield from self._arms_under(int(tree.children_right[node]))


class PolicyForest(_Policy):
    """Many policy trees on random halves of the rows; the arm of most votes.

    Smoother than one tree, and not to be read. `gain` is the mean over trees. As for the tree, halves are of
    rows and not of users.

    Source: as `PolicyTree`; EconML 0.17, `DRPolicyForest`.

    Args:
        outcome_model: as `PolicyTree`.
        propensity_model: as `PolicyTree`.
        trees: how many.
        cost: as `PolicyTree`.
        worth: as `PolicyTree`.
        depth: as `PolicyTree`; by default any.
        leaf: as `PolicyTree`.
        folds: as `PolicyTree`.
        clip: as `PolicyTree`.
        random_state: seed of folds, rows and halves.
    """

    name: ClassVar[str] = "policy forest"

    def __init__(
        self,
        outcome_model: Any = None,
        propensity_model: Any = None,
        *,
        trees: int = 100,
        cost: Any = 0.0,
        worth: float | int = 1.0,
        depth: int | None = None,
        leaf: int = 20,
        folds: int = 5,
        clip: float = 0.01,
        random_state: int = 0,
    ) -> None:
        more: dict[str, Any] = {"depth": depth, "leaf": leaf, "folds": folds, "clip": clip}
        models = outcome_model, propensity_model
        super().__init__(*models, cost=cost, worth=worth, **more, random_state=random_state)
        self.trees = trees

    def _grow(self) -> Any:
        from econml.policy import PolicyForest as Forest

        if self.trees < 1:
            raise BadInput(f"trees is at least 1, not {self.trees}")
        how = {"max_depth": self.depth, "min_samples_leaf": self.leaf, "random_state": self.random_state}
        return Forest(n_estimators=self.trees, **how, n_jobs=1)
