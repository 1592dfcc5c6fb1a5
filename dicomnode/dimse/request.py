"""The body of an A-ASSOCIATE-RQ in, what is wrong with it out, before anything is made of it. PS3.8 9.3.2.

pynetdicom compares every item with every other: a request of 1 MiB holds its process for seconds. And what it cannot
negotiate ends its threads without an answer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MOST_CONTEXTS: Final = 128  # one for each odd number of a byte, PS3.8 9.3.2.2
MOST_SYNTAXES: Final = 256  # transfer syntaxes of one context; the dictionary has some sixty
MOST_USER_ITEMS: Final = 1024  # an extended negotiation and a role for each SOP class, and room
LEAST_LENGTH: Final = 128  # bytes of a PDU that the peer takes, 0 being any; below it an answer is thousands of PDUs

_FIXED: Final = 68  # bytes in front of the variable items
_CONTEXT, _ABSTRACT, _TRANSFER, _USER, _MAXIMUM_LENGTH = 0x20, 0x30, 0x40, 0x50, 0x51
_HEAD: Final = 6  # bytes of a PDU in front of its body
_ASSOCIATE_RQ: Final = 0x01
_CALLED: Final = slice(4, 20)  # of the body
_CONTEXT_HEAD: Final = 4  # bytes in front of a context's sub-items

Item = tuple[int, memoryview]


def objection(body: bytes | bytearray) -> str:
    """Why the request cannot be negotiated; empty when it can."""
    try:
        items = list(_items(memoryview(body)[_FIXED:]))
        contexts = [content for kind, content in items if kind == _CONTEXT]
        return _of_contexts(contexts) or _of_user([content for kind, content in items if kind == _USER])
    except (struct.error, IndexError):
        return "an item reaches beyond what holds it"


@dataclass(frozen=True)
class Asked:
    """What an association is asked for with."""

    called: str  # AE title
    sop_classes: frozenset[str]  # abstract syntaxes


def asked(begun: bytes) -> Asked | None:
    """Of the first bytes of a connection; None while they are no whole request, or when there is an objection."""
    if len(begun) < _HEAD or begun[0] != _ASSOCIATE_RQ:
        return None
    size = int.from_bytes(begun[2:_HEAD], "big")
    body = begun[_HEAD : _HEAD + size]
    if len(body) < max(size, _FIXED) or objection(body):
        return None
    contexts = [content for kind, content in _items(memoryview(body)[_FIXED:]) if kind == _CONTEXT]
    syntaxes = [bytes(uid) for each in contexts for kind, uid in _items(each[_CONTEXT_HEAD:]) if kind == _ABSTRACT]
    uids = frozenset(syntax.rstrip(b"\0 ").decode("latin-1") for syntax in syntaxes)
    return Asked(body[_CALLED].decode("latin-1").strip(), uids)


def _items(content: memoryview) -> Iterator[Item]:
    """Kind and content of each item. struct.error and IndexError when one does not fit."""
    at = 0
    while at < len(content):
        kind, _, length = struct.unpack_from(">BBH", content, at)
        end = at + 4 + length
        if end > len(content):
            raise IndexError
        yield kind, content[at + 4 : end]
        at = end


def _of_contexts(contexts: list[memoryview]) -> str:
    if len(contexts) > MOST_CONTEXTS:
        return f"{len(contexts)} presentation contexts"
    ids = [content[0] for content in contexts]
    if len(set(ids)) < len(ids) or not all(number & 1 for number in ids):
        return "presentation contexts are not numbered by different odd numbers"
    return next((found for content in contexts if (found := _of_syntaxes(content))), "")


def _of_syntaxes(context: memoryview) -> str:
    kinds = [kind for kind, _ in _items(context[_CONTEXT_HEAD:])]
    if kinds.count(_ABSTRACT) != 1 or not 1 <= kinds.count(_TRANSFER) <= MOST_SYNTAXES:
        return "a presentation context without one abstract syntax and some transfer syntaxes"
    return ""


def _of_user(users: list[memoryview]) -> str:
    if len(users) != 1:
        return f"{len(users)} user information items"
    given = list(_items(users[0]))
    if len(given) > MOST_USER_ITEMS:
        return f"{len(given)} items of user information"
    lengths = [int.from_bytes(content, "big") for kind, content in given if kind == _MAXIMUM_LENGTH]
    return "PDUs too short to answer in" if any(0 < length < LEAST_LENGTH for length in lengths) else ""
