"""Worlds: batched simulators of users, in which the truth is known."""
