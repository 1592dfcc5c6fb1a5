"""Text: the bytes of an element and its Specific Character Set in, str out; and which set can carry a str back.

Never raises and never warns: an undecodable byte becomes U+FFFD (PS3.5 6.1.2, PS3.3 C.12.1.1.2). Tolerant in what it
reads: misspelt terms, code extensions that were not declared, and 8-bit text without any declaration.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydicom.charset import CODES_TO_ENCODINGS, custom_encoders, encode_string, python_encoding

UTF8 = "ISO_IR 192"
_ASCII_TERMS = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_ESCAPE = b"\x1b"
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_SPELLINGS = re.compile(r"ISO[ _-]*(2022)?[ _-]*IR[ _-]*(\d+)", re.IGNORECASE)
# Codecs of Python that read and remove their own escape sequences.
_SELF_ESCAPED = frozenset({"iso2022_jp", "iso2022_jp_2"})
_DELIMITERS = re.compile(r"([\\^=])")
# PS3.5 6.1.2.5.3: after these the first character set is active again.
_RESETS = re.compile(rb"[\\^=\n\r\f\t]")


@dataclass(frozen=True)
class Charset:
    """One value of Specific Character Set (0008,0005), as known defined terms; no terms: nothing was declared."""

    terms: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Iterable[str]) -> "Charset":
        """The known terms among `values`, common misspellings put right, unknown ones left out."""
        terms = tuple(_term(value.strip()) for value in values)
        known = tuple(term for term in terms if term is not None)
        return cls(known if any(known) else ())

    @cached_property
    def codecs(self) -> tuple[str, ...]:
        """Python's codec for each term."""
        return tuple(str(python_encoding[term]) for term in self.terms)

    def decode(self, value: bytes) -> str:
        """The text of an element's bytes; undecodable bytes become U+FFFD."""
        if _ESCAPE not in value:
            return self._plain(value)
        return "".join(self._fragment(part) for part in _FRAGMENTS.findall(value))

    def carries(self, texts: Sequence[str]) -> bool:
        """Whether every text can be encoded in this set and read back the same."""
        if all(text.isascii() for text in texts):
            return True
        if len(self.terms) == 1:
            return self.terms[0] not in _ASCII_TERMS and all(_encodes(text, self.codecs[0]) for text in texts)
        return bool(self.terms) and all(self._extended(text) for text in texts)

    def encode(self, text: str) -> bytes:
        """The bytes of a text that this set carries (see `carries`)."""
        if text.isascii():
            return text.encode("ascii")
        pieces = (
            piece.encode("ascii") if piece.isascii() else self._encoded(piece) for piece in _DELIMITERS.split(text)
        )
        return b"".join(pieces)

    def _encoded(self, piece: str) -> bytes:
        return bytes(encode_string(piece, list(self.codecs)))

    def _plain(self, value: bytes) -> str:
        if self.terms and self.terms[0] not in _ASCII_TERMS:
            return value.decode(self.codecs[0], errors="replace")
        return _undeclared(value)

    def _fragment(self, part: bytes) -> str:
        """One run of bytes that begins with an escape sequence, or has none. PS3.5 6.1.2.5 Code Extension."""
        length = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
        codec = CODES_TO_ENCODINGS.get(part[:length])
        if codec is None:
            return self._plain(part.lstrip(_ESCAPE))
        if codec in _SELF_ESCAPED:
            return part.decode(codec, errors="replace")
        return self._until_reset(part[length:], codec)

    def _until_reset(self, text: bytes, codec: str) -> str:
        reset = _RESETS.search(text)
        # Korean writers often designate G1 once for a whole name: where the first set has no G1, keep reading.
        if reset is None or not self.terms or self.terms[0] in _ASCII_TERMS:
            return text.decode(codec, errors="replace")
        return text[: reset.start()].decode(codec, errors="replace") + self._plain(text[reset.start() :])

    def _extended(self, text: str) -> bool:
        foreign = {char for char in text if not char.isascii()}
        # pydicom writes Latin-1 into a first set that is plain ASCII.
        if self.terms[0] in _ASCII_TERMS and any(char <= "\xff" for char in foreign):
            return False
        if not all(any(_encodes(char, codec) for codec in self.codecs) for char in foreign):
            return False
        return self.decode(self.encode(text)) == text


def _term(value: str) -> str | None:
    if value in python_encoding:
        return value
    if value.upper().replace("-", "") == "UTF8":
        return UTF8
    spelt = _SPELLINGS.fullmatch(value)
    if spelt is None:
        return None
    term = f"ISO 2022 IR {spelt[2]}" if spelt[1] else f"ISO_IR {spelt[2]}"
    return term if term in python_encoding else None


def _undeclared(value: bytes) -> str:
    """8-bit text of a peer that declared nothing: UTF-8 where it is that, else Latin-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _encodes(text: str, codec: str) -> bool:
    try:
        custom = custom_encoders.get(codec)
        if custom is None:
            text.encode(codec)
        else:
            custom(text)
    except UnicodeError:
        return False
    return True


UNDECLARED = Charset()
UNICODE = Charset((UTF8,))


def best(texts: Sequence[str], preferred: Iterable[Charset]) -> Charset:
    """The set to write `texts` in: none for plain ASCII, the first preferred that carries all, else UTF-8."""
    if all(text.isascii() for text in texts):
        return UNDECLARED
    return next((charset for charset in preferred if charset.carries(texts)), UNICODE)
