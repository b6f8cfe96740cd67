"""Agents that learn the value of items and slates."""
