"""What a log of exposures says of chances, slots and rankings: what is right, seen and gained."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from causal.exposure import Exposures
from causal.exposure_dose import Dose, examined, pull, with_examination
from causal.targeting.measure import Array, Measure, column, measure, table, weights
from simlab.errors import BadInput
from simlab.slates import SlateDistribution


def examination_of(data: Exposures, *, baseline: Any = None, by: Any = None) -> tuple[Measure, ...]:
    """Return θ_k / θ_1 of each slot from effects alone: no click model, and no clicks.

    An item has an effect only where it is examined, so effects at slots are in proportion to θ:

        θ_k / θ_1 = E[h (Γ_k - Γ_0)] / E[h (Γ_1 - Γ_0)],   Γ_k = μ + 1{slot = k} (y - μ) / π_k,

    with Γ_0 that of not being shown and μ any guess of y from x. The ratio is the same for any weights h(x),
    so each row also weighs 1 / Σ_k (1 / π_k): pairs that hardly ever stand at some slot tell little, and
    those that never do tell nothing. The standard error is the delta method's, clustered by user. If the
    first slot is always examined, the ratios are θ itself.

    Source: ours; Γ is the doubly robust score of a slot.

    Args:
        data: a log where some rows have a chance of every slot, and of not being shown.
        baseline: μ, learned on other rows, [round]; 0 by default. It takes off variance, never bias:
            `baseline_` of an `ExposureEffect`, with any θ.
        by: h, a function of x learned on other rows, [round]; 1 by default. Where effects of both signs
            cancel, an estimate of τ as h tells the ratios far better: `effect_` of an `ExposureEffect`.

    Raises:
        BadInput: if no row has a chance of every slot, or an effect at the first slot is not above 0 by two
            standard errors: then no ratio to it can be told.
    """
    rows = len(data)
    mu = np.zeros(rows) if baseline is None else column("baseline", baseline, rows)
    mass = weights(data.weight, rows)
    with np.errstate(divide="ignore"):
        mass = mass / (1 / data.chance).sum(1)
    if not mass.any():
        place = int(data.chance.min(0).argmin())
        what = "of not being shown" if place == data.slots else f"of slot {place}"
        raise BadInput(f"chance, row 0: the chance {what} is 0, and no row has one of every slot and of none")
    mass = mass / mass.sum()
    share = mass if by is None else mass * column("by", by, rows)
    left = data.y - mu
    at = np.zeros_like(data.chance)
    every = np.arange(rows)
    at[every, data.slot] = left / data.chance[every, data.slot]
    gap = share[:, None] * (at[:, :-1] - at[:, -1:])
    effect = gap.sum(0)
    first = measure(float(effect[0]), gap[:, 0] - mass * effect[0], data.user, "effect at the first slot")
    if not first.value > 2 * first.stderr:
        raise BadInput(
            f"the effect at the first slot is {first.value:.3g} ± {first.stderr:.2g}, too near 0 or below it "
            "for others to be measured by it: give more rows, or an estimate of the effect as `by`"
        )
    ratio = effect / effect[0]
    influence = (gap - ratio * gap[:, :1]) / effect[0]
    return tuple(
        measure(float(ratio[k]), influence[:, k], data.user, f"examination of slot {k}")
        for k in range(data.slots)
    )


def imbalance_of(data: Exposures, *, by: Any = None) -> tuple[Measure, ...]:
    """Return how much more often pairs stood at each slot, and last at none, than their chances say.

    It is Σ h (1{slot = k} - π_k) over the rows, over their number: near 0 if the chances are those of the
    policy that showed, as a log's mean weight is near 1. One that is surely off, by several standard errors
    (clustered by user), says that chances are wrong or rows are lost: no effect is then to be believed.

    Args:
        data: the log.
        by: h, a function of x, [round]; 1 by default. With a feature, chances are looked at along it.

    Raises:
        BadInput: for an h that does not fit.
    """
    rows = len(data)
    mass = weights(data.weight, rows)
    share = mass / mass.sum() * (1.0 if by is None else column("by", by, rows))
    off = -data.chance
    off[np.arange(rows), data.slot] += 1
    off *= share[:, None]
    names = (*(f"slot {k}" for k in range(data.slots)), "not shown")
    return tuple(
        measure(float(off[:, k].sum()), off[:, k], data.user, f"imbalance of {name}")
        for k, name in enumerate(names)
    )


def expected_dose(distribution: SlateDistribution, examination: Any) -> Float[Tensor, "user cand"]:
    """Return Σ_k θ_k P(candidate at slot k): how much of each candidate a ranking lets a user see.

    Raises:
        BadInput: for another number of slots, or a θ that cannot be.
    """
    theta = torch.from_numpy(examined(examination)[0])
    if len(theta) != distribution.slots:
        raise BadInput(f"examination is of {len(theta)} slots, but a slate has {distribution.slots}")
    places = distribution.slot_marginals().double()
    return torch.einsum("ukc,k->uc", places, theta.to(places.device))


def ranking_gain(
    data: Exposures,
    scores: Any,
    dose: Any,
    *,
    examination: Any = None,
    slates: int | None = None,
    name: str = "gain of the ranking",
) -> Measure:
    """Return what a ranking adds to the outcomes of a slate over showing nothing, from the log of another.

    It is the mean over slates of Σ_i d(u, i) ψ(u, i), with d the dose that the ranking gives to each pair
    (`expected_dose`, `doses_of`). ψ is unbiased for τ, so this is unbiased where doses add up, that is where
    an item's effect does not depend on what stands beside it (the additive, item-position model of Li et al.
    2018, "Offline evaluation of ranking policies with click models", KDD), and where every pair that the
    ranking may show is in the log. A factor on θ divides ψ and multiplies d: the gain needs θ only up to
    that. The paired difference of two rankings is `a.minus(b)`.

    Where θ was estimated (`examination_of`), give it and the ranking's slots: its error then counts. With
    P_ik the chance that the ranking shows i at slot k, the derivative of the gain by θ_k is the mean of
    Σ_i (P_ik - d π_k (θ_k - m) / v) τ.

    Args:
        data: the log; users are clusters.
        scores: ψ of each row (`ExposureEffect.scores_`, or `scores` of a model of other rows).
        dose: d of each row, [round]; with `examination` the chance of each slot under the ranking, [round
            slot] (`places_of`, `places_by`). A ranking must come from other users than those that judge it.
        examination: θ, known or estimated: that of `scores`.
        slates: how many slates there were; by default those in the log.
        name: of the number.

    Raises:
        BadInput: for a log without users, fewer slates than the log has, or columns that do not fit.
    """
    if data.user is None:
        raise BadInput("the gain of a ranking clusters by user, and this log says no users")
    whose = np.unique(data.user if data.slate is None else data.slate, return_inverse=True)[1]
    rows_of = np.bincount(whose)
    logged = len(rows_of)
    many = logged if slates is None else slates
    if many < logged:
        raise BadInput(f"slates is {many}, but the log has {logged}")
    psi = weights(data.weight, len(data)) * column("scores", scores, len(data))
    slope: Array | None = None
    if examination is None:
        own = column("dose", dose, len(data)) * psi
    else:
        places, known = _places(dose, data), Dose.of(data, examination)
        seen = places @ examined(examination)[0]
        own = seen * psi
        slope = (psi @ places - (own / known.variance) @ pull(data, known, examination)) / many
    mean = float(own.sum() / many)
    # A slate deviates by what it brings less the mean. Slates without rows deviate, too: with this share of
    # the mean taken from the others, the sum of squares is that over all.
    part = many / logged * (1 - np.sqrt(1 - logged / many))
    influence = (own - part * mean / rows_of[whose]) / many
    if slope is None:
        return measure(mean, influence, data.user, name)
    return with_examination(mean, influence, slope, data, examination, name)


def _places(values: Any, data: Exposures) -> Float[Array, "round slot"]:
    """Check the chances of slots under a ranking."""
    found = table("dose", values)
    if found.shape != (len(data), data.slots):
        raise BadInput(
            f"dose has shape {found.shape}, but with `examination` it is the chance of each of {data.slots} "
            f"slots in each of {len(data)} rows"
        )
    wrong = np.argwhere((found < 0) | (found.sum(1, keepdims=True) > 1 + 1e-6))
    if len(wrong):
        row, slot = wrong[0]
        raise BadInput(
            f"dose, row {row}, slot {slot}: {found[row, slot]:g} of {found[row].sum():g} are no chances"
        )
    return found
