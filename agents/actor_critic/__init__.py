"""Agents that learn a policy, most of them beside a critic."""
