"""Person names: a PN value in, the form that matching compares out. PS3.5 6.2.1, PS3.4 C.2.2.2.1.1.

A name is up to three component groups (alphabetic, ideographic, phonetic) joined by `=`; case, width of characters and
trailing delimiters do not tell names apart.
"""

import unicodedata


def folded_groups(name: str) -> tuple[str, ...]:
    """The component groups, folded: no case, no half-width forms, no trailing carets or spaces. Wild cards stay."""
    return tuple(_folded(group) for group in name.split("="))


def name_key(name: str) -> str:
    """What the catalogue keeps beside a name: `=group^=group^=`, each folded and ended, so that LIKE finds a group."""
    return "=" + "".join(f"{group}^=" for group in folded_groups(name))


def _folded(group: str) -> str:
    return unicodedata.normalize("NFKC", group).casefold().strip().rstrip("^ ")
