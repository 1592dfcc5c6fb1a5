"""Bytes and a random generator in, bytes with something wrong out: what line noise, bad writers and attackers do."""

import random
from collections.abc import Callable

# Lengths and counts that readers trip over, and delimiters out of place.
WORDS = (
    b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00",
    b"\xff\xff", b"\x00\x00", b"\x01\x00", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0",
    b"SQ", b"UN", b"OB", b"ZZ", b"\x1b$)C", b"\\", b"\x00",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random, most: int = 4) -> bytes:
    """The content after one to `most` accidents, more of them near its start, where the headers are."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, most)):
        rng.choice(ACCIDENTS)(changed, rng)
    return bytes(changed)


def _place(content: bytearray, rng: random.Random) -> int:
    within = len(content) if rng.random() < 0.3 else min(len(content), 4096)
    return rng.randrange(within) if within else 0


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 4, 32))):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[_place(content, rng) :]


def _insert(content: bytearray, rng: random.Random) -> None:
    at = _place(content, rng)
    content[at:at] = rng.randbytes(rng.choice((1, 2, 8, 300)))


def _overwrite(content: bytearray, rng: random.Random) -> None:
    at, word = _place(content, rng), rng.choice(WORDS)
    content[at : at + len(word)] = word


def _remove(content: bytearray, rng: random.Random) -> None:
    at = _place(content, rng)
    del content[at : at + rng.choice((1, 2, 4, 64))]


def _repeat(content: bytearray, rng: random.Random) -> None:
    at = _place(content, rng)
    piece = content[at : at + rng.choice((8, 64, 1024))]
    content[at:at] = piece * rng.choice((1, 2, 50))


def _move(content: bytearray, rng: random.Random) -> None:
    at, size = _place(content, rng), rng.choice((4, 8, 100))
    piece = content[at : at + size]
    del content[at : at + size]
    to = _place(content, rng)
    content[to:to] = piece


ACCIDENTS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _overwrite, _overwrite, _cut, _insert, _remove, _repeat, _move,
)  # fmt: skip
