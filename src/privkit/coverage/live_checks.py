"""What can be seen wrong between the models and one database, from a scan of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Column, Enum, String
from sqlalchemy.types import TypeEngine

from privkit.coverage import findings as kinds
from privkit.coverage import inventory
from privkit.coverage.findings import Finding, Severity, counted
from privkit.coverage.live import Place, Scan, place, seal_check
from privkit.coverage.names import SURE, context_of, suggest
from privkit.crypto import OVERHEAD
from privkit.sqlalchemy.envelope_check import is_wanted
from privkit.sqlalchemy.types import Guarded

_TOOLS = frozenset({"alembic_version", "spatial_ref_sys"})
"""Tables of the tools themselves, which hold no rows about anybody."""


def unknown_tables(scan: Scan) -> Iterator[Finding]:
    """A table that no model maps: perhaps one whose module nobody imported."""
    known = _known(scan)
    for where, columns in scan.columns.items():
        if where in known or where in scan.views or where[1] in _TOOLS:
            continue
        name, refers = _shown(where), scan.references.get(where, [])
        likely = _personal_looking(where[1], columns, linked=bool(refers))
        what = f"{name} is in the database and in no model" + (f"; it refers to {', '.join(refers)}" if refers else "")
        what += f"; columns that look personal: {', '.join(likely)}." if likely else "."
        yield kinds.UNKNOWN_TABLE.at(
            name,
            what,
            "Import the module of its model where privkit is set up, map it and decide about its columns,"
            f"\n    or drop it: DROP TABLE {name}",
            Severity.CRITICAL if likely else None,
        )


def _known(scan: Scan) -> set[Place]:
    return {place(table) for metadata in inventory.metadatas(scan.guard) for table in metadata.tables.values()}


def _shown(where: Place) -> str:
    return ".".join(part for part in where if part)


def _personal_looking(table: str, columns: object, *, linked: bool) -> list[str]:
    context = context_of(table, linked=linked)
    names = list(columns) if isinstance(columns, dict) else []
    guesses = ((name, suggest(name, context)) for name in names)
    return [f"{name} ({guess.category})" for name, guess in guesses if guess and guess.confidence >= SURE]


def unknown_columns(scan: Scan) -> Iterator[Finding]:
    """A column of a covered table that its model does not know."""
    for each in inventory.covered(scan.guard):
        table = each.table
        names = {column.name for column in table.columns}
        for name in scan.columns.get(place(table), {}):
            if name not in names:
                guess = suggest(name, context_of(table.name, linked=True))
                looks = f"; it looks like {guess.category}" if guess else ""
                yield kinds.UNKNOWN_COLUMN.at(
                    f"{table.fullname}.{name}",
                    f"{table.fullname}.{name} is in the database and not in {each.mapper.class_.__name__}{looks}.",
                    f"Map it and decide about it, or drop it: ALTER TABLE {table.fullname} DROP COLUMN {name}",
                    Severity.CRITICAL if guess and guess.confidence >= SURE else None,
                )


def missing_tables(scan: Scan) -> Iterator[Finding]:
    """A table of the models, or of privkit itself, that the database does not have."""
    for metadata in inventory.metadatas(scan.guard):
        for table in metadata.tables.values():
            if place(table) not in scan.columns:
                yield kinds.MISSING_TABLE.at(
                    table.fullname,
                    f"{table.fullname} is in the models and not in the database.",
                    "Run the migration that creates it, or Base.metadata.create_all(engine).",
                )


def missing_columns(scan: Scan) -> Iterator[Finding]:
    """A column of a covered table that the database does not have; privkit's hidden ones count."""
    for entry in inventory.all_entries(scan.guard):
        if place(entry.each.table) in scan.columns and not scan.has(entry.column):
            own = " (privkit needs it)" if entry.decision is inventory.Decision.PRIVKIT else ""
            yield kinds.MISSING_COLUMN.at(
                entry.where,
                f"{entry.where} is in the models and not in the database{own}.",
                "Write the migration: alembic revision --autogenerate",
            )


def missing_checks(scan: Scan) -> Iterator[Finding]:
    """A sealed column that the database lets plain values into."""
    for table, checks in scan.checks.items():
        for column in table.columns:
            if is_wanted(column) and scan.has(column) and not seal_check(checks, column):
                yield kinds.MISSING_CHECK.at(
                    f"{table.fullname}.{column.name}",
                    f"{table.fullname}.{column.name} is sealed, and its CHECK is not in the database.",
                    f"Write a migration that adds the CHECK privkit_{table.name}_{column.name}_sealed of the models.",
                )


