"""Fit a click model to a log: position bias, trust, persistence, and how attractive each item is.

One routine serves every click model: it maximises the exact log-likelihood in float64 by L-BFGS, in
coordinates in which the information matrix is the identity, and takes standard errors from that matrix.

>>> import torch
>>> from envs.clicks.position_based import PositionBased
>>> from simlab.log import Log
>>> from simlab.seeds import Seed
>>> n, luck = 4000, Seed(1).at(torch.arange(4000), torch.zeros(4000, dtype=torch.long))
>>> slate = luck.uniform("ranking", 6).argsort(1)[:, :3]  # a random ranking of 6 items
>>> appeal = torch.tensor([0.9, 0.7, 0.5, 0.4, 0.3, 0.2])
>>> click = PositionBased.power(3, 1.0).sample(appeal[slate], luck.uniform("clicks", 3)).double()
>>> log = Log(torch.arange(n), slate, torch.ones(n), click.sum(1), n_items=6, click=click)
>>> found = fit("position_based", log)
>>> found.frame().round(2)
     parameter  slot  estimate  stderr   low  high
0  examination     0      1.00    0.00  1.00  1.00
1  examination     1      0.51    0.01  0.48  0.53
2  examination     2      0.31    0.01  0.29  0.34
>>> found.converged
True
>>> found.item_frame().head(2).round(2)
   item  shown  clicks  attraction  attraction_stderr
0     0   1973    1102        0.91               0.01
1     1   2026     849        0.70               0.02
>>> rival = fit("trust_bias", log)  # the criteria charge it for its four values: less is better
>>> found.bic < rival.bic, found.aic < rival.aic
(True, True)
"""

import math
from inspect import isabstract

import torch
from jaxtyping import Float
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.fitting.likelihood import Likelihood
from envs.fitting.report import ClickFit, report
from envs.fitting.search import search
from envs.fitting.sessions import Sessions, independent, read
from simlab.errors import BadInput
from simlab.log import Log
from simlab.parts import names, part


def fit(
    model: str | type[ClickModel],
    log: Log,
    *,
    attraction: Float[Tensor, "round slot"] | None = None,
    per_item: bool = True,
    prior: float = 0.0,
    iterations: int = 1000,
) -> ClickFit:
    """Fit a click model to a log by maximum likelihood.

    The attraction of each item, the same for every user, is estimated with the model's parameters, unless it
    is given. What is fixed so that the rest is identified is said by the model's `parameters`; a scale so
    fixed (θ of the first slot is 1) is a convention.

    Standard errors come from the information Σ ∇p ∇pᵀ / (p (1 - p)) over cells, p the chance of a click given
    those above: the Hessian's expectation, cell by cell, given the past. The items' values are profiled out
    by a Schur complement; beyond 2,000 of them, the information between two items, which is 0 where slots
    are independent, is left out. They hold if the model is true. A value on its bound (θ = 1, or the
    attraction of an item never clicked) has none, and those of the others take it as known.

    With very few clicks an item, a value for each item is too much to ask, and the shared parameters are
    biased (Neyman and Scott 1948): at 1.1 clicks an item θ = 0.50 came out as 0.56, at 2.2 as 0.51 ± 0.01.
    `notes` says so; give the attraction, from a model of relevance, or fit to items shown more often.

    Args:
        model: a class of click models, or its name in the catalogue.
        log: the sessions; each round is one. With `position` and one item a round, only models of independent
            slots can be fitted.
        attraction: P(click | examined) of each slot's item, if known or predicted.
        per_item: what belongs to the item (`ClickModel.of_items`) has a value for each item; False: one for
            all.
        prior: pseudo-clicks, and as many pseudo-misses, added to each item's values. 0 is pure likelihood:
            an item never clicked then has attraction 0. Not with `attraction`: no item has values then.
        iterations: evaluations of the likelihood at most, about; 1 or more.

    Raises:
        BadInput: for an unknown model, arguments of another type or out of range, a log without clicks,
            clicks other than 0 and 1, clicks that the model says cannot be, or their absence, one slot where
            a bias of position is asked for, slots that share no item.
    """
    kind, name = _find(model)
    _check_numbers(prior, iterations)
    if prior and attraction is not None:
        raise BadInput(
            f"prior is {prior}, but with `attraction` given it is 0, as no item has a value to smooth"
        )
    sessions = read(log, attraction)
    slots = sessions.slate.shape[1]
    alone = independent(kind, slots)
    if log.position is not None and not alone:
        raise BadInput(
            f"{name} needs whole slates, but the log's `position` says that it shows one item a round"
        )
    if slots == 1 and any(bool(p.free.any()) for p in kind.parameters(2).values()):
        raise BadInput(f"the log has one slot, so it cannot tell what {name} says of positions")
    if not bool((sessions.clicks > 0).any()):
        raise BadInput("no session of the log has a click, so there is nothing to fit")
    if attraction is not None:
        data = sessions
    elif not alone:
        data = sessions.grouped()
    else:
        data = sessions.by_item()
        if any(bool(p.free.any()) and p.start.ndim == 1 for p in kind.parameters(slots).values()):
            _check_connected(data)
    of_items = kind.of_items if per_item and attraction is None else ()
    likelihood = Likelihood(kind, data, of_items, alone, prior)
    _check_possible(likelihood, sessions, name)
    x, information, converged, words = search(likelihood, iterations)
    return report(likelihood, x, information, converged, words)


