"""What the agents that are stable-baselines3 algorithms share."""
