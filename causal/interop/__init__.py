"""Evaluate what other libraries logged, and hand results out: Open Bandit Pipeline, JSON, pandas."""

from causal.interop.obp import at_position, continuous_from_obp, rounds_from_obp, slates_from_obp
from causal.interop.results import Report, from_json, to_frame, to_json

__all__ = [
    "Report",
    "at_position",
    "continuous_from_obp",
    "from_json",
    "rounds_from_obp",
    "slates_from_obp",
    "to_frame",
    "to_json",
]
