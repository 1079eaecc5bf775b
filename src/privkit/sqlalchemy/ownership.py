"""From a row to its data subject: the joins that ``@owned_by`` and inheritance describe, as SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Table, and_, select

from privkit.errors import MappingError, StatementRefused
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.mapping import KEY_COLUMN


@dataclass(frozen=True, slots=True)
class Hop:
    """One join on the way to the data subject: pairs of (local column key, remote column key)."""

    pairs: tuple[tuple[str, str], ...]
    target: Table

    def joins(self, local: FromClause, remote: FromClause) -> ColumnElement[bool]:
        """Return the join's condition between two tables or aliases."""
        return and_(*(remote.c[theirs] == local.c[ours] for ours, theirs in self.pairs))


def hop(guard: Guard, table: Table) -> Hop | None:
    """Return the next join from ``table`` to its data subject; None when its rows are data subjects themselves.

    With several owners, the first one declared holds the key. Raises MappingError where there is no way.
    """
    if KEY_COLUMN in table.columns:
        return None
    each = guard.tables.get(table)
    if each is None:
        raise _nobody(table.name)
    inherited = each.mapper.inherits
    if inherited is not None and inherited.local_table is not each.table:
        return inheritance(each)
    if not each.model.owners:
        raise _nobody(table.name)
    return _owner_hop(each, each.model.owners[0])


def inheritance(each: Protected) -> Hop:
    """Return the join from a joined-inheritance table to its base's."""
    base = each.mapper.inherits
    assert base is not None
    assert isinstance(base.local_table, Table)
    pairs = []
    for key in each.table.primary_key.columns:
        for foreign in key.foreign_keys:
            if foreign.column.table is base.local_table:
                pairs.append((key.key, foreign.column.key))
    return Hop(tuple(pairs), base.local_table)


def _owner_hop(each: Protected, path: str) -> Hop:
    if path in each.mapper.columns:
        column: Column[Any] = each.mapper.columns[path]
        for foreign in column.foreign_keys:
            elements = foreign.constraint.elements if foreign.constraint is not None else [foreign]
            pairs = tuple((str(each.parent.key), str(each.column.key)) for each in elements)
            return Hop(pairs, foreign.column.table)
    elif path in each.mapper.relationships:
        relationship = each.mapper.relationships[path]
        pairs = tuple((str(local.key), str(remote.key)) for local, remote in relationship.local_remote_pairs or ())
        target = relationship.mapper.local_table
        if relationship.secondary is None and isinstance(target, Table):
            return Hop(pairs, target)
    raise MappingError(
        f"{each.mapper.class_.__name__} says @owned_by({path!r}), which leads to no table.",
        "Its sealed fields would have no key.",
        "Name a many-to-one relationship or a foreign-key column.",
        path=path,
    )


def owner_key(guard: Guard, table: Table, at: FromClause) -> ColumnElement[Any]:
    """Return SQL for the key id of the data subject that a row of ``at`` (``table`` or an alias of it) is about.

    Raises StatementRefused when ``at`` is a subquery that left the needed columns out.
    """
    try:
        step = hop(guard, table)
        if step is None:
            key = at.c[KEY_COLUMN]
            if table.columns[KEY_COLUMN] not in key.base_columns:
                raise KeyError(KEY_COLUMN)
            return key
        remote = own_alias(step.target)
        inner = owner_key(guard, step.target, remote)
        return select(inner).where(step.joins(at, remote)).correlate_except(remote).scalar_subquery()
    except KeyError as missing:
        raise StatementRefused(
            f"A subquery over {table.name} left out {missing}, by which the owner of a sealed value is checked.",
            "A value of another data subject could pass for this one's.",
            f"Select the whole entity in the subquery, or add {table.name}.{missing.args[0]} to it.",
            table=table.name,
        ) from None


def owner_keys(guard: Guard, table: Table, at: FromClause) -> list[ColumnElement[Any]]:
    """Return SQL for the key ids of all data subjects that a row of ``at`` is about: one for each owner declared.

    Raises MappingError where a table has none.
    """
    if KEY_COLUMN in table.columns:
        return [at.c[KEY_COLUMN]]
    first, each = hop(guard, table), guard.tables[table]
    assert first is not None
    inherits = each.mapper.inherits is not None and each.mapper.inherits.local_table is not each.table
    others = [] if inherits else [_owner_hop(each, path) for path in each.model.owners[1:]]
    found: list[ColumnElement[Any]] = []
    for step in (first, *others):
        remote = own_alias(step.target)
        for inner in owner_keys(guard, step.target, remote):
            found.append(select(inner).where(step.joins(at, remote)).correlate_except(remote).scalar_subquery())
    return found


def _nobody(name: str) -> MappingError:
    return MappingError(
        f"{name} has personal fields but belongs to nobody.",
        "Without a data subject there is no key to seal with and nobody to erase for.",
        'Mark its class with @data_subject, or with @owned_by("relationship").',
        table=name,
    )
