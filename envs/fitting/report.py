"""What a fit found, with what certainty, and what the log does not tell."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.fitting.information import NOTHING, Information, Mask
from envs.fitting.likelihood import Array, Likelihood
from envs.fitting.sessions import read
from simlab.errors import BadInput
from simlab.log import Log

FEW = 2
"""Clicks an item below which a value for each item takes up so much that the shared values are off."""


@dataclass(frozen=True)
class Evaluation:
    """How well a fitted model foretells the clicks of a log.

    Attributes:
        log_likelihood: Σ log P(clicks of a session), natural logarithm.
        sessions: how many were judged.
        left_out: sessions with an item that the fit never saw: nothing is known of them.
        perplexity: of each slot, 2^(-mean log2 P(c_k)) by the marginal chance of its click (Dupret and
            Piwowarski 2008, section 4.2); 1 is perfect, 2 a coin's flip, nan a slot never shown.
        conditional_perplexity: the same given the clicks above (Chuklin, Markov and de Rijke 2015, section
            5.2).
    """

    log_likelihood: float
    sessions: int
    left_out: int
    perplexity: Float[Tensor, " slot"]
    conditional_perplexity: Float[Tensor, " slot"]


@dataclass(frozen=True, eq=False)
class ClickFit:
    """A click model fitted to a log. What the log does not tell is nan, and `notes` says so.

    Attributes:
        model: the fitted model, float64. A value that is nan in `parameters` stands where the search left it;
            a field with a value for each item holds the mean over impressions.
        parameters: the estimates by name.
        errors: their standard errors; 0 where the value was fixed beforehand, nan on a bound.
        items: what each item has a value of, by name: "attraction" and, say, "satisfaction"; empty where the
            attraction was given.
        item_errors: their standard errors; nan on a bound.
        log_likelihood: Σ log P(clicks of a session), natural logarithm.
        estimated: how many values were estimated.
        sessions: how many there were.
        converged: the search ended at a maximum.
        words: how the search ended.
        notes: what the log does not tell, a sentence each.
        perplexity: of each slot, as in `Evaluation`, on the log of the fit.
        conditional_perplexity: the same given the clicks above.
    """

    model: ClickModel
    parameters: dict[str, Tensor]
    errors: dict[str, Tensor]
    items: dict[str, Float[Tensor, " item"]]
    item_errors: dict[str, Float[Tensor, " item"]]
    log_likelihood: float
    estimated: int
    sessions: int
    converged: bool
    words: str
    notes: tuple[str, ...]
    perplexity: Float[Tensor, " slot"]
    conditional_perplexity: Float[Tensor, " slot"]
    _intervals: dict[str, Tensor] = field(repr=False)
    _likelihood: Likelihood = field(repr=False)
    _value: Tensor = field(repr=False)

    @property
    def aic(self) -> float:
        """Akaike's criterion: 2 · estimated - 2 · log-likelihood; less is better."""
        return 2 * self.estimated - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion: log(sessions) · estimated - 2 · log-likelihood; less is better."""
        return float(np.log(self.sessions)) * self.estimated - 2 * self.log_likelihood

    @property
    def attraction(self) -> Float[Tensor, " item"]:
        """P(click | examined) of each item.

        Raises:
            BadInput: where the attraction was given, not estimated.
        """
        if "attraction" not in self.items:
            raise BadInput("the attraction was given to this fit, so it was not estimated")
        return self.items["attraction"]

    def frame(self) -> pd.DataFrame:
        """Return parameter, slot, estimate, stderr and the 95 % interval; slots count from 0.

        A parameter of two axes has its first index in its name, and its last one as the slot. Intervals are
        symmetric in arcsin √, so they stay in range.
        """
        rows = []
        for name, value in self.parameters.items():
            low, high = self._intervals[name]
            cells = zip(value.reshape(-1), self.errors[name].reshape(-1), low, high, strict=True)
            places = np.ndindex(*value.shape)
            for place, cell in zip(places, cells, strict=True):
                title = name + "".join(f"[{i}]" for i in place[:-1])
                rows.append((title, place[-1] if place else pd.NA, *map(float, cell)))
        made = pd.DataFrame(rows, columns=["parameter", "slot", "estimate", "stderr", "low", "high"])
        return made.astype({"slot": "Int64"})

    def item_frame(self) -> pd.DataFrame:
        """Return each item's shows, clicks, and estimates with standard errors."""
        shown, clicks = self._likelihood.sessions.per_item()
        columns = {"item": np.arange(len(shown)), "shown": shown.long(), "clicks": clicks.long()}
        for name, value in self.items.items():
            columns |= {name: value, f"{name}_stderr": self.item_errors[name]}
        return pd.DataFrame(columns)

    def evaluate(self, log: Log, attraction: Float[Tensor, "round slot"] | None = None) -> Evaluation:
        """Judge the fit on other sessions of the same catalogue.

        An item without a click in the fit has attraction 0, so a click on it here makes the log-likelihood
        -inf: fit with a small `prior` to avoid that.

        Args:
            log: the sessions.
            attraction: of each slot's item, if and only if it was given to the fit.

        Raises:
            BadInput: for a log that does not fit the model or its slots.
        """
        mine = self._likelihood
        if (attraction is None) != bool(mine.families):
            raise BadInput("attraction is given to `evaluate` if and only if it was given to `fit`")
        some = read(log, attraction, mine.sessions.slate.shape[1])
        if log.position is not None and not mine.independent:
            kind = mine.model.__name__
            raise BadInput(
                f"{kind} needs whole slates, but the log's `position` says that it shows one item a round"
            )
        if (some.slate.shape[1], some.n_items) != (mine.sessions.slate.shape[1], mine.sessions.n_items):
            theirs = f"{mine.sessions.slate.shape[1]} slots and {mine.sessions.n_items} items"
            raise BadInput(
                f"the log has {some.slate.shape[1]} slots and {some.n_items} items, the fit {theirs}"
            )
        new = (some.shown.sum(0) > 0) & (mine.sessions.shown.sum(0) == 0)
        if bool(new.any()):
            raise BadInput(f"slot {int(new.nonzero()[0])} was never shown in the log of the fit")
        left_out = 0
        if mine.families:
            unseen = torch.nn.functional.pad(mine.sessions.per_item()[0] == 0, (0, 1))
            keep = ~unseen[some.slate].any(1)
            left_out = int((~keep).sum())
            some = replace(some.rows(keep), count=int(keep.sum()))
        if not some.count:
            raise BadInput("every session has an item that the log of the fit never showed")
        total, marginal, conditional = mine.judge(self._value, some)
        return Evaluation(total, some.count, left_out, marginal, conditional)


