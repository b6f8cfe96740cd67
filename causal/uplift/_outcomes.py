"""Outcomes of deep uplift learners: numbers, 0 or 1, and counts, each with its canonical link and loss.

With a canonical link the derivative of the loss by the predictor η is inverse(η) − y, so at an optimum over a
shift c·h of the predictor Σ h (y − mean) = 0. Targeted regularisation rests on that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from simlab.errors import BadInput, nearest

LEAST = 1e-6
"""How near a mean may come to the end of its range where a loss takes its logarithm."""


@dataclass(frozen=True)
class Outcome:
    """A kind of outcome.

    Attributes:
        name: number, binary or count.
        inverse: from the predictor η to the mean.
        link: from the mean to η.
        loss: of η and y, up to a constant of y; half of the squares for numbers.
        loss_of_mean: the same loss, of a mean that is no function of one η, such as a chance times a mean.
    """

    name: str
    inverse: Callable[[Tensor], Tensor]
    link: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_of_mean: Callable[[Tensor, Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def _logit(mean: Tensor) -> Tensor:
    return mean.clamp(LEAST, 1 - LEAST).logit()


def _log(mean: Tensor) -> Tensor:
    return mean.clamp(min=LEAST).log()


def _exp(eta: Tensor) -> Tensor:
    return eta.clamp(max=30.0).exp()


def _half_squares(said: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (said - y).square()


def _bernoulli(eta: Tensor, y: Tensor) -> Tensor:
    return functional.softplus(eta) - y * eta


def _bernoulli_of_mean(mean: Tensor, y: Tensor) -> Tensor:
    mean = mean.clamp(LEAST, 1 - LEAST)
    return -(y * mean.log() + (1 - y) * (1 - mean).log())


def _poisson(eta: Tensor, y: Tensor) -> Tensor:
    return _exp(eta) - y * eta


def _poisson_of_mean(mean: Tensor, y: Tensor) -> Tensor:
    return mean - y * _log(mean)


OUTCOMES = {
    "number": Outcome("number", _same, _same, _half_squares, _half_squares),
    "binary": Outcome("binary", torch.sigmoid, _logit, _bernoulli, _bernoulli_of_mean),
    "count": Outcome("count", _exp, _log, _poisson, _poisson_of_mean),
}


def chosen(name: str, y: Float[np.ndarray, " round"]) -> Outcome:
    """Return the kind of outcome by name; `auto` is binary for 0 and 1 alone, else number.

    Raises:
        BadInput: for a word that is no kind, with the nearest one, or an outcome that the kind cannot have.
    """
    if name == "auto":
        name = "binary" if np.isin(y, (0, 1)).all() else "number"
    if name not in OUTCOMES:
        known = ("auto", *OUTCOMES)
        raise BadInput(f"outcome is {', '.join(known)}, not {name}{nearest(name, known)}")
    bad = {"number": np.zeros(len(y), bool), "binary": ~np.isin(y, (0, 1)), "count": y < 0}[name]
    if bad.any():
        row = int(bad.argmax())
        what = "0 or 1" if name == "binary" else "at least 0"
        raise BadInput(f"column outcome, row {row}: {y[row]:g} is not {what}, as a {name} outcome is")
    return OUTCOMES[name]
