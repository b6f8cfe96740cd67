"""Benchmarks: one script an area; run them from the root of the project."""
