"""``python -m polargrad`` is ``polargrad``."""

import sys

from polargrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
