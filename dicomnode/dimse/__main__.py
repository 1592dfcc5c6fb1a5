"""`python -m dicomnode.dimse FD`: a process that receives beside the node's own, `dimse.annex`."""

from dicomnode.lean import be_lean


def main() -> None:
    """Leave out what it needs not, then receive."""
    be_lean()
    from dicomnode.dimse import annex

    annex.main()


if __name__ == "__main__":
    main()
