"""The gate's fields of random selects, compared with what the database itself says that they read.

SQLite's authoriser names every column that a statement reads. PostgreSQL runs the statement as a role that may read
what is not personal and the fields that the gate found: had it missed one, the role would not be permitted to.
"""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import String, cast, exists, func, literal, make_url, select, union, union_all
from sqlalchemy import case as case_of
from sqlalchemy import event as events
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Bundle, Session, aliased, joinedload, selectinload

from privkit import purposes
from privkit.errors import PrivkitError
from privkit.sqlalchemy.facts import facts_of
from privkit.sqlalchemy.types import field_of
from privkit.sqlalchemy.visibility import live
from tests.databases import libpq, raw_rows
from tests.sqlalchemy.library import Base, Book, Library, Loan, Reader, open_library

PERSONAL = {
    (table.name, column.name): field.id
    for table in Base.metadata.sorted_tables
    for column in table.columns
    if (field := field_of(column)) is not None
}
TEXTS = {"city", "phone", "title", "town"}
NUMBERS = {"id", "age", "shelf", "reader_id"}
Reference = Callable[[str, Any, set[str]], set[str]]

# Random selects. Every column that an inner select lists is taken up outside, as the reference counts it either way.


def columns_of(source: Any) -> dict[str, Any]:
    """The columns of an entity, a table, an alias or a subquery, by name."""
    if hasattr(source, "c"):
        return {key: column for key, column in source.c.items() if not key.startswith("privkit")}
    names = ("id", "city", "age", "born", "phone", "note", "shelf", "town", "title", "reader_id", "ended_at")
    return {name: getattr(source, name) for name in names if hasattr(source, name)}


@st.composite
def sources(draw: st.DrawFn, depth: int) -> tuple[Any, bool]:
    """Something to select from, and whether it is an inner select."""
    model = draw(st.sampled_from([Reader, Loan, Book]))
    kind = draw(st.sampled_from(["entity", "alias", "table", "table alias", "subquery", "cte"][: 6 if depth else 4]))
    if kind in ("subquery", "cte"):
        inner = draw(selects(depth - 1))
        return (inner.subquery() if kind == "subquery" else inner.cte()), True
    plain: dict[str, Callable[[], Any]] = {
        "entity": lambda: model,
        "alias": lambda: aliased(model),
        "table": lambda: model.__table__,
        "table alias": lambda: model.__table__.alias(),
    }
    return plain[kind](), False


def kind_of(name: str) -> str:
    base = name.rsplit("_of_", 1)[0]
    return "text" if base in TEXTS else "number" if base in NUMBERS else "other"


def made(draw: st.DrawFn, forms: list[Callable[[], Any]], otherwise: Any) -> Any:
    """One of the forms; ``otherwise`` where it is refused while it is built."""
    form = draw(st.sampled_from(forms))
    try:
        return form()
    except PrivkitError:
        return otherwise


@st.composite
def values(draw: st.DrawFn, pool: dict[str, Any], depth: int) -> Any:
    """An expression over some of the columns."""
    name = draw(st.sampled_from(sorted(pool)))
    column, other = pool[name], pool[draw(st.sampled_from(sorted(pool)))]
    forms: list[Callable[[], Any]] = [
        lambda: column,
        lambda: case_of((draw(conditions(pool, depth)), 1), else_=0),
        lambda: func.row_number().over(order_by=column, partition_by=other),
        lambda: func.count(column).over(),
    ]
    if kind_of(name) == "text":
        forms += [lambda: func.lower(column), lambda: column + "!", lambda: func.coalesce(column, "x")]
        forms += [lambda: func.max(column).over(), lambda: cast(column, String)]
    if kind_of(name) == "number":
        forms += [lambda: column + 1, lambda: func.abs(column), lambda: -column]
    if kind_of(name) != "other" and name != "town":
        forms += [lambda: live(column)]
    if depth:
        forms += [lambda: draw(scalars(pool, depth))]
    return made(draw, forms, column)


@st.composite
def scalars(draw: st.DrawFn, pool: dict[str, Any], depth: int) -> Any:
    """A correlated scalar subquery."""
    inner = aliased(draw(st.sampled_from([Reader, Book])))
    found = columns_of(inner)
    wanted = found[draw(st.sampled_from(["id", "city", "age"]))]
    statement = select(func.max(wanted)).where(draw(conditions(found, 0)))
    if "id" in pool:
        statement = statement.where(found["id"] == pool["id"])
    return statement.scalar_subquery()


