"""Data sets for uplift: trials whose arms are known, and in some cases whose true effects are known."""
