"""The likelihood of logged clicks under any click model, and the information in it.

A click model is one function, P(click at k | the clicks above), so a log is a row of Bernoulli trials, each
with a chance p of its own given what came before. With n trials and c clicks in a cell, the log-likelihood is
Σ c log p + (n - c) log(1 - p), its gradient comes from autograd, and its information is
Σ n ∇p ∇pᵀ / (p (1 - p)): the matrix of iterated least squares, never negative, in which every trial counts
given its past.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from envs.clicks.contract import ClickModel
from envs.fitting.information import Information
from envs.fitting.sessions import Sessions

Array = NDArray[np.float64]
_STEP = 1e-5  # of the central differences, in units of x


def log_chance(p: Tensor, clicks: Tensor, shown: Tensor) -> Tensor:
    """Return c log p + (n - c) log(1 - p) of each cell."""
    return torch.xlogy(clicks, p).add_(torch.special.xlog1py(shown - clicks, -p))


class Likelihood:
    """The log-likelihood of sessions as a function of one vector x without bounds.

    A value v between bounds is low + (high - low) sin² x. In x a binomial likelihood has the same curvature
    everywhere, so that steps and standard errors are alike for rare and for frequent clicks; and a value on
    its bound, such as the attraction of an item that nobody clicked, is an ordinary x = 0, not at infinity.

    Args:
        model: the class of click models.
        sessions: the data.
        of_items: names of the fields, besides the attraction, with a value for each item.
        independent: no slot's chance depends on another slot.
        prior: pseudo-clicks, and as many pseudo-misses, on each value of an item.

    Attributes:
        names: the model's shared parameters.
        families: what each item has a value of.
        entry: for each shared free x, its parameter's number and its place there.
        start: where a search begins.
    """

    def __init__(
        self,
        model: type[ClickModel],
        sessions: Sessions,
        of_items: tuple[str, ...],
        independent: bool,
        prior: float = 0.0,
    ) -> None:
        self.model, self.sessions, self.independent, self.prior = model, sessions, independent, prior
        known = sessions.attraction is not None
        self.families: tuple[str, ...] = () if known else ("attraction", *of_items)
        every = model.parameters(sessions.slate.shape[1])
        self.shared = {k: v for k, v in every.items() if k not in self.families}
        self.names = tuple(self.shared)
        starts = [p.start.double().reshape(-1) for p in self.shared.values()]
        self._fixed = torch.cat(starts) if starts else torch.zeros(0, dtype=torch.float64)
        free = [p.free.reshape(-1) for p in self.shared.values()]
        self._free = torch.cat(free).nonzero().squeeze(1) if free else torch.zeros(0, dtype=torch.long)
        spread = [torch.full((p.start.numel(),), n) for n, p in enumerate(self.shared.values())]
        place = [torch.arange(p.start.numel()) for p in self.shared.values()]
        self.entry = (
            [(int(torch.cat(spread)[i]), int(torch.cat(place)[i])) for i in self._free] if spread else []
        )
        bounds = [(self.shared[self.names[n]].low, self.shared[self.names[n]].high) for n, _ in self.entry]
        self._pads = [0.0]
        first = list(self._fixed[self._free].tolist())
        shown, clicks = sessions.per_item()
        for family in self.families:
            low, high, begin = 0.0, 1.0, (clicks + 1) / (shown + 2)
            if family != "attraction":
                p = every[family]
                low, high, begin = p.low, p.high, torch.full_like(shown, float(p.start.double().mean()))
                self._pads.append(low)
            bounds += [(low, high)] * sessions.n_items
            first += begin.tolist()
        self.low, self.high = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2).unbind(1)
        self.start = self.x_of(torch.tensor(first, dtype=torch.float64)).numpy()
        self.size = len(self._free)

    def values(self, x: Array) -> Float[Tensor, " entry"]:
        """Return the values v that x stands for."""
        return self.low + (self.high - self.low) * torch.as_tensor(x).sin().square()

    def x_of(self, value: Float[Tensor, " entry"]) -> Float[Tensor, " entry"]:
        """Return the x in [0, π/2] of each value."""
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1).sqrt().asin()

    def slope(self, x: Array) -> Float[Tensor, " entry"]:
        """Return dv/dx."""
        return (self.high - self.low) * (2 * torch.as_tensor(x)).sin()

    def shared_values(self, value: Float[Tensor, " entry"]) -> dict[str, Tensor]:
        """Return the model's shared parameters in their own shapes."""
        flat = self._fixed.index_put((self._free,), value[: self.size])
        parts = torch.split(flat, [p.start.numel() for p in self.shared.values()]) if self.names else ()
        return {
            name: v.view(self.shared[name].start.shape) for name, v in zip(self.names, parts, strict=True)
        }

    def item_values(self, value: Float[Tensor, " entry"]) -> Float[Tensor, "family item"]:
        """Return the values of each item."""
        return value[self.size :].view(len(self.families), self.sessions.n_items)

    def at(self, value: Float[Tensor, " entry"], some: Sessions) -> tuple[ClickModel, Tensor]:
        """Return the model, and the attractions of some rows."""
        fields: dict[str, Any] = self.shared_values(value)
        if not self.families:
            assert some.attraction is not None
            return self.model(**fields), some.attraction
        tables = [
            torch.nn.functional.pad(v, (0, 1), value=pad)
            .index_select(0, some.slate.reshape(-1))
            .view(some.slate.shape)
            for v, pad in zip(self.item_values(value), self._pads, strict=True)
        ]
        fields |= dict(zip(self.families[1:], tables[1:], strict=True))
        return self.model(**fields), tables[0]

    def chance(self, value: Float[Tensor, " entry"], some: Sessions) -> Float[Tensor, "row slot"]:
        """Return P(click | the clicks above) of each cell."""
        model, attraction = self.at(value, some)
        return model.conditional(attraction, some.history)

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Return minus the log-likelihood (and the log-prior), and its gradient in x."""
        total, slope = self._climb(x)
        gradient = slope * self.slope(x)
        if self.prior and self.families:
            total += self.log_prior(x)
            at = torch.as_tensor(x[self.size :])
            gradient[self.size :] += 4 * self.prior / (2 * at).tan().clamp(min=-1e6, max=1e6)
        return (-total if np.isfinite(total) else 1e100), -gradient.numpy()

    def bend(self, x: Array) -> Array:
        """Return what the curve of v over x adds to the curvature: all that holds a value on its bound."""
        turn = 2 * (self.high - self.low) * (2 * torch.as_tensor(x)).cos()  # d²v/dx²
        return (-self._climb(x)[1] * turn).clamp(min=0).numpy()

    def _climb(self, x: Array) -> tuple[float, Tensor]:
        """Return the log-likelihood, and its gradient in v."""
        value = self.values(x).requires_grad_()
        total = 0.0
        for some in self.sessions.chunks():
            p = self.chance(value, some)
            with torch.no_grad():
                total += float(log_chance(p, some.clicks, some.shown).sum())
                tiny = 1e-300
                pull = some.clicks / p.clamp(min=tiny) - (some.shown - some.clicks) / (1 - p).clamp(min=tiny)
            if p.requires_grad:
                p.backward(pull)  # type: ignore[no-untyped-call]
        return total, torch.zeros_like(value) if value.grad is None else value.grad

    def log_prior(self, x: Array) -> float:
        """Return Σ prior · (log u + log(1 - u)) over the items' values, u = sin² x."""
        u = torch.as_tensor(x[self.size :]).sin().square()
        return float(self.prior * (u.log() + (-u).log1p()).sum()) if self.prior else 0.0

    @torch.no_grad()
    def judge(self, value: Float[Tensor, " entry"], some: Sessions) -> tuple[float, Tensor, Tensor]:
        """Return the log-likelihood, and each slot's perplexity by marginal and by conditional chances."""
        slots = some.slate.shape[1]
        sums = torch.zeros(2, slots, dtype=torch.float64)
        for few in some.chunks():
            model, attraction = self.at(value, few)
            p = model.conditional(attraction, few.history)
            q = p if self.independent else model.probs(attraction)
            sums += torch.stack([log_chance(c, few.clicks, few.shown).sum(0) for c in (p, q)])
        conditional, marginal = (-sums / some.shown.sum(0)).exp()  # 0/0 is nan: never shown
        return float(sums[0].sum()), marginal, conditional

    @torch.no_grad()
    def information(self, x: Array, every: int = 1, dense: bool = True) -> Information:
        """Return the information in x of all shared and item values, from each `every`-th row.

        Args:
            x: where.
            every: the stride; the result is scaled up.
            dense: keep the whole block of the items; otherwise its diagonal, which is all of it where slots
                are independent and items have one value each.
        """
        columns = len(self.families) * self.sessions.n_items
        shared = torch.zeros(self.size, self.size, dtype=torch.float64)
        cross = torch.zeros(self.size, columns + 1, dtype=torch.float64)
        block = torch.zeros((columns + 1,) * (2 if dense else 1), dtype=torch.float64)
        x = np.where(np.abs(np.sin(2 * x)) < 2e-3, x + 1e-3, x)  # on a bound itself all would be 0 or 0/0
        for some in self.sessions.chunks(every):
            p = self.chance(self.values(x), some)
            spread = p * (1 - p)
            weight = torch.where(spread > 0, some.shown / spread.clamp(min=1e-300), 0.0).sqrt()
            mine = self._shared_slopes(x, some) * weight.reshape(-1)
            shared += mine @ mine.T
            if not columns:
                continue
            theirs, where = self._item_slopes(x, some)
            theirs *= weight.unsqueeze(2)  # [row slot direction]
            if self.size:
                both = torch.bmm(mine.view(self.size, *p.shape).permute(1, 0, 2), theirs)
                cross.index_add_(1, where.reshape(-1), both.permute(1, 0, 2).reshape(self.size, -1))
            if dense:
                pairs = torch.bmm(theirs.transpose(1, 2), theirs)
                cells = where.unsqueeze(2) * (columns + 1) + where.unsqueeze(1)
                block.view(-1).index_add_(0, cells.reshape(-1), pairs.reshape(-1))
            else:
                block.index_add_(0, where.reshape(-1), theirs.square().sum(1).reshape(-1))
        block = block[:-1, :-1] if dense else block[:-1]
        return Information(*(every * m.numpy() for m in (shared, cross[:, :-1], block)))

    def _shared_slopes(self, x: Array, some: Sessions) -> Float[Tensor, "shared cell"]:
        """Return dp/dx of each shared x by central differences: any model's code will do."""
        found = torch.empty(self.size, some.slate.numel(), dtype=torch.float64)
        for j in range(self.size):
            up, down = x.copy(), x.copy()
            up[j] += _STEP
            down[j] -= _STEP
            change = self.chance(self.values(up), some) - self.chance(self.values(down), some)
            found[j] = change.reshape(-1) / (2 * _STEP)
        return found

    def _item_slopes(
        self, x: Array, some: Sessions
    ) -> tuple[Float[Tensor, "row slot direction"], Int[Tensor, "row direction"]]:
        """Return dp/dx of each slot's own item values, and which column of the block each direction is.

        Where slots are independent, a direction is still one slot, but all are found at once.
        """
        items, slots = some.n_items, some.slate.shape[1]
        model, attraction = self.at(self.values(x), some)
        kept = {n: getattr(model, n) for n in (*self.names, *self.families[1:])}
        places = self._places(x, some)
        found, where = [], []
        for f, name in enumerate(self.families):
            low, high = float(self.low[self.size + f * items]), float(self.high[self.size + f * items])
            column = torch.where(some.slate == items, len(self.families) * items, some.slate + f * items)
            for j in range(slots):
                if self.independent and j:
                    break
                sides = []
                for sign in (1, -1):
                    moved = places[f].clone()
                    chosen = moved if self.independent else moved[:, j]
                    chosen += sign * _STEP
                    value = low + (high - low) * moved.sin().square()
                    if f == 0:
                        sides.append(model.conditional(value, some.history))
                    else:
                        other = self.model(**(kept | {name: value}))
                        sides.append(other.conditional(attraction, some.history))
                change = (sides[0] - sides[1]) / (2 * _STEP)
                found.append(change.diag_embed() if self.independent else change.unsqueeze(2))
            where.append(column)
        return torch.cat(found, 2), torch.cat(where, 1)

    def _places(self, x: Array, some: Sessions) -> list[Tensor]:
        """Return the x of each slot's item, for each family; 0 where none is known."""
        table = torch.as_tensor(x[self.size :]).view(len(self.families), self.sessions.n_items)
        return [torch.nn.functional.pad(t, (0, 1))[some.slate] for t in table]
