"""The arithmetic of the agents: pure functions, each with an exact test."""
