"""What Open Bandit Pipeline (obp) hands to its estimators, as what ours score.

Names of arguments are obp's own, so that a call can be carried over as it stands.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from causal.continuous import continuous
from causal.contract import Rounds, Slates
from causal.rounds import tabular
from causal.tabular_slates import Chances, tabular_slates
from simlab.errors import BadInput
from simlab.interop.obp import from_obp, from_obp_slates, per_item, places

_OURS = {"pscore": "joint", "pscore_item_position": "marginal", "pscore_cascade": "cascade"}
SUM = 1e-6
"""How far the probabilities of a row may sum from 1."""


def at_position(
    action_dist: ArrayLike, position: ArrayLike | None = None, *, name: str = "action_dist"
) -> Float[Tensor, "round cand"]:
    """Return obp's [round action position] array at each round's own position, float64.

    That is what all of obp's estimators use of it: the other positions of a row are never looked at. An array
    [round action] is taken as it is, at each round's position already.

    Args:
        action_dist: the probabilities of actions, or anything else of that shape, such as
            `estimated_rewards_by_reg_model`.
        position: [round], from 0. It may be left out where there is one position only.
        name: what the refusals call it.

    Raises:
        BadInput: for other shapes, a missing position, and a position that the array does not have.
    """
    table = _numbers(name, action_dist)
    if table.ndim == 2:
        return torch.from_numpy(table)
    if table.ndim != 3:
        raise BadInput(f"{name} has shape {table.shape}, but [round action position] is needed")
    n, _, pages = table.shape
    if position is None:
        if pages > 1:
            raise BadInput(f"{name} has {pages} positions, and the feedback does not say which was logged")
        return torch.from_numpy(np.ascontiguousarray(table[:, :, 0]))
    where = np.asarray(position)
    if where.shape != (n,):
        raise BadInput(f"{name} has {n} rows, but position has shape {where.shape}")
    wrong = (where < 0) | (where >= pages)
    if wrong.any():
        row = int(wrong.argmax())
        raise BadInput(f"key position, row {row}: {where[row]}, but {name} has {pages} positions, from 0")
    return torch.from_numpy(table[np.arange(n), :, where])


def rounds_from_obp(
    bandit_feedback: Mapping[str, Any],
    action_dist: ArrayLike,
    estimated_rewards_by_reg_model: ArrayLike | None = None,
    *,
    group: Int[Tensor, " round"] | None = None,
) -> Rounds:
    """Return what estimators use of obp's `bandit_feedback` for a target's `action_dist`.

    Feedback of several loggers (`stratum_idx`) gives `Rounds.logger`, and with `pscore_avg` also
    `Rounds.mixture`. The latter leans on `pscore_avg` as it was given: obp's generator averages with its own
    `rhos`, which are the *expected* shares of the loggers and not those that the log has.

    Args:
        bandit_feedback: with `action`, `reward`, `pscore`, and where they matter `position`, `stratum_idx`,
            `pscore_avg`. It is held to all that `from_obp` asks of it.
        action_dist: π(a | x) of the target, [round action position] or [round action]. At each round's
            position it sums to one.
        estimated_rewards_by_reg_model: q̂(x, a), of the same shape.
        group: cluster of each round.

    Raises:
        BadInput: as `from_obp`, `at_position`; for probabilities that are negative or do not sum to one,
            naming row and value; for shapes that disagree.
    """
    log = from_obp(bandit_feedback)
    if log.slots > 1:
        raise BadInput("the feedback has slates: slates_from_obp reads those")
    target = at_position(action_dist, bandit_feedback.get("position"))
    if target.shape != (len(log), log.n_items):
        raise BadInput(
            f"action_dist has {tuple(target.shape)} rounds and actions, but the feedback has "
            f"{(len(log), log.n_items)}"
        )
    check_sums(target)
    q = None
    if estimated_rewards_by_reg_model is not None:
        name = "estimated_rewards_by_reg_model"
        q = at_position(estimated_rewards_by_reg_model, bandit_feedback.get("position"), name=name)
        if q.shape != target.shape:
            raise BadInput(f"{name} has shape {tuple(q.shape)}, but action_dist has {tuple(target.shape)}")
    action = log.slate[:, 0]
    found = tabular(action, log.reward, log.propensity, target, q, group)
    logger, mixture = None, None
    if bandit_feedback.get("stratum_idx") is not None:
        logger = torch.from_numpy(np.array(bandit_feedback["stratum_idx"], dtype=np.int64))
    if bandit_feedback.get("pscore_avg") is not None:
        average = _numbers("pscore_avg", bandit_feedback["pscore_avg"])
        _refuse_chance("pscore_avg", average, len(log))
        mixture = target.gather(1, action[:, None]).squeeze(1) / torch.from_numpy(average)
    return Rounds(
        found.reward,
        found.weight,
        found.q_logged,
        found.q_target,
        group=group,
        logger=logger,
        mixture=mixture,
    )


def slates_from_obp(
    bandit_feedback: Mapping[str, Any],
    evaluation_policy_pscore: ArrayLike | None = None,
    evaluation_policy_pscore_item_position: ArrayLike | None = None,
    evaluation_policy_pscore_cascade: ArrayLike | None = None,
    evaluation_policy_action_dist: ArrayLike | None = None,
    q_hat: ArrayLike | None = None,
    *,
    group: Int[Tensor, " round"] | None = None,
) -> Slates:
    """Return what estimators use of obp's long-form slate feedback for a target.

    Args:
        bandit_feedback: a row per item; see `simlab.interop.from_obp_slates`.
        evaluation_policy_pscore: the target's probability of the whole slate, one for each row.
        evaluation_policy_pscore_item_position: of the item at its position, whatever else is shown.
        evaluation_policy_pscore_cascade: of the items down to the row's position, in order.
        evaluation_policy_action_dist: π(a | x, items above), [row · action] flat, as obp has it.
        q_hat: Q̂ of every action at the row's position given the items above, likewise.
        group: cluster of each slate.

    Raises:
        BadInput: as `from_obp_slates`; if no probability of the target is given; where the feedback lacks the
            logger's probability for one; naming key, row and value of what is no probability.
    """
    log, rest = from_obp_slates(bandit_feedback)
    logged: dict[str, Tensor | None] = {
        "pscore": log.propensity[:, None].expand(-1, log.slots),
        "pscore_item_position": log.slot_propensity,
        "pscore_cascade": torch.from_numpy(rest["pscore_cascade"]) if "pscore_cascade" in rest else None,
    }
    given = {
        "pscore": evaluation_policy_pscore,
        "pscore_item_position": evaluation_policy_pscore_item_position,
        "pscore_cascade": evaluation_policy_pscore_cascade,
    }
    if all(value is None for value in given.values()):
        raise BadInput(
            "no probability of the target is given: one of evaluation_policy_pscore, "
            "evaluation_policy_pscore_item_position and evaluation_policy_pscore_cascade is needed"
        )
    below, above = {}, {}
    for key, value in given.items():
        if value is None:
            continue
        name, found = f"evaluation_policy_{key}", logged[key]
        if found is None:
            raise BadInput(f"{name} is given, but the feedback has no {key}")
        if key == "pscore_cascade":
            _refuse_chance(key, _numbers(key, bandit_feedback[key]), found.numel())
        _refuse_chance(name, _numbers(name, value), found.numel(), zero=True)
        below[_OURS[key]] = found
        above[_OURS[key]] = torch.from_numpy(per_item(bandit_feedback, name, value))
    if "joint" in above:
        joint = above["joint"]
        if not torch.allclose(joint, joint[:, :1].expand_as(joint), rtol=SUM, atol=0):
            row = int((joint - joint[:, :1]).abs().amax(1).argmax())
            said = rest["slate_id"][row]
            raise BadInput(f"evaluation_policy_pscore differs between the items of slate {said}")
        below["joint"], above["joint"] = log.propensity, joint[:, 0]
    q, following = _cascade_model(bandit_feedback, log.slate, evaluation_policy_action_dist, q_hat)
    return tabular_slates(
        log.click if log.click is not None else log.reward[:, None],
        Chances(**below),
        Chances(**above),
        item=log.slate,
        q=q,
        following=following,
        group=group,
    )


def continuous_from_obp(
    bandit_feedback: Mapping[str, Any],
    action_by_evaluation_policy: ArrayLike,
    estimated_rewards_by_reg_model: ArrayLike | None = None,
    *,
    bandwidth: float,
    kernel: str = "gaussian",
    group: Int[Tensor, " round"] | None = None,
) -> Rounds:
    """Return what estimators use of obp's continuous feedback: rounds with kernel weights.

    IPS, SNIPS and DR of these are obp's kernelized forms. A log has no continuous actions, so there is none
    on the way. For boundary correction and for the model at the logged action, call `causal.continuous`.

    Args:
        bandit_feedback: with `action`, `reward` and `pscore`, the logger's density at the action.
        action_by_evaluation_policy: π(x) of the target, [round].
        estimated_rewards_by_reg_model: q̂(x, π(x)), [round].
        bandwidth: h, in the unit of the action.
        kernel: gaussian, epanechnikov, triangular or cosine.
        group: cluster of each round.

    Raises:
        BadInput: for a missing key, and as `causal.continuous.continuous`.
    """
    held = {}
    for key in ("action", "reward", "pscore"):
        if bandit_feedback.get(key) is None:
            raise BadInput(f"feedback: key {key} is missing")
        held[key] = _column(key, bandit_feedback[key])
    q = estimated_rewards_by_reg_model
    return continuous(
        held["action"],
        held["reward"],
        held["pscore"],
        _column("action_by_evaluation_policy", action_by_evaluation_policy),
        bandwidth,
        kernel,
        q_target=None if q is None else _column("estimated_rewards_by_reg_model", q),
        group=group,
    )


def check_sums(target: Float[Tensor, "round cand"]) -> None:
    """Refuse probabilities of a target that are none.

    Raises:
        BadInput: naming the row and the value.
    """
    if bool((target < 0).any()):
        row, action = (int(x) for x in (target < 0).nonzero()[0])
        raise BadInput(f"action_dist, row {row}, action {action}: {float(target[row, action])} is negative")
    total = target.sum(1)
    wrong = (total - 1).abs() > SUM
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"action_dist, row {row}: the probabilities sum to {float(total[row]):.6g}, not to 1")


def _cascade_model(
    feedback: Mapping[str, Any],
    slate: Int[Tensor, "round slot"],
    action_dist: ArrayLike | None,
    q_hat: ArrayLike | None,
) -> tuple[Float[Tensor, "round slot cand"] | None, Float[Tensor, "round slot cand"] | None]:
    """Return Q̂_k of every action and the target's probability of it, if there is a model."""
    if q_hat is None:
        return None, None
    if action_dist is None:
        raise BadInput("q_hat is given, but evaluation_policy_action_dist is not")
    where = places(feedback)
    tables = []
    for name, value in (("q_hat", q_hat), ("evaluation_policy_action_dist", action_dist)):
        flat = _numbers(name, value).reshape(-1)
        if flat.size % where.size:
            raise BadInput(f"{name} has {flat.size} values, no multiple of the feedback's {where.size} rows")
        tables.append(torch.from_numpy(flat.reshape(where.size, -1)[where]))
    q, target = tables
    if q.shape != target.shape:
        raise BadInput(
            f"q_hat has {q.numel()} values, but evaluation_policy_action_dist has {target.numel()}"
        )
    if int(slate.max()) >= q.shape[2]:
        raise BadInput(f"q_hat has {q.shape[2]} actions, but the feedback shows action {int(slate.max())}")
    return q, target


def _refuse_chance(name: str, values: NDArray[np.float64], rows: int, *, zero: bool = False) -> None:
    """Refuse what is no probability."""
    if values.shape != (rows,):
        raise BadInput(f"{name} has shape {values.shape}, but {rows} values are needed")
    wrong = ~((values >= 0 if zero else values > 0) & (values <= 1 + SUM))
    if wrong.any():
        row = int(wrong.argmax())
        bound = "[" if zero else "("
        raise BadInput(f"{name}, row {row}: {float(values[row])} is not a probability in {bound}0, 1]")


def _column(name: str, value: ArrayLike) -> Float[Tensor, " round"]:
    """Return one number for each round."""
    found = _numbers(name, value)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise BadInput(f"{name} has shape {found.shape}, but one value per round is needed")
    return torch.from_numpy(np.ascontiguousarray(found))


def _numbers(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return finite float64."""
    try:
        plain = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        found = np.array(plain, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{name} does not hold numbers in rows of one length") from None
    if not np.isfinite(found).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise BadInput(f"{name}, row {where[0]}: {found[where]} is not a finite number")
    return found
