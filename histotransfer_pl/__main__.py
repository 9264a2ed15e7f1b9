"""``python -m histotransfer_pl``."""

import sys

from histotransfer_pl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
