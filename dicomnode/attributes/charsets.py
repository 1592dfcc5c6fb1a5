"""Text: the bytes of an element and its Specific Character Set in, str out; and which set can carry a str back.

Never raises and never warns: an undecodable byte becomes U+FFFD (PS3.5 6.1.2, PS3.3 C.12.1.1.2). Tolerant in what it
reads: misspelt terms, code extensions that were not declared, and 8-bit text without any declaration.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pydicom.charset import CODES_TO_ENCODINGS, ENCODINGS_TO_CODES, STAND_ALONE_ENCODINGS, python_encoding

UTF8 = "ISO_IR 192"
_MISSPELT = frozenset({"ISO 2022 GBK", "ISO 2022 58"})  # pydicom reads these too
TERMS = tuple(term for term in python_encoding if term and term not in _MISSPELT)  # PS3.3 C.12.1.1.2
_LATIN9 = "iso8859_15"
# Latin alphabet No. 9 (PS3.3 Tables C.12-2 and C.12-3, 2024), which pydicom 3.0 does not know: it reads and writes too.
python_encoding.update({"ISO_IR 203": _LATIN9, "ISO 2022 IR 203": _LATIN9})
CODES_TO_ENCODINGS[b"\x1b-b"], ENCODINGS_TO_CODES[_LATIN9] = _LATIN9, b"\x1b-b"

_ASCII_TERMS = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_KATAKANA_TERMS = frozenset({"ISO_IR 13", "ISO 2022 IR 13"})
_ESCAPE = b"\x1b"
_FRAGMENTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_SPELLINGS = re.compile(r"ISO[ _-]*(2022)?[ _-]*IR[ _-]*(\d+)", re.IGNORECASE)
# Codecs of Python that read and remove their own escape sequences, which put 94 x 94 characters in the place of ASCII.
_IN_G0 = {"iso2022_jp": b"\x1b$B", "iso2022_jp_2": b"\x1b$(D"}
_TO_ASCII, _TO_ROMAN = b"\x1b(B", b"\x1b(J"  # and these bring ASCII back, or ISO-IR 14, which is all but ASCII
# PS3.5 6.1.2.5.3: after these the first character set is active again.
_RESETS = re.compile(rb"[\\^=\n\r\f\t]")
_PIECES = re.compile(r"([\\^=\n\r\f\t])")
_LOWEST_RIGHT = 0xA0  # of the bytes of G1; below it are controls


@dataclass(frozen=True)
class Charset:
    """One value of Specific Character Set (0008,0005), as known defined terms; no terms: nothing was declared."""

    terms: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Iterable[str]) -> "Charset":
        """The known terms among `values`, common misspellings put right, unknown ones left out."""
        terms = tuple(_term(value.strip()) for value in values)
        known = tuple(term for term in terms if term is not None)
        if known and known[0] in STAND_ALONE_ENCODINGS:  # PS3.5 6.1.2.5.4 d): no code extensions
            return cls(known[:1])
        return cls(known if any(known) else ())

    @cached_property
    def codecs(self) -> tuple[str, ...]:
        """Python's codec for each term."""
        return tuple(str(python_encoding[term]) for term in self.terms)

    def decode(self, value: bytes) -> str:
        """The text of an element's bytes; undecodable bytes become U+FFFD."""
        if _ESCAPE not in value:
            return self._plain(value)
        read, right = "", ""
        for part in _FRAGMENTS.findall(value):
            text, right = self._fragment(part, right)
            read += text
        return read

    def carries(self, texts: Sequence[str]) -> bool:
        """Whether every text can be encoded in this set and read back the same."""
        return all(text.isascii() or self._carries(text) for text in texts)

    def encode(self, text: str) -> bytes:
        """The bytes of a text that this set carries (see `carries`). UnicodeError for another."""
        if text.isascii():
            return text.encode("ascii")
        if not self.terms or (len(self.terms) == 1 and self.terms[0] in _ASCII_TERMS):
            raise UnicodeError("nothing but ASCII was declared")
        if len(self.terms) == 1 and self.terms[0] not in _KATAKANA_TERMS:
            return text.encode(self.codecs[0])
        return b"".join(self._piece(piece) for piece in _PIECES.split(text))

    def _carries(self, text: str) -> bool:
        try:
            return self.decode(self.encode(text)) == text
        except UnicodeError:
            return False

    @cached_property
    def _right_half(self) -> str:
        """The codec of the bytes over 127 where nothing was designated; empty where the first set has none."""
        return self.codecs[0] if self.terms and self.terms[0] not in _ASCII_TERMS else ""

    def _plain(self, value: bytes) -> str:
        if self._right_half:
            return value.decode(self._right_half, errors="replace")
        # Some writers declare a set of code extensions and leave its escape sequences out.
        return _undeclared(value, [codec for codec in self.codecs[1:] if codec not in _IN_G0])

    def _fragment(self, part: bytes, right: str) -> tuple[str, str]:
        """One run of bytes that begins with an escape sequence, or has none. PS3.5 6.1.2.5 Code Extension.

        `right`: the codec designated to G1 before it, empty for the first set's own. Returned with the text: the one
        that is left.
        """
        escape = part[: 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3]
        codec = CODES_TO_ENCODINGS.get(escape)
        if codec is None:
            return self._plain(part.lstrip(_ESCAPE)), ""
        if codec in _IN_G0:
            return part.decode(codec, errors="replace"), right
        return self._until_reset(part[len(escape) :], right if escape in {_TO_ASCII, _TO_ROMAN} else str(codec))

    def _until_reset(self, text: bytes, right: str) -> tuple[str, str]:
        reset = _RESETS.search(text)
        if not right:
            return self._plain(text), ""
        # Korean writers often designate G1 once for a whole name: where the first set has no G1, keep reading.
        if reset is None or not self._right_half:
            return text.decode(right, errors="replace"), right
        return text[: reset.start()].decode(right, errors="replace") + self._plain(text[reset.start() :]), ""

    def _piece(self, text: str) -> bytes:
        """What stands between delimiters, each character in the set that is active, else in the first that has it.

        It begins and ends in the first set (PS3.5 6.1.2.5.3). UnicodeError when no set has a character.
        """
        written, left, right = b"", "", self._right_half
        for char in text:
            active = next((codec for codec in (left, right) if codec and _code(char, codec)), "")
            chosen = "" if char.isascii() else active or self._having(char)
            if left and chosen not in _IN_G0:  # many readers expect nothing else before it
                written, left = written + self._back, ""
            if chosen and not active and chosen in _IN_G0:
                written, left = written + _IN_G0[chosen], chosen
            elif chosen and not active:
                written, right = written + ENCODINGS_TO_CODES[chosen], chosen
            written += _code(char, chosen) if chosen else char.encode("ascii")
        return written + (self._back if left else b"")

    def _having(self, char: str) -> str:
        extensions = zip(self.terms[1:], self.codecs[1:], strict=True)
        for term, codec in extensions:
            if term not in _ASCII_TERMS and codec in ENCODINGS_TO_CODES and _code(char, codec):
                return codec
        raise UnicodeError("a character is in none of the declared sets")

    @cached_property
    def _back(self) -> bytes:
        """What ends a run in G0: the first set's own left half again."""
        return _TO_ROMAN if self.terms[0] in _KATAKANA_TERMS else _TO_ASCII


