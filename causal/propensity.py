"""Propensities that a log does not have, or that are to be checked: models of the logger, out of fold.

A model says how likely each candidate is to be shown at the top; a slate then has its Plackett–Luce
probability (`simlab.adapters.propensity`), and with one item a row that is the plain softmax. Recipes are
here for rankers and in `causal.sklearn_propensity` for classifiers; `causal.propensity_calibration` corrects
either, and `causal.audit` holds a log's own propensities against an estimate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from causal.folds import Folds
from causal.pages import places
from causal.rewards import positions
from simlab.adapters._descent import Descent
from simlab.adapters.propensity import Propensity
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed
from simlab.slates import PlackettLuce

_CELLS = 1 << 21
"""Cells of [round, cand] held at once: 16 MB."""


@runtime_checkable
class FittedPropensity(Protocol):
    """A model of the logger that has seen its rows."""

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        """Return the probability of each candidate at the top, or at the given place of the page.

        float64; a row sums to one, and masked candidates have 0.
        """
        ...


@runtime_checkable
class PropensityModel(Protocol):
    """A recipe for a model of the logger. `fit` returns something new."""

    @property
    def past(self) -> int:
        """H, how many items of history `probabilities` wants in its context."""
        ...

    def fit(
        self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None
    ) -> FittedPropensity:
        """Fit on all rows of a log: what was shown, whatever it brought."""
        ...


@dataclass(frozen=True)
class RankerPropensity:
    """A recipe for `simlab.adapters.propensity.Propensity`: a softmax over any ranker's logits.

    It learns slates by their Plackett–Luce likelihood, and does not look at a single item's `position`.

    Args:
        make: builds an untrained ranker for the sizes of a log.
        past: H, how many items of history the ranker wants.
        how: of training.
        calibrate: fit a temperature on the rows that training held out.

    Raises:
        BadInput: at `fit`, if the ranker wants another `past`.
    """

    make: Callable[[Sizes], Ranker]
    past: int = 0
    how: Descent | None = None
    calibrate: bool = True
    name: ClassVar[str] = "ranker"

    def fit(
        self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None
    ) -> FittedPropensity:
        """Maximise the likelihood of what was shown."""
        ranker = self.make(Sizes.of(log))
        if ranker.past != self.past:
            raise BadInput(
                f"ranker {ranker.name} wants past={ranker.past}, but its propensity model says {self.past}"
            )
        fit = Propensity.fit(ranker, log, seed, weight=weight, how=self.how, calibrate=self.calibrate)
        return _Softmax(fit)


@dataclass(frozen=True, eq=False)
class _Softmax:
    model: Propensity

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        with torch.no_grad():
            return self.model.probabilities(context)


@dataclass(frozen=True, eq=False)
class Propensities:
    """Estimated propensities of a log, out of fold.

    Attributes:
        log: the rounds.
        chance: P(what was shown), of the whole slate; NaN in the burn-in of time order.
        folds: which model says it.
        models: one for each fold.
        floor: for each fold, the least probability that a candidate has.
        floored: rounds of which a shown item had less than the floor and was lifted.
        missing: rounds that show an item which their model never met.
        past: H, how many items of history the models want.
    """

    log: Log
    chance: Float[Tensor, " round"]
    folds: Folds
    models: tuple[FittedPropensity, ...]
    floor: tuple[float, ...]
    floored: Bool[Tensor, " round"]
    missing: Bool[Tensor, " round"]
    past: int = 0

    def table(self) -> Float[Tensor, "round cand"]:
        """Return the logger's whole policy at the top, or at each round's position: what `causal.mips` wants.

        It is held at once: 8 bytes a round and candidate. NaN in the burn-in.
        """
        return torch.cat([table for _, _, table in self.blocks()])

    def blocks(self) -> Iterator[tuple[slice, Context, Tensor]]:
        """Yield rows, their context and their part of the table, a block at a time."""
        context, place = self.log.context(self.past), positions(self.log)[:, 0]
        size = max(1, _CELLS // context.candidates.shape[1])
        for start in range(0, len(self.log), size):
            rows = slice(start, min(start + size, len(self.log)))
            part = context.rows(rows)
            yield rows, part, _table(self.models, self.floor, self.folds.fold[rows], part, place[rows])

    def filled(self) -> Log:
        """Return the log with these propensities instead of its own; the burn-in is left out.

        With slates `slot_propensity` goes, for it is not of this logger.
        """
        kept = self.folds.scored.nonzero().squeeze(1)
        log = self.log if len(kept) == len(self.log) else self.log.rows(kept)
        return replace(log, propensity=self.chance[kept], slot_propensity=None)

    def sentence(self) -> str:
        """Say how many rounds hang on the floor."""
        scored = int(self.folds.scored.sum())
        least, most = min(self.floor), max(self.floor)
        span = f"{least:.2g}" if least == most else f"{least:.2g} to {most:.2g}"
        return (
            f"of {scored:,} rounds {int(self.missing.sum()):,} show an item that their model never met, and "
            f"{int(self.floored.sum()):,} were lifted to the floor of {span}"
        )


def cross_fit_propensity(
    log: Log,
    model: PropensityModel,
    folds: int = 3,
    seed: Seed = Seed(0),
    group: bool = True,
    *,
    slots: int | None = None,
    weight: Float[Tensor, " round"] | None = None,
    floor: float | None = None,
    order: str = "random",
    time: Int[Tensor, " round"] | Float[Tensor, " round"] | None = None,
    fold: Int[Tensor, " round"] | None = None,
) -> Propensities:
    """Estimate the propensity of what each round shows, by a model that has not seen the round.

    A candidate with less than the floor gets the floor, and the row is divided by its sum: so an item that a
    fold's training rows never show has a weight that is large but finite. The floor is by default that of an
    item that is shown once in one more row, 1 / (n + 1), but at most a tenth of an even share, 0.1 / C, so
    that all floors of C candidates are no more than a tenth of the whole. Rounds that hang on it are marked.

    Args:
        log: the rounds; their own propensities are not looked at.
        model: the recipe.
        folds: how many; at least 2, or 1 in time order.
        seed: of the folds and of the fits.
        group: keep all rounds of a user in one fold; not in time order.
        slots: positions of a page; by default as many as the log shows.
        weight: of each round in the fits.
        floor: the least probability of a candidate, or 0 for none.
        order: "random" or "time", as in `causal.folds.Folds.deal`.
        time: as there.
        fold: as there.

    Raises:
        BadInput: as `causal.folds.Folds.deal`; for a position off the page; for a floor that C candidates
            cannot all have; and without a floor, for a round whose item its model thinks impossible.
    """
    dealt = Folds.deal(log, folds, seed.split("folds"), group, order=order, time=time, fold=fold)
    place = positions(log)
    pages = places(log, slots)
    context = log.context(model.past)
    wide = context.candidates.shape[1]
    if floor is not None and not 0 <= floor * wide < 1:
        raise BadInput(
            f"floor is {floor}, but {wide} candidates can have at least that each only below 1 / {wide}"
        )
    models: list[FittedPropensity] = []
    floors: list[float] = []
    for number in range(dealt.count):
        train = dealt.train(number)
        part = None if weight is None else weight[train]
        models.append(model.fit(log.rows(train), pages, seed.split(f"fold {number}"), part))
        floors.append(min(1 / (len(train) + 1), 0.1 / wide) if floor is None else float(floor))
    chance = torch.full((len(log),), float("nan"), dtype=torch.float64, device=place.device)
    floored = torch.zeros(len(log), dtype=torch.bool, device=place.device)
    size = max(1, _CELLS // wide)
    for start in range(0, len(log), size):
        rows = slice(start, min(start + size, len(log)))
        part_context = context.rows(rows)
        columns = part_context.columns(log.slate[rows])
        raw = _table(tuple(models), None, dealt.fold[rows], part_context, place[rows, 0])
        least = _each(floors, dealt.fold[rows], raw)
        floored[rows] = (raw.gather(1, columns) < least).any(1)
        table = _lifted(raw, part_context.mask, least)
        if log.slots == 1:
            chance[rows] = table.gather(1, columns).squeeze(1)
        else:
            logits = table.clamp(min=torch.finfo(torch.float64).tiny).log()
            pl = PlackettLuce(logits, log.slots, part_context.mask)
            chance[rows] = pl.log_prob(columns).exp()
    if bool((chance == 0).any()):
        row = int((chance == 0).nonzero()[0])
        raise BadInput(
            f"row {row}: the model thinks item {int(log.slate[row, 0])} impossible, and without a floor "
            "it has propensity 0"
        )
    return Propensities(
        log, chance, dealt, tuple(models), tuple(floors), floored, dealt.unseen(log), model.past
    )


def _table(
    models: tuple[FittedPropensity, ...],
    floor: tuple[float, ...] | None,
    fold: Int[Tensor, " row"],
    context: Context,
    place: Int[Tensor, " row"],
) -> Float[Tensor, "row cand"]:
    """Return what each row's own model says, with the floor if there is one."""
    out = torch.full(context.candidates.shape, float("nan"), dtype=torch.float64, device=place.device)
    for number, model in enumerate(models):
        here = (fold == number).nonzero().squeeze(1)
        if len(here):
            out[here] = model.probabilities(context.rows(here), place[here])
    return out if floor is None else _lifted(out, context.mask, _each(list(floor), fold, out))


def _each(floor: list[float], fold: Int[Tensor, " row"], like: Tensor) -> Float[Tensor, "row 1"]:
    return torch.tensor(floor, dtype=torch.float64, device=like.device)[fold.clamp(min=0)].unsqueeze(1)


def _lifted(
    table: Float[Tensor, "row cand"], mask: Bool[Tensor, "row cand"], floor: Float[Tensor, "row 1"]
) -> Float[Tensor, "row cand"]:
    """Lift candidates to the floor. Only rows that have one below it change."""
    low = ((table < floor) & mask).any(1, keepdim=True)
    lifted = torch.maximum(table, floor) * mask
    return torch.where(low, lifted / lifted.sum(1, keepdim=True), table)
