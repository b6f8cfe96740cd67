"""Rows in the order in which a score would treat them, with equal scores in one block.

Rows of one block have no order: whatever is read at the end of a block does not depend on the order of rows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

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
    def of(cls, score: Float[Array, " round"], weight: Float[Array, " round"] | None = None) -> "Ranks":
        """Sort once: O(N log N). The weight only says which rows count at all."""
        keep = None if weight is None or (weight > 0).all() else np.flatnonzero(weight > 0)
        chosen = score if keep is None else score[keep]
        order = np.argsort(-chosen, kind="stable")
        ordered = chosen[order]
        end = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
        return cls(order if keep is None else keep[order], end, len(score))

    @property
    def block(self) -> Int[Array, " kept"]:
        """The block of each ordered row."""
        return np.repeat(np.arange(len(self.end)), np.diff(self.end, prepend=0))

    def sums(self, values: Float[Array, " round"]) -> Float[Array, " block"]:
        """Return the sum of a column over each block."""
        ordered = values[self.order]
        if len(self.end) == len(ordered):
            return ordered
        found: Array = np.add.reduceat(ordered, np.append(0, self.end[:-1]))
        return found

    def back(self, per_block: Float[Array, " block"]) -> Float[Array, " round"]:
        """Give each row its block's number, in the rows' own order; 0 for rows of weight 0."""
        found = np.zeros(self.rows)
        if len(per_block) == len(self.order):
            found[self.order] = per_block
        else:
            found[self.order] = np.repeat(per_block, np.diff(self.end, prepend=0))
        return found


def from_here(values: Float[Array, " block"]) -> Float[Array, " block"]:
    """Return the sum over each block and all after it."""
    found: Array = np.cumsum(values[::-1])[::-1]
    return found