@lru_cache(maxsize=4096)
def _code(char: str, codec: str) -> bytes:
    """The bytes of one character that is not ASCII, without escape sequences; empty where the set does not have it."""
    try:
        encoded = char.encode(codec)
        is_same = encoded.decode(codec) == char  # Python makes half-width katakana wide where a set has only those
    except UnicodeError:
        return b""
    if not is_same:
        return b""
    escape = _IN_G0.get(codec)
    if escape:
        return encoded[len(escape) : len(escape) + 2] if encoded.startswith(escape) else b""
    is_of_set = len(encoded) <= 2 and min(encoded) >= _LOWEST_RIGHT
    # Shift JIS holds JIS X 0201, a byte a character, and more that is not of that set.
    return encoded if is_of_set and (codec != "shift_jis" or len(encoded) == 1) else b""


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


def _undeclared(value: bytes, likely: Iterable[str] = ()) -> str:
    """8-bit text of a peer that did not declare it: UTF-8 where it is that, else a likely codec's, else Latin-1."""
    for codec in ("utf-8", *likely):
        try:
            return value.decode(codec)
        except UnicodeDecodeError:
            continue
    return value.decode("latin-1")


UNDECLARED = Charset()
UNICODE = Charset((UTF8,))


def best(texts: Sequence[str], preferred: Iterable[Charset]) -> Charset:
    """The set to write `texts` in: none for plain ASCII, the first preferred that carries all, else UTF-8."""
    if all(text.isascii() for text in texts):
        return UNDECLARED
    return next((charset for charset in preferred if charset.carries(texts)), UNICODE)
