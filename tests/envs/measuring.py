"""What certificates measure with."""

import torch
from scipy import stats
from torch import Tensor


def interval(x: list[float], level: float = 0.99) -> tuple[float, float]:
    """Return the Student-t interval of the mean over seeds."""
    values = torch.tensor(x, dtype=torch.float64)
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1) * values.std() / len(x) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


def per_item(slate: Tensor, value: Tensor, items: int) -> Tensor:
    """Sum a value of each shown slot by item."""
    total = torch.zeros(items, dtype=torch.float64)
    return total.scatter_add_(0, slate.reshape(-1), value.reshape(-1).double())


def gini(x: Tensor) -> float:
    """Return the Gini coefficient by its definition: half the relative mean absolute difference."""
    x = x.double()
    return float((x[:, None] - x[None, :]).abs().mean() / (2 * x.mean()))
