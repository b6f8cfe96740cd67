"""Rows in the order in which a score would treat them, with equal scores in one block.

Rows of one block have no order: whatever is read at the end of a block does not depend on the order of rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from causal.targeting.measure import column
from simlab.errors import BadInput

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Ranks:
    """The order of a score, best first.

    Attributes:
        order: rows by falling score; rows of weight 0 are left out.
        end: how many ordered rows there are up to the end of each block.
        rows: how many rows there are.
    """

    order: Int[Array, " kept"]
    end: Int[Array, " block"]
    rows: int

    @classmethod
    def of(cls, score: Num[Array, " round"], weight: Float[Array, " round"] | None = None) -> "Ranks":
        """Sort once: O(N log N). The weight only says which rows count at all."""
        keep = None if weight is None or (weight > 0).all() else np.flatnonzero(weight > 0)
        chosen = score if keep is None else score[keep]
        order = np.argsort(-chosen, kind="stable" if chosen.dtype.itemsize < 4 else None)
        ordered = chosen[order]
        end = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
        return cls(order if keep is None else keep[order], end, len(score))

    @classmethod
    def by(cls, priority: Any, weight: Float[Array, " round"] | None = None) -> "Ranks":
        """Return ranks as they are, or sort a column of numbers.

        Raises:
            BadInput: for what is not a finite number.
        """
        if isinstance(priority, Ranks):
            return priority
        return cls.of(column("priority", priority, None if weight is None else len(weight)), weight)

    def only(self, keep: Bool[Array, " round"]) -> "Ranks":
        """Return the ranking of some of the rows, without sorting again."""
        chosen = keep[self.order]
        end = np.cumsum(chosen)[self.end - 1]
        end = end[np.append(True, end[1:] > end[:-1]) & (end > 0)]
        return Ranks(self.order[chosen], end, self.rows)

    def ordered(self, values: Float[Array, " round"]) -> Float[Array, " kept"]:
        """Return a column in this order.

        Raises:
            BadInput: for a column of another length.
        """
        if len(values) != self.rows:
            raise BadInput(f"a column has {len(values)} rows, but the ranking has {self.rows}")
        found: Array = values[self.order]
        return found

    def blocks(self, ordered: Float[Array, " kept"]) -> Float[Array, " block"]:
        """Return the sum of an ordered column over each block."""
        if len(self.end) == len(ordered):
            return ordered
        return np.add.reduceat(ordered, np.append(0, self.end[:-1]))

    def sums(self, values: Float[Array, " round"]) -> Float[Array, " block"]:
        """Return the sum of a column over each block."""
        return self.blocks(self.ordered(values))

    def repeat(self, per_block: Float[Array, " block"]) -> Float[Array, " kept"]:
        """Give each ordered row its block's number."""
        if len(self.end) == len(self.order):
            return per_block
        return np.repeat(per_block, np.diff(self.end, prepend=0))

    def put(self, ordered: Float[Array, " kept"]) -> Float[Array, " round"]:
        """Bring an ordered column back to the rows' own order; 0 for rows of weight 0."""
        found = np.empty(self.rows) if len(self.order) == self.rows else np.zeros(self.rows)
        found[self.order] = ordered
        return found

    def back(self, per_block: Float[Array, " block"]) -> Float[Array, " round"]:
        """Give each row its block's number, in the rows' own order; 0 for rows of weight 0."""
        return self.put(self.repeat(per_block))


def from_here(values: Float[Array, " block"]) -> Float[Array, " block"]:
    """Return the sum over each block and all after it."""
    found: Array = np.cumsum(values[::-1])[::-1]
    return found
