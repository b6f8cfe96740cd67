"""Estimators for logged trajectories: one file each."""
