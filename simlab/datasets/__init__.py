"""Data sets: logs of real recommenders, each read by one file."""
