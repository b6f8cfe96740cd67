"""Rankers: one body that recommends, values, acts, and models rewards and propensities."""
