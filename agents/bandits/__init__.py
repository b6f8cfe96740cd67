"""Agents that learn what to show now: bandits."""
