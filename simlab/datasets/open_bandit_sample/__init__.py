"""The packaged sample of the Open Bandit Dataset, how it is read and how it was made."""
