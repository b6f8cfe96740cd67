"""Distributions over slates: how likely each one is, exactly."""

from simlab.slates.contract import SlateDistribution
from simlab.slates.deterministic import Deterministic
from simlab.slates.grouped import GroupedPlackettLuce
from simlab.slates.mixture import Mixture
from simlab.slates.order_statistics import OrderStatistics
from simlab.slates.plackett_luce import PlackettLuce
from simlab.slates.ranked import Ranked
from simlab.slates.uniform import Uniform

__all__ = [
    "Deterministic",
    "GroupedPlackettLuce",
    "Mixture",
    "OrderStatistics",
    "PlackettLuce",
    "Ranked",
    "SlateDistribution",
    "Uniform",
]
