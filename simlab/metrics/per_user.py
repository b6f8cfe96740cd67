"""One value per user: another name for the class of `simlab.metrics.means`."""

from simlab.metrics.means import PerUser as PerUser
