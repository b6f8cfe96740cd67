"""Tune an estimator: a function of the data that keeps nothing for the next data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from causal.contract import Score, Scored, Scores, stderr, value
from causal.evaluation import Estimate, overlap
from causal.folds import evenly
from causal.intervals import clustered, interval
from causal.tuning.choice import AnyEstimator, Choice, Lot, Rule, label, together
from causal.tuning.rules import CrossValidation, EstimatedMSE, Paired, Slope
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed

if TYPE_CHECKING:
    import pandas as pd

RULES: dict[str, Rule] = {
    "slope": Slope(),
    "paired": Paired(),
    "mse": EstimatedMSE(),
    "cv": CrossValidation(),
}
"""The rules by their short names, with their defaults."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was chosen, from what, and what it says.

    Attributes:
        name: the estimator, the chosen value (of each fold, where they differ) and the rule.
        choice: the candidates as judged on all rows, and the chosen one.
        folds: what the other folds' rows chose for each fold; empty without cross-fitting.
        fold: the fold of each row; None without cross-fitting.
        scores: of each row: by the estimator that was chosen without the row's fold, or, without
            cross-fitting, by the one chosen on all rows.
        ess: as in `causal.evaluation.Estimate`; the least of the chosen estimators.
        max_weight_share: likewise, the largest.
        group: cluster of each row, if any.
    """

    name: str
    choice: Choice
    folds: tuple[Choice, ...]
    fold: Int[Tensor, " round"] | None = field(repr=False)
    scores: Scores = field(repr=False)
    ess: float
    max_weight_share: float
    group: Int[Tensor, " round"] | None = field(default=None, repr=False)

    @property
    def chosen(self) -> AnyEstimator:
        """The estimator that was chosen on all rows."""
        return self.choice.chosen.estimator

    @property
    def value(self) -> float:
        """The value of `scores`: the cross-fitted one, where the choice was cross-fitted."""
        return value(self.scores)

    @property
    def note(self) -> str:
        """Say in a sentence what an interval of the scores does and does not count."""
        if len(self.choice.candidates) == 1:
            return "There was one candidate, so nothing was chosen."
        if self.folds:
            return (
                "Each fold is scored by what the other folds chose, so an interval holds the noise of the "
                "rows and not the luck of the choice. It does not count the bias of what was chosen."
            )
        return (
            "The choice was made on the rows that are scored, and the interval ignores that; nor does it "
            "count the bias of what was chosen."
        )

    def estimate(
        self,
        kind: str | Sequence[str] = "student-t",
        level: float = 0.95,
        *,
        seed: Seed = Seed(0),
        replicates: int = 1000,
    ) -> Estimate:
        """Return the value with intervals, as `causal.evaluation.estimate` does for a plain estimator.

        Args:
            kind: one or more of `causal.intervals.KINDS`.
            level: coverage of the intervals.
            seed: of bootstraps.
            replicates: of bootstraps.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        found = tuple(
            interval(self.scores, k, level, self.group, seed=seed, replicates=replicates) for k in kinds
        )
        units = self.scores if self.group is None else clustered(self.scores, self.group)
        return Estimate(
            name=self.name,
            value=self.value,
            stderr=stderr(units),
            intervals=found,
            n=len(self.scores[0].numerator),
            ess=self.ess,
            max_weight_share=self.max_weight_share,
            scores=self.scores,
            group=self.group,
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per candidate, as pandas; `folds` says how many folds chose it."""
        import pandas as pd

        rows = []
        for index, candidate in enumerate(self.choice.candidates):
            row = asdict(candidate)
            del row["estimator"]
            row["chosen"] = index == self.choice.index
            row["folds"] = sum(c.index == index for c in self.folds)
            rows.append(row)
        return pd.DataFrame(rows)


def tune(
    candidates: Sequence[AnyEstimator],
    data: Scored | Sequence[Scored],
    how: str | Rule = "slope",
    *,
    reference: int | AnyEstimator | None = None,
    crossfit: bool = True,
    folds: int = 5,
    labels: Sequence[str] | None = None,
    seed: Seed = Seed(0),
) -> Tuned:
    """Choose one of several estimators by the data, and estimate with it.

    The candidates may come in any order and need not be of one family. Of candidates that are equal on the
    rows that choose, the first in the list is chosen, by every rule. With cross-fitting that can matter: no
    clip above the largest weight of the other folds can be told from another, and the fold may hold a larger
    weight. Put first what should be taken then.

    Each candidate is scored on all rows and, with cross-fitting, on each set of K - 1 folds.

    Args:
        candidates: the estimators, such as `family(ClippedIPS(), clip=(2.0, 10.0, math.inf))`.
        data: the rows; or for each candidate the same rows as it sees them, such as kernel weights of each
            bandwidth.
        how: "slope", "paired", "mse", "cv", or a rule with settings of your own.
        reference: for "mse" and "cv", an estimator without bias, or the number of such a candidate. By
            default the first candidate that is `unbiased`; else, for rounds, DR where every candidate needs a
            reward model and IPS where one does not.
        crossfit: score each fold by what the rows of the other folds chose. Then no row takes part in the
            choice of what scores it: given the choices, a fold's mean has no bias around the mean of what was
            chosen, and every kind of interval may be used. Standard errors treat the choices as given; where
            folds disagree, they still move a little together (`docs/ope-tuning.md` has by how much).
        folds: of cross-fitting; users stay whole where rows have groups.
        labels: names of the candidates in the table; by default the name and the hyper-parameters.
        seed: of folds and splits.

    Raises:
        BadInput: if there is no candidate, the rows of candidates differ in number, there are fewer rows (or
            users) than folds, or the data lack what a candidate needs.
    """
    estimators = tuple(candidates)
    if not estimators:
        raise BadInput("there is no candidate to choose from")
    rule = _rule(how)
    every = (data,) * len(estimators) if isinstance(data, Scored) else tuple(data)
    if len(every) != len(estimators):
        raise BadInput(
            f"{len(estimators)} candidates have {len(every)} sets of rows; give one set, or one each"
        )
    n = len(every[0])
    for number, d in enumerate(every):
        if len(d) != n:
            raise BadInput(f"candidate {number} has {len(d)} rows, but candidate 0 has {n}")
    if isinstance(reference, int) and not 0 <= reference < len(estimators):
        raise BadInput(f"reference is {reference}, but the candidates are 0 to {len(estimators) - 1}")
    names = tuple(label(e) for e in estimators) if labels is None else tuple(labels)
    if len(names) != len(estimators):
        raise BadInput(f"{len(estimators)} candidates have {len(names)} labels")

    lot = Lot(estimators, names, every, reference, seed)
    choice = rule.choose(lot)
    group = every[0].group
    parts: list[Choice] = []
    fold = None
    if crossfit and len(estimators) > 1:
        fold = deal(n, group, folds, seed.split("folds"))
        for number in range(folds):
            others = (fold != number).nonzero().squeeze(1)
            parts.append(rule.choose(_some(lot, others, seed.split(f"fold {number}"))))
    used = [c.index for c in parts] or [choice.index]
    scored = {i: estimators[i].score(every[i]) for i in sorted(set(used))}
    scores = scored[used[0]] if fold is None else _joined([scored[i] for i in used], used, fold)
    overlaps = [overlap(estimators[i], every[i]) for i in scored]
    return Tuned(
        name=_named(lot, used, rule, bool(parts), labels is not None),
        choice=choice,
        folds=tuple(parts),
        fold=fold,
        scores=scores,
        ess=min(o[0] for o in overlaps),
        max_weight_share=max(o[1] for o in overlaps),
        group=group,
    )


def deal(n: int, group: Int[Tensor, " round"] | None, folds: int, seed: Seed) -> Int[Tensor, " round"]:
    """Deal rows, or whole users, to folds, as `causal.folds.evenly` does.

    Raises:
        BadInput: for fewer than 2 folds, or fewer than two rows (or users) a fold.
    """
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a choice that its own rows took no part in needs at least 2")
    key = torch.arange(n) if group is None else group.cpu()
    _, where, count = torch.unique(key, return_inverse=True, return_counts=True)
    if len(count) < 2 * folds:
        what = "rows" if group is None else "users"
        raise BadInput(
            f"{len(count)} {what} are too few for {folds} folds of cross-fitting: ask for fewer, or for none "
            "with crossfit=False"
        )
    return evenly(where, count, folds, seed)


def _rule(how: str | Rule) -> Rule:
    if not isinstance(how, str):
        return how
    if how not in RULES:
        raise BadInput(f"there is no rule named {how}{nearest(how, RULES)}")
    return RULES[how]


def _some(lot: Lot, rows: Int[Tensor, " some"], seed: Seed) -> Lot:
    """Return the candidates beside some rows only; what is shared stays shared."""
    cut = {id(d): d.rows(rows) for d in lot.data}
    return replace(lot, data=tuple(cut[id(d)] for d in lot.data), seed=seed)


def _joined(scored: list[Scores], used: list[int], fold: Int[Tensor, " round"]) -> Scores:
    """Put the scores of each fold's rows together.

    Plain means are put into one column. Of ratios, each chosen candidate keeps its own, over the rows that it
    scores, times their share of all rows. Where all folds chose the same, these are that candidate's scores.
    """
    if len(set(used)) == 1:
        return scored[0]
    fold = fold.to(scored[0][0].numerator.device)
    if all(len(s) == 1 and bool((s[0].denominator == 1).all()) for s in scored):
        out = scored[0][0].numerator.clone()
        for number, (mean,) in enumerate(scored):
            here = fold == number
            out[here] = mean.numerator[here]
        return (Score(out, scored[0][0].denominator),)
    parts: list[Score] = []
    for index in sorted(set(used)):
        own = torch.tensor([number for number, i in enumerate(used) if i == index], device=fold.device)
        mine = torch.isin(fold, own).to(torch.float64)
        share = mine.mean()
        for s in scored[used.index(index)]:
            parts.append(Score(s.numerator * mine * share, s.denominator * mine))
    return tuple(parts)


def _named(lot: Lot, used: list[int], rule: Rule, crossfitted: bool, own: bool) -> str:
    """Name the estimator, what was chosen and how: "clipped IPS (clip 20, SLOPE, cross-fitted)"."""
    if own:
        short = lot.labels[used[0]] if len(set(used)) == 1 else " / ".join(lot.labels[i] for i in used)
    else:
        short = together([lot.estimators[i] for i in used])
    if len(lot.estimators) == 1:
        return short
    more = f"{rule.name}, cross-fitted" if crossfitted else rule.name
    whole = not own and short.endswith(")") and " / " not in short
    return f"{short[:-1]}, {more})" if whole else f"{short} ({more})"
