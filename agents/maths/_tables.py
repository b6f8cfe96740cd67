"""Logits a few rows at a time, so that they stay in a processor's cache: at hand, or a product made there.

Fresh memory is slow to touch: the pages of a [4,096 users, 1,000 candidates] table cost more than what is
done with it. So nothing of that size is made where it can be avoided, and two small tables are used again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = -1e30
"""Stands for -inf inside: zero times it is zero, not NaN."""
LOWEST = -80.0
"""Candidates this far below the highest that counts have no weight (e^-80 is 2e-35)."""
CACHE = 1 << 18
"""Numbers of logits that are worked off together on a CPU."""


@dataclass(frozen=True)
class Product:
    """Logits ℓ(u, i) = ⟨state_u, v_i⟩ of candidates that all users share, none masked, never held as a table.

    Attributes:
        state: of each user.
        vectors: v of each candidate.
    """

    state: Float[Tensor, "user dim"]
    vectors: Float[Tensor, "cand dim"]

    def whole(self) -> Float[Tensor, "user cand"]:
        """Return the logits as a table."""
        return self.state @ self.vectors.T


class Table:
    """Logits of some users, read a part at a time.

    Args:
        given: the logits, or the states of users, [user dim].
        vectors: of the candidates, if states are given.

    Attributes:
        compiled: whether `agents.maths._kernels` can read it: single precision, on a CPU.
    """

    def __init__(self, given: Tensor, vectors: Tensor | None) -> None:
        self.given, self.vectors = given, vectors
        self.rows = len(given)
        self.cands = given.shape[1] if vectors is None else len(vectors)
        on_cpu = given.device.type == "cpu"
        self.compiled = on_cpu and given.dtype == torch.float32
        most = CACHE * torch.get_num_threads() // max(self.cands, 1) if on_cpu else self.rows
        self.size = max(1, min(self.rows, most))

    @classmethod
    def of(cls, logits: Tensor | Product) -> "Table":
        """Return logits, or a product, as a table; without a gradient."""
        if isinstance(logits, Product):
            return cls(logits.state.detach(), logits.vectors.detach())
        return cls(logits.detach(), None)

    def parts(self) -> Iterator[slice]:
        """Cut the rows into parts that the cache takes."""
        return (slice(at, at + self.size) for at in range(0, self.rows, self.size))

    def space(self, tables: int = 2) -> Tensor:
        """Return tables for the rows of a part, used again for each."""
        return self.given.new_empty(tables, self.size, self.cands)

    def tile(self, part: slice, space: Tensor) -> Tensor:
        """Return the logits of a part as they are, -inf where masked; not to be written to."""
        given = self.given[part]
        if self.vectors is None:
            return given.contiguous()
        return torch.mm(given, self.vectors.T, out=space[: len(given)])

    def read(self, part: slice, out: Tensor) -> None:
        """Write the logits of a part, with the floor for what is masked."""
        if self.vectors is None:
            torch.clamp_min(self.given[part], FLOOR, out=out)
        else:
            torch.mm(self.given[part], self.vectors.T, out=out)

    def exp(self, shifted: Tensor, out: Tensor) -> None:
        """Take the exponential; -80 and less is -80 in place, and exactly 0 in what may be masked.

        Some libraries are 100 times slower where the exponential underflows.
        """
        torch.exp(shifted.clamp_min_(LOWEST), out=out)
        if self.vectors is None:
            torch.threshold_(out, 2.0 * math.exp(LOWEST), 0.0)

    def whole(self) -> Float[Tensor, "user cand"]:
        """Return all logits."""
        return self.given if self.vectors is None else self.given @ self.vectors.T