@st.composite
def conditions(draw: st.DrawFn, pool: dict[str, Any], depth: int) -> Any:
    """A condition over some of the columns."""
    name = draw(st.sampled_from(sorted(pool)))
    column = pool[name]
    forms: list[Callable[[], Any]] = [lambda: column.is_(None), lambda: column.is_not(None)]
    if kind_of(name) == "text":
        forms += [lambda: column == "x", lambda: column.like("x%"), lambda: column.in_(["x", "y"])]
        forms += [lambda: func.lower(column) > "a", lambda: literal("x") == column]
        forms += [
            lambda: column.in_(select(Book.city)),
            lambda: column == select(func.max(Reader.city)).scalar_subquery(),
        ]
    if kind_of(name) == "number":
        forms += [lambda: column > 1, lambda: column.between(1, 2), lambda: ~(column == 5)]
        forms += [lambda: exists(select(1).where(Reader.age == column)), lambda: column.in_(select(Loan.reader_id))]
    if name == "note":
        forms += [lambda: column == "x", lambda: column.in_(["x"])]
    if depth:
        forms += [lambda: draw(conditions(pool, 0)) & draw(conditions(pool, 0))]
        forms += [lambda: draw(conditions(pool, 0)) | draw(conditions(pool, 0))]
        forms += [
            lambda: Reader.grown & Reader.loans.any(Loan.title == "x"),
            lambda: Loan.reader.has(Reader.phone > "a"),
        ]
    return draw(st.sampled_from(forms))()


@st.composite
def selects(draw: st.DrawFn, depth: int = 2) -> Any:
    """A select whose columns have names of their own."""
    chosen = [draw(sources(depth)) for _ in range(draw(st.integers(1, 2)))]
    pool: dict[str, Any] = {}
    inner: list[Any] = []
    for number, (source, is_inner) in enumerate(chosen):
        found = columns_of(source)
        pool |= {(name if name not in pool else f"{name}_of_{number}"): column for name, column in found.items()}
        inner += found.values() if is_inner else ()
    listed = inner + [draw(values(pool, depth)) for _ in range(draw(st.integers(1, 3)))]
    statement: Any = select(*(each.label(f"{_name(each)}_of_{number}_{depth}") for number, each in enumerate(listed)))
    first = chosen[0][0]
    if len(chosen) > 1:
        on = draw(conditions(pool, 0))
        statement = statement.select_from(first).join(chosen[1][0], on, isouter=draw(st.booleans()))
    else:
        statement = statement.select_from(first)
    for _ in range(draw(st.integers(0, 2))):
        statement = statement.where(draw(conditions(pool, depth)))
    return draw(ends(statement, pool, depth))


def _name(expression: Any) -> str:
    found = getattr(expression, "key", None) or getattr(expression, "name", None) or "x"
    return str(found).split("_of_")[0] if isinstance(found, str) and not found.startswith("%") else "x"


@st.composite
def ends(draw: st.DrawFn, statement: Any, pool: dict[str, Any], depth: int) -> Any:
    """What comes after WHERE."""
    column = pool[draw(st.sampled_from(sorted(pool)))]
    name = draw(st.sampled_from(list(statement.selected_columns.keys())))
    forms: list[Callable[[], Any]] = [
        lambda: statement,
        lambda: statement.order_by(column),
        lambda: statement.order_by(name),
        lambda: statement.order_by(column.desc()).limit(2),
        lambda: statement.distinct(),
        lambda: statement.group_by(*statement.selected_columns, column),
        lambda: statement.group_by(column).having(func.count() > 0),
        lambda: statement.having(func.max(column) != func.min(column)),
    ]
    return made(draw, forms, statement)


@st.composite
def statements(draw: st.DrawFn) -> Any:
    """A select, a union of two, or a select of entities."""
    kind = draw(st.sampled_from(["select", "select", "union", "entity", "related", "bundle"]))
    if kind == "select":
        try:
            return draw(selects())
        except PrivkitError:
            return select(Reader.id)  # it was refused while it was built
    if kind == "union":
        arms = [
            select(func.coalesce(cast(draw(values(columns_of(each), 1)), String), "x").label("x"))
            for each in (aliased(Reader), draw(st.sampled_from([Book, Loan])))
        ]
        both = draw(st.sampled_from([union, union_all]))(*arms)
        return made(draw, [lambda: both, lambda: both.order_by("x"), lambda: select(both.subquery())], both)
    model = draw(st.sampled_from([Reader, Loan]))
    pool = columns_of(model)
    statement: Any = select(model).where(draw(conditions(pool, 1)))
    if kind == "related":
        load = draw(st.sampled_from([joinedload, selectinload]))
        statement = statement.options(load(Reader.loans if model is Reader else Loan.reader))
    if kind == "bundle":
        statement = select(Bundle("b", *(draw(values(pool, 0)).label(f"x{each}") for each in range(2)))).select_from(
            model
        )
    return statement


