"""Pages of which a row logs one place: how many places there are, and what a policy shows there."""

from jaxtyping import Float, Int
from torch import Tensor

from simlab.adapters.reward import positions
from simlab.errors import BadInput
from simlab.log import Log
from simlab.slates import SlateDistribution


def pages_of(log: Log, page_slots: int | None = None) -> int:
    """Return how many places a page has: the log's largest position + 1, or as many as were given.

    Args:
        log: the rounds.
        page_slots: places of the page, for a log with a position.

    Raises:
        BadInput: for page_slots without a position, or a position that is off the page.
    """
    if page_slots is not None and log.position is None:
        raise BadInput("page_slots is for logs with a position, and this one has none")
    return places(log, page_slots)


def places(log: Log, slots: int | None = None) -> int:
    """Return how many positions there are: all that the log shows, or as many as were given.

    Raises:
        BadInput: for a position that is off the page.
    """
    last = int(positions(log).max())
    if slots is None:
        return last + 1
    if last >= slots:
        raise BadInput(f"position {last} is off a page of {slots} slots: positions count from 0")
    return slots


def marginals_at(
    distribution: SlateDistribution, place: Int[Tensor, "round slot"] | None = None
) -> Float[Tensor, "round slot cand"]:
    """Return P(candidate at place), float64, at the places that each row logs; at all slots for None."""
    table = distribution.slot_marginals().double()
    if place is None:
        return table
    return table.gather(1, place.unsqueeze(2).expand(-1, -1, table.shape[2]))
