"""simlab: a reinforcement-learning and causal simulation lab for recommender systems.

Importing this package imports nothing heavy; the parts do when they are asked for.
"""

__version__ = "0.1.0"
