"""Whom a budget treats: by each learner's effects, what that gains, and what one more unit would bring."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from causal.targeting.budget import Plan, by_threshold
from causal.targeting.measure import Measure, weights
from causal.targeting.policies import Assignment, Edge, nobody
from causal.targeting.scores import Nuisances
from causal.targeting.value import random_value, value
from causal.uplift.contract import Array, Trial
from simlab.lab.markup import number

if TYPE_CHECKING:
    from simlab.lab.uplift import UpliftConfig


@dataclass(frozen=True, eq=False)
class Spent:
    """What a budget buys by one learner's effects, of all judged rows together.

    Attributes:
        key: the learner's file.
        name: the learner's name in tables.
        chance: of each arm for each judged row, control first.
        treated: rows that are treated, by weight.
        spend: what that costs.
        price: what one more unit of budget would return, by the learner's effects: its gain less itself.
        promise: what the learner's effects say is gained.
        gain: worth of the outcomes gained against treating nobody, by doubly robust scores, a row.
        net: the same less what was spent, a row.
        beyond: the same against spending as much on rows at random.
    """

    key: str
    name: str
    chance: Float[Array, "row arm"]
    treated: float
    spend: float
    price: float
    promise: float
    gain: Measure
    net: Measure
    beyond: Measure


@dataclass(frozen=True, eq=False)
class Budget:
    """What a budget buys by each learner's effects, the learner of the best order first.

    Attributes:
        budget: what may be spent on all judged rows together.
        rows: the judged rows, by weight.
        arms: labels of the arms, control first.
        spent: of each learner.
    """

    budget: float
    rows: float
    arms: tuple[str, ...]
    spent: tuple[Spent, ...]


def spend(
    config: "UpliftConfig",
    trial: Trial,
    fold: Int[Array, " row"],
    found: Nuisances,
    learned: Mapping[str, tuple[str, Float[Array, "row treated"]]],
) -> Budget | None:
    """Spend the budget by each learner's effects, and judge that by doubly robust scores.

    Each fold spends its share, as the effects of two learners do not compare. A row is treated only if its
    effect is worth more than treating costs.

    Args:
        config: the options.
        trial: the judged rows.
        fold: of each row.
        found: outcomes and chances that judge.
        learned: name and effects of each learner by its file, the best first.
    """
    if config.budget is None:
        return None
    mass = weights(trial.weight, len(trial))
    every = []
    for key, (name, effect) in learned.items():
        assignment, plans, shares = _split(config, effect, fold, mass, name)
        how: dict[str, Any] = {"worth": config.value, "clip": 0.01}
        own = value(assignment, trial, found, **how)
        none = value(nobody(len(trial), len(trial.arms)), trial, found, **how)
        every.append(
            Spent(
                key=key,
                name=name,
                chance=assignment.chance,
                treated=float(mass @ assignment.treated),
                spend=sum(p.spend for p in plans),
                price=sum(s * p.price for s, p in zip(shares, plans, strict=True)),
                promise=sum(p.gain + p.spend for p in plans),
                gain=own.minus(none),
                net=value(assignment, trial, found, cost=config.cost, **how).minus(none),
                beyond=own.minus(random_value(assignment, trial, found, **how)),
            )
        )
    return Budget(config.budget, float(mass.sum()), tuple(map(str, trial.arms)), tuple(every))


def _split(
    config: "UpliftConfig",
    effect: Float[Array, "row treated"],
    fold: Int[Array, " row"],
    mass: Float[Array, " row"],
    name: str,
) -> tuple[Assignment, list[Plan], list[float]]:
    """Spend each fold's share of the budget, and put the assignments together."""
    assert config.budget is not None
    rows, arms = len(effect), effect.shape[1] + 1
    chance, shift = np.zeros((rows, arms)), np.zeros((rows, arms))
    # Where a fold's budget is not used up no cut moves: its rows use what others use in the mean.
    used, per = np.full(rows, config.budget / float(mass.sum())), np.zeros(rows)
    plans, shares = [], []
    for k in np.unique(fold):
        here = np.flatnonzero(fold == k)
        share = float(mass[here].sum() / mass.sum())
        plan = by_threshold(
            effect[here],
            config.cost,
            config.budget * share,
            worth=config.value,
            net=True,
            weight=mass[here],
        )
        chance[here] = plan.assignment.chance
        edge = plan.assignment.edge
        if edge is not None:
            used[here], shift[here], per[here] = edge.used, edge.shift, edge.per
        plans.append(plan)
        shares.append(share)
    edge = Edge(used, shift, per) if per.any() else None
    return Assignment(chance, f"budget by {name}", edge), plans, shares


def budget_frame(found: Budget, level: float) -> pd.DataFrame:
    """Return a row for each learner: who is treated, and totals in the unit of worth."""
    rows = []
    for s in found.spent:
        low, high = (found.rows * x for x in s.gain.interval(level))
        least, most = (found.rows * x for x in s.beyond.interval(level))
        row: dict[str, Any] = {"learner": s.name, "treated": s.treated, "spend": s.spend}
        row |= {"promised": s.promise, "gain": found.rows * s.gain.value, "gain_low": low, "gain_high": high}
        few, many = (found.rows * x for x in s.net.interval(level))
        row |= {"return": found.rows * s.net.value, "return_low": few, "return_high": many}
        row |= {"beyond_random": found.rows * s.beyond.value}
        row |= {"beyond_random_low": least, "beyond_random_high": most, "price": s.price}
        rows.append(row)
    return pd.DataFrame(rows)


def budget_sentence(found: Budget, level: float) -> str:
    """Say in one sentence whom the budget treats by the first learner's effects, and what that gains."""
    best = found.spent[0]
    low, high = (found.rows * x for x in best.gain.interval(level))
    if best.treated == 0:
        return f"by {best.name}'s effects nobody is worth the cost, so the budget is not spent"
    used = f"all of the budget of {number(found.budget)}"
    if best.spend < found.budget * (1 - 1e-9):
        used = f"{number(best.spend)} of the budget of {number(found.budget)}"
    more = f"one more unit would return {number(best.price)} beyond itself, by its effects"
    if best.price == 0:
        more = "nobody else is worth the cost, by its effects"
    return (
        f"by {best.name}'s effects {used} treats {best.treated:,.0f} of {found.rows:,.0f} rows and gains "
        f"{number(found.rows * best.gain.value)} ({number(low)} to {number(high)}); {more}"
    )
