"""Other libraries' data as logs, and logs as their data: Open Bandit Pipeline, Minari, D4RL-like arrays.

Tables (pandas, polars, Arrow, files) need nothing of this: `simlab.tables.read_log` takes them as they are.
"""

from simlab.interop.obp import beside, from_obp, from_obp_slates, to_obp, to_obp_slates
from simlab.interop.trajectories import from_minari, from_numpy_trajectories

__all__ = [
    "beside",
    "from_minari",
    "from_numpy_trajectories",
    "from_obp",
    "from_obp_slates",
    "to_obp",
    "to_obp_slates",
]
