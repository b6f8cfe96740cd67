"""Metrics: pure functions of what was shown and what was right."""
