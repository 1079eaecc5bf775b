"""What an attacker has tried on SQL text and on what is built: every way in that once was open stays shut."""

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    collate,
    delete,
    extract,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import quoted_name
from sqlglot.dialects import Postgres, SQLite

from privkit.errors import PrivkitError, StatementRefused
from privkit.sqlalchemy import sqltext
from tests.databases import Server, libpq, raw_rows
from tests.sqlalchemy.library import Book, Library, Loan, Reader, add_views, open_library

PHONES = "SELECT phone FROM readers"
ATTACKS = {
    "sqlite": [
        "SELECT x.phone FROM (readers) x",
        "SELECT x.phone FROM ((readers)) x",
        "SELECT x.phone FROM (readers, books) x",
        "SELECT j.phone FROM (readers r JOIN books b ON r.id = b.id) AS j",
        "SELECT phone FROM reader_words",
        "SELECT word FROM words_of_words",
        "SELECT\xa0phone FROM readers",
        "\ufeffSELECT phone FROM readers",
        "SELECT --\r /*\n phone FROM readers --\r */ 1 \n",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = sql",
        "UPDATE sqlite_schema SET sql = sql",
        "DELETE FROM main.sqlite_master",
    ],
    "postgresql": [
        "SELECT j.phone FROM (readers r JOIN books b ON r.id = b.id) AS j",
        "SELECT j.* FROM (readers r JOIN books b ON r.id = b.id) AS j",
        "SELECT j FROM (readers CROSS JOIN books) AS j",
        "SELECT j.e FROM (readers r JOIN books b ON r.id = b.id) AS j(a, b, c, d, e)",
        "SELECT j.e FROM ((readers r JOIN books b ON r.id = b.id) JOIN loans USING (id)) AS j(a, b, c, d, e)",
        'SELECT U&"ph\\006fne" FROM readers',
        'SELECT r.U&"ph\\006fne" FROM readers r',
        "SELECT U&\"ph!006fne\" UESCAPE '!' FROM readers",
        "SELECT r.row_to_json FROM readers r",
        "SELECT r.to_jsonb FROM readers r",
        "SELECT readers.to_json FROM readers",
        "SELECT id #-- '\n length(phone) FROM readers --'",
        "SELECT id |/* ' */ length(phone) FROM readers --'",
        "SELECT date$b$, phone FROM (SELECT 1 AS date$b$) x, readers --$b$",
        "SELECT E'a'\n'b\\'' , phone FROM readers --'",
        "SELECT 'a' --\r, phone FROM readers",
        "SELECT phone FROM parents",
        "SELECT phone FROM grandparents",
        "SELECT reader_id FROM attic.loans",
        "SELECT * FROM loans()",
        "SELECT date_diff()",
        "SELECT date_diff/* */()",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, to_tsquery(phone) FROM readers')",
        "SET standard_conforming_strings = off",
        "set \"standard_conforming_strings\" to 'off'",
        'SET U&"standard\\005fconforming_strings" = off',
        "ALTER ROLE postgres SET standard_conforming_strings = off",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SELECT pg_catalog.set_config('standard_' || 'conforming_strings', 'off', false)",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_' || 'conforming_strings'",
        "UPDATE pg_class SET relname = 'others' WHERE relname = 'readers'",
        "WITH x AS (DELETE FROM pg_catalog.pg_class WHERE false RETURNING 1) SELECT count(*) FROM x",
        "ALTER TABLE readers INHERIT books",
        "ALTER TABLE readers OWNER TO postgres, INHERIT books",
        "REFRESH MATERIALIZED VIEW stored_view",
        "NOTIFY c, $$ ' $$; SELECT phone FROM readers --'",
        "CREATE DOMAIN d AS text CHECK (any_table('readers') = VALUE)",
    ],
}
"""Each was sent to the database and, but for a few that prepare another, returned what its purpose did not need."""

KEPT_FOR_EVER = {
    "sqlite": [
        "CREATE TABLE copied AS SELECT city FROM readers",
        "ALTER TABLE readers RENAME COLUMN city TO other",
        "ALTER TABLE readers ADD COLUMN other TEXT GENERATED ALWAYS AS (city) VIRTUAL",
    ],
    "postgresql": [
        "CREATE TABLE copied AS SELECT city FROM readers",
        "SELECT city INTO copied FROM readers",
        "ALTER TABLE readers RENAME COLUMN city TO other",
        "ALTER TABLE readers ADD COLUMN other varchar GENERATED ALWAYS AS (city) STORED",
        "ALTER TABLE readers ALTER COLUMN shelf TYPE varchar USING city",
    ],
}
"""What the purpose needs for ever would come to stand where no rule holds."""

