"""Agents for large catalogues: first retrieve, then choose."""
