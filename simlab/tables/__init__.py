"""Logs in and out: Parquet, CSV, Arrow tables and Open Bandit Pipeline's dictionaries.

`read_log` is the way in and `write_log` the way out; start with `wide.py`, the shorter of the layouts.
"""

from collections.abc import Mapping
from typing import Any

from simlab.log import Log
from simlab.tables.columns import ColumnMap
from simlab.tables.obp import to_obp
from simlab.tables.read import Layout, iter_log, read_log
from simlab.tables.rows import to_long
from simlab.tables.write import LogWriter, to_arrow, write_log

__all__ = [
    "ColumnMap",
    "Layout",
    "LogWriter",
    "from_obp",
    "iter_log",
    "read_log",
    "to_arrow",
    "to_long",
    "to_obp",
    "write_log",
]


def from_obp(feedback: Mapping[str, Any]) -> Log:
    """Return the log in Open Bandit Pipeline's feedback dictionary, of single actions or of slates.

    Raises:
        BadInput: naming the key, the row and the value.
    """
    return read_log(feedback)