def _check_numbers(prior: object, iterations: object) -> None:
    """Refuse a prior or a number of iterations that cannot be."""
    if isinstance(prior, bool) or not (isinstance(prior, int | float) and 0 <= prior < math.inf):
        raise BadInput(f"prior is {prior!r}, but it is a finite number from 0")
    if isinstance(iterations, bool) or not (isinstance(iterations, int) and iterations >= 1):
        raise BadInput(f"iterations is {iterations!r}, but it is a whole number from 1")


def _find(model: object) -> tuple[type[ClickModel], str]:
    """Return the class and a name for messages."""
    if isinstance(model, str):
        return part("click model", model), model.replace("-", "_")
    if not (isinstance(model, type) and issubclass(model, ClickModel)) or isabstract(model):
        what = model.__name__ if isinstance(model, type) else f"of the type {type(model).__name__}"
        raise BadInput(f"model is {what}, but it is a class of click models or its name in the catalogue")
    for name in names("click model"):
        if part("click model", name) is model:
            return model, name
    return model, model.__name__


def _check_connected(table: Sessions) -> None:
    """Refuse slots that no chain of clicked items ties to the first one: their bias is anybody's guess."""
    ties = (table.shown > 0) & (table.clicks.sum(1, keepdim=True) > 0)
    there = table.shown.sum(0) > 0
    reached = torch.zeros_like(there)
    reached[int(there.nonzero()[0])] = True
    for _ in range(len(reached)):
        reached = reached | ties[(ties & reached).any(1)].any(0)
    lost = (there & ~reached).nonzero().squeeze(1).tolist()
    if lost:
        which = f"slot {lost[0]} shares" if len(lost) == 1 else f"slots {', '.join(map(str, lost))} share"
        raise BadInput(
            f"{which} no clicked item with slot {int(there.nonzero()[0])}, not even through other slots, so "
            "position and item cannot be told apart: show items at several slots, or give the attraction"
        )


def _check_possible(likelihood: Likelihood, sessions: Sessions, name: str) -> None:
    """Refuse clicks that the model gives no chance whatever its parameters, and misses of what is sure."""
    after = "" if likelihood.independent else " after those above it"
    value, row = likelihood.values(likelihood.start), 0
    for some in sessions.chunks():
        with torch.no_grad():
            chance = likelihood.chance(value, some)
        never = ((chance <= 0) & (some.clicks > 0)) | ((chance >= 1) & (some.clicks < some.shown))
        if bool(never.any()):
            at, slot = (int(i) for i in never.nonzero()[0])
            what = "a click" if some.clicks[at, slot] > 0 else "no click"
            place = f"column click, row {row + at}, slot {slot}"
            known = some.attraction
            given = "" if known is None else f" at attraction {float(known[at, slot]):g}"
            raise BadInput(f"{place}: {what}{after}{given} is impossible under {name}")
        row += len(some.slate)
