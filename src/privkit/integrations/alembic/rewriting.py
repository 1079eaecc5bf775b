"""Turns what Alembic found into privkit's directives, so that a generated file does on a live table what is safe there.

Tables that are new need none: their CHECKs stand in ``create_table``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation, MigrationScript, ModifyTableOps
from alembic.runtime.migration import MigrationContext

from privkit.integrations.alembic import directives
from privkit.integrations.alembic.steps import Step, step
from privkit.sqlalchemy import pairs
from privkit.sqlalchemy.envelope_check import check_name, checked_column, is_wanted, lets_wait
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.types import field_of


def check_steps(column: sa.Column[Any], stored: sa.Table, found: Any, dialect: str) -> list[MigrateOperation]:
    """Return the directives that a sealed column lacks; ``found``: its CHECK as ``stored`` has it, if it does."""
    table, name, schema, beside = stored.name, column.name, column.table.schema, _beside(column)
    steps: list[MigrateOperation] = []
    if found is None:
        undo = step(directives.drop_envelope_check, table, name, schema=schema)
        steps.append(step(directives.add_envelope_check, table, name, schema=schema, undo=undo))
    elif lets_wait(found["sqltext"]) != (beside is not None):
        field = field_of(column)
        assert field is not None
        old = beside or field.name
        close = step(directives.close_sealed_column, table, name, schema=schema)
        opening = step(directives.open_sealed_column, table, name, beside=old, schema=schema, undo=close)
        if old in stored.columns:
            close.undo = opening
        return [close if beside is None else opening]
    if dialect == "postgresql" and (found is None or found.get("dialect_options", {}).get("not_valid")):
        steps.append(step(directives.validate_envelope_check, table, name, schema=schema))
    return steps


def _beside(column: sa.Column[Any]) -> str | None:
    """Return the column that a sealed one takes over from, while it does."""
    both = pairs.pair(column)
    return str(both[0].name) if both is not None else None


def rewrite(context: MigrationContext, scripts: list[MigrationScript]) -> None:
    """Rewrite generated migrations in place, and their way back."""
    for script in scripts:
        for upgrade, downgrade in zip(script.upgrade_ops_list, script.downgrade_ops_list, strict=True):
            if not upgrade.is_empty():
                upgrade.ops = list(_rewritten(context, upgrade.ops))
                upgrade.reverse_into(downgrade)
                downgrade.ops = _keeping_own_tables(downgrade.ops)


def _rewritten(context: MigrationContext, operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    """Yield operations and directives; directives that commit what went before come when all else is done."""
    operations = list(operations)
    made = {(each.schema, each.table_name) for each in operations if isinstance(each, ops.CreateTableOp)}
    last: list[Step] = []
    for each in operations:
        if isinstance(each, ops.CreateTableOp):
            adopted = _taken_out(each)
            yield from (each, *map(_add_sealed, adopted))
            last += _validating(context, adopted)
            continue
        if not isinstance(each, ModifyTableOps) or (each.schema, each.table_name) in made:
            yield each
            continue
        change = _TableChange(context, each)
        yield from change.first
        if each.ops:
            yield each
        last += change.last
    yield from last


def _taken_out(operation: ops.CreateTableOp) -> list[sa.Column[Any]]:
    """Take sealed columns that have another beside them out of a new table; a directive has to add them to it."""
    sealed = [each for each in operation.columns if isinstance(each, sa.Column) and is_wanted(each) and _beside(each)]
    names = {name for each in sealed for name in (each.name, f"{each.name}_ix")}

    def stays(item: Any) -> bool:
        if isinstance(item, sa.CheckConstraint):
            return (checked_column(item) or ("",))[0] not in names
        return not isinstance(item, sa.Column) or item.name not in names

    operation.columns = [each for each in operation.columns if stays(each)]
    return sealed


def _validating(context: MigrationContext, columns: Iterable[sa.Column[Any]]) -> list[Step]:
    """Return what proves the CHECKs of columns that were added; SQLite's hold from the beginning."""
    if context.dialect.name != "postgresql":
        return []
    prove = directives.validate_envelope_check
    return [step(prove, column.table.name, column.name, schema=column.table.schema) for column in columns]


def _add_sealed(column: sa.Column[Any]) -> Step:
    """Return the directive that adds a sealed column; without a default it is NULL until somebody fills it."""
    table, name, schema, beside = column.table, column.name, column.table.schema, _beside(column)
    search = f"{name}_ix" in table.columns
    undo = step(directives.drop_sealed_column, table.name, name, beside=beside, search=search, schema=schema)
    made = step(directives.add_sealed_column, table.name, name, beside=beside, search=search, schema=schema, undo=undo)
    if beside is not None and not column.nullable:
        made.options["nullable"] = False
    return made


