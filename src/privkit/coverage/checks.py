"""What can be seen wrong in the models and the policy alone. ``live`` looks at the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Column, DateTime, Table
from sqlalchemy.types import JSON

from privkit.coverage import findings as kinds
from privkit.coverage.findings import Finding, Severity
from privkit.coverage.inventory import (
    Decision,
    Entry,
    all_entries,
    covered,
    entries,
    event_columns,
    mappers,
    personal,
    uncovered,
    way_to_subject,
)
from privkit.coverage.names import SURE, Context, Suggestion, context_of, singular, suggest, tokens
from privkit.coverage.owners import owner_of
from privkit.coverage.words import PERSONS
from privkit.deidentify import label, leaves_residue
from privkit.markers import AgeBand, Is
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy import children
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.mapping import KEY_COLUMN, owner_columns
from privkit.sqlalchemy.types import plain_type

_REFERENCES = frozenset({"id", "ids", "uid", "uuid", "guid", "ref", "key", "pk", "fk"})


def undecided_columns(guard: Guard) -> Iterator[Finding]:
    """A column of a covered table that nobody decided about, with a guess at what it holds."""
    for entry in all_entries(guard):
        if entry.decision is Decision.UNDECIDED and not _soft(guard, entry.column):
            suggestion = suggest(entry.column.name, _context(guard, entry.each))
            yield kinds.UNDECIDED_COLUMN.at(
                entry.where,
                f"{entry.where} has no decision{_guess(entry.column, suggestion)}.",
                _decide(entry, suggestion),
                Severity.HIGH if suggestion and suggestion.confidence >= SURE else None,
            )


def _context(guard: Guard, each: Protected) -> Context:
    table = each.table
    return context_of(table.name, data_subject=KEY_COLUMN in table.columns, linked=owner_of(guard, each).reachable)


def _guess(column: Column[Any], suggestion: Suggestion | None) -> str:
    if suggestion is not None:
        likely = "probably" if suggestion.confidence >= SURE else "possibly"
        return f"; it is {likely} {suggestion.category} ({suggestion.confidence:.2f}: {suggestion.reason})"
    return "; it is JSON, whose content is unknown" if isinstance(column.type, JSON) else ""


def _decide(entry: Entry, suggestion: Suggestion | None) -> str:
    """Return the two decisions to choose from, the likelier one first, in the model's own names."""
    category = suggestion.category if suggestion else "user...."
    marker = f'Personal("{category}", purposes={{"..."}})'
    if category == "user.location.precise":
        marker = 'Location(purposes={"..."})'
    elif category == "user.demographic.date_of_birth":
        marker = 'BirthDate(purposes={"..."})'
    declared = f"{entry.attribute}: Mapped[Annotated[{_python_type(entry.column)}, {marker}]]"
    other = f'@not_personal("{entry.attribute}", because="...") on {entry.each.mapper.class_.__name__}'
    first, second = (declared, other) if suggestion else (other, declared)
    return f"Decide: {first}\n    or: {second}"


def _python_type(column: Column[Any]) -> str:
    try:
        name = "dict" if isinstance(column.type, JSON) else column.type.python_type.__name__
    except NotImplementedError:
        name = "..."
    return f"{name} | None" if column.nullable else name


def undecided_tables(guard: Guard) -> Iterator[Finding]:
    """A table of the models that no marked class covers; worse where a foreign key leads to a data subject."""
    classes = {mapper.local_table: mapper.class_.__name__ for mapper in mappers(guard)}
    for table in uncovered(guard):
        way = way_to_subject(table)
        likely = list(_personal_looking(table, linked=bool(way)))
        name = classes.get(table)
        what = f"{table.fullname} has no decision" + (
            f" and leads to data subjects ({' -> '.join(way)})" if way else ""
        )
        what += f"; columns that look personal: {', '.join(likely)}." if likely else "."
        columns = ", ".join(f'"{column.key}"' for column in table.columns if not column.foreign_keys)
        fix = f'Mark {name or "a class mapped to it"}: @owned_by("...") or @data_subject with its fields;'
        fix += f'\n    or: @not_personal({columns}, because="...")'
        kind = kinds.UNDECIDED_LINKED_TABLE if way else kinds.UNDECIDED_TABLE
        yield kind.at(table.fullname, what, fix, Severity.HIGH if likely else None)


def _personal_looking(table: Table, *, linked: bool) -> Iterator[str]:
    context = context_of(table.name, linked=linked)
    for column in table.columns:
        found = suggest(column.name, context)
        if found is not None and found.confidence >= SURE:
            yield f"{column.name} ({found.category})"


