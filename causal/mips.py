"""Marginal weights: how much likelier the target makes what the shown item is (its embedding e).

    w(x, e) = p(e|x, π) / p(e|x, π₀) = Σ_a π(a|x) p(e|x, a) / Σ_a π₀(a|x) p(e|x, a)
            = E_{a ~ π₀}[w(x, a) | x, e].

The first line needs p(e|x, a) and the logger's whole policy; the second can be learned from the log. Which
embedding to take is a choice between bias (coarse) and variance (fine): `causal.tuning.tune` makes it, given
`MIPS` once for each embedding's rounds.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from causal.folds import Folds
from causal.pages import marginals_at, pages_of
from causal.rewards import positions
from causal.rounds import rounds
from causal.sklearn_reward import check_size, numbers
from simlab.adapters.seeding import seeded
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed

_CELLS = 1 << 21
"""Cells of [round, slot, cand] held at once: 16 MB."""

CLOSE = 1e-3
"""How far, relative, a logger's policy may be from the log's own propensity of what was shown."""

Table = Float[Tensor, "round cand"]
"""A policy as a table: the probability of each candidate of each row, at the row's position."""


@runtime_checkable
class Embedding(Protocol):
    """What the shown items are: how likely each candidate would have been what was seen."""

    def likelihood(
        self, rows: slice, item: Int[Tensor, " row"], candidates: Int[Tensor, "row cand"]
    ) -> Float[Tensor, "row cand"]:
        """Return p(e|x, a) of each candidate a at the e that was logged.

        Args:
            rows: which rounds of the log these are.
            item: what they show.
            candidates: what they could have shown.
        """
        ...


@dataclass(frozen=True, eq=False)
class Clusters:
    """Each item has one e: its category or cluster.

    Attributes:
        cluster: of each item of the catalogue, any whole number.
    """

    cluster: Int[Tensor, " item"]

    def check(self, log: Log) -> None:
        """Refuse another catalogue's clusters."""
        if len(self.cluster) != log.n_items:
            raise BadInput(f"{len(self.cluster)} items have a cluster, but the log has {log.n_items}")

    def likelihood(
        self, rows: slice, item: Int[Tensor, " row"], candidates: Int[Tensor, "row cand"]
    ) -> Float[Tensor, "row cand"]:
        """Return 1 for the items of the same cluster."""
        return (self.cluster[candidates] == self.cluster[item].unsqueeze(1)).double()


