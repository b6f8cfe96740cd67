"""Order statistics: every candidate draws a score of its own, and the K largest are shown in order."""

import heapq

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import betaincinv
from torch import Tensor

from simlab.errors import BadInput
from simlab.seeds import Generator, Luck, uniforms
from simlab.slates.beta_scores import SMALLEST, lay_grid, slate_probabilities, slot_table
from simlab.slates.contract import SlateDistribution, check_slots

SEARCH = 2_000
"""How many beginnings of a slate `mode` may extend before it settles for the best slate in hand."""


class OrderStatistics(SlateDistribution):
    """The K largest of independent scores, candidate i's being Beta(alpha_i, beta_i).

    This is the slate distribution of Thompson sampling with independent Beta posteriors. It is the same for
    every row: parameters are [cand], and results are expanded, not copied. Probabilities are
    float64 with an absolute error near 1e-12 (1e-10 is tested), so those below that are rough. Work and
    memory grow with the candidates times the pieces of the grid: meant for up to about a thousand.

    Source: Chapelle and Li (2011), "An empirical evaluation of Thompson sampling", algorithm 2, with the top
    K in place of the top one; order statistics of independent, non-identical variables as in David and
    Nagaraja (2003), "Order statistics", section 5.2.

    Args:
        alpha: first parameter of each candidate's score, at least 0.05.
        beta: second parameter, at least 0.05.
        slots: K.
        rows: B, how many users the distribution is for.

    Raises:
        BadInput: if there are fewer candidates than slots, or a parameter is too small or not finite.
    """

    def __init__(
        self, alpha: Float[Tensor, " cand"], beta: Float[Tensor, " cand"], slots: int, rows: int
    ) -> None:
        check_slots(torch.ones(1, 1, dtype=torch.bool).expand(1, len(alpha)), slots)
        for name, values in (("alpha", alpha), ("beta", beta)):
            wrong = ~(values.isfinite() & (values >= SMALLEST))
            if bool(wrong.any()):
                i = int(wrong.nonzero()[0])
                raise BadInput(
                    f"{name} of candidate {i} is {float(values[i])}, but it must be at least {SMALLEST}"
                )
        self.alpha = alpha
        self.beta = beta
        self.slots = slots
        self.rows = rows
        self._key = tuple(alpha.double().tolist()), tuple(beta.double().tolist())

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw the scores and keep the K largest.

        A keyed generator gives uniforms (two for each score, 46 bits) that are put through the inverse of
        the distribution function; a sequential one seeds NumPy's Beta sampler, which is faster.
        """
        device, cands = self.alpha.device, len(self.alpha)
        alpha, beta = (np.array(p) for p in self._key)
        if isinstance(generator, Luck):
            noise = (
                uniforms(generator, "order-statistics", self.rows, 2 * cands, device).double().cpu().numpy()
            )
            scores = betaincinv(alpha, beta, noise[:, :cands] + (noise[:, cands:] - 0.5) * 2.0**-23)
        else:
            seed = int(torch.randint(0, (1 << 63) - 1, (1,), generator=generator, device=generator.device))
            scores = np.random.default_rng(seed).beta(alpha, beta, size=(self.rows, cands))
        return torch.from_numpy(scores).topk(self.slots, dim=1).indices.to(device)

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the likeliest slate, by branch and bound over its first slots.

        A slate is never likelier than its first slots are, so beginnings less likely than the best slate in
        hand are dropped. The first in hand is greedy, slot by slot, ties to the lower column. Where the
        candidates are so alike that `SEARCH` beginnings do not settle it, the best in hand is returned.
        """
        chance, best = 1.0, tuple[int, ...]()
        for _ in range(self.slots):
            chance, best = max(self._extended(best), key=lambda found: found[0])
        queue = [(-1.0, tuple[int, ...]())]
        for _ in range(SEARCH):
            if not queue or -queue[0][0] <= chance:
                break
            for further, slate in self._extended(heapq.heappop(queue)[1]):
                if further <= chance:
                    continue
                if len(slate) < self.slots:
                    heapq.heappush(queue, (-further, slate))
                else:
                    chance, best = further, slate
        return torch.tensor(best, device=self.alpha.device).expand(self.rows, self.slots)

    def _extended(self, begun: tuple[int, ...]) -> list[tuple[float, tuple[int, ...]]]:
        """Return every beginning that is one slot longer, with its probability (13 digits: equals tie)."""
        slates = [(*begun, i) for i in range(len(self.alpha)) if i not in begun]
        chances = slate_probabilities(lay_grid(*self._key), np.array(slates))
        return [(round(p, 13), slate) for p, slate in zip(chances.tolist(), slates, strict=True)]

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return log P(X_{a_1} > … > X_{a_K} > all others); -inf for a slate with a repeat."""
        slates, row = torch.unique(columns.cpu(), dim=0, return_inverse=True)
        ordered = slates.sort(1).values
        fine = (ordered[:, 1:] != ordered[:, :-1]).all(1)
        value = torch.full((len(slates),), -torch.inf, dtype=torch.float64)
        if bool(fine.any()):
            value[fine] = torch.from_numpy(
                slate_probabilities(lay_grid(*self._key), slates[fine].numpy())
            ).log()
        return value[row].to(columns.device)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot), one table expanded to all rows."""
        table = torch.tensor(slot_table(*self._key, self.slots), device=self.alpha.device)
        return table.expand(self.rows, -1, -1)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate at this slot) for the given slate, looked up in the one table."""
        table = torch.tensor(slot_table(*self._key, self.slots), device=columns.device)
        return table[torch.arange(self.slots, device=columns.device), columns]