def narrow_columns(scan: Scan) -> Iterator[Finding]:
    """A sealed column that an envelope of its longest value does not fit into, enforced or not."""
    for column in scan.stored:
        kind, width = column.type, _width(scan, column)
        needed = OVERHEAD + longest(kind.plain) if isinstance(kind, Guarded) else 0
        if width is not None and width < needed:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.NARROW_COLUMN.at(
                where,
                f"{where} is {width} wide in the database, and an envelope of its longest value has {needed} bytes.",
                f"Write a migration that makes it LargeBinary without a length, or with at least {needed}.",
            )


def _width(scan: Scan, column: Column[Any]) -> int | None:
    """The declared width. SQLite takes types that it does not know, such as VARBINARY(60), for numbers."""
    kind = scan.columns[place(column.table)][column.name]
    number = getattr(kind, "precision", None) if scan.dialect == "sqlite" else None
    width: int | None = getattr(kind, "length", None) or number
    return width


def longest(plain: TypeEngine[Any]) -> int:
    """How many bytes the longest value of a type has before it is sealed; of a text without a length, one."""
    length = getattr(plain, "length", None) or 1
    return length * 4 if isinstance(plain, String) and not isinstance(plain, Enum) else length  # UTF-8


def plain_values(scan: Scan) -> Iterator[Finding]:
    """Values in a sealed column that are no envelopes, as a count."""
    for column, stored in scan.stored.items():
        if stored.other:
            where = f"{column.table.fullname}.{column.name}"
            field = column.type.field if isinstance(column.type, Guarded) else None
            adopted = field is not None and field.marker.adopting is not None
            yield kinds.NOT_AN_ENVELOPE.at(
                where,
                f"{where} holds {counted(stored.other, 'unsealed value' if adopted else 'plain value')}"
                f" among {stored.values}.",
                f"Seal what waits: privkit seal {field}"
                if adopted
                else "Read them with the program that wrote them, and write them through privkit, which seals them.",
            )


def foreign_envelopes(scan: Scan) -> Iterator[Finding]:
    """Envelopes under another key than that of the row's data subject, as a count."""
    for column, stored in scan.stored.items():
        if stored.foreign:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.FOREIGN_ENVELOPE.at(
                where,
                f"{where} holds {counted(stored.foreign, 'envelope')} of {stored.envelopes} under another key.",
                "Restore those rows, or write the field anew for the owner.",
            )


def unfound_values(scan: Scan) -> Iterator[Finding]:
    """Values whose hash is missing, or under a key that no search looks for, as a count."""
    for column, index in scan.searched.items():
        if index.missed:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.UNFOUND_VALUE.at(
                where,
                f"{where} holds {counted(index.missed, 'value')} that its search does not find.",
                "Name the index key that they are under (also=(...)) and make the hashes anew: privkit reseal",
            )


def guessable_indexes(scan: Scan) -> Iterator[Finding]:
    """An index whose hashes are matched to values by how often they occur; milder where a reason was given."""
    for column, index in scan.searched.items():
        if index.guessable:
            where = f"{column.table.fullname}.{column.name}"
            search = scan.guard.rule(column.type.field).field.marker.search  # type: ignore[attr-defined]
            reason = getattr(search, "guessable", None)
            yield kinds.GUESSABLE_INDEX.at(
                where,
                f"{where} has {index}" + (f'; declared guessable: "{reason}".' if reason else "."),
                f'Leave out its search, or accept what it gives away: {type(search).__name__}(..., guessable="...")',
                Severity.LOW if reason else None,
            )


def future_events(scan: Scan) -> Iterator[Finding]:
    """Event times ahead of the clock, as a count."""
    for column, count in scan.future.items():
        if count:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.FUTURE_EVENT.at(
                where,
                f"{where} lies in the future in {counted(count, 'row')}.",
                "Correct the clock that wrote them and the rows; an event that is only planned needs a column of"
                " its own.",
            )


