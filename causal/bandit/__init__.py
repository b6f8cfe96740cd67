"""Estimators for logged bandit data: one file each."""
