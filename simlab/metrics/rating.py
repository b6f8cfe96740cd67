"""Ratings: how far predicted values are from the true ones."""

from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from simlab.errors import BadInput
from simlab.metrics.means import linear
from simlab.statistics import Summary


def rmse(
    predicted: Float[Tensor, " example"],
    actual: Float[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return √(mean of (predicted - actual)²) over all examples, in the ratings' unit.

    Its standard error is that of the mean square over 2 RMSE (delta method); it is 0 where every error has
    the same size. The mean is over examples, not over users first; `groups` (users) widens the interval
    where a user's examples depend on each other.

    Raises:
        BadInput: for a value that is not finite, or fewer than two examples or groups.
    """
    square = _error(predicted, actual).square()
    mean = square.mean()
    value = float(mean.sqrt())
    # At 0 the root has no slope, but then every error is 0 and so is the spread.
    influence = (square - mean) / (2 * value) if value > 0 else square
    return linear(value, influence, level, groups)


def mae(
    predicted: Float[Tensor, " example"],
    actual: Float[Tensor, " example"],
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Summary:
    """Return the mean of |predicted - actual| over all examples, in the ratings' unit.

    Raises:
        BadInput: for a value that is not finite, or fewer than two examples or groups.
    """
    size = _error(predicted, actual).abs()
    mean = size.mean()
    return linear(float(mean), size - mean, level, groups)


def _error(predicted: Tensor, actual: Tensor) -> Float[Tensor, " example"]:
    """Return the errors in float64."""
    if len(predicted) == 0:
        raise BadInput("an error needs at least one example")
    error = predicted.detach().double() - actual.double()
    bad = ~error.isfinite()
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise BadInput(
            f"example {row} has no error: predicted {float(predicted[row])}, actual {float(actual[row])}"
        )
    return error