def placeholder_places(scan: Scan) -> Iterator[Finding]:
    """Places such as (0, 0) that a program wrote for an unknown one, as a count; sealed ones by their cell."""
    for column, count in scan.placeholders.items():
        if count:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.PLACEHOLDER_PLACE.at(
                where,
                f"{where} holds {counted(count, 'place')} at a placeholder such as (0, 0), or in its cell.",
                "Store None where a place is not known, and correct the program that writes them.",
            )


def unknown_ages(scan: Scan) -> Iterator[Finding]:
    """Data subjects whose age nobody knows; worse where something is stored and tells none."""
    for table, count in scan.untold.items():
        if count.ages:
            ignored = f"; {count.ignored} with a placeholder, or older than the protection"
            yield kinds.UNKNOWN_AGE.at(
                table.fullname,
                f"{table.fullname} has {counted(count.ages, 'row')} of unknown age among {count.rows}"
                + (f"{ignored}." if count.ignored else "."),
                "Set the day of age of older rows: privkit ages --store\n    then ask those whose age is still unknown",
                None if count.ignored else Severity.LOW,
            )


def unknown_countries(scan: Scan) -> Iterator[Finding]:
    """Data subjects whose country leads to no age of its own."""
    for table, count in scan.untold.items():
        if count.countries:
            strictest = scan.guard.policy.age_of_consent(None, day=scan.guard.now().date()).age
            yield kinds.UNKNOWN_COUNTRY.at(
                table.fullname,
                f"{table.fullname} has {counted(count.countries, 'row')} of a country without a row; they are children"
                f" below {strictest}.",
                f"Correct the codes (ISO 3166), add a row to child.age_of_digital_consent in {scan.guard.policy.path},"
                "\n    or say where the service is offered: child: {offered_in: [GB, DE]}",
            )


def unknown_views(scan: Scan) -> Iterator[Finding]:
    """A view that no model maps; one over protected tables, or whose definition cannot be read, is worse."""
    known = _known(scan)
    covered = [each.table.name for each in inventory.covered(scan.guard)]
    for where, definition in scan.views.items():
        if where in known:
            continue
        over = [name for name in covered if definition is None or re.search(rf"\b{re.escape(name)}\b", definition)]
        name = _shown(where)
        yield kinds.UNKNOWN_VIEW.at(
            name,
            f"The view {name} is in no model" + (f"; it may show {', '.join(over)}." if over else "."),
            f"Map it and mark its fields as those of its tables, or drop it: DROP VIEW {name}",
            Severity.HIGH if over else None,
        )


def unchecked_text(scan: Scan) -> Iterator[Finding]:
    """SQL text that ran without a check, since when and why."""
    reasons = Counter(body["reason"] for _, body in scan.unchecked)
    if not reasons:
        return
    blocks = len({body["block"] for _, body in scan.unchecked})
    since, statements = scan.unchecked[0][0][:10], counted(len(scan.unchecked), "statement")
    said = "; ".join(f"{reason!r} ({count})" for reason, count in reasons.most_common(5))
    yield kinds.UNCHECKED_TEXT.at(
        "privkit_ledger",
        f"{counted(blocks, 'block')} let {statements} run unchecked since {since}: {said}.",
        "Write them with select(), insert() or update() on the models, or see that each reason still holds.",
    )


def endless_epochs(scan: Scan) -> Iterator[Finding]:
    """Epoch keys of fields that the policy does not divide any more: no run comes to destroy them."""
    divided = {rule.field.id for rule in scan.guard.rules.values() if rule.epochs is not None}
    former = {old for rule in scan.guard.rules.values() if rule.epochs for old in rule.field.marker.formerly}
    for field_id, count in sorted(scan.epochs.items()):
        if field_id not in divided | former:
            yield kinds.ENDLESS_EPOCHS.at(
                field_id,
                f"{field_id} has {counted(count, 'living epoch key')}, and its policy names no epoch.",
                "Put the epoch back into the keep of its purposes, or give the field a new id with formerly=, and run:"
                "\n    privkit reseal",
            )


CHECKS: tuple[Callable[[Scan], Iterator[Finding]], ...] = (
    unknown_tables,
    unknown_columns,
    missing_tables,
    missing_columns,
    missing_checks,
    narrow_columns,
    plain_values,
    foreign_envelopes,
    unfound_values,
    guessable_indexes,
    future_events,
    placeholder_places,
    unknown_ages,
    unknown_countries,
    unknown_views,
    unchecked_text,
    endless_epochs,
)
"""All checks of a database."""
