"""What a rule of choice looks at, and what it answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from math import isfinite, nan
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from causal.bandit.dr import DR
from causal.bandit.ips import IPS
from causal.contract import MODEL, Estimator, Rounds, Scored, Scores, stderr, value
from causal.intervals import clustered
from simlab.errors import BadInput
from simlab.seeds import Seed

AnyEstimator = Estimator[Any]
Part = TypeVar("Part")


@dataclass(frozen=True)
class Candidate:
    """One row of the table that a choice was made from.

    Attributes:
        estimator: the candidate.
        label: its name and its hyper-parameters.
        value: what it says.
        variance: its squared standard error; of clusters where the rows have groups.
        low: lower end of the interval that the rule looked at; NaN for a rule that looks at none.
        high: upper end.
        bias: the estimate or bound of its absolute bias; NaN for a rule that makes none.
        loss: what the rule minimises: the estimated mean squared error, or the cross-validated loss; NaN for
            a rule that minimises nothing.
    """

    estimator: AnyEstimator
    label: str
    value: float
    variance: float
    low: float = nan
    high: float = nan
    bias: float = nan
    loss: float = nan


@dataclass(frozen=True)
class Choice:
    """The table of candidates, in the order in which they were given, and which one was chosen."""

    candidates: tuple[Candidate, ...]
    index: int

    @property
    def chosen(self) -> Candidate:
        """The row of the chosen candidate."""
        return self.candidates[self.index]


@dataclass(frozen=True)
class Lot:
    """Candidates beside the rows that they are judged on.

    Attributes:
        estimators: the candidates.
        labels: their names.
        data: the rows, as each candidate sees them.
        reference: index of the candidate that stands for no bias, or an estimator for it, or None.
        seed: of everything random.
    """

    estimators: tuple[AnyEstimator, ...]
    labels: tuple[str, ...]
    data: tuple[Scored, ...]
    reference: int | AnyEstimator | None
    seed: Seed

    def units(self, index: int) -> Scores:
        """Score a candidate; rows of one user are summed where the rows have groups."""
        return _units(self.estimators[index], self.data[index])

    def candidate(self, index: int, scores: Scores) -> Candidate:
        """Return the candidate's row, as far as every rule knows it.

        Raises:
            BadInput: if its value is not a number.
        """
        found = Candidate(self.estimators[index], self.labels[index], value(scores), stderr(scores) ** 2)
        if not isfinite(found.value):
            raise BadInput(f"candidate {found.label} has the value {found.value} on these rows")
        return found

    def unbiased(self) -> tuple[AnyEstimator, Scored]:
        """Return the estimator that stands for no bias, and its rows.

        By default the first candidate that says it is unbiased; else, for rounds, DR where every candidate
        needs a reward model and IPS where one does not.

        Raises:
            BadInput: if there is none to be found.
        """
        if isinstance(self.reference, int):
            return self.estimators[self.reference], self.data[self.reference]
        shared = all(d is self.data[0] for d in self.data)
        if self.reference is not None and shared:
            return self.reference, self.data[0]
        for estimator, data in zip(self.estimators, self.data, strict=True):
            if shared and estimator.unbiased:
                return estimator, data
        if shared and isinstance(self.data[0], Rounds):
            modelled = all(set(MODEL) <= set(e.needs) for e in self.estimators)
            return (DR() if modelled else IPS()), self.data[0]
        raise BadInput(
            "this rule compares with an unbiased estimator: say with `reference` which candidate is one"
        )

    def unbiased_units(self) -> Scores:
        """Score the estimator that stands for no bias."""
        return _units(*self.unbiased())


@runtime_checkable
class Rule(Protocol):
    """A way to choose. A rule is frozen and keeps nothing of the data.

    Attributes:
        name: as in the estimate's name.
    """

    name: ClassVar[str]

    def choose(self, lot: Lot, /) -> Choice:
        """Judge every candidate and choose one."""
        ...


def family(estimator: Part, **values: Iterable[Any]) -> tuple[Part, ...]:
    """Return an estimator with each of the given hyper-parameters (or each combination of several).

    >>> from causal.bandit.clipped_ips import ClippedIPS
    >>> family(ClippedIPS(), clip=(2.0, 10.0))
    (ClippedIPS(clip=2.0), ClippedIPS(clip=10.0))

    Raises:
        BadInput: for a hyper-parameter that the estimator does not have.
    """
    base: Any = estimator
    known = [f.name for f in fields(base)]
    for name in values:
        if name not in known:
            raise BadInput(f"{type(estimator).__name__} has no {name}; it has {', '.join(known) or 'none'}")
    rows = product(*values.values())
    return tuple(replace(base, **dict(zip(values, row, strict=True))) for row in rows)


def knobs(estimator: AnyEstimator) -> tuple[tuple[str, str], ...]:
    """Return the hyper-parameters of an estimator and their values, in words.

    >>> from causal.bandit.clipped_ips import ClippedIPS
    >>> knobs(ClippedIPS(20.0))
    (('clip', '20'),)
    """
    if not is_dataclass(estimator):
        return ()
    found = ((f.name, getattr(estimator, f.name)) for f in fields(estimator))
    return tuple((name, f"{v:g}" if isinstance(v, float | int) else str(v)) for name, v in found)


def label(estimator: AnyEstimator) -> str:
    """Name an estimator with its hyper-parameters.

    >>> from causal.bandit.clipped_ips import ClippedIPS
    >>> label(ClippedIPS(20.0))
    'clipped IPS (clip 20)'
    """
    words = ", ".join(f"{name} {v}" for name, v in knobs(estimator))
    return f"{estimator.name} ({words})" if words else estimator.name


def together(estimators: Sequence[AnyEstimator]) -> str:
    """Name what several folds chose, in the order of the folds.

    >>> from causal.bandit.clipped_ips import ClippedIPS
    >>> from causal.bandit.ips import IPS
    >>> together([ClippedIPS(20.0), ClippedIPS(10.0), ClippedIPS(20.0)])
    'clipped IPS (clip 20/10/20)'
    >>> together([ClippedIPS(20.0), IPS()])
    'clipped IPS (clip 20) / IPS'
    """
    labels = [label(e) for e in estimators]
    first = estimators[0]
    if len(set(labels)) == 1:
        return labels[0]
    rows = [knobs(e) for e in estimators]
    if any(type(e) is not type(first) for e in estimators):
        return " / ".join(labels)
    parts = []
    for column in zip(*rows, strict=True):
        different = len({v for _, v in column}) > 1
        parts.append(f"{column[0][0]} {'/'.join(v for _, v in column) if different else column[0][1]}")
    return f"{first.name} ({', '.join(parts)})"


def _units(estimator: AnyEstimator, data: Scored) -> Scores:
    scores = estimator.score(data)
    return scores if data.group is None else clustered(scores, data.group)