@dataclass(frozen=True, eq=False)
class Categories:
    """e is drawn given the item, each dimension on its own: p(e|a) = Π_d p(e_d|a).

    Attributes:
        chance: p(e_d = c | a); a row of it sums to one.
        shown: e_d of each round, from 0.

    Raises:
        BadInput: for chances that do not sum to one, or a category that is none.
    """

    chance: Float[Tensor, "item dim category"]
    shown: Int[Tensor, "round seen"]

    def __post_init__(self) -> None:
        total = self.chance.double().sum(2)
        wrong = ~((total - 1).abs() <= 1e-5) | (self.chance < 0).any(2)
        if bool(wrong.any()):
            item, dim = (int(x) for x in wrong.nonzero()[0])
            raise BadInput(
                f"item {item}, dimension {dim}: the chances of the categories sum to "
                f"{float(total[item, dim]):.6g}, not 1, or are negative"
            )
        if self.shown.shape[1] != self.chance.shape[1]:
            raise BadInput(
                f"{self.shown.shape[1]} dimensions were seen, but there are {self.chance.shape[1]}"
            )
        wrong = (self.shown < 0) | (self.shown >= self.chance.shape[2])
        if bool(wrong.any()):
            row, dim = (int(x) for x in wrong.nonzero()[0])
            raise BadInput(
                f"row {row}, dimension {dim}: {int(self.shown[row, dim])} is no category, there are "
                f"{self.chance.shape[2]} from 0"
            )

    def check(self, log: Log) -> None:
        """Refuse the embeddings of another log."""
        if len(self.shown) != len(log):
            raise BadInput(f"{len(self.shown)} rounds have an embedding, but the log has {len(log)}")
        if len(self.chance) != log.n_items:
            raise BadInput(
                f"{len(self.chance)} items have chances of categories, but the log has {log.n_items}"
            )

    def likelihood(
        self, rows: slice, item: Int[Tensor, " row"], candidates: Int[Tensor, "row cand"]
    ) -> Float[Tensor, "row cand"]:
        """Multiply over the dimensions, one at a time."""
        seen = self.shown[rows]
        out = torch.ones(candidates.shape, dtype=torch.float64, device=candidates.device)
        for dim in range(seen.shape[1]):
            out *= self.chance[:, dim].double()[candidates, seen[:, dim : dim + 1]]
        return out


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """p(e|x, a) of the logged e, given for every candidate of every round: it may hang on the context.

    Attributes:
        chance: at least 0, a probability or a density; in the order of the log's candidates.

    Raises:
        BadInput: for what is negative or not finite.
    """

    chance: Float[Tensor, "round cand"]

    def __post_init__(self) -> None:
        _likely(self.chance, 0)

    def check(self, log: Log) -> None:
        """Refuse the likelihoods of another log."""
        wide = log.n_items if log.candidates is None else log.candidates.shape[1]
        if self.chance.shape != (len(log), wide):
            raise BadInput(
                f"likelihoods are a table of {list(self.chance.shape)}, but there are {len(log)} rounds of "
                f"{wide} candidates"
            )

    def likelihood(
        self, rows: slice, item: Int[Tensor, " row"], candidates: Int[Tensor, "row cand"]
    ) -> Float[Tensor, "row cand"]:
        """Return the rows' own."""
        return self.chance[rows].double()


def marginal_weight(
    log: Log,
    target: Policy | Table,
    logger: Policy | Table,
    embedding: Embedding,
    *,
    past: int = 0,
    page_slots: int | None = None,
    check: bool = True,
) -> Float[Tensor, " round"]:
    """Return w(x, e) of each round, for `Rounds.embedding`, from a known p(e|x, a).

    Source: Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings", ICML,
    section 3.

    Args:
        log: one item a row.
        target: a policy, or its table.
        logger: the logger's whole policy, or its table; `causal.propensity` estimates one.
        embedding: what the items are.
        past: how many items of history the policies want.
        page_slots: places of the page, with `position`, as in `causal.rounds.rounds`.
        check: refuse a logger that is not the log's; False for an estimated one.

    Raises:
        BadInput: for slates, a position off the page, tables or embeddings with NaN or of another log, tables
            that do not sum to one, and rows whose e the logger cannot have shown.
    """
    _single(log)
    if isinstance(embedding, Clusters | Categories | Likelihoods):
        embedding.check(log)
    context, place, pages = log.context(past), positions(log), pages_of(log, page_slots)
    out = []
    for rows in _blocks(len(log), pages * context.candidates.shape[1]):
        part, item = context.rows(rows), log.slate[rows, 0]
        likely = embedding.likelihood(rows, item, part.candidates)
        if likely.shape != part.candidates.shape:
            raise BadInput(
                f"{type(embedding).__name__} gave likelihoods of {list(likely.shape)} for "
                f"{list(part.candidates.shape)} rows and candidates"
            )
        _likely(likely, rows.start)
        below = _table(logger, "logger", part, place, rows, pages)
        if check:
            _same(below.gather(1, part.columns(log.slate[rows])).squeeze(1), log, rows)
        above = (_table(target, "target", part, place, rows, pages) * likely).sum(1)
        chance = (below * likely).sum(1)
        if not bool((chance > 0).all()):
            row = rows.start + int((chance <= 0).nonzero()[0])
            raise BadInput(f"row {row}: the logger's policy cannot have shown the embedding that was logged")
        out.append(above / chance)
    return torch.cat(out)