def soft_references(guard: Guard) -> Iterator[Finding]:
    """A column that seems to name a data subject without a foreign key: nobody can follow it."""
    decided = {entry.column: entry for entry in all_entries(guard)}
    for table in (*(each.table for each in covered(guard)), *uncovered(guard)):
        for column in table.columns:
            entry = decided.get(column)
            if entry is not None and entry.decision not in (Decision.UNDECIDED, Decision.NOT_PERSONAL):
                continue
            target = _soft(guard, column)
            if target:
                accepted = entry is not None and entry.decision is Decision.NOT_PERSONAL
                yield kinds.SOFT_REFERENCE.at(
                    f"{table.fullname}.{column.name}",
                    f"{table.fullname}.{column.name} seems to name a row of {target}, without a foreign key"
                    + (f'; its decision says: "{entry.because}".' if accepted and entry else "."),
                    f'Add ForeignKey("...") and name the column in @owned_by("{column.key}"),'
                    f'\n    or say why not: @not_personal("{column.key}", because="...")',
                    Severity.NOTE if accepted else None,
                )


def _soft(guard: Guard, column: Column[Any]) -> str:
    """Return what a column without a foreign key seems to refer to, or an empty text."""
    words = tokens(column.name)
    if column.foreign_keys or column.primary_key or len(words) < 2 or words[-1] not in _REFERENCES:
        return ""
    for each in covered(guard):
        if KEY_COLUMN in each.table.columns:
            for name in (each.table.name, each.mapper.class_.__name__):
                own = tokens(name)
                if own and singular(own[-1]) == singular(words[-2]):
                    return each.table.name
    return "a data subject's table" if singular(words[-2]) in PERSONS else ""


def personal_data_of_nobody(guard: Guard) -> Iterator[Finding]:
    """Personal fields on a table from which no way leads to a data subject."""
    for each in covered(guard):
        fields = [entry.attribute for entry in entries(guard, each.table) if entry.rule]
        if fields and not owner_of(guard, each).reachable:
            name = each.mapper.class_.__name__
            yield kinds.NOBODYS_DATA.at(
                each.table.fullname,
                f"{name} has personal fields ({', '.join(fields)}) and no way to a data subject.",
                f'Mark it: @owned_by("...")\nclass {name}\n    or: @data_subject\nclass {name}',
            )


def no_data_subject(guard: Guard) -> Iterator[Finding]:
    """No class is a data subject at all."""
    if not any(each.model.data_subject for each in guard.classes.values()):
        yield kinds.NO_DATA_SUBJECT.at(
            "models", "No model is marked as a data subject.", "Mark the class of the persons: @data_subject"
        )


def naive_events(guard: Guard) -> Iterator[Finding]:
    """An event column without a zone, where the policy does not say that such columns hold UTC."""
    if guard.policy.naive_datetimes is not None:
        return
    for _, event, column in event_columns(guard):
        kind = plain_type(column)
        if isinstance(kind, DateTime) and not kind.timezone:
            where = f"{column.table.fullname}.{column.name}"
            yield kinds.NAIVE_EVENT.at(
                where,
                f"{where} holds the time of {event!r} without a zone; it is read as UTC.",
                f"Where it is UTC, say so in {guard.policy.path}: naive_datetimes: UTC\n"
                "    or: mapped_column(DateTime(timezone=True))",
            )


def unsealed_sensitive(guard: Guard) -> Iterator[Finding]:
    """An unsealed field whose category is sensitive, or has to be sealed."""
    for entry, rule in personal(guard):
        category = rule.field.marker.category
        if not rule.sealed and (rule.sensitive or guard.policy.must_seal(category)):
            yield kinds.UNSEALED_SENSITIVE.at(
                entry.where,
                f"{entry.where} ({category}) is sensitive and stored as plain text.",
                f"Leave seal=False out of the marker of {entry.attribute}, and seal what is stored.",
            )


def unsealed_of_children(guard: Guard) -> Iterator[Finding]:
    """A field of who may be a child that is stored as plain text, and of which nothing worse is said."""
    for entry, rule in personal(guard):
        category, subject = rule.field.marker.category, children.subject_of(guard, entry.each.table)
        worse = rule.sensitive or guard.policy.must_seal(category)
        if not rule.sealed and not worse and subject is not None and subject.model.child is not None:
            yield kinds.UNSEALED_CHILD.at(
                entry.where,
                f"{entry.where} ({category}) may be a child's and is stored as plain text.",
                f"Seal it: {entry.attribute}: ... Personal({category!r}, ..., seal=True), and seal what is stored.",
            )


def unsuppressible(guard: Guard) -> Iterator[Finding]:
    """A NOT NULL column with nothing to put in place of its value, unless it always ends with its row."""
    for entry, rule in personal(guard):
        technique = rule.field.marker.then
        if entry.column.nullable or rule.sealed or leaves_residue(technique) or _ends_with_row(guard, entry, rule):
            continue
        yield kinds.UNSUPPRESSIBLE.at(
            entry.where,
            f"{entry.where} is NOT NULL and not sealed, so it cannot be {label(technique)}.",
            f"Make it nullable, seal it (seal=True), or let it leave a residue: "
            f'then=Pseudonymise("{entry.attribute}").',
        )


def _ends_with_row(guard: Guard, entry: Entry, rule: FieldRule) -> bool:
    if entry.each.model.expire_row is None or any(term.purpose.keep is None for term in rule.terms):
        return False
    others = [other for found, other in personal(guard) if found.column.table is entry.column.table]
    return all(_keeps(other) <= _keeps(rule) for other in others)