def report(
    likelihood: Likelihood, x: Array, information: Information, converged: bool, words: str
) -> ClickFit:
    """Say what was found, with what certainty, and what the log does not tell."""
    value = likelihood.values(x)
    place = likelihood.x_of(value).numpy()
    alone = information.diagonal()
    silent = alone <= NOTHING
    reach = 1 / np.sqrt(np.where(silent, 1.0, alone))
    bound = ~silent & (np.minimum(place, np.pi / 2 - place) < 0.5 * reach)
    inner = ~silent & ~bound
    variance, untold = information.keep(inner).factor(1e-12).variances()
    spread = np.full_like(place, np.nan)
    spread[inner] = np.where(untold, np.nan, np.sqrt(variance))
    lost = silent.copy()
    lost[inner] |= untold
    error = np.where(inner, np.abs(likelihood.slope(place).numpy()) * spread, np.nan)
    far = float(norm.ppf(0.975)) * spread
    ends = [likelihood.values(np.clip(side, 0, np.pi / 2)) for side in (place - far, place + far)]
    seen = torch.where(torch.as_tensor(lost), torch.nan, value)

    estimates = likelihood.shared_values(seen)
    fixed = {k: p.free.logical_not() for k, p in likelihood.shared.items()}
    errors = likelihood.shared_values(torch.as_tensor(error))
    errors = {k: v.masked_fill(fixed[k], 0.0) for k, v in errors.items()}
    sides = [likelihood.shared_values(torch.where(torch.as_tensor(lost), torch.nan, e)) for e in ends]
    intervals = {k: torch.stack([side[k].reshape(-1) for side in sides]) for k in estimates}
    items = dict(zip(likelihood.families, likelihood.item_values(seen), strict=True))
    item_errors = dict(zip(likelihood.families, likelihood.item_values(torch.as_tensor(error)), strict=True))
    total, marginal, conditional = likelihood.judge(value, likelihood.sessions)
    shown = likelihood.sessions.per_item()[0]
    means = {
        name: (v * shown).sum() / shown.sum()
        for name, v in zip(likelihood.families[1:], likelihood.item_values(value)[1:], strict=True)
    }
    return ClickFit(
        model=likelihood.model(**likelihood.shared_values(value), **means),
        parameters=estimates,
        errors=errors,
        items=items,
        item_errors=item_errors,
        log_likelihood=total,
        estimated=int((~lost).sum()),
        sessions=likelihood.sessions.count,
        converged=converged,
        words=words,
        notes=tuple(_notes(likelihood, bound, silent, lost)),
        perplexity=marginal,
        conditional_perplexity=conditional,
        _intervals=intervals,
        _likelihood=likelihood,
        _value=value,
    )


def _notes(likelihood: Likelihood, bound: Mask, silent: Mask, lost: Mask) -> list[str]:
    """Return a sentence for whatever the log does not tell."""
    said = []
    sessions = likelihood.sessions
    unseen = (sessions.shown.sum(0) == 0).nonzero().squeeze(1).tolist()
    if unseen:
        said.append(f"{_listed('slot', unseen)} never shown: nan")
    shown, clicks = sessions.per_item()
    mean = float(clicks.sum() / (shown > 0).sum())
    if likelihood.families and likelihood.size and mean < FEW:
        said.append(f"an item has {mean:.1f} clicks on average: below about {FEW}, parameters are biased")
    why = {
        "makes no difference to the log: nan": silent,
        "cannot be told apart from the other values: nan": lost & ~silent,
        "lies on its bound, so it has no standard error and no interval": bound,
    }
    few = likelihood.size
    for words, which in why.items():
        for n, name in enumerate(likelihood.names):
            at = [p for (m, p), hit in zip(likelihood.entry, which[:few], strict=True) if hit and m == n]
            shape = tuple(likelihood.shared[name].start.shape)
            spots = [str(tuple(map(int, np.unravel_index(p, shape)))).replace(",)", ")") for p in at]
            if at:
                said.append(f"{name}{' at ' + ', '.join(spots) if shape else ''} {words}")
        table = which[few:].reshape(len(likelihood.families), sessions.n_items)
        for family, hit in zip(likelihood.families, table, strict=True):
            if hit.any():
                said.append(f"{family} of {int(hit.sum())} of {sessions.n_items} items {words}")
    return said


def _listed(noun: str, places: list[int]) -> str:
    """Return "slot 3 was" or "slots 3, 4 were"."""
    return f"{noun} {places[0]} was" if len(places) == 1 else f"{noun}s {', '.join(map(str, places))} were"
