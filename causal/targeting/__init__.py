"""Whom to treat: uplift curves and their errors, calibration, policies and budgets."""
