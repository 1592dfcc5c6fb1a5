"""What the databases spell differently, spelled once."""

from typing import Any

from sqlalchemy import JSON, ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class DistinctList(FunctionElement[Any]):
    """Aggregate: the distinct values of a column as a list, in no order; NULLs may be among them."""

    type = JSON()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column)


@compiles(DistinctList)
def _json_group_array(element: DistinctList, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array(DISTINCT {compiler.process(element.clauses, **options)})"


@compiles(DistinctList, "postgresql")
def _json_agg(element: DistinctList, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_agg(DISTINCT {compiler.process(element.clauses, **options)})"
