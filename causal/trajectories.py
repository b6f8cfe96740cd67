"""From a log and a target policy, or from plain arrays, to what sequential estimators use."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
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

Array = Tensor | NDArray[Any]


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
    return _built(
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


def tabular_trajectories(
    action: Array,
    reward: Array,
    pscore: Array,
    action_dist: Array,
    step_per_trajectory: int | Array,
    *,
    discount: float = 1.0,
    q: Array | None = None,
    state: Array | None = None,
    state_ratio: Array | None = None,
    state_action_ratio: Array | None = None,
    group: Array | None = None,
) -> Trajectories:
    """Build trajectories from arrays of steps, trajectory after trajectory, as SCOPE-RL lays them out.

    >>> t = tabular_trajectories(
    ...     torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 2.0]), torch.full((3,), 0.5),
    ...     torch.tensor([[0.2, 0.8]] * 3), torch.tensor([1, 2]))
    >>> t.prefix
    tensor([[0.4000, 0.4000],
            [1.6000, 2.5600]], dtype=torch.float64)

    Args:
        action: [row], the column that was logged.
        reward: [row], what it brought.
        pscore: [row], the logger's probability of it, in (0, 1].
        action_dist: [row action], the target's probability of every column.
        step_per_trajectory: steps of every trajectory, or of each one, [round].
        discount: γ, in [0, 1].
        q: [row action], Q̂_t(s_t, a) of every column.
        state: [row], id of a discrete state, at least 0, to estimate marginal ratios by counts where no
            ratio is given.
        state_ratio: [row], d_π(s_t) / d_0(s_t).
        state_action_ratio: [row], d_π(s_t, a_t) / d_0(s_t, a_t); by default the ratio of states times ρ_t.
        group: [round], cluster of each trajectory.

    Raises:
        BadInput: for lengths that do not fit, propensities outside (0, 1], an action that is no column,
            target probabilities that are negative or do not sum to one, or a discount outside [0, 1].
    """
    item, dist = torch.as_tensor(action).long(), torch.as_tensor(action_dist).double()
    logger, reward = torch.as_tensor(pscore).double(), torch.as_tensor(reward).double()
    n = len(item)
    columns = {"reward": reward, "pscore": logger, "action_dist": dist, "q": q, "state": state}
    columns |= {"state_ratio": state_ratio, "state_action_ratio": state_action_ratio}
    _same_rows(n, columns)
    _refuse("reward", reward, ~reward.isfinite(), "is not finite")
    _refuse("pscore", logger, ~((logger > 0) & (logger <= 1)), "is not a probability in (0, 1]")
    _refuse("action", item, (item < 0) | (item >= dist.shape[1]), f"is none of {dist.shape[1]} columns")
    _refuse("action_dist", dist.min(1).values, ~(dist >= 0).all(1), "is not a probability")
    _refuse("action_dist", dist.sum(1), (dist.sum(1) - 1).abs() > 1e-6, "is what the row sums to, not 1")
    paths = Paths.of_lengths(_lengths(step_per_trajectory, n))
    model = None if q is None else torch.as_tensor(q).double()
    column = item.unsqueeze(1)
    return _built(
        paths,
        reward,
        dist.gather(1, column).squeeze(1) / logger,
        discount,
        None if model is None else model.gather(1, column).squeeze(1),
        None if model is None else (dist * model).sum(1),
        None if state is None else torch.as_tensor(state).long(),
        None if state_ratio is None else torch.as_tensor(state_ratio).double(),
        None if state_action_ratio is None else torch.as_tensor(state_action_ratio).double(),
        None if group is None else torch.as_tensor(group).long(),
    )


def _built(
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
    """
    if not 0 <= discount <= 1:
        raise BadInput(f"discount is {discount}, but it is in [0, 1]")
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


def _same_rows(n: int, columns: Mapping[str, Array | None]) -> None:
    """Refuse a column of another length."""
    for name, given in columns.items():
        if given is not None and len(given) != n:
            raise BadInput(f"{name} has {len(given)} rows, but there are {n}")


def _lengths(given: int | Array, n: int) -> Int[Tensor, " round"]:
    """Return the steps of each trajectory."""
    if isinstance(given, int):
        if given < 1 or n % given:
            raise BadInput(f"{n} rows are no whole number of trajectories of {given} steps")
        return torch.full((n // given,), given)
    lengths = torch.as_tensor(given).long()
    if lengths.ndim == 0:
        return _lengths(int(lengths), n)
    if int(lengths.sum()) != n:
        raise BadInput(f"the trajectories have {int(lengths.sum())} steps together, but there are {n} rows")
    return lengths


def _refuse(name: str, x: Tensor, wrong: Tensor, why: str) -> None:
    """Raise for the first wrong row."""
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadInput(f"column {name}, row {row}: {x[row].item()} {why}")
