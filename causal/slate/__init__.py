"""Estimators for logged slates: one file each."""
