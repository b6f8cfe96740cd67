"""A table that the machine has no room for is refused in a sentence, before any of it is laid."""

import os
from functools import cache

import torch

from simlab.errors import BadInput

GIB = 1024**3


@cache
def room(device: str = "cpu") -> int | None:
    """Return how many bytes of memory a kind of device has; None where the system does not say.

    For the CPU it is the physical memory of the machine, used or not; a container may be allowed less.
    """
    if device == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def check_room(family: str, what: str, n_items: int, size: int, device: str = "cpu") -> None:
    """Refuse what needs more memory than there is.

    Args:
        family: its name.
        what: is laid, or done, that takes the memory.
        n_items: size of the catalogue.
        size: bytes that are needed.
        device: where, "cpu" or "cuda".

    Raises:
        BadInput: naming the items, the memory that is needed, and what there is.
    """
    there = room(device)
    if there is not None and size > there:
        raise BadInput(
            f"{family} cannot hold {what} of {n_items:,} items: that needs {size / GIB:,.1f} GiB of memory, "
            f"and there are {there / GIB:,.1f} GiB"
        )
