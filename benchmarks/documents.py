"""A document and tables in, the document with its marked sections filled anew out."""

import re
from collections.abc import Mapping

from benchmarks.tables import Table


class NoSection(Exception):
    """The document has no place for a table."""


def filled(document: str, tables: Mapping[str, Table]) -> str:
    """Each table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. Raises NoSection."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        section = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        new = begin + table.markdown() + end
        document, places = section.subn(lambda _, new=new: new, document)
        if places != 1:
            raise NoSection(f"no section {name} in the document")
    return document
