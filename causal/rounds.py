"""From a log and a target policy to what estimators use: weights, and what a reward model says."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Rounds
from causal.pages import marginals_at, pages_of
from causal.rewards import CrossFit, RewardModel, cross_fit, positions
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy
from simlab.seeds import Seed
from simlab.slates import SlateDistribution

_CELLS = 1 << 21
"""Cells of [round, slot, cand] held at once: 16 MB."""


def rounds(
    log: Log,
    target: Policy | Float[Tensor, " round"],
    reward_model: RewardModel | CrossFit | None = None,
    *,
    folds: int = 3,
    group_by_user: bool = True,
    seed: Seed = Seed(0),
    past: int = 0,
    page_slots: int | None = None,
    chunk: int | None = None,
) -> Rounds:
    """Weigh each round of a log for a target policy.

    - One item a row: the weight is π(a|x) / propensity, and q_target = Σ_a π(a|x) q̂(x, a).
    - One item a row at a `position` of a page of which each row logs one place (Open Bandit): π is the
      target's marginal chance of the item at that place of the whole page, in q_target too.
    - A slate a row: the weight is the chance of the whole, ordered slate. The reward model is additive,
      q_logged = Σ_k q̂(x, a_k, k) and q_target = Σ_k Σ_a P(a at slot k) q̂(x, a, k). That is exact when what an
      item brings at a slot does not depend on the other slots, as in a position-based click model; where it
      does, DM is biased and DR pays only in variance.

    Slot marginals of a Plackett–Luce are exact for any number of candidates (`simlab.slates.arrival_times`),
    so weights with `position` and q_target are too.

    Args:
        log: the logged rounds.
        target: a policy, or the probability that the target gives to what each row logs.
        reward_model: fitted out of fold here, or a `CrossFit` of this log that is fitted already (in time
            order, or with weights), whose burn-in is left out; without one, only estimators that need none
            apply.
        folds: of cross-fitting.
        group_by_user: take users, not rounds, as the independent units, where a user has several rounds:
            folds keep users whole and intervals are clustered.
        seed: of folds and fits.
        past: how many items of history the target wants in its context.
        page_slots: places of the page, with `position`; by default the largest position + 1.
        chunk: rounds at a time; by default as many as keep [round, slot, cand] small.

    Raises:
        BadInput: if the target's probabilities are not probabilities, a position is off the page, or a reward
            model is given without a policy.
    """
    place, pages = positions(log), pages_of(log, page_slots)
    again = group_by_user and len(torch.unique(log.user)) < len(log)
    group = log.user if again else None
    reward, propensity = log.reward.double(), log.propensity.double()
    if isinstance(target, Tensor):
        if reward_model is not None:
            raise BadInput(
                "a reward model needs a target policy, not only its probabilities of what was logged"
            )
        return Rounds(reward, _chance(target.double(), len(log)) / propensity, group=group)

    fitted = None
    if isinstance(reward_model, CrossFit):
        fitted = reward_model
        if len(fitted.fold) != len(log):
            raise BadInput(f"the fitted models are of {len(fitted.fold)} rounds, but the log has {len(log)}")
    elif reward_model is not None:
        fitted = cross_fit(log, reward_model, folds, seed, again, slots=pages)
    context = log.context(past)
    memory = context if reward_model is None or reward_model.past == past else log.context(reward_model.past)
    size = chunk or max(1, _CELLS // (pages * context.candidates.shape[1]))
    chances, logged, aimed = [], [], []
    with torch.no_grad():
        for start in range(0, len(log), size):
            rows = slice(start, start + size)
            seen = context.rows(rows)
            columns = seen.columns(log.slate[rows])
            distribution = target.distribution(seen, pages)
            at = None if log.position is None else place[rows]
            chances.append(_logged_chance(distribution, columns, at))
            if fitted is not None:
                q = _predicted(fitted, rows, memory, place[rows])
                terms = model_terms(q, marginals_at(distribution, at), columns)
                logged.append(terms[0])
                aimed.append(terms[1])
    weight = _chance(torch.cat(chances), len(log)) / propensity
    if fitted is None:
        return Rounds(reward, weight, group=group)
    found = Rounds(reward, weight, torch.cat(logged), torch.cat(aimed), group)
    return found if bool(fitted.scored.all()) else found.rows(fitted.scored)


def tabular(
    item: Int[Tensor, " round"],
    reward: Tensor,
    propensity: Float[Tensor, " round"],
    target: Float[Tensor, "round cand"],
    q: Float[Tensor, "round cand"] | None = None,
    group: Int[Tensor, " round"] | None = None,
) -> Rounds:
    """Build rounds from whole tables, for one item a row.

    Args:
        item: the column that was logged.
        reward: what it brought.
        propensity: the logger's probability of it.
        target: the target's probability of every column (at the row's position, if there is one).
        q: the modelled reward of every column.
        group: cluster of each round.

    Raises:
        BadInput: for an item that is no column, a propensity that is no probability, and for a target whose
            row does not sum to one, with the row and the sum.
    """
    for name, column in (("reward", reward), ("propensity", propensity), ("target", target)):
        if len(column) != len(item):
            raise BadInput(f"{name} has {len(column)} rows, but item has {len(item)}")
    if q is not None and q.shape != target.shape:
        raise BadInput(f"q is a table of {tuple(q.shape)}, but the target is one of {tuple(target.shape)}")
    for name, values in (("reward", reward), ("q", q)):
        if values is not None and not bool(values.isfinite().all()):
            row = int((~values.isfinite()).nonzero()[0, 0])
            raise BadInput(f"{name}, row {row}: the value is missing or not finite")
    _check_table(item, propensity, target)
    chance = target.double().gather(1, item.unsqueeze(1)).squeeze(1)
    weight = _chance(chance, len(item)) / propensity.double()
    if q is None:
        return Rounds(reward.double(), weight, group=group)
    q_logged, q_target = model_terms(q.double().unsqueeze(1), target.double().unsqueeze(1), item.unsqueeze(1))
    return Rounds(reward.double(), weight, q_logged, q_target, group)


def model_terms(
    q: Float[Tensor, "round slot cand"],
    marginals: Float[Tensor, "round slot cand"],
    columns: Int[Tensor, "round slot"],
) -> tuple[Float[Tensor, " round"], Float[Tensor, " round"]]:
    """Return (q_logged, q_target): the additive model of what was shown and of what the target shows."""
    q_logged = q.gather(2, columns.unsqueeze(2)).sum((1, 2))
    return q_logged, (marginals * q).sum((1, 2))


def _check_table(
    item: Int[Tensor, " round"], propensity: Float[Tensor, " round"], target: Float[Tensor, "round cand"]
) -> None:
    """Refuse tables that cannot be."""
    wrong = (item < 0) | (item >= target.shape[1])
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"row {row}: item {int(item[row])} is none of the target's {target.shape[1]} columns")
    wrong = ~((propensity > 0) & (propensity <= 1))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"row {row}: propensity {float(propensity[row]):g} is not a probability in (0, 1]")
    total = target.double().sum(1)
    wrong = ~((total - 1).abs() <= 1e-5) | (target < 0).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(
            f"row {row}: the target's probabilities sum to {float(total[row]):.6g}, not 1, or are negative"
        )


def _logged_chance(
    distribution: SlateDistribution, columns: Int[Tensor, "round slot"], place: Int[Tensor, "round 1"] | None
) -> Float[Tensor, " round"]:
    """Return the target's probability of what each row logs."""
    if place is None:
        return distribution.log_prob(columns).double().exp()
    # Only one place of the page is logged. The same item asked for at every slot gives its marginals.
    everywhere = distribution.marginals(columns.expand(-1, distribution.slots))
    return everywhere.double().gather(1, place).squeeze(1)


def _predicted(
    fitted: CrossFit, rows: slice, context: Context, place: Int[Tensor, "round slot"]
) -> Float[Tensor, "round slot cand"]:
    return fitted.predict(rows, context.rows(rows), place)


def _chance(chance: Float[Tensor, " round"], n: int) -> Float[Tensor, " round"]:
    """Refuse what is not a probability; rounding above 1 is cut.

    Raises:
        BadInput: naming the row and the value.
    """
    if len(chance) != n:
        raise BadInput(f"the target has {len(chance)} probabilities for {n} rounds")
    wrong = ~((chance >= 0) & (chance <= 1 + 1e-6))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"row {row}: the target's probability {float(chance[row])} is not in [0, 1]")
    return chance.clamp(max=1)
