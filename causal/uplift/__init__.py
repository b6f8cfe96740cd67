"""Uplift learners: one file each."""
