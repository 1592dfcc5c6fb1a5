"""What a process that peers reach leaves out: said before pydicom is imported, or it is too late."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

CODECS: Final = ("gdcm", "openjpeg", "pylibjpeg", "libjpeg", "rle", "jpeg_ls")  # pydicom loads them with itself
DOWNLOADS: Final = ("requests",)  # that too, for its sample files, where it is installed
_M_ARENA_MAX: Final = -8  # mallopt(3)
_ARENAS: Final = 2


def be_lean() -> None:
    """No native decoder in this process, as it decodes nothing, and some 20 MiB less. Its children have theirs."""
    for name in (*CODECS, *DOWNLOADS):
        sys.modules[name] = None  # type: ignore[assignment]
    # A heap for each thread, as glibc has it, keeps what that thread freed; ours take turns at the interpreter.
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
