"""``python -m histotransfer_pl``, and the installed command ``histotransfer_pl``."""

import sys

from histotransfer_pl.cli.main import main


def run() -> None:
    """Run the verb of the command line and leave with its exit code."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
