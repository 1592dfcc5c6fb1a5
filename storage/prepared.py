"""A statement in that runs again and again, its rows out: compiled once for a database, then left to the driver.

SQLAlchemy takes five times as long for an execution as the statement itself; of what runs rarely nobody notices that.
The transaction, its retries and the meaning of its errors are `Database`'s, as for any other statement.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, Update
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError

Values = Mapping[str, Any]


class _Compiled:
    """The statement as one database wants it, and how it wants its parameters."""

    def __init__(self, statement: Any, dialect: Dialect, names: Sequence[str]) -> None:
        made = statement.compile(dialect=dialect, column_keys=list(names) or None)
        self.sql = str(made)
        constants = {name: made.params[name] for name in made.params.keys() - set(names)}
        self._given = dict.fromkeys(names) | {name: value for name, value in constants.items() if value is not None}
        self._order: Sequence[str] | None = made.positiontup

    def parameters(self, values: Values) -> Any:
        """A sequence or a mapping."""
        whole = self._given | dict(values)
        return whole if self._order is None else tuple(whole[name] for name in self._order)


class Prepared:
    """Safe for threads. Types of columns convert nothing here: text, numbers and bytes only."""

    def __init__(self, statement: Select[Any] | Insert | Update | Delete, names: Sequence[str] = ()) -> None:
        """`names`: the columns that an INSERT gets; NULL where a value is not given."""
        self._statement = statement
        self._names = names
        self._made: dict[str, _Compiled] = {}

    @cached_property
    def columns(self) -> tuple[Any, ...]:
        """Those of a SELECT, in order."""
        return tuple(self._statement.selected_columns)  # type: ignore[union-attr]

    def rows(self, connection: Connection, values: Values | None = None) -> list[tuple[Any, ...]]:
        """What it returns, in the connection's transaction. sqlalchemy.exc.DBAPIError."""
        compiled = self._compiled(connection.dialect)
        return self._run(connection, compiled.sql, compiled.parameters(values or {}))

    def _compiled(self, dialect: Dialect) -> _Compiled:
        if dialect.name not in self._made:
            self._made[dialect.name] = _Compiled(self._statement, dialect, self._names)
        return self._made[dialect.name]

    def _run(self, connection: Connection, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        cursor = connection.connection.cursor()
        errors: Any = connection.dialect.loaded_dbapi
        try:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []
        except errors.Error as error:
            raise DBAPIError.instance(sql, None, error, errors.Error, hide_parameters=True) from error
        finally:
            cursor.close()
