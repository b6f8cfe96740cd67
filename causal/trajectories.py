"""From a log and a target policy to what sequential estimators use."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from causal.contract import Trajectories
from causal.fqe import FQE
from causal.occupancy import by_counts, finished
from causal.paths import Paths
from causal.rounds import rounds
from causal.same_rows import check_same
from simlab.errors import BadInput
from simlab.log import Log
from simlab.policy import Policy


def trajectories(
    log: Log,
    target: Policy | Float[Tensor, " row"],
    discount: float = 1.0,
    q: FQE | None = None,
    *,
    horizon: int | None = None,
    state: Int[Tensor, " row"] | None = None,
    state_ratio: Float[Tensor, " row"] | None = None,
    state_action_ratio: Float[Tensor, " row"] | None = None,
    past: int = 0,
    group_by_user: bool = True,
    chunk: int | None = None,
) -> Trajectories:
    """Lay a log out as trajectories, one a session, with π(slate|context) / propensity of each step.

    The value is that of the first `horizon` steps from a session's start, Σ_t γ^t r_t. What a policy sees of
    the past comes from the log: a target with a memory is asked with the history that it would have had. See
    `causal.paths.Paths.of` for where a trajectory ends; `Trajectories.cut` says which were still running.

    Args:
        log: the rounds, one item or a slate each.
        target: a policy, or the probability that the target gives to what each row logs.
        discount: γ, in [0, 1].
        q: a Q-model of this target, from `causal.fqe.fqe` on the same log.
        horizon: steps that count; by default as many as the longest session has.
        state: id of a discrete state at each row, at least 0, to estimate marginal ratios by counts.
        state_ratio: d_π(s_t) / d_0(s_t) of each row, where it is known.
        state_action_ratio: d_π(s_t, a_t) / d_0(s_t, a_t) of each row; by default that of states times ρ_t.
        past: how many items of history the target wants in its context.
        group_by_user: take users, not sessions, as the independent units, where a user has several.
        chunk: rows at a time; by default as many as keep [row, slot, cand] small.

    Raises:
        BadInput: for sessions with gaps or repeated steps, those cut before the horizon, target
            probabilities outside [0, 1], a discount outside [0, 1], or a Q-model of another discount,
            horizon, log or target.
    """
    paths = Paths.of(log, horizon)
    weight = rounds(log, target, past=past, group_by_user=False, chunk=chunk).weight
    _same_rows(
        len(log), {"state": state, "state_ratio": state_ratio, "state_action_ratio": state_action_ratio}
    )
    if q is not None:
        _check_model(q, log, weight * log.propensity, discount, paths)
    return laid_out(
        paths,
        log.reward,
        weight,
        discount,
        None if q is None else q.q_logged,
        None if q is None else q.v_target,
        state,
        state_ratio,
        state_action_ratio,
        paths.user if group_by_user and len(torch.unique(paths.user)) < len(paths) else None,
    )


def laid_out(
    paths: Paths,
    reward: Float[Tensor, " row"],
    weight: Float[Tensor, " row"],
    discount: float,
    q_logged: Float[Tensor, " row"] | None,
    v_target: Float[Tensor, " row"] | None,
    state: Int[Tensor, " row"] | None,
    state_ratio: Float[Tensor, " row"] | None,
    state_action_ratio: Float[Tensor, " row"] | None,
    group: Int[Tensor, " round"] | None,
) -> Trajectories:
    """Lay every column out by trajectory and step, and add marginal ratios.

    A given ratio says nothing of the finished, so theirs is the mean of their weights.

    Raises:
        BadInput: for a discount outside [0, 1], or a ratio that is not a finite number of at least 0.
    """
    if not 0 <= discount <= 1:
        raise BadInput(f"discount is {discount}, but it is in [0, 1]")
    for name, given in (("state_ratio", state_ratio), ("state_action_ratio", state_action_ratio)):
        if given is not None:
            wrong = ~((given >= 0) & given.isfinite())
            refuse(name, given, wrong, "is no ratio of chances, a finite number of at least 0")
    ratio = paths.spread(weight, 1.0)
    gone = finished(ratio, paths.valid)

    def laid(given: Float[Tensor, " row"] | None) -> Float[Tensor, "round step"] | None:
        return None if given is None else torch.where(paths.valid, paths.spread(given, 1.0), gone)

    by_state, by_both = laid(state_ratio), laid(state_action_ratio)
    if by_state is None and state is not None:
        ids = torch.where(paths.valid, state[paths.row], 0)
        by_state = by_counts(ids, ratio, paths.valid)
    if by_both is None and by_state is not None:
        by_both = by_state * ratio
    return Trajectories(
        reward=paths.spread(reward, 0.0),
        ratio=ratio,
        valid=paths.valid,
        discount=discount,
        q_logged=None if q_logged is None else paths.spread(q_logged, 0.0),
        v_target=None if v_target is None else paths.spread(v_target, 0.0),
        state=by_state,
        state_action=by_both,
        group=group,
        cut=paths.cut,
    )


def _check_model(q: FQE, log: Log, chance: Float[Tensor, " row"], discount: float, paths: Paths) -> None:
    """Refuse a Q-model of something else."""
    if len(q.q_logged) != len(log):
        raise BadInput(f"the Q-model is of a log of {len(q.q_logged)} rows, not of {len(log)}")
    if q.discount != discount:
        raise BadInput(f"the Q-model is for a discount of {q.discount}, not of {discount}")
    if q.horizon != paths.steps:
        raise BadInput(f"the Q-model is for a horizon of {q.horizon} steps, not of {paths.steps}")
    check_same("the Q-model", q.log, log)
    apart = (q.chance - chance).abs() > 1e-6 * (q.chance + chance)
    if bool(apart.any()):
        row = int(apart.nonzero()[0])
        raise BadInput(
            f"the Q-model is of another target: it shows what row {row} logs with probability "
            f"{float(q.chance[row]):.6g}, and this one with {float(chance[row]):.6g}"
        )


def _same_rows(n: int, columns: Mapping[str, Tensor | None]) -> None:
    """Refuse a column of another length."""
    for name, given in columns.items():
        if given is not None and len(given) != n:
            raise BadInput(f"{name} has {len(given)} rows, but there are {n}")


def refuse(name: str, x: Tensor, wrong: Tensor, why: str) -> None:
    """Refuse the first wrong cell of a column, [row] or [row action].

    Raises:
        BadInput: naming the column, the row and the value.
    """
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        place = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "action"), at, strict=False))
        raise BadInput(f"column {name}, {place}: {x[at].item()} {why}")
