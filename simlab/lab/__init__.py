"""The roof: experiments, comparison, report and the command line.

Nothing below imports this package, and importing it imports nothing heavy.
"""
