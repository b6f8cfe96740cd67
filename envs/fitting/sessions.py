"""A log's clicks as a click model's fit reads them, and whether its slots can be counted one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envs.clicks.contract import ClickModel
from simlab.errors import BadInput
from simlab.log import BadCell, Log

_CHUNK = 4096  # rows that stay in the cache


@dataclass(frozen=True)
class Sessions:
    """What was shown and clicked.

    Attributes:
        slate: the item of each slot; `n_items` at the other slots of a page of which one item is logged.
        history: the clicks, 0 or 1, on which later chances depend.
        shown: how often the cell happened; 0 at those other slots.
        clicks: in how many of them it was clicked.
        n_items: size of the catalogue.
        count: sessions behind all rows.
        attraction: of each slot's item, where it is known.
    """

    slate: Int[Tensor, "row slot"]
    history: Float[Tensor, "row slot"]
    shown: Float[Tensor, "row slot"]
    clicks: Float[Tensor, "row slot"]
    n_items: int
    count: int
    attraction: Float[Tensor, "row slot"] | None = None

    def rows(self, index: slice | Tensor) -> "Sessions":
        """Return some rows only; `count` stays that of all."""
        known = None if self.attraction is None else self.attraction[index]
        slate, history, shown, clicks = (
            self.slate[index],
            self.history[index],
            self.shown[index],
            self.clicks[index],
        )
        return Sessions(slate, history, shown, clicks, self.n_items, self.count, known)

    def chunks(self, every: int = 1) -> Iterator["Sessions"]:
        """Yield a few rows at a time, of each `every`-th row."""
        chosen = self.rows(slice(None, None, every))
        for first in range(0, len(chosen.slate), _CHUNK):
            yield chosen.rows(slice(first, first + _CHUNK))

    def grouped(self) -> "Sessions":
        """Return equal rows once, with their number: logs of a fixed ranking repeat themselves."""
        noise = torch.randint(
            -(2**62), 2**62, (self.slate.shape[1],), generator=torch.Generator().manual_seed(0)
        )
        key = ((2 * self.slate + self.history.long()) * (2 * noise + 1)).sum(1)
        _, place, count = torch.unique(key, return_inverse=True, return_counts=True)
        if 2 * len(count) > len(key):
            return self
        first = torch.empty_like(count).scatter_(0, place.flip(0), torch.arange(len(key)).flip(0))
        times = count.double().unsqueeze(1)
        shown, clicks = self.shown[first] * times, self.clicks[first] * times
        return Sessions(self.slate[first], self.history[first], shown, clicks, self.n_items, self.count)

    def by_item(self) -> "Sessions":
        """Return one row an item, which it fills alone: all that counts where slots are independent."""
        items, slots = self.n_items, self.slate.shape[1]
        cell = self.slate * slots + torch.arange(slots)
        total = torch.zeros(2, (items + 1) * slots, dtype=torch.float64)
        total[0].index_add_(0, cell.reshape(-1), self.shown.reshape(-1))
        total[1].index_add_(0, cell.reshape(-1), self.clicks.reshape(-1))
        shown, clicks = total.view(2, items + 1, slots)[:, :items]
        slate = torch.arange(items).unsqueeze(1).expand(items, slots)
        return Sessions(slate, torch.zeros_like(shown), shown, clicks, items, self.count)

    def per_item(self) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """Return how often each item was shown and clicked."""
        total = torch.zeros(2, self.n_items + 1, dtype=torch.float64)
        total[0].index_add_(0, self.slate.reshape(-1), self.shown.reshape(-1))
        total[1].index_add_(0, self.slate.reshape(-1), self.clicks.reshape(-1))
        return total[0, :-1], total[1, :-1]


def read(log: Log, attraction: Float[Tensor, "round slot"] | None = None, slots: int = 0) -> Sessions:
    """Return the sessions of a log, one a round.

    Args:
        log: what was shown and clicked.
        attraction: of each slot's item, where it is known.
        slots: of a page at least, where the log has one item of it a round.

    Raises:
        BadInput: for what is no log, a log without the column click, clicks other than 0 and 1, attractions
            that are no tensor, of another shape or outside [0, 1].
    """
    if not isinstance(log, Log):
        raise BadInput(f"log is of the type {type(log).__name__}, but it is a simlab.log.Log")
    if log.click is None:
        raise BadInput("the log has no column click, so there is nothing to fit")
    bad = (log.click != 0) & (log.click != 1)
    if bool(bad.any()):
        row, slot = (int(i) for i in bad.nonzero()[0])
        raise BadCell("click", row, "is not 0 or 1", f"{float(log.click[row, slot]):g}", slot)
    slate, click = log.slate, log.click.double()
    shown = torch.ones_like(click)
    if attraction is not None:
        if not isinstance(attraction, Tensor):
            kind = type(attraction).__name__
            raise BadInput(f"attraction is of the type {kind}, but it is a tensor [round slot]")
        if attraction.shape != slate.shape:
            theirs = f"{tuple(attraction.shape)}, but slate has {tuple(slate.shape)}"
            raise BadInput(f"attraction has the shape {theirs}")
        attraction = attraction.detach().double()
        bad = ~((attraction >= 0) & (attraction <= 1))
        if bool(bad.any()):
            row, slot = (int(i) for i in bad.nonzero()[0])
            raise BadCell(
                "attraction", row, "is not a probability", f"{float(attraction[row, slot]):g}", slot
            )
    if log.position is not None:  # one item a round: the rest of the page is not known
        wide = (len(log), max(slots, int(log.position.max()) + 1))
        at = log.position.unsqueeze(1)
        slate = torch.full(wide, log.n_items).scatter(1, at, slate)
        click, shown = (torch.zeros(wide, dtype=torch.float64).scatter(1, at, x) for x in (click, shown))
        if attraction is not None:
            attraction = torch.zeros(wide, dtype=torch.float64).scatter(1, at, attraction)
    return Sessions(slate, click, shown, click, log.n_items, len(log), attraction)


def independent(kind: type[ClickModel], slots: int) -> bool:
    """Tell whether a slot's click depends on nothing but its own item, at parameters drawn at random."""
    g = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.where(
            p.free, p.low + (p.high - p.low) * (0.2 + 0.6 * torch.rand(p.start.shape, generator=g)), p.start
        ).double()
        for name, p in kind.parameters(slots).items()
    }
    model = kind(**drawn)
    mine, other = torch.rand(2, 4, slots, generator=g, dtype=torch.float64)
    click = (torch.rand(4, slots, generator=g) < 0.5).double()
    chance = model.conditional(mine, click)
    for k in range(slots):
        mixed = other.clone()
        mixed[:, k] = mine[:, k]
        if not torch.allclose(model.conditional(mixed, 1 - click)[:, k], chance[:, k], rtol=1e-9, atol=1e-12):
            return False
    return True