STANDING = {
    "sqlite": [
        "CREATE VIRTUAL TABLE reader_words USING fts5(phone, content='readers', content_rowid='id')",
        "CREATE VIRTUAL TABLE words_of_words USING fts5vocab('reader_words', 'row')",
        "CREATE VIEW held AS SELECT * FROM privkit_hold",
        "CREATE VIEW privkit_view AS SELECT id, phone FROM readers",
    ],
    "postgresql": [
        "CREATE TABLE grandparents (id int NOT NULL)",
        "CREATE TABLE parents (phone varchar) INHERITS (grandparents)",
        "ALTER TABLE grandparents ADD COLUMN phone varchar",
        "ALTER TABLE readers INHERIT parents",
        "CREATE VIEW attic.loans AS SELECT id, phone AS reader_id FROM public.readers",
        "CREATE FUNCTION loans() RETURNS SETOF text LANGUAGE sql AS $$ SELECT phone FROM readers $$",
        "CREATE FUNCTION date_diff() RETURNS SETOF text LANGUAGE sql AS $$ SELECT phone FROM readers $$",
        "CREATE FUNCTION attic.lower(n int) RETURNS text LANGUAGE sql AS $$ SELECT max(phone) FROM public.readers $$",
        "CREATE VIEW held AS SELECT * FROM privkit_hold",
        "CREATE VIEW privkit_view AS SELECT id, phone FROM readers",
    ],
}
"""What another program put over the tables."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory, pg_server: Server) -> Iterator[dict[str, Library]]:
    with ExitStack() as opened:
        found = {}
        for name in ATTACKS:
            folder = tmp_path_factory.mktemp(name)
            database = opened.enter_context(pg_server.database())
            url = pg_server.url(database) if name == "postgresql" else f"sqlite:///{folder / 'library.sqlite'}"
            found[name] = opened.enter_context(open_library(url, folder))
            add_views(found[name])
            for sql in STANDING[name]:
                raw_rows(url, sql)
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def library(libraries: dict[str, Library], dialect: str) -> Library:
    libraries[dialect].wire.clear()
    return libraries[dialect]


@pytest.fixture
def own_library(database_url: str, tmp_path: Path) -> Iterator[Library]:
    with open_library(database_url, tmp_path) as opened:
        yield opened


def on_both(sql: dict[str, list[str]]) -> list[Any]:
    return [pytest.param(name, each, id=f"{name}-{each}") for name in sql for each in sql[name]]


def refuses(library: Library, work: Callable[[Connection], Any], purpose: str | None = "lend") -> None:
    """It is refused before it is sent, and nothing comes back."""
    with ExitStack() as opened:
        if purpose is not None:
            opened.enter_context(library.privacy.purpose(purpose))
        connection = opened.enter_context(library.engine.connect())
        with pytest.raises(PrivkitError):
            work(connection)
    assert not library.wire.holds(b"planted")


@pytest.mark.parametrize("purpose", ["lend", "remind", None])
@pytest.mark.parametrize(("dialect", "sql"), on_both(ATTACKS))
def test_text_that_once_came_through_is_refused(library: Library, purpose: str | None, sql: str) -> None:
    refuses(library, lambda connection: connection.exec_driver_sql(sql), purpose)


@pytest.mark.parametrize(("dialect", "sql"), on_both(KEPT_FOR_EVER))
def test_what_a_purpose_may_read_is_not_put_where_no_rule_holds(library: Library, sql: str) -> None:
    refuses(library, lambda connection: connection.exec_driver_sql(sql))


@pytest.mark.parametrize(
    ("dialect", "sql", "given"),
    [
        ("sqlite", "SELECT $x('), phone FROM readers --')", {"x(')": 1}),
        ("postgresql", 'SELECT %(")s::text, phone FROM readers --")s', {'"': "1"}),
        ("postgresql", "SELECT %(')s::text, phone FROM readers --')s", {"'": "1"}),
        ("postgresql", "SELECT id %%(age)s FROM readers", {}),
    ],
)
def test_a_placeholder_hides_nothing(library: Library, sql: str, given: dict[str, Any]) -> None:
    refuses(library, lambda connection: connection.exec_driver_sql(sql, given), None)


LONGEST = "(SELECT max(phone) FROM readers)"
RAW = quoted_name(f"x, {LONGEST} AS y", quote=False)
BOOKS = Book.__table__
TEXTS = select(cast(Book.id, String).label("id")).cte("x")
BUILT: dict[str, Any] = {
    "a label that is not quoted": select(Book.id.label(RAW)),
    "a collation that is not quoted": select(collate(Book.city, RAW)),
    "a table's name that is not quoted": select(
        Table(quoted_name("readers AS x", quote=False), MetaData(), Column("id", Integer)).c.id
    ),
    "a column's name that is not quoted": select(
        Table("shelf_marks", MetaData(), Column(quoted_name(LONGEST, quote=False), String)).c[0]
    ),
    "text after a CTE": select(
        TEXTS.suffix_with(", y AS (SELECT phone AS id FROM readers) SELECT y.id FROM y UNION ALL").c.id
    ),
    "text before a CTE": select(TEXTS.prefix_with(f"{PHONES} UNION ALL").c.id),
    "text in an INSERT": insert(Book).prefix_with("INTO books (id, city) SELECT id + 100, phone FROM readers --"),
    "text in an UPDATE": update(Book).values(age=3).prefix_with(f"books SET city = {LONGEST} --"),
    "text in a DELETE": delete(Book).prefix_with(f"FROM books WHERE city = {LONGEST} --"),
    "text of a sample": select(BOOKS.tablesample(text(f"100) , {LONGEST} AS x TABLESAMPLE SYSTEM (100")).c.id),
    "text in RETURNING": insert(Book).values(id=201).returning(literal_column(LONGEST)),
    "text in VALUES": insert(Book).values(id=202, city=text(LONGEST)),
    "a view named as if it were privkit's": select(
        Table("privkit_view", MetaData(), Column("id", Integer), Column("phone", String)).c.phone
    ),
    "a delete through a view of privkit's": delete(Table("held", MetaData(), Column("id", Integer))),
    "a write through a view": update(Table("cities", MetaData(), Column("id", Integer), Column("city", String))).values(
        city="written"
    ),
    "text that deletes through a view of privkit's": text("DELETE FROM held"),
    "a table by text and a column of it": select(literal_column("phone")).select_from(table("readers")),
}
BUILT_FOR_POSTGRESQL: dict[str, Any] = {
    "the field of an extract()": select(extract(f"year FROM now()), {LONGEST}, extract(year", func.now())),
    "a function of another schema with a usual name": select(func.attic.lower(1)),
}


@pytest.mark.parametrize("name", BUILT)
def test_no_string_in_what_is_built_goes_by_unread(library: Library, name: str) -> None:
    refuses(library, lambda connection: connection.execute(BUILT[name]))


@pytest.mark.parametrize("dialect", ["postgresql"])
@pytest.mark.parametrize("name", BUILT_FOR_POSTGRESQL)
def test_no_string_in_what_is_built_for_postgresql_goes_by_unread(library: Library, name: str) -> None:
    refuses(library, lambda connection: connection.execute(BUILT_FOR_POSTGRESQL[name]))


DDL_ATTACKS = {
    "sqlite": [
        f"CREATE TABLE copied AS {PHONES}",
        f"CREATE TABLE copied AS /* */ {PHONES}",
        f"\ufeff{PHONES}",
        "ALTER TABLE readers RENAME TO others",
        f"CREATE TABLE empty_one (id int);/* */ {PHONES}",
    ],
    "postgresql": [
        f"CREATE TABLE copied AS {PHONES}",
        "CREATE TABLE copied AS TABLE readers",
        "CREATE TABLE copied (a) AS (VALUES ((SELECT max(phone) FROM readers)))",
        f"/* /* */ */ {PHONES}",
        f"--\r{PHONES}",
        f"DECLARE c CURSOR FOR {PHONES}",
        "FETCH ALL FROM c",
        f"PREPARE p AS {PHONES}",
        "ALTER TABLE readers RENAME TO others",
        "ALTER INDEX readers RENAME TO others",
    ],
}


@pytest.mark.parametrize(("dialect", "sql"), on_both(DDL_ATTACKS))
def test_ddl_neither_reads_rows_nor_takes_a_tables_name_away(library: Library, sql: str) -> None:
    refuses(library, lambda connection: connection.execute(DDL(sql)))


@pytest.mark.skipif(not hasattr(sqlalchemy, "CreateTableAs"), reason="SQLAlchemy 2.1 brought it")
def test_a_table_built_from_a_select_is_not_filled_with_what_is_not_needed(library: Library) -> None:
    refuses(library, lambda connection: connection.execute(sqlalchemy.CreateTableAs(select(Reader.phone), "copied")))


HIDDEN = aliased(Loan, name="privkit_loans")


@pytest.mark.parametrize("run", [lambda at, sql: Session(at).execute(sql), Connection.execute])
@pytest.mark.parametrize("sql", [select(HIDDEN.id), select(HIDDEN), select(Loan.__table__.alias("privkit_x").c.id)])
def test_an_alias_named_as_privkits_own_shows_no_hidden_rows(library: Library, run: Any, sql: Any) -> None:
    refused = pytest.raises(StatementRefused, match="alias")
    with library.privacy.purpose("remind"), library.engine.connect() as connection, refused:
        run(connection, sql)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_view_of_one_connection_alone_is_held_to_the_rule_there(library: Library) -> None:
    with library.privacy.purpose("remind"), library.engine.connect() as one, library.engine.connect() as other:
        one.execute(DDL(f"CREATE TEMP VIEW of_one AS {PHONES}"))
        other.execute(text("SELECT id FROM shelves")).all()
        library.wire.clear()
        with pytest.raises(StatementRefused):
            one.execute(text("SELECT * FROM of_one"))
        one.rollback()
    assert not library.wire.holds(b"planted")


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_view_is_seen_by_all_once_its_transaction_is_committed(library: Library) -> None:
    """Another connection had asked while it was not there yet."""
    with library.privacy.purpose("remind"), library.engine.connect() as one, library.engine.connect() as other:
        one.execute(DDL(f"CREATE VIEW of_all AS {PHONES}"))
        other.execute(text("SELECT id FROM shelves")).all()
        with pytest.raises(StatementRefused):
            one.execute(text("SELECT * FROM of_all"))
        one.commit()
        library.wire.clear()
        with pytest.raises(StatementRefused):
            other.execute(text("SELECT * FROM of_all"))
    assert not library.wire.holds(b"planted")


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_table_of_another_schema_is_not_taken_for_the_models(library: Library) -> None:
    with library.engine.connect() as connection:
        connection.execute(text("SET LOCAL search_path TO attic"))
        with pytest.raises(PrivkitError):
            connection.execute(text("SELECT reader_id FROM loans"))
    assert not library.wire.holds(b"planted")


def test_privkits_own_tables_are_never_written_by_a_name_in_escapes(library: Library) -> None:
    opened = library.privacy.unchecked("an attack")
    with library.privacy.purpose("remind"), opened, library.engine.connect() as connection:
        for sql in ('DELETE FROM U&"privkit\\005fhold"', "DELETE FROM held"):
            with pytest.raises(StatementRefused):
                connection.execute(text(sql))


WORDS = sorted({
    word.lower()
    for each in (Postgres, SQLite)
    for word in (*each.Tokenizer.KEYWORDS, *(kind.name for kind in each.Parser.NO_PAREN_FUNCTIONS))
    if word.isidentifier()
})  # fmt: skip


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_every_word_that_a_database_takes_for_a_column_is_read_as_one(library: Library, dialect: str) -> None:
    columns = ", ".join(f"""'found' AS "{word}\"""" for word in WORDS)
    made = f"CREATE TABLE words AS SELECT {columns}"
    seen, missed = 0, []
    connecting: Any = sqlite3.connect(":memory:") if dialect == "sqlite" else psycopg.connect(libpq(library.engine.url))
    with closing(connecting) as connection:
        connection.execute(made)
        for word in WORDS:
            for sql in (
                f"SELECT {word} FROM words",
                f"SELECT words.{word} FROM words",
                f"SELECT max({word}) FROM words",
            ):
                connection.execute("SAVEPOINT s")
                try:
                    found = connection.execute(sql).fetchall()
                except (sqlite3.Error, psycopg.Error):
                    found = []
                connection.execute("ROLLBACK TO s")
                if found == [("found",)]:
                    seen += 1
                    read = sqltext.read(sql, dialect)
                    if not (read.unresolved or read.may_mean("words", word)):
                        missed.append(sql)

    assert [] == missed
    assert seen > 500


