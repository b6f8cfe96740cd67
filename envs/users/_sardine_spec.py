"""The settings of SARDINE, and its eight presets."""

from dataclasses import dataclass
from typing import Any

from envs.spec import WorldSpec, setting


@dataclass(frozen=True)
class SardineSpec(WorldSpec):
    """Settings of SARDINE.

    Attributes:
        offset: the score at which an item is clicked half of the time it is examined.
        slope: how sharply relevance rises there.
        omega: share of the old taste that survives a step with clicks; 1 is no influence.
        influence_blend: what taste is blended with: "vector" is the mean of the clicked items, "scalar" is
            the one number that the stock code makes of it.
        boredom_threshold: θ, clicks of one main topic that bore; above `recall`, nothing does.
        boredom: "user_car" (churn and return: all interest is gone) or "user_tloi" (of the boring topic).
        recall: how many clicks count at most.
        window: for how many steps a click counts, and boredom lasts.
        click_model: "top_down_decay" or "mixed_decay".
        decay: γ of the click model.
        scale: α, the attraction of a perfectly relevant item.
        ideal_state: whether a recommender sees the user's state, or only what was clicked lately.
    """

    horizon: int = setting(100, 1, 10**9)
    offset: float = setting(0.65, -5.0, 5.0)
    slope: float = setting(100.0, 0.0)
    omega: float = setting(0.95, 0.0, 1.0)
    influence_blend: str = setting("vector", among=("vector", "scalar"))
    boredom_threshold: int = setting(5, 1, 16)
    boredom: str = setting("user_car", among=("user_car", "user_tloi"))
    recall: int = setting(10, 1, 15)
    window: int = setting(5, 1, 7)
    click_model: str = setting("top_down_decay", among=("top_down_decay", "mixed_decay"))
    decay: float = setting(0.85, 0.0, 1.0)
    scale: float = setting(1.0, 0.0, 1.0)
    ideal_state: bool = setting(True)


OFF = {"boredom_threshold": 11}
SINGLE = {"slots": 1}
RERANK = {"items": 10, "horizon": 10, "offset": 0.3, "slope": 5.0, "decay": 0.7, "omega": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    "SingleItem-Static": SINGLE | {"omega": 1.0} | OFF,
    "SingleItem-BoredInf": SINGLE,
    "SingleItem-Uncertain": SINGLE | {"omega": 1.0, "slope": 10.0} | OFF,
    "SlateTopK-Bored": {"omega": 1.0},
    "SlateTopK-Uncertain": {"slope": 10.0},
    "SlateRerank-Static": RERANK | OFF,
    "SlateRerank-Bored": RERANK | {"boredom_threshold": 4},
    "SlateTopK-BoredInf": {},
}
"""The eight presets, as they differ from the defaults."""
