"""`dicomnode` and `python -m dicomnode`: arguments in, exit code out."""

import sys

from dicomnode.cli.main import run


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
