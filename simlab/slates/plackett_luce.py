"""Plackett–Luce: fill the slate slot by slot, each time by a softmax over what is left.

P(slate) = Π_k exp(ℓ_{a_k}) / Σ_{i not shown above k} exp(ℓ_i)   (Plackett 1975; Luce 1959).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.seeds import Generator, uniforms
from simlab.slates.contract import SlateDistribution, check_slots, masked, repeated, top

EXACT_UP_TO = 12
"""Candidates up to which slot marginals are exact (2^12 sets); above, they are estimated."""


class PlackettLuce(SlateDistribution):
    """The slate distribution of a ranker that is sampled without replacement.

    Sampling is Gumbel top-k (Yellott 1977; Kool, van Hoof and Welling 2019, section 3): add Gumbel noise to
    the logits and keep the K largest in order. `log_prob` is exact in O(cand) and differentiable.

    Slot marginals are exact up to `EXACT_UP_TO` candidates, by dynamic programming over the sets that may
    already be shown. Above that they are an unbiased estimate: for candidate i and an order σ of the others,

        P(i at slot k) = E_σ [ Π_{m<k} (1 - w_i / (W - W_σ(<m))) · w_i / (W - W_σ(<k)) ],

    with w = exp(ℓ), W their sum, and σ a Plackett–Luce draw over the others. The product is above zero for
    every draw, so an estimated propensity is never zero. `marginals_error` gives its standard error.
    That is what `marginals` returns. The whole table of `slot_marginals` would cost K times as much that way;
    it averages P(i at slot k | what σ shows above k), which is as unbiased, and each slot sums to one, but an
    unlikely candidate that every draw shows above a slot gets a zero there.
    The draws are keyed by `marginal_seed`, never global state.

    Args:
        logits: any real scores; float32 or float64.
        slots: K.
        mask: True where a candidate may be shown; all by default.
        samples: orders drawn for estimated marginals.
        marginal_seed: seed of those orders.

    Raises:
        BadInput: if a row has fewer candidates than slots.
    """

    def __init__(
        self,
        logits: Float[Tensor, "user cand"],
        slots: int,
        mask: Bool[Tensor, "user cand"] | None = None,
        *,
        samples: int = 64,
        marginal_seed: int = 0,
    ) -> None:
        if mask is not None:
            check_slots(mask, slots)
            logits = masked(logits, mask)
        else:
            check_slots(torch.ones(1, 1, dtype=torch.bool).expand(1, logits.shape[1]), slots)
        self.logits = logits
        self.slots = slots
        self.samples = samples
        self.marginal_seed = marginal_seed

    @property
    def exact_marginals(self) -> bool:
        """Whether `slot_marginals` is exact, not an estimate."""
        return self.slots == 1 or self.logits.shape[1] <= EXACT_UP_TO

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
        """Return Σ_k ℓ_{a_k} - log Σ_{i not above k} exp ℓ_i, in one pass over the logits."""
        return self.slot_log_probs(columns).sum(1).masked_fill(repeated(columns), -torch.inf)

    def slot_log_probs(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return log P(a_k | what is above it) for each slot."""
        chosen = self.logits.gather(1, columns)
        # The mass that is never shown, then the chosen from the last up: no difference of near-equal sums.
        rest = self.logits.scatter(1, columns, -torch.inf).logsumexp(1, keepdim=True)
        left = torch.cat([rest, chosen.flip(1)], dim=1).logcumsumexp(1)[:, 1:].flip(1)
        return torch.where(chosen.isneginf(), chosen, chosen - left)

    def slot_marginals(self) -> Float[Tensor, "user slot cand"]:
        """Return P(candidate at slot): exact, or the documented estimate for many candidates."""
        if self.slots == 1:
            return self.logits.softmax(1).unsqueeze(1)
        if self.exact_marginals:
            return _exact_marginals(self.logits, self.slots)
        return self._table()

    def marginals(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return P(candidate at this slot) for the given slate, without building the whole table."""
        if self.exact_marginals:
            return super().marginals(columns)
        mean, _ = self._estimate(columns)
        return mean.diagonal(dim1=1, dim2=2)

    def marginals_error(self, columns: Int[Tensor, "user slot"]) -> Float[Tensor, "user slot"]:
        """Return the Monte-Carlo standard error of `marginals`: zero where they are exact."""
        if self.exact_marginals:
            return torch.zeros(columns.shape, dtype=self.logits.dtype, device=self.logits.device)
        _, error = self._estimate(columns)
        return error.diagonal(dim1=1, dim2=2)

    def _table(self) -> Float[Tensor, "user slot cand"]:
        """Estimate P(candidate at slot) for all candidates: the mean softmax over what each draw leaves."""
        generator = torch.Generator(device=self.logits.device).manual_seed(self.marginal_seed)
        logits = self.logits.double()
        out = logits.new_zeros(len(logits), self.slots, logits.shape[1])
        for _ in range(self.samples):
            order = self.sample(generator)
            # From the last slot up, so that nothing small is the difference of two large sums.
            rest = logits.scatter(1, order, -torch.inf).logsumexp(1, keepdim=True)
            left = torch.cat([rest, logits.gather(1, order).flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
            chance = (logits.unsqueeze(1) - left.unsqueeze(2)).exp_()
            for slot in range(1, self.slots):
                chance[:, slot].scatter_(1, order[:, :slot], 0.0)
            out += chance
        return out / self.samples

    def _estimate(
        self, columns: Int[Tensor, "user pick"]
    ) -> tuple[Float[Tensor, "user slot pick"], Float[Tensor, "user slot pick"]]:
        """Estimate P(pick at slot) for every slot and pick, and the standard error."""
        generator = torch.Generator(device=self.logits.device).manual_seed(self.marginal_seed)
        logits = self.logits.double()
        weight = (logits - logits.amax(1, keepdim=True)).exp()
        total = weight.sum(1, keepdim=True)
        picked = weight.gather(1, columns)  # [user pick]
        first = torch.zeros(
            len(columns), self.slots, columns.shape[1], dtype=weight.dtype, device=weight.device
        )
        second = torch.zeros_like(first)
        for _ in range(self.samples):
            order = self.sample(generator)  # [user slot]
            shown = weight.gather(1, order)
            # Leave the pick out of the order: from the slot where it stands, everything moves up by one.
            here = order.unsqueeze(2) == columns.unsqueeze(1)  # [user slot pick]
            above = (shown.unsqueeze(2) * ~here).cumsum(1)  # weight of the others among the top k
            before = torch.cat([torch.zeros_like(above[:, :1]), above[:, :-1]], 1)
            moved = torch.cat([torch.zeros_like(above[:, :1]), above[:, 1:]], 1)
            gone = here.cumsum(1).bool()
            ahead = torch.where(gone, moved, before)
            ahead = torch.where(
                (gone & (torch.arange(self.slots, device=order.device) == 0)[:, None]), 0.0, ahead
            )
            chance = (picked.unsqueeze(1) / (total.unsqueeze(2) - ahead)).clamp(max=1.0)
            passed = torch.cat([torch.ones_like(chance[:, :1]), (1 - chance).cumprod(1)[:, :-1]], 1)
            value = passed * chance
            first += value
            second += value.square()
        mean = first / self.samples
        spread = (second / self.samples - mean.square()).clamp(min=0)
        return mean, (spread / max(self.samples - 1, 1)).sqrt()


def _exact_marginals(logits: Float[Tensor, "user cand"], slots: int) -> Float[Tensor, "user slot cand"]:
    """Sum over the sets that may be shown above each slot: P(set) flows from set to set plus one item."""
    rows, cands = logits.shape
    weight = (logits.double() - logits.double().amax(1, keepdim=True)).exp()
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