class _TableChange:
    """One table's changes: directives to run first and last, and between them what stays Alembic's own."""

    def __init__(self, context: MigrationContext, change: ModifyTableOps) -> None:
        self.context, self.table, self.schema = context, change.table_name, change.schema
        self.first: list[Step] = []
        self.last: list[Step] = []
        self.added = {each.column.name for each in change.ops if isinstance(each, ops.AddColumnOp)}
        self.dropped = {each.column_name for each in change.ops if isinstance(each, ops.DropColumnOp)}
        self.keyed = any(_is_key_index(each) for each in change.ops)
        self.sealed = self._sealed_in_database()
        change.ops = [each for each in change.ops if not self._takes(each)]

    def _takes(self, operation: MigrateOperation) -> bool:
        """Whether a directive does what ``operation`` would."""
        if isinstance(operation, Step):
            validates = operation.name == directives.validate_envelope_check.__name__
            (self.last if validates else self.first).append(operation)
            return True
        if isinstance(operation, ops.AddColumnOp):
            return self._adds(operation.column)
        if isinstance(operation, ops.CreateIndexOp):
            return self._indexes(operation)
        if isinstance(operation, ops.DropColumnOp):
            return self._drops(operation)
        if isinstance(operation, ops.DropIndexOp):
            columns = set(operation.to_index().columns.keys())
            return columns <= {f"{name}_ix" for name in self.sealed & self.dropped}
        return False

    def _adds(self, column: sa.Column[Any]) -> bool:
        if isinstance(column.type, SearchIndex):
            return column.name.removesuffix("_ix") in self.added
        if not is_wanted(column):
            return column.name == KEY_COLUMN and self.keyed
        self.first.append(_add_sealed(column))
        self.last += _validating(self.context, [column])
        return True

    def _indexes(self, operation: ops.CreateIndexOp) -> bool:
        columns = list(operation.to_index().columns)
        name, table, schema = str(operation.index_name), self.table, self.schema
        if _is_key_index(operation):
            index = None if name == f"ix_{table}_{KEY_COLUMN}" else name
            undo = step(directives.drop_key_column, table, schema=schema)
            self.last.append(step(directives.add_key_column, table, index=index, schema=schema, undo=undo))
            return True
        if len(columns) != 1 or not isinstance(columns[0].type, SearchIndex):
            return False
        column = columns[0].name.removesuffix("_ix")
        index = None if name == f"ix_{table}_{column}_ix" else name
        undo = step(directives.drop_search_index, table, column, index=index, schema=schema)
        unique = bool(operation.unique)
        self.last.append(
            step(directives.add_search_index, table, column, index=index, unique=unique, schema=schema, undo=undo)
        )
        return True

    def _drops(self, operation: ops.DropColumnOp) -> bool:
        name, table, schema = operation.column_name, self.table, self.schema
        if name.removesuffix("_ix") in self.sealed & self.dropped and name not in self.sealed:
            return True
        if name in self.sealed:
            search = f"{name}_ix" in self.dropped
            undo = step(directives.add_sealed_column, table, name, search=search, schema=schema)
            self.first.append(step(directives.drop_sealed_column, table, name, search=search, schema=schema, undo=undo))
            return True
        sealed = self._sealed_beside(name)
        if sealed is not None:
            back = sa.Column(name, operation.to_column().type, nullable=True)
            again = ops.AddColumnOp(table, back, schema=schema)
            self.first.append(step(directives.drop_plain_column, table, name, sealed=sealed, schema=schema, undo=again))
        return sealed is not None

    def _sealed_in_database(self) -> set[str]:
        """Return which of the dropped columns have the CHECK of a sealed one."""
        if not self.dropped:
            return set()
        found = sa.inspect(self.context.connection).get_check_constraints(self.table, self.schema)
        names = {each["name"] for each in found}
        return {name for name in self.dropped if check_name(self.table, name) in names}

    def _sealed_beside(self, name: str) -> str | None:
        """Return the sealed column to which the attribute ``name`` moved, if it did."""
        given = self.context.opts["target_metadata"]
        for metadata in given if isinstance(given, list | tuple) else [given]:
            for table in metadata.tables.values():
                if (table.name, table.schema) == (self.table, self.schema):
                    for column in table.columns:
                        if is_wanted(column) and column.type.field.name == name:
                            return str(column.name)
        return None


def _is_key_index(operation: MigrateOperation) -> bool:
    return isinstance(operation, ops.CreateIndexOp) and operation.to_index().columns.keys() == [KEY_COLUMN]


def _keeping_own_tables(operations: list[MigrateOperation]) -> list[MigrateOperation]:
    """Where the way back would drop privkit's own tables, have it look first whether they are empty."""
    own = {table.name for table in directives.own_tables(None)}
    dropped = [each for each in operations if isinstance(each, ops.DropTableOp) and each.table_name in own]
    schemas = sorted({each.schema for each in dropped}, key=str)
    steps: list[MigrateOperation] = [
        step(
            directives.drop_privkit_tables,
            *sorted(each.table_name for each in dropped if each.schema == schema),
            schema=schema,
        )
        for schema in schemas
    ]
    return [*steps, *(each for each in operations if each not in dropped and not _is_index_of(each, own))]


def _is_index_of(operation: MigrateOperation, tables: set[str]) -> bool:
    return isinstance(operation, ModifyTableOps) and operation.table_name in tables
