"""`dicomnode` and `python -m dicomnode`: arguments in, exit code out."""

import sys

CODECS = ("gdcm", "openjpeg", "pylibjpeg", "libjpeg", "rle", "jpeg_ls")  # what pydicom loads as soon as it is imported


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] == ["serve"]:
        _without_codecs()
    from dicomnode.cli.main import run

    sys.exit(run(sys.argv[1:]))


def _without_codecs() -> None:
    """The process that peers reach decodes nothing: 10 MiB less, and no native decoder. Its children have them."""
    for name in CODECS:
        sys.modules[name] = None  # type: ignore[assignment]


if __name__ == "__main__":
    main()
