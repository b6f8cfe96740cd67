"""Agents: policies that learn in a world."""
