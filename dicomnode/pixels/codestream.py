"""Codestreams: the first bytes of a compressed frame in, what it claims to hold out, before any decoder runs.

A decoder allocates what the codestream claims, whatever the data set says: the two must agree.
"""

from typing import Final, NamedTuple

_JPEG_START: Final = b"\xff\xd8"
_J2K_START: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ (ISO/IEC 15444-1 A.5.1); HTJ2K begins the same way
_JP2_START: Final = b"\x00\x00\x00\x0cjP  "
# ISO/IEC 10918-1 Table B.1: frame headers, without DHT (C4), JPG (C8), DAC (CC); F7 is JPEG-LS (ISO/IEC 14495-1).
_FRAME_HEADERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})


class Claim(NamedTuple):
    """What a codestream says of itself."""

    rows: int
    columns: int
    samples: int  # a pixel
    bits: int  # a sample
    tiles: int = 1  # a decoder keeps kilobytes for each


def claim(codestream: bytes) -> Claim | None:
    """The claim of a JPEG, JPEG-LS or JPEG 2000 codestream; None for anything else (RLE) or one cut short."""
    if codestream.startswith(_JPEG_START):
        return _jpeg_claim(codestream)
    if codestream.startswith(_JP2_START):
        codestream = codestream[max(0, codestream.find(_J2K_START)) :]
    return _j2k_claim(codestream) if codestream.startswith(_J2K_START) else None


def _jpeg_claim(stream: bytes) -> Claim | None:
    """ISO/IEC 10918-1 B.2.2: precision, lines, samples a line, components."""
    at = 2
    while at + 10 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker in _FRAME_HEADERS:
            return Claim(_number(stream, at + 5, 2), _number(stream, at + 7, 2), stream[at + 9], stream[at + 4])
        if marker == 0xFF:
            at += 1  # a fill byte
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + _number(stream, at + 2, 2)
    return None


def _j2k_claim(stream: bytes) -> Claim | None:
    """SIZ: grid size less the image's offset on it, its tiles, components and their depth (ISO/IEC 15444-1 A.5.1)."""
    if len(stream) < 43:
        return None
    width, height, left, top, across, down, tile_left, tile_top = (_number(stream, at, 4) for at in range(8, 40, 4))
    if not across or not down:
        return None
    tiles = -(-(width - tile_left) // across) * -(-(height - tile_top) // down)
    return Claim(height - top, width - left, _number(stream, 40, 2), (stream[42] & 0x7F) + 1, tiles)


def _number(stream: bytes, at: int, size: int) -> int:
    return int.from_bytes(stream[at : at + size], "big")
