"""Holds SQL text to the same rule: it may touch a field only for a purpose that needs it exactly.

Text has no types, so nothing that it returns can be opened, reduced or expired, nor what it stores be sealed: fields of
which that would be due are refused, and so is text whose effect is not known. ``privacy.unchecked("why")`` opens it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from sqlalchemy import Connection

from privkit import purposes, unchecked
from privkit.catalog import Field
from privkit.errors import PurposeError, StatementRefused
from privkit.purposes import Scope
from privkit.sqlalchemy import aggregates, criteria, ledger, replicas, sqltext, views
from privkit.sqlalchemy.attributes import not_exact, not_needed
from privkit.sqlalchemy.guard import OWN_ALIAS, Guard
from privkit.sqlalchemy.observations import Lack, lacks, refuse, refuse_all
from privkit.sqlalchemy.views import Touched
from privkit.unchecked import Unchecked

LINES = 100
"""How many different statements of one block the ledger names; the line after them says that there were more."""

_OWN_TABLE = re.compile(rf"(?<!\w){OWN_ALIAS}\w+|\bu&[\"']", re.IGNORECASE)
"""A name in Unicode escapes may be any."""

_DEFINES = re.compile(r"\b(create|alter|drop|attach|do|call)\b", re.IGNORECASE)
_LITERAL = re.compile(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*@[^\"]*\"|\b\d[\d.]*\b", re.DOTALL)


def check(guard: Guard, connection: Connection, statement: str, scope: Scope | None) -> None:
    """Hold SQL text to the rule. Raises PurposeError or StatementRefused."""
    text = sqltext.read(statement, connection.dialect.name)
    touched = views.touched_by_text(guard, connection, text)
    if _OWN_TABLE.search(statement) or touched.stores:
        _refuse_changes(statement, text.unresolved)
    _hold(guard, connection, statement, scope, touched, writes=text.writes)
    if _DEFINES.search(statement):
        views.changing(connection)


def check_names(
    guard: Guard, connection: Connection, statement: str, scope: Scope | None, names: Iterable[str], *, writes: bool
) -> None:
    """Hold what stands behind the unknown tables and functions of a statement to the rule."""
    touched = views.touched_by_names(guard, connection, names)
    if touched.stores:
        _refuse_changes(statement, None)
    _hold(guard, connection, statement, scope, touched, writes=writes)


def _refuse_changes(statement: str, unresolved: str | None) -> None:
    """A statement names privkit's own tables, or a view of them: it may read them and no more."""
    if unresolved or sqltext.WRITES.search(statement):
        raise _refused("privkit's own tables", "Keys, consent or evidence would be changed outside every rule.", "")


def _hold(
    guard: Guard, connection: Connection, statement: str, scope: Scope | None, touched: Touched, *, writes: bool
) -> None:
    if touched.stores or touched.unresolved is not None or replicas.concerns_persons(guard, touched.tables):
        replicas.require_fresh(connection)
    if touched.unresolved is None:
        _check_purpose(guard, scope, touched)
    elif touched.tables and scope is None and unchecked.current() and not _passes(guard, scope, touched):
        raise _no_purpose(touched)
    refusal = _refusal(guard, scope, touched, writes=writes)
    if refusal is None:
        return
    block = unchecked.current()
    if block is None or (writes and touched.unresolved is None and _unwritable(guard, touched)):
        names = sorted(f"{table.name}.*" for table in touched.tables) or ["*"]
        refuse_all(guard, Lack.TEXT, refusal, scope, names, passes=_passes(guard, scope, touched))
        return
    _record(guard, connection, block, statement, touched)


def _passes(guard: Guard, scope: Scope | None, touched: Touched) -> bool:
    """Whether text goes through where the policy observes. What is not understood may touch any table."""
    unknown, observed = touched.unresolved is not None, guard.observations.tables
    return (
        observed >= (guard.tables.keys() if unknown else touched.tables)
        and criteria.may_lack(guard, scope, touched.tables)
        and (unknown or not _unwritable(guard, touched))
    )