def _keeps(rule: FieldRule) -> set[Any]:
    return {term.purpose.keep for term in rule.terms} | {duty.keep for duty in rule.duties}


def kept_for_ever(guard: Guard) -> Iterator[Finding]:
    """A purpose without an end that fields use, with the policy's reason."""
    for name, purpose in sorted(guard.policy.purposes.items()):
        if purpose.keep is None:
            using = [entry for entry, rule in personal(guard) if name in rule.field.purposes]
            subjects = [children.subject_of(guard, entry.each.table) for entry in using]
            of_children = purpose.children != "never" and any(each and each.model.child for each in subjects)
            if using:
                fields = ", ".join(entry.where for entry in using)
                yield kinds.KEPT_FOR_EVER.at(
                    f"purposes.{name}",
                    f"Purpose {name!r} keeps {fields} for ever{', of children too' if of_children else ''}, "
                    f'because: "{purpose.because}".',
                    f"Give it a period: purposes: {{{name}: {{keep: {{for: P2Y, after: account_closed}}}}}}",
                    Severity.HIGH if of_children else None,
                )


def unused_purposes(guard: Guard) -> Iterator[Finding]:
    """A purpose that no field names. A prohibited one is there to be unused."""
    used = {term.purpose.name for rule in guard.rules.values() for term in rule.terms}
    for name, purpose in sorted(guard.policy.purposes.items()):
        if name not in used and not purpose.prohibited:
            yield kinds.UNUSED_PURPOSE.at(
                f"purposes.{name}",
                f"No field is needed for purpose {name!r} ({purpose.where}).",
                f"Take it out of {guard.policy.path}, or name it on the fields that it needs.",
            )


def empty_rows(guard: Guard) -> Iterator[Finding]:
    """An owned table whose fields all end, and whose rows do not."""
    for each in covered(guard):
        rules = [entry.rule for entry in entries(guard, each.table) if entry.rule]
        terms = [term for rule in rules for term in rule.terms]
        ends = bool(terms) and all(term.purpose.keep is not None for term in terms)
        if each.model.owners and each.model.expire_row is None and ends:
            yield kinds.EMPTY_ROW.at(
                each.table.fullname,
                f"All fields of {each.table.fullname} end, and its rows stay.",
                f"Let the row go with them: @expire_row(Delete())\nclass {each.mapper.class_.__name__}",
            )


def nullable_owners(guard: Guard) -> Iterator[Finding]:
    """A table each of whose ways to its owner can be NULL."""
    for each in covered(guard):
        owner = owner_of(guard, each)
        if owner.nullable:
            columns = ", ".join(column.name for column in owner_columns(each.mapper, each.model)) or "a later hop"
            yield kinds.NULLABLE_OWNER.at(
                each.table.fullname,
                f"Every way from {each.table.fullname} to its owner may be NULL ({owner}).",
                f"Make it NOT NULL: {columns}; or add a second owner to @owned_by.",
            )


def missing_child_protection(guard: Guard) -> Iterator[Finding]:
    """Data subjects whose age nobody asks, though the policy protects children and a purpose needs consent."""
    policy = guard.policy
    protects = policy.finite_child_periods or any(name == "coppa" for name, _ in policy.packs)
    if not protects:
        return
    asking = sorted({t.purpose.name for r in guard.rules.values() for t in r.terms if t.purpose.children != "allowed"})
    for each in covered(guard):
        if each.model.data_subject and each.model.child is None and asking:
            name = each.mapper.class_.__name__
            yield kinds.NO_CHILD_PROTECTION.at(
                each.table.fullname,
                f"{name} are data subjects and may be children; {', '.join(asking)} would need a parent's consent.",
                f'Say where the age is: @child_protection(birth_date="...")\nclass {name}\n'
                "    or, where no child can be harmed: children: allowed at the purpose",
            )


def kept_birth_dates(guard: Guard) -> Iterator[Finding]:
    """A birth date of which every purpose sees whether an age is reached, and no more."""
    for each in covered(guard):
        child = each.model.child
        for name in child.births if child is not None else ():
            field = each.model.fields.get(name)
            if field is None or not all(isinstance(use, AgeBand | Is) for use in field.purposes.values()):
                continue
            yield kinds.KEPT_BIRTH_DATE.at(
                f"{each.table.fullname}.{each.mapper.columns[name].name}",
                f"{field} is needed to know whether an age is reached, and for nothing else.",
                'Keep the day instead: @child_protection(reached_on="consent_age_on")\n'
                "    consent_age_on = consent_age_reached_on(privacy.policy, birth_date, country)",
            )


CHECKS: tuple[Callable[[Guard], Iterator[Finding]], ...] = (
    undecided_columns,
    undecided_tables,
    soft_references,
    personal_data_of_nobody,
    no_data_subject,
    naive_events,
    unsealed_sensitive,
    unsealed_of_children,
    unsuppressible,
    kept_for_ever,
    unused_purposes,
    empty_rows,
    nullable_owners,
    missing_child_protection,
    kept_birth_dates,
)
"""All checks of the models and the policy."""
