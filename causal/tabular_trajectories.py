"""Trajectories from plain arrays of steps: propensities of logger and target side by side."""

from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from causal.contract import Trajectories
from causal.paths import Paths
from causal.trajectories import laid_out, refuse
from simlab.errors import BadInput

Array = Tensor | NDArray[Any]


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
        BadInput: for lengths and shapes that do not fit, no step at all, what is no finite number, ids that
            are not whole, propensities outside (0, 1], an action that is no column, target probabilities that
            are negative or do not sum to one, ratios below 0, or a discount outside [0, 1]; naming column,
            row and value.
    """
    item = _ids("action", action)
    n = len(item)
    if not n:
        raise BadInput("there are no trajectories: action has no rows")
    gain, logger = _numbers("reward", reward, n), _numbers("pscore", pscore, n)
    dist = _numbers("action_dist", action_dist, n, wide=True)
    columns = dist.shape[1]
    model = None if q is None else _numbers("q", q, n, wide=True)
    if model is not None and model.shape != dist.shape:
        raise BadInput(f"q has {model.shape[1]} columns, but action_dist has {columns}")
    refuse("pscore", logger, ~((logger > 0) & (logger <= 1)), "is not a probability in (0, 1]")
    refuse("action", item, (item < 0) | (item >= columns), f"is none of {columns} columns")
    refuse("action_dist", dist, dist < 0, "is not a probability")
    total = dist.sum(1)
    refuse("action_dist", total, (total - 1).abs() > 1e-6, "is what the row sums to, not 1")
    paths = Paths.of_lengths(_lengths(step_per_trajectory, n).to(item.device))
    column = item.unsqueeze(1)
    return laid_out(
        paths,
        gain,
        dist.gather(1, column).squeeze(1) / logger,
        discount,
        None if model is None else model.gather(1, column).squeeze(1),
        None if model is None else (dist * model).sum(1),
        None if state is None else _ids("state", state, n),
        None if state_ratio is None else _numbers("state_ratio", state_ratio, n),
        None if state_action_ratio is None else _numbers("state_action_ratio", state_action_ratio, n),
        None if group is None else _ids("group", group, len(paths)),
    )


def _numbers(name: str, given: Array, rows: int | None = None, wide: bool = False) -> Tensor:
    """Return a column of finite numbers, [row] or [row action], as float64.

    Raises:
        BadInput: for what is none.
    """
    try:
        x = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(f"column {name} is no array of numbers") from None
    if x.ndim != 1 + wide or (wide and not x.shape[1]):
        shape = "[row action]" if wide else "[row]"
        raise BadInput(f"column {name} is {shape}, not of shape {tuple(x.shape)}")
    if rows is not None and len(x) != rows:
        raise BadInput(f"{name} has {len(x)} rows, but there are {rows}")
    refuse(name, x, ~x.isfinite(), "is not finite")
    return x.double()


def _ids(name: str, given: Array, rows: int | None = None) -> Int[Tensor, " row"]:
    """Return a column of whole numbers; those that are too large for a float64 keep all their digits."""
    x = _numbers(name, given, rows)
    refuse(name, x, x != x.floor(), "is not a whole number")
    return torch.as_tensor(given).long()


def _lengths(given: int | Array, n: int) -> Int[Tensor, " round"]:
    """Return the steps of each trajectory."""
    if isinstance(given, int):
        if given < 1 or n % given:
            raise BadInput(f"{n} rows are no whole number of trajectories of {given} steps")
        return torch.full((n // given,), given)
    if torch.as_tensor(given).ndim == 0:
        return _lengths(int(given), n)
    lengths = _ids("step_per_trajectory", given)
    if int(lengths.sum()) != n:
        raise BadInput(f"the trajectories have {int(lengths.sum())} steps together, but there are {n} rows")
    return lengths
