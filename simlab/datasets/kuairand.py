"""KuaiRand: videos of Kuaishou as the recommender chose them, and videos put in between by lot.

Source: Gao et al. (2022), "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
Videos", CIKM.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from simlab.datasets import _kuai
from simlab.datasets._columns import ID, NUMBER, Coded, Columns, joined, read
from simlab.datasets._interactions import Interactions, Side, Table
from simlab.errors import BadInput, nearest

_HINT = (
    "unpack a KuaiRand archive of https://kuairand.com there, so that the folder (or its data) holds "
    "log_standard*.csv, log_random*.csv, user_features*.csv and video_features_basic*.csv"
)
_PATTERNS = {"standard": "log_standard*.csv", "random": "log_random*.csv"}
_ANSWERS = (
    *("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view"),
    *("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter"),
)
_TABS, _HOURS = 15, 24
_FIELDS = ("video_type", "upload_type", "music_type")


@dataclass(frozen=True)
class KuaiRand(Interactions):
    """KuaiRand (Pure, 1K or 27K): a row for each video shown, with the click and eleven other answers.

    The rating is the column `target`, by default the click, and is kept as it is; so value and threshold
    matter for other targets. Context of a row, as categories: tab (0 to 14) and hour; of the user: degrees of
    activity, ranges of counts and encrypted features. Fields of a video: video_type, upload_type, music_type
    and tag (several). `outcomes()` has all answers (is_like, is_follow, long_view, play_time_ms, …).

    In the random log the propensity is 1 / (the number of different videos of that log): they were drawn
    uniformly. In the standard log it is 1, as nobody knows it. `treatment` is 1 for videos shown by lot. What
    else holds is told by `Interactions`.

    Attributes:
        part: "standard", "random", or "both" one after the other.
        root: the folder with the files, or the one whose `data` holds them; `data/kuairand` if None.
        target: the column that is the rating.
        value: "rating" keeps the target; "click" makes clicks of it by the threshold.
    """

    part: str = "standard"
    root: Path | None = None
    target: str = "is_click"
    value: Literal["click", "rating"] = field(default="rating", kw_only=True)

    def _read(self) -> Table:
        parts = tuple(_PATTERNS) if self.part == "both" else (self.part,)
        for part in parts:
            if part not in _PATTERNS:
                raise BadInput(f"there is no KuaiRand {part}{nearest(part, [*_PATTERNS, 'both'])}")
        if self.target not in _ANSWERS:
            raise BadInput(f"{self.target} is no answer of KuaiRand{nearest(self.target, _ANSWERS)}")
        root = Path("data/kuairand") if self.root is None else Path(self.root)
        kinds = {name: NUMBER for name in ("time_ms", "hourmin", "tab", *_ANSWERS)}
        kinds = {"user_id": ID, "video_id": ID, **kinds}
        logs = [
            (part, read(path, kinds, _HINT))
            for part in parts
            for path in _kuai.files(root, _PATTERNS[part], _HINT)
        ]
        tables = [table for _, table in logs]
        lot = np.repeat([part == "random" for part, _ in logs], [len(table) for table in tables])
        item = joined([table.ids("video_id") for table in tables])
        propensity = np.ones(len(lot))
        propensity[lot] = 1 / max(1, len(np.unique(item.code[lot])))
        answers = {name: np.concatenate([t.numbers(name) for t in tables]) for name in _ANSWERS}
        return Table(
            user=joined([table.ids("user_id") for table in tables]),
            item=item,
            time=np.concatenate([table.numbers("time_ms") for table in tables]),
            rating=answers[self.target],
            users=_kuai.users(root, "user_features*.csv", _HINT) if self.sides else None,
            items=_videos(root) if self.sides else None,
            categories={
                "tab": _small(tables, "tab", 1, _TABS),
                "hour": _small(tables, "hourmin", 100, _HOURS),
            },
            outcomes=answers,
            propensity=propensity,
            treatment=lot.astype(np.int64),
            policy=tuple(np.where(lot, "random", "standard").tolist()) if len(parts) > 1 else parts,
        )


def _videos(root: Path) -> Side:
    path = _kuai.files(root, "video_features_basic*.csv", _HINT)[0]
    table = read(path, dict.fromkeys(("video_id", *_FIELDS, "tag"), ID), _HINT)
    fields = {name: table.category(name) for name in _FIELDS}
    return Side(table.ids("video_id"), table.where, {**fields, "tag": table.categories("tag", ",")})


def _small(tables: list[Columns], name: str, unit: int, size: int) -> Coded:
    """Return numbers below a size, after division by a unit, as categories of that many words."""
    codes = []
    for table in tables:
        values = table.numbers(name)
        fine = (values >= 0) & (values < size * unit) & (values == np.floor(values))
        table.check(name, fine, f"is not a whole number from 0 to below {size * unit}")
        codes.append(values.astype(np.int64) // unit)
    return Coded(np.concatenate(codes), tuple(map(str, range(size))))