def learned_marginal_weight(
    log: Log,
    target: Policy,
    shown: Int[Tensor, "round dim"] | Float[Tensor, "round dim"],
    model: Any,
    logger: Policy | Table | None = None,
    *,
    folds: int = 3,
    seed: Seed = Seed(0),
    group: bool = True,
    past: int = 0,
    page_slots: int | None = None,
    **order: Any,
) -> Float[Tensor, " round"]:
    """Return an estimate of w(x, e) = E_{a ~ π₀}[w(x, a) | x, e], by a model that has not seen the row.

    - A classifier learns π₀(a|x, e) from the logged (x, e, a), and w(x, e) = Σ_a π̂₀(a|x, e) w(x, a). That sum
      needs w(x, a) of every item, so it needs the logger's whole policy. An item that a fold's rounds do not
      show gets π̂₀ = 0, as does one that the logger cannot show.
    - A regressor learns w(x, a) of the logged items from (x, e), in one step and from the log's propensities
      alone. What it says is cut at 0.

    The design is [context features, e]; whole numbers are one-hot categories, one block for each dimension.
    It is dense, 8 bytes a row and column, held at once; a fit holds a copy of its rows besides. What the
    model gets wrong biases `MIPS`; `SNMIPS` at least keeps a constant reward.

    Source: Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings", ICML,
    section 3 (estimating the marginal weights, by a classifier).

    Args:
        log: one item a row.
        target: whose value is wanted.
        shown: e of each round: categories, or numbers.
        model: any scikit-learn classifier with `predict_proba`, or any regressor; cloned, never changed. Each
            `random_state` that is None, those inside it too, is set from the seed.
        logger: the logger's whole policy, or its table, for a classifier.
        folds: of cross-fitting.
        seed: of folds and fits.
        group: keep all rounds of a user in one fold.
        past: how many items of history the policies want.
        page_slots: as in `causal.rounds.rounds`.
        order: `order`, `time` and `fold` of `causal.folds.Folds.deal`. The burn-in has weight NaN.

    Raises:
        BadInput: for slates, a position off the page, a classifier without the logger's policy, a logger's
            table or embeddings with NaN or of another log, or a design of more than
            `causal.sklearn_reward.LARGEST` cells.
    """
    from sklearn.base import is_classifier

    _single(log)
    if len(shown) != len(log):
        raise BadInput(f"there are embeddings of {len(shown)} rounds, but the log has {len(log)}")
    classes = is_classifier(model)
    if classes and logger is None:
        raise BadInput("a classifier of p(a|x, e) needs the logger's whole policy: give it, or a regressor")
    x = _design(log, shown)
    weight = rounds(log, target, past=past, page_slots=page_slots).weight.cpu().numpy()
    item = log.slate[:, 0].cpu().numpy()
    dealt = Folds.deal(log, folds, seed.split("folds"), group, **order)
    fold, out = dealt.fold.cpu().numpy(), np.full(len(log), np.nan)
    context, place, pages = log.context(past), positions(log), pages_of(log, page_slots)
    size = max(pages * context.candidates.shape[1], log.n_items)  # what a classifier says is of all items
    for number in range(dealt.count):
        train, here = dealt.train(number).cpu().numpy(), np.flatnonzero(fold == number)
        fit = seeded(model, seed.split(f"fold {number}").value)
        if not classes:
            out[here] = fit.fit(x[train], weight[train]).predict(x[here]).clip(min=0)
            continue
        fit.fit(x[train], item[train])
        known = torch.as_tensor(fit.classes_, dtype=torch.long, device=log.slate.device)
        assert logger is not None
        for rows in _blocks(len(log), size):
            inside = here[(here >= rows.start) & (here < rows.stop)]
            if not len(inside):
                continue
            at = torch.from_numpy(inside).to(log.slate.device)
            part = context.rows(at)
            said = torch.zeros(len(inside), log.n_items, dtype=torch.float64, device=at.device)
            said[:, known] = torch.from_numpy(fit.predict_proba(x[inside])).double().to(at.device)
            said = said.gather(1, part.candidates) * part.mask
            below = _table(logger, "logger", part, place, at, pages)
            above = _table(target, "target", part, place, at, pages)
            ratio = torch.where(below > 0, above / below.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
            out[inside] = (said * ratio).sum(1).cpu().numpy()
    return torch.from_numpy(out).to(log.slate.device)


def _single(log: Log) -> None:
    if log.slots > 1:
        raise BadInput(f"marginal weights are for one item a row, but slate has {log.slots} slots")


def _blocks(rows: int, cells: int) -> list[slice]:
    """Cut rows of so many cells each into blocks."""
    size = max(1, _CELLS // cells)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _likely(chance: Float[Tensor, "row cand"], first: int) -> None:
    """Refuse what is no likelihood."""
    wrong = ~((chance >= 0) & chance.isfinite())
    if bool(wrong.any()):
        row, column = (int(x) for x in wrong.nonzero()[0])
        raise BadInput(
            f"row {first + row}, candidate {column}: {float(chance[row, column]):g} is no likelihood"
        )


def _table(
    policy: Policy | Tensor,
    name: str,
    context: Context,
    place: Int[Tensor, "round 1"],
    rows: slice | Int[Tensor, " row"],
    pages: int,
) -> Float[Tensor, "row cand"]:
    """Return a policy's probability of each candidate at each row's place."""
    if not isinstance(policy, Tensor):
        with torch.no_grad():
            return marginals_at(policy.distribution(context, pages), place[rows]).squeeze(1)
    if policy.shape[1] != context.candidates.shape[1] or len(policy) != len(place):
        raise BadInput(
            f"the {name}'s table is {list(policy.shape)}, but there are {len(place)} rows of "
            f"{context.candidates.shape[1]} candidates"
        )
    table = policy[rows].double()
    total = table.sum(1)
    wrong = ~((total - 1).abs() <= 1e-5) | (table < 0).any(1)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        row = rows.start + first if isinstance(rows, slice) else int(rows[first])
        if bool(total[first].isnan()):
            column = int(table[first].isnan().nonzero()[0])
            raise BadInput(f"row {row}: the {name}'s probability of candidate {column} is nan")
        raise BadInput(
            f"row {row}: the {name}'s probabilities sum to {float(total[first]):.6g}, not 1, or are negative"
        )
    return table


def _same(chance: Float[Tensor, " row"], log: Log, rows: slice) -> None:
    """Refuse a logger that does not show what was logged as often as the log says."""
    claimed = log.propensity[rows].double()
    wrong = ~((chance - claimed).abs() <= CLOSE * claimed)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(
            f"column propensity, row {rows.start + row}: {float(claimed[row]):g}, but the logger's policy "
            f"shows item {int(log.slate[rows][row, 0])} with probability {float(chance[row]):g}"
        )


def _design(log: Log, shown: Tensor) -> NDArray[np.float64]:
    """Put context features and the embedding side by side."""
    features = numbers(log.features, len(log))
    instead = "take clusters, or numbers in place of categories"
    if shown.dtype.is_floating_point:
        wrong = ~shown.isfinite()
        if bool(wrong.any()):
            row, dim = (int(x) for x in wrong.nonzero()[0])
            raise BadInput(
                f"shown, row {row}, dimension {dim}: {float(shown[row, dim]):g} is not a finite number"
            )
        check_size(len(log), features.shape[1] + shown.shape[1], instead)
        return np.concatenate([features, shown.double().cpu().numpy()], 1)
    place = [torch.unique(e, return_inverse=True)[1].cpu().numpy() for e in shown.unbind(1)]
    widths = [features.shape[1], *(int(e.max()) + 1 for e in place)]
    check_size(len(log), sum(widths), instead)
    out = np.zeros((len(log), sum(widths)))
    out[:, : widths[0]] = features
    for e, start in zip(place, np.cumsum(widths), strict=False):
        out[np.arange(len(out)), start + e] = 1
    return out