def _check_purpose(guard: Guard, scope: Scope | None, touched: Touched) -> None:
    for field in touched.fields.values():
        access = scope.access(field.id) if scope is not None else None
        if scope is None or access is None:
            refuse(guard, lacks(scope), not_needed(field, scope), scope, field)
        elif not access.exact:
            refuse(guard, Lack.EXACTNESS, not_exact(field, scope), scope, field)
        else:
            guard.observations.comply(field.id, scope)


def _refusal(guard: Guard, scope: Scope | None, touched: Touched, *, writes: bool) -> StatementRefused | None:
    """Why text may not do what it does without ``unchecked``; None: it may."""
    if touched.unresolved is not None:
        over = ", ".join(sorted(table.name for table in touched.tables))
        return _refused(
            f"SQL text{f' over {over}' if over else ''}",
            f"It could not be understood: {touched.unresolved}. What it reads and stores is not known.",
            over,
        )
    if scope is not None and scope.minimum_group is not None and aggregates.about_persons(guard, touched.tables):
        over = ", ".join(sorted(table.name for table in touched.tables))
        why = f"{scope} may see groups of {scope.minimum_group} persons or more only, and text is not counted."
        return _refused(over, why, over)
    for field in touched.fields.values():
        if _is_sealed(guard, field):
            return _refused(str(field), "The field is sealed: text can neither open it nor seal it.", field.id)
        if writes:
            return _refused(str(field), "What text stores is not checked: consent, owner, event times.", field.id)
        if any(term.purpose.keep for term in guard.rule(field).terms):
            return _refused(str(field), "Its values expire, and text would return them all the same.", field.id)
        if guard.rule(field).child_off:
            return _refused(str(field), "It is off for children, and text would return theirs.", field.id)
    if touched.fields:
        for table in criteria.criteria_for(guard, scope).tables & touched.tables:
            return _refused(table.name, "It has rows that may not be seen now, and text would return them.", table.name)
    for name in sorted(touched.own):
        return _refused(name, "It is privkit's own: by it a row finds its key.", name)
    return None


def _is_sealed(guard: Guard, field: Field) -> bool:
    return guard.rule(field).sealed or field.marker.search is not None or field.marker.adopting is not None


def _unwritable(guard: Guard, touched: Touched) -> bool:
    return bool(touched.own) or any(_is_sealed(guard, field) for field in touched.fields.values())


def _record(guard: Guard, connection: Connection, block: Unchecked, statement: str, touched: Touched) -> None:
    """Append one line for each block, database and statement, before the statement is sent."""
    shape = hashlib.sha256(" ".join(_LITERAL.sub("?", statement).split()).encode()).hexdigest()
    known = (id(connection.dialect), shape)
    if known in block.seen or len(block.seen) > LINES:
        return
    body: dict[str, object] = {"block": block.number, "reason": block.reason}
    if len(block.seen) == LINES:
        body["more"] = True
    else:
        body |= {"statement": shape, "tables": sorted(table.name for table in touched.tables)}
    with purposes.internally():
        ledger.append_at_once(connection, guard, "unchecked", body)
    block.seen.add(known)


def _no_purpose(touched: Touched) -> PurposeError:
    return PurposeError(
        f"SQL text over {', '.join(sorted(table.name for table in touched.tables))} runs unchecked, without a purpose.",
        "Every read and write of personal data has a purpose.",
        "Open one around it:  with privacy.purpose(...): ...",
    )


def _refused(what: str, why: str, name: str) -> StatementRefused:
    return StatementRefused(
        f"SQL text may touch {what}.",
        why,
        "Write it with select(), insert() or update() on the model; text may name columns without personal data.\n"
        'Where nothing else will do:  with privacy.unchecked("why"): ...   (the ledger records it)',
        name=name,
    )
