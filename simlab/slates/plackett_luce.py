"""Plackett–Luce: fill the slate slot by slot, each time by a softmax over what is left.

P(slate) = Π_k exp(ℓ_{a_k}) / Σ_{i not shown above k} exp(ℓ_i)   (Plackett 1975; Luce 1959).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Generator, uniforms
from simlab.slates import arrival_times
from simlab.slates.contract import SlateDistribution, check_slots, masked, repeated, top

SETS_UP_TO = 8
"""Candidates up to which slot marginals are sums over sets (2^8 of them); above, they are integrals."""


class PlackettLuce(SlateDistribution):
    """The slate distribution of a ranker that is sampled without replacement.

    Sampling is Gumbel top-k (Yellott 1977; Kool, van Hoof and Welling 2019, section 3): add Gumbel noise to
    the logits and keep the K largest in order. `log_prob` is exact in O(cand) and differentiable.

    Slot marginals are exact to rounding: up to `SETS_UP_TO` candidates by dynamic programming over the sets
    that may already be shown, above by integrals over the time at which each candidate's clock rings
    (`simlab.slates.arrival_times`; absolute error below 1e-12, or e^(-650 / (K - 1)) where the first K items
    are more than 650 apart in all and nearly sure). Those are float64 and have no gradient.

    Args:
        logits: any real scores; float32 or float64.
        slots: K.
        mask: True where a candidate may be shown; all by default.

    Raises:
        BadInput: if a row has fewer candidates than slots.
    """

    def __init__(
        self,
        logits: Float[Tensor, "user cand"],
        slots: int,
        mask: Bool[Tensor, "user cand"] | None = None,
    ) -> None:
        if mask is not None:
            check_slots(mask, slots)
            logits = masked(logits, mask)
        else:
            check_slots(torch.ones(1, 1, dtype=torch.bool).expand(1, logits.shape[1]), slots)
        self.logits = logits
        self.slots = slots

    @property
    def exact_marginals(self) -> bool:
        """Whether slot marginals are exact, not an estimate: always."""
        return True

    def sample(self, generator: Generator) -> Int[Tensor, "user slot"]:
        """Draw by Gumbel top-k; ties have probability zero."""
        rows, cands = self.logits.shape
        noise = uniforms(generator, "plackett-luce", rows, cands, self.logits.device)
        gumbel = noise.log_().neg_().log_().neg_()
        return (self.logits + gumbel.to(self.logits.dtype)).topk(self.slots, dim=1).indices

    def mode(self) -> Int[Tensor, "user slot"]:
        """Return the items by descending logit: the likeliest slate."""
        return top(self.logits, self.slots)

    def log_prob(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, " user"]:
        """Return Σ_k ℓ_{a_k} - log Σ_{i not above k} exp ℓ_i, in one pass over the logits.

        In float64 where no gradient is asked for: a propensity is the product of many terms.
        """
        found = self if self.logits.requires_grad else PlackettLuce(self.logits.double(), self.slots)
        return found.slot_log_probs(columns).sum(1).masked_fill(repeated(columns), -torch.inf)

    def slot_log_probs(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return log P(a_k | what is above it) for each slot."""
        chosen = self.logits.gather(1, columns)
        # The mass that is never shown, then the chosen from the last up: no difference of near-equal sums.
        rest = self.logits.scatter(1, columns, -torch.inf).logsumexp(1, keepdim=True)
        left = torch.cat([rest, chosen.flip(1)], dim=1).logcumsumexp(1)[:, 1:].flip(1)
        return torch.where(chosen.isneginf(), chosen, chosen - left)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot)."""
        if self.slots == 1:
            return self.logits.softmax(1).unsqueeze(1)
        if self.logits.shape[1] <= SETS_UP_TO:
            return _exact_marginals(self.logits, self.slots)
        with torch.no_grad():
            return arrival_times.table(self.logits, self.slots)

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate at this slot) for the given slate, without building the whole table."""
        if self.slots == 1 or self.logits.shape[1] <= SETS_UP_TO:
            return super().marginals(columns)
        with torch.no_grad():
            return arrival_times.at_slots(self.logits, columns)

    def marginals_error(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the standard error of `marginals`: zero, for nothing is drawn."""
        return torch.zeros(columns.shape, dtype=torch.float64, device=self.logits.device)

    def placements(self, columns: Int[Tensor, "user pick"]) -> Float[Tensor, "user slot pick"]:
        """Return P(pick at slot) of some candidates at every slot, without building the whole table."""
        if self.slots == 1 or self.logits.shape[1] <= SETS_UP_TO:
            return self.slot_marginals().gather(2, columns.unsqueeze(1).expand(-1, self.slots, -1))
        with torch.no_grad():
            return arrival_times.placements(self.logits, columns, self.slots)


def _exact_marginals(logits: Float[Tensor, "user cand"], slots: int) -> Float[Tensor, "user slot cand"]:
    """Sum over the sets that may be shown above each slot: P(set) flows from set to set plus one item."""
    rows, cands = logits.shape
    weight = arrival_times.rates(logits, slots)  # wide gaps are cut, so that nothing underflows
    sets = torch.arange(1 << cands, device=logits.device)
    inside = ((sets.unsqueeze(1) >> torch.arange(cands, device=logits.device)) & 1).bool()  # [set cand]
    size = inside.sum(1)
    out = torch.empty(rows, slots, cands, dtype=torch.float64, device=logits.device)
    mass = torch.zeros(rows, 1 << cands, dtype=torch.float64, device=logits.device)
    mass[:, 0] = 1.0
    for k in range(slots):
        now = (size == k).nonzero().squeeze(1)
        free = ~inside[now]  # [set cand]
        left = (weight.unsqueeze(1) * free).sum(2, keepdim=True)
        flow = mass[:, now].unsqueeze(2) * torch.where(left > 0, weight.unsqueeze(1) * free / left, 0.0)
        out[:, k] = flow.sum(1)
        if k + 1 < slots:
            into = now.unsqueeze(1) | (1 << torch.arange(cands, device=logits.device))
            target = into[free].expand(rows, -1)
            mass.scatter_add_(1, target, flow[:, free])
    return out if logits.dtype == torch.float64 else out.to(logits.dtype)