HARMLESS = {
    "sqlite": [
        "ALTER TABLE shelf_marks RENAME TO shelf_notes",
        "SELECT EXISTS (SELECT * FROM readers)",
        "DELETE FROM sqlite_sequence",
        "SELECT name FROM sqlite_master WHERE type = 'table'",
        "SELECT id FROM books WHERE id % 2 = 0",
        "SELECT r.unmapped FROM books r",
        "SELECT j.city FROM (books b JOIN loans l ON l.id = b.id) AS j",
    ],
    "postgresql": [
        "ALTER TABLE shelf_marks RENAME TO shelf_notes",
        "SELECT EXISTS (SELECT * FROM readers)",
        "SELECT id FROM books WHERE id % 2 = 0",
        "SELECT j.city FROM (books b JOIN (SELECT id FROM readers) r ON r.id = b.id) AS j",
        "SELECT set_config('app.tenant', '7', true)",
        "NOTIFY c, 'select with values'",
        "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog",
        "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'select'",
        "COMMENT ON TABLE books IS 'those with values into'",
        "REFRESH MATERIALIZED VIEW shelf_counts",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY public.shelf_counts WITH DATA",
        "ALTER TABLE books VALIDATE CONSTRAINT positive",
        "ALTER TABLE books OWNER TO postgres",
        "ALTER TABLE books ENABLE ROW LEVEL SECURITY",
        "PREPARE TRANSACTION 'x'",
        "SELECT r.xmin, r.ctid FROM readers r",
        "SELECT pid, state FROM pg_stat_activity",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT city FROM books WHERE city ILIKE 'x\\_%' ESCAPE '\\'",
        "SELECT '[a-z]+$' AS x, '{\"a\": 1}'::jsonb ? 'a'",
    ],
}


