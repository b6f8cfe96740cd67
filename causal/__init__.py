"""Causal tools: what would have happened under another policy."""
