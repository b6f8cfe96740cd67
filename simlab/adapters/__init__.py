"""Adapters: a ranker as Q-network, actor, critic, reward model, propensity model and nuisance."""
