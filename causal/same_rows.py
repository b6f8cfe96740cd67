"""Whether what was fitted on a log is used with the same log: a hash of each column that fits look at."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from simlab.errors import BadInput
from simlab.log import Log

COLUMNS = (
    "user",
    "session",
    "step",
    "slate",
    "click",
    "reward",
    "features",
    "categories",
    "position",
    "candidates",
    "terminated",
    "truncated",
)
"""Columns that say what was shown to whom and what came of it; propensities are no part of a model."""


def hashes(log: Log) -> dict[str, str]:
    """Return a hash of each column that the log has: its shape and its values, in the order of the rows."""
    out = {}
    for name in COLUMNS:
        column = getattr(log, name)
        if column is not None:
            assert isinstance(column, Tensor)
            # Numbers of all widths hash alike, so a log that was saved and read again is the same.
            values = column.double() if column.is_floating_point() else column.long()
            digest = hashlib.blake2b(repr(tuple(column.shape)).encode(), digest_size=16)
            digest.update(values.contiguous().cpu().numpy().data)
            out[name] = digest.hexdigest()
    return out


def check_same(what: str, known: Mapping[str, str], log: Log) -> None:
    """Refuse a log that is not the one that something was fitted on.

    Args:
        what: the thing that was fitted, for the sentence.
        known: `hashes` of its log.
        log: the log that it is used with.

    Raises:
        BadInput: naming the first column that differs.
    """
    mine = hashes(log)
    for name in COLUMNS:
        if known.get(name) != mine.get(name):
            raise BadInput(f"{what} is of another log: column {name} is not the same")