@pytest.mark.parametrize(("dialect", "sql"), on_both(HARMLESS))
def test_what_touches_nothing_personal_reaches_the_database(library: Library, sql: str) -> None:
    """Whatever the database says of it: some name what is not there."""
    with library.engine.connect() as connection, suppress(DBAPIError):
        connection.execute(text(sql.replace(":", "\\:")))


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE noted (\"select\" text, at text DEFAULT 'as select')", "DROP TABLE noted"]
)
def test_ddl_with_words_of_a_query_in_its_names_is_sent(own_library: Library, sql: str) -> None:
    with own_library.engine.begin() as connection:
        connection.execute(DDL("CREATE TABLE IF NOT EXISTS noted (id int)") if "DROP" in sql else DDL(sql))
        connection.execute(DDL("DROP TABLE noted"))


def refused(library: Library) -> bool:
    with library.engine.connect() as connection:
        try:
            connection.execute(text(PHONES)).all()
        except PrivkitError:
            return True
    return False


def test_a_generator_that_opens_the_block_by_an_exit_stack_opens_nothing_for_its_caller(own_library: Library) -> None:
    def generator() -> Iterator[bool]:
        with ExitStack() as stack:
            stack.enter_context(own_library.privacy.unchecked("an attack"))
            yield refused(own_library)

    with own_library.privacy.purpose("remind"):
        started = generator()
        assert not next(started)
        assert refused(own_library)
        started.close()
        assert refused(own_library)


async def test_a_thread_that_asyncio_gives_the_context_to_is_not_in_the_block(own_library: Library) -> None:
    def work() -> bool:
        with own_library.privacy.purpose("remind"):
            return refused(own_library)

    with own_library.privacy.unchecked("an attack"):
        assert not work()
        assert await asyncio.to_thread(work)


def test_a_thread_that_takes_the_context_with_it_is_not_in_the_block(own_library: Library) -> None:
    seen: list[bool] = []

    def work() -> None:
        with own_library.privacy.purpose("remind"):
            seen.append(refused(own_library))

    with own_library.privacy.unchecked("an attack"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()

    assert [True] == seen
