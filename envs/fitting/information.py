"""An information matrix with few shared values and many items: its factors, steps and variances."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
NOTHING = 1e-9
"""Information below this is none: a single trial adds about 1."""


@dataclass(frozen=True)
class Information:
    """The blocks of an information matrix, shared values first.

    Attributes:
        shared: [shared shared].
        cross: [shared item].
        item: [item item], or its diagonal [item]: then all costs stay linear in the number of items.
    """

    shared: Array
    cross: Array
    item: Array

    def diagonal(self) -> Array:
        """Return the information in each value alone."""
        own = self.item.diagonal() if self.item.ndim == 2 else self.item
        return np.concatenate([self.shared.diagonal(), own])

    def keep(self, there: Mask) -> "Information":
        """Return the matrix of some values only: the others are known."""
        few, many = there[: len(self.shared)], there[len(self.shared) :]
        block = self.item[np.ix_(many, many)] if self.item.ndim == 2 else self.item[many]
        return Information(self.shared[np.ix_(few, few)], self.cross[np.ix_(few, many)], block)

    def factor(self, damping: float, more: Array | None = None) -> "Factor":
        """Return L with L Lᵀ = this matrix, its diagonal raised by a share and by `more`, items first."""
        raised = self.diagonal() * damping + np.where(self.diagonal() > NOTHING, 0.0, 1.0)
        raised += 0.0 if more is None else more
        few = len(self.shared)
        if self.item.ndim == 2:
            lower = cholesky(self.item + np.diag(raised[few:]), lower=True) if self.item.size else self.item
        else:
            lower = np.sqrt(self.item + raised[few:])
        side = _down(lower, self.cross.T)
        schur = self.shared + np.diag(raised[:few]) - side.T @ side
        return Factor(lower, side, schur)


@dataclass(frozen=True)
class Factor:
    """The factors of an information matrix.

    Attributes:
        lower: the Cholesky factor of the items' block, or of its diagonal.
        side: lower⁻¹ · crossᵀ.
        schur: the information in the shared values when the items' are estimated too (profiled out).
    """

    lower: Array
    side: Array
    schur: Array

    def __post_init__(self) -> None:
        if not len(self.schur):
            root = self.schur
        else:
            value, vector = np.linalg.eigh(self.schur)
            safe = np.clip(value, 1e-12 * max(float(value.max()), 1e-12), None)
            root = cholesky((vector * safe) @ vector.T, lower=True)
        object.__setattr__(self, "root", root)

    root: Any = None

    def step(self, z: Array) -> Array:
        """Return x = L⁻ᵀ z: in z the likelihood is round."""
        few = len(self.schur)
        first = solve_triangular(self.root, z[:few], lower=True, trans=1) if few else z[:0]
        return np.concatenate([first, _up(self.lower, z[few:] - self.side @ first)])

    def pull(self, gradient: Array) -> Array:
        """Return the gradient in z of one in x: L⁻¹ g."""
        few = len(self.schur)
        rest = _down(self.lower, gradient[few:])
        top = gradient[:few] - self.side.T @ rest
        return np.concatenate([solve_triangular(self.root, top, lower=True) if few else top, rest])

    def variances(self) -> tuple[Array, Mask]:
        """Return the variance of each value, and which of them the data do not tell apart.

        A direction of the shared values counts as untold where the items' values can take its place: where
        less than 1e-8 of its information is left once they are profiled out.
        """
        few, many = len(self.schur), len(self.side)
        alone = _up(self.lower, np.eye(many)) if self.lower.ndim == 2 else None
        own = (alone**2).sum(1) if alone is not None else self.lower**-2.0
        if not few:
            return own, np.zeros(many, dtype=bool)
        scale = np.sqrt((self.schur + self.side.T @ self.side).diagonal())
        value, vector = np.linalg.eigh(self.schur / np.outer(scale, scale))
        lost = value < 1e-8
        load = vector / scale[:, None]
        through = _up(self.lower, self.side) @ load
        spread = np.where(lost, 0.0, 1 / np.where(lost, 1.0, value))
        variance = np.concatenate([(load**2) @ spread, own + (through**2) @ spread])
        reach = np.abs(np.concatenate([vector, through / np.sqrt(own)[:, None]])[:, lost])
        return variance, (reach > 1e-3).any(1)


def _down(lower: Array, right: Array) -> Array:
    """Return lower⁻¹ · right."""
    if lower.ndim == 2:
        solved: Array = solve_triangular(lower, right, lower=True) if lower.size else right
        return solved
    return right / (lower if right.ndim == 1 else lower[:, None])


def _up(lower: Array, right: Array) -> Array:
    """Return lower⁻ᵀ · right."""
    if lower.ndim == 2:
        solved: Array = solve_triangular(lower, right, lower=True, trans=1) if lower.size else right
        return solved
    return right / (lower if right.ndim == 1 else lower[:, None])
