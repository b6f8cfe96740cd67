"""`python -m simlab` is the command line.

This file alone reaches up to the roof, as a program's entry does.
"""

import sys

from simlab.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
