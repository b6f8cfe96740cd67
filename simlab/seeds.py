"""Randomness by key: the same (seed, purpose, user, step, slot) always gives the same luck.

A counter-based generator has no state, so a draw does not depend on what was drawn before it: not on the
batch, the worker or the device. Two policies given the same seed meet the same users, the same noise and
the same luck (common random numbers), and their comparison is paired.

The key of a row is hashed to 64 bits once a step; a column (slot, candidate) is then one more round of
the SplitMix64 finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
OOPSLA, figure 16). Each 64-bit word gives two uniforms of 23 bits. The arithmetic is on integers until a
last exact scaling, so every device draws the same bits.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(word: int) -> int:
    """Return a 64-bit word as the int64 with the same bits (torch has no full uint64)."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _mix_(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place, on int64 lanes (a shift is made logical by a mask)."""
    x.bitwise_xor_((x >> 30) & ((1 << 34) - 1)).mul_(_signed(_MIX_1))
    x.bitwise_xor_((x >> 27) & ((1 << 37) - 1)).mul_(_signed(_MIX_2))
    return x.bitwise_xor_((x >> 31) & ((1 << 33) - 1))


@lru_cache(maxsize=4096)
def _hash(seed: int, purpose: str) -> int:
    """Hash a seed and a name to one 64-bit word."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return _signed(int.from_bytes(digest, "little"))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _word(seed: int, purpose: str) -> int:
    """Return the cached hash; a compiled graph takes it as a constant."""
    return _hash(seed, purpose)


@dataclass(frozen=True)
class Luck:
    """A generator bound to the rows of one step.

    Attributes:
        seed: what the rows' keys hang from.
        user: who is in each row, any int64.
        step: the step that each row is at, any int64.
    """

    seed: int
    user: Int[Tensor, " user"]
    step: Int[Tensor, " user"]

    def uniform(self, purpose: str, columns: int) -> Float[Tensor, "user column"]:
        """Draw uniforms in the open interval (0, 1), float32, one for each row and column.

        Args:
            purpose: the name of the draw; two purposes are independent.
            columns: how many to draw for each row.
        """
        row = self.user * _signed(_GOLDEN) + _word(self.seed, purpose)
        row = _mix_(_mix_(row).add_(self.step, alpha=_signed(_MIX_1)))
        if columns == 1:  # one word a row: its first half
            return _unit(row.unsqueeze(1))[:, :1]
        words = (columns + 1) // 2
        counter = torch.arange(1, words + 1, device=row.device).mul_(_signed(_GOLDEN))
        return _unit(_mix_(row.unsqueeze(1) + counter))[:, :columns]


def _unit(words: Tensor) -> Tensor:
    """Turn int64 words [user word] into two uniforms each, [user 2*word]: (23 bits + ½) · 2⁻²³."""
    halves = words.view(torch.int32).bitwise_and(0x7FFFFF)
    return halves.to(torch.float32).add_(0.5).mul_(2.0**-23)


@dataclass(frozen=True)
class Seed:
    """The root of all randomness: an integer from which every named generator grows.

    >>> a, b = Seed(1).split("users"), Seed(1).split("users")
    >>> a == b, a == Seed(1).split("items")
    (True, False)
    """

    value: int

    def split(self, purpose: str | int) -> "Seed":
        """Return the child seed of this name."""
        return Seed(_word(self.value, str(purpose)) & ((1 << 63) - 1))

    def at(self, user: Int[Tensor, " user"], step: Int[Tensor, " user"]) -> Luck:
        """Return the luck of these users at these steps."""
        return Luck(self.value, user, step)

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a sequential torch generator, for training."""
        return torch.Generator(device=device).manual_seed(self.value & ((1 << 63) - 1))

    def numpy(self) -> np.random.Generator:
        """Return a sequential NumPy generator, for scikit-learn and resampling."""
        return np.random.default_rng(self.value & _WORD)


Generator = torch.Generator | Luck


def uniforms(
    generator: Generator, purpose: str, rows: int, columns: int, device: torch.device
) -> Float[Tensor, "user column"]:
    """Draw uniforms in (0, 1) from either kind of generator.

    Args:
        generator: a `Luck` (keyed, needs as many users as `rows`) or a torch generator (sequential).
        purpose: names the draw of a keyed generator.
        rows: how many rows.
        columns: how many columns.
        device: where the tensor is wanted.
    """
    if isinstance(generator, Luck):
        if len(generator.user) != rows:
            raise ValueError(f"the luck is for {len(generator.user)} users, but {rows} rows draw from it")
        return generator.uniform(purpose, columns).to(device)
    bits = torch.randint(0, 1 << 23, (rows, columns), generator=generator, device=generator.device)
    return bits.to(device=device, dtype=torch.float32).add_(0.5).mul_(2.0**-23)
