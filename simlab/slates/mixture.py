"""Mixture: for each slate, first draw which distribution makes it."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Generator, uniforms
from simlab.slates.contract import SlateDistribution


class Mixture(SlateDistribution):
    """P(slate) = Σ_j c_j P_j(slate). With a uniform part this is ε-greedy over whole slates.

    The part is drawn once for the whole slate, not for each slot. `mode` is the likeliest of the parts'
    modes, which need not be the mode of the mixture.

    Args:
        parts: distributions of the same users and number of slots.
        chances: c, non-negative, summing to 1.

    Raises:
        BadInput: if the chances are not a distribution or the parts' slots differ.
    """

    def __init__(self, parts: Sequence[SlateDistribution], chances: Sequence[float]) -> None:
        if len(parts) != len(chances) or not parts:
            raise BadInput(f"a mixture of {len(parts)} parts needs as many chances, not {len(chances)}")
        if any(not c >= 0 for c in chances) or abs(sum(chances) - 1) > 1e-9:
            raise BadInput(f"the chances of a mixture are at least 0 and sum to 1, not {list(chances)}")
        if len({part.slots for part in parts}) != 1:
            raise BadInput(f"the parts of a mixture have different slots: {[part.slots for part in parts]}")
        self.parts = tuple(parts)
        self.chances = tuple(float(c) for c in chances)
        self.slots = parts[0].slots
        # A mixture of mixtures must not reuse one coin: each level has its own.
        self.depth: int = 1 + max((part.depth for part in parts if isinstance(part, Mixture)), default=0)

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw from every part under the same luck, then pick one slate per user."""
        drawn = torch.stack([part.sample(generator) for part in self.parts])  # [part user slot]
        rows = drawn.shape[1]
        luck = uniforms(generator, f"mixture {self.depth}", rows, 1, drawn.device).squeeze(1).contiguous()
        bounds = torch.tensor(self.chances[:-1], dtype=torch.float64).cumsum(0).float().to(drawn.device)
        which = torch.searchsorted(bounds, luck, right=True)
        return drawn[which, torch.arange(rows, device=drawn.device)]

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest, under the mixture, of the parts' modes."""
        modes = torch.stack([part.mode() for part in self.parts])
        best = torch.stack([self.log_prob(m) for m in modes]).argmax(0)
        return modes[best, torch.arange(modes.shape[1], device=modes.device)]

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return log Σ_j c_j P_j(slate)."""
        terms = [
            part.log_prob(columns).double()
            + torch.tensor(chance, dtype=torch.float64).log().to(columns.device)
            for part, chance in zip(self.parts, self.chances, strict=True)
        ]
        return torch.stack(terms).logsumexp(0)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return the mixture of the parts' marginals."""
        return sum_of(p.slot_marginals().double() * c for p, c in zip(self.parts, self.chances, strict=True))

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the mixture of the parts' marginals of this slate."""
        return sum_of(
            p.marginals(columns).double() * c for p, c in zip(self.parts, self.chances, strict=True)
        )


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Add tensors up (the built-in sum starts from an int)."""
    return torch.stack(list(tensors)).sum(0)