# What the database says.


class Seen:
    """The statements that an engine prepared, and those that it sent."""

    def __init__(self) -> None:
        self.prepared: list[tuple[Any, str, Any]] = []
        self.sent: list[tuple[Any, str, Any]] = []

    def listener(self, into: list[Any]) -> Callable[..., None]:
        def before_cursor_execute(_: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: Any) -> None:
            scope = purposes.current()
            if context.compiled is not None and not (scope is not None and scope.internal):
                into.append((context.compiled, sql, parameters))

        return before_cursor_execute


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Library, Seen, Reference]]:
    folder: Path = tmp_path_factory.mktemp("watched")
    seen = Seen()
    if request.param == "sqlite":
        with open_library(f"sqlite:///{folder / 'l.sqlite'}", folder, seen.listener(seen.prepared)) as library:
            events.listen(library.engine, "before_cursor_execute", seen.listener(seen.sent))
            with closing(sqlite3.connect(str(make_url(library.url).database))) as lite:
                yield library, seen, authorised(lite)
        return
    server = request.getfixturevalue("pg_server")
    with server.database() as name, open_library(server.url(name), folder, seen.listener(seen.prepared)) as library:
        events.listen(library.engine, "before_cursor_execute", seen.listener(seen.sent))
        yield from ((library, seen, reference) for reference in permitted(library.url))


def authorised(lite: sqlite3.Connection) -> Reference:
    """What SQLite's authoriser reports of a statement while it is prepared."""
    read: set[tuple[str, str]] = set()

    def note(action: int, table: str | None, column: str | None, *_: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            read.add((str(table), str(column)))
        return sqlite3.SQLITE_OK

    def reference(sql: str, parameters: Any, found: set[str]) -> set[str]:
        read.clear()
        lite.set_authorizer(note)
        with suppress(sqlite3.Error):
            lite.execute(f"EXPLAIN {sql}", parameters)
        return {PERSONAL[each] for each in read & PERSONAL.keys()}

    return reference


def permitted(url: str) -> Iterator[Reference]:
    """Which of the fields PostgreSQL reads that are not among those found: it names the table of the first."""
    role = f"privkit_{uuid.uuid4().hex}"
    raw_rows(url, f"CREATE ROLE {role}")
    for table in Base.metadata.sorted_tables:
        open_columns = [each.name for each in table.columns if (table.name, each.name) not in PERSONAL]
        raw_rows(url, f"GRANT SELECT ({', '.join(open_columns)}) ON {table.name} TO {role}")
    connection = psycopg.connect(libpq(make_url(url)), cursor_factory=psycopg.ClientCursor)

    def reference(sql: str, parameters: Any, found: set[str]) -> set[str]:
        for (table, column), field in PERSONAL.items():
            if field in found:
                connection.execute(f"GRANT SELECT ({column}) ON {table} TO {role}")  # type: ignore[arg-type]
        connection.execute(f"SET LOCAL ROLE {role}")  # type: ignore[arg-type]
        try:
            connection.execute(f"EXPLAIN {sql}", parameters)  # type: ignore[arg-type]
        except psycopg.errors.InsufficientPrivilege:
            return found | {"one that was missed"}
        except psycopg.Error:
            event("refused by the database")
        finally:
            connection.rollback()
        return set()

    try:
        yield reference
    finally:
        connection.close()
        raw_rows(url, f"DROP OWNED BY {role}; DROP ROLE {role}")


EXAMPLES = 5000


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(statement=statements(), names=st.sampled_from([("lend", "remind"), ("lend",), ("remind",), ("count",), ()]))
def test_the_gate_misses_no_field_that_the_database_reads(watched: Any, statement: Any, names: tuple[str, ...]) -> None:
    library, seen, reference = watched
    seen.prepared.clear()
    seen.sent.clear()
    with Session(library.engine) as session, suppress(PrivkitError, SQLAlchemyError):
        if names:
            with library.privacy.purpose(*names):
                session.execute(statement).unique().all()
        else:
            session.execute(statement).unique().all()
    allowed = set(library.guard.scope(names).fields) if names else set()

    for compiled, sql, parameters in seen.prepared:
        facts = facts_of(compiled)
        found = facts.selected.keys() | facts.used.keys()
        missed = reference(sql, parameters, found) - found
        assert not missed, f"{missed} in {sql}"
    for _, sql, parameters in seen.sent:
        event("sent")
        passed = reference(sql, parameters, allowed) - allowed
        assert not passed, f"{passed} in {sql}"
