"""`dicomnode` and `python -m dicomnode`: arguments in, exit code out."""

import sys

from dicomnode.lean import be_lean


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["serve"]:
        be_lean()
    from dicomnode.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
