"""What KuaiRec and KuaiRand share: files in a folder or its `data`, and the table of users."""

from pathlib import Path

from simlab.datasets._columns import ID, read
from simlab.datasets._interactions import Side
from simlab.errors import BadInput

USER = (
    *("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *(f"{what}_range" for what in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")),
    *(f"onehot_feat{i}" for i in range(18)),
)
"""The columns of categories of the users' table; the counts are there as ranges."""


def files(root: Path, pattern: str, hint: str) -> list[Path]:
    """Return the files of a pattern in a folder or its `data`, in the order of their names.

    Raises:
        BadInput: if there are none.
    """
    for folder in (root, root / "data"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise BadInput(f"{root / pattern} is not there: {hint}")


def users(root: Path, pattern: str, hint: str) -> Side:
    """Read the users' table."""
    path = files(root, pattern, hint)[0]
    table = read(path, dict.fromkeys(("user_id", *USER), ID), hint)
    return Side(table.ids("user_id"), table.where, {name: table.category(name) for name in USER})
