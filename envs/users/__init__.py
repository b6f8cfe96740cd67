"""User models: one file is one world."""
