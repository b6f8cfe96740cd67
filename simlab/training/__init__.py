"""Training: fit any ranker to a log, and keep it on disk."""
