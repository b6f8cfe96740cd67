"""KuaiRec: how long users of Kuaishou watched videos; in its small part everyone watched nearly everything.

Source: Gao et al. (2022), "KuaiRec: A Fully-observed Dataset and Insights for Evaluating Recommender
Systems", CIKM.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from simlab.datasets import _kuai
from simlab.datasets._columns import ID, NUMBER, read
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput, nearest

_HINT = (
    "unpack KuaiRec.zip of https://kuairec.com there, so that the folder (or its data) holds big_matrix.csv, "
    "small_matrix.csv, user_features.csv and item_categories.csv"
)
_PARTS = ("big", "small")
_OUTCOMES = ("watch_ratio", "play_duration", "video_duration")


@dataclass(frozen=True)
class KuaiRec(Interactions):
    """KuaiRec: 7,176 users and 10,728 videos (big), or 1,411 users who saw nearly all of 3,327 (small).

    The rating is the watch ratio: time played by the video's length. Both parts number users and videos
    alike, by the side tables, unless `sides` or `unseen` is False. Categories of the user are degrees of
    activity, ranges of counts and encrypted features; the field of a video is its category (several).
    `outcomes()` has watch_ratio, play_duration and video_duration (milliseconds). What else holds is told by
    `Interactions`.

    Attributes:
        part: "big" or "small".
        root: the folder with the files, or the one whose `data` holds them; `data/kuairec` if None.
        threshold: a row is a click if its watch ratio is at least this, by default 2 (watched twice over).
        untimed: what becomes of a row without a timestamp (the small part has such rows): "refuse", or
            "drop" to leave it out of everything.
    """

    part: str = "big"
    root: Path | None = None
    threshold: float | int | None = field(default=2.0, kw_only=True)
    untimed: Literal["refuse", "drop"] = "refuse"

    def _read(self) -> Table:
        if self.part not in _PARTS:
            raise BadInput(f"there is no KuaiRec {self.part}{nearest(self.part, _PARTS)}")
        if self.untimed not in ("refuse", "drop"):
            raise BadInput(f"untimed is {self.untimed!r}, but it is refuse or drop")
        root = Path("data/kuairec") if self.root is None else Path(self.root)
        kinds = {"user_id": ID, "video_id": ID, "timestamp": NUMBER, **dict.fromkeys(_OUTCOMES, NUMBER)}
        rows = read(_kuai.files(root, f"{self.part}_matrix.csv", _HINT)[0], kinds, _HINT)
        timed = np.asarray(rows.cells["timestamp"].values.is_valid())
        if self.untimed == "drop":
            if not timed.any():
                raise BadInput(f"{rows.where}: no row has a timestamp")
            rows = rows.keep(timed)
        else:
            rows.check("timestamp", timed, "is no time; untimed=drop leaves such rows out")
        users = items = None
        if self.sides:
            users = _kuai.users(root, "user_features.csv", _HINT)
            videos = read(
                _kuai.files(root, "item_categories.csv", _HINT)[0], {"video_id": ID, "feat": ID}, _HINT
            )
            items = Side(videos.ids("video_id"), videos.where, {"category": videos.categories("feat", ",")})
        outcomes = {name: rows.numbers(name) for name in _OUTCOMES}
        return Table(
            user=rows.ids("user_id"),
            item=rows.ids("video_id"),
            time=rows.numbers("timestamp"),
            rating=outcomes["watch_ratio"],
            users=users,
            items=items,
            outcomes=outcomes,
        )
