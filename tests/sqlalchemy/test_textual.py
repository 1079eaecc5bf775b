"""SQL text is held to the purpose like everything else, and what nobody can judge is refused."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import DDL, Connection, MetaData, Table, column, func, select, table, text

from privkit.errors import PrivkitError, PurposeError, StatementRefused
from tests.databases import Server, raw_rows
from tests.sqlalchemy.library import Library, Reader, add_views, open_library

READS_PHONE = [
    "SELECT phone FROM readers",
    "SELECT 1, (SELECT phone FROM readers LIMIT 1)",
    "select R.PHONE from READERS as R",
    'SELECT "phone" FROM "readers"',
    "SELECT r.* FROM books b JOIN readers r ON r.id = b.id",
    "SELECT * FROM readers",
    "SELECT x.* FROM (SELECT * FROM readers) x",
    "WITH x AS (SELECT phone AS p FROM readers) SELECT p FROM x",
    "WITH x(p) AS (SELECT phone FROM readers) SELECT p FROM x",
    "SELECT id FROM books UNION SELECT length(phone) FROM readers",
    "SELECT id FROM readers ORDER BY phone",
    "SELECT id FROM readers WHERE phone = 'planted phone 1'",
    "SELECT count(*) FROM readers GROUP BY phone",
    "SELECT id FROM readers GROUP BY id HAVING max(phone) > 'a'",
    "SELECT count(DISTINCT phone) FROM readers",
    "SELECT row_number() OVER (ORDER BY phone) FROM readers",
    "SELECT CASE WHEN phone = 'x' THEN 1 ELSE 0 END FROM readers",
    "SELECT id FROM books WHERE EXISTS (SELECT 1 FROM readers WHERE readers.id = books.id AND phone > 'a')",
    "SELECT b.id FROM books b JOIN readers r ON r.phone = b.city",
    "SELECT b.id FROM (SELECT id, city AS phone FROM books) b JOIN readers USING (phone)",
    "SELECT count(*) FROM (SELECT city AS phone FROM books) b NATURAL JOIN readers",
    "SELECT 1; SELECT phone FROM readers",
    "SELECT /* phone */ id, phone -- of readers\nFROM readers",
    "SELECT id FROM phones",
    "SELECT id FROM phones_of_phones",
    "SELECT cities.id FROM cities JOIN phones ON cities.id = phones.id",
    "EXPLAIN SELECT phone FROM readers",
    "DELETE FROM readers WHERE phone = 'planted phone 1'",
    "UPDATE books SET city = (SELECT phone FROM readers WHERE readers.id = books.id)",
    "INSERT INTO books (id, city) SELECT id + 10, phone FROM readers",
    "INSERT INTO books SELECT id + 10, phone, age FROM readers",
    "CREATE TABLE copied AS SELECT * FROM readers",
    "CREATE VIEW copied AS SELECT phone FROM readers",
    "UPDATE readers SET phone = 'x'",
    "UPDATE readers SET shelf = 1 RETURNING phone",
    "UPDATE readers SET shelf = 1 RETURNING *",
    "INSERT INTO readers (id, phone) VALUES (9, 'x')",
    "INSERT INTO readers (id, city) VALUES (9, 'x') ON CONFLICT (id) DO UPDATE SET phone = 'x'",
    "ALTER TABLE readers RENAME TO others",
    "ALTER TABLE readers RENAME COLUMN phone TO other",
]
READS_PHONE_IN = {
    "sqlite": [
        "SELECT r.'phone' FROM readers r",
        "SELECT 'readers'.'phone' FROM readers",
        "SELECT phone FROM 'readers'",
        "SELECT [phone] FROM [readers]",
        "SELECT `phone` FROM `readers`",
        "SELECT readers.id FROM readers JOIN (SELECT city AS phone FROM books) USING ('phone')",
        "SELECT id /* /* */ , phone FROM readers -- */",
        "VACUUM INTO 'planted.sqlite'",
        "EXPLAIN QUERY PLAN SELECT phone FROM readers",
        "REPLACE INTO readers (id, phone) VALUES (1, 'x')",
        "CREATE TRIGGER t AFTER UPDATE ON readers BEGIN INSERT INTO books (city) VALUES (new.phone); END",
        "SELECT data FROM sqlite_dbpage",
        "CREATE TEMP VIEW copied AS SELECT phone FROM readers",
    ],
    "postgresql": [
        'SELECT phone FROM public."readers"',
        'SELECT phone FROM U&"\\0072eaders"',
        "TABLE readers",
        "SELECT count(*) FROM (TABLE readers) x(a, b, c)",
        "SELECT r FROM readers r",
        "SELECT readers::text FROM readers",
        "SELECT row_to_json(r) FROM readers r",
        "SELECT (r).phone FROM readers r",
        "SELECT phone(readers) FROM readers",
        "SELECT b FROM readers AS r(a, b, c, d, e, f, g)",
        "SELECT x.f FROM readers r, LATERAL (SELECT r) x(f)",
        "SELECT E'\\'', phone FROM readers --'",
        "SELECT $tag$ ' $tag$, phone FROM readers --'",
        "SELECT id /* /* */ */ , phone FROM readers",
        "SELECT DISTINCT ON (phone) id FROM readers",
        "SELECT id INTO copied FROM readers WHERE phone > 'a'",
        "SELECT * INTO copied FROM readers",
        "COPY readers TO STDOUT",
        "COPY (SELECT phone FROM readers) TO STDOUT",
        "COPY readers FROM STDIN",
        "DECLARE c CURSOR FOR SELECT phone FROM readers",
        "PREPARE p AS SELECT phone FROM readers",
        "EXECUTE p",
        "DO $$ BEGIN EXECUTE 'UPDATE rea' || 'ders SET phone = 1'; END $$",
        "CALL anything()",
        "CREATE FUNCTION f() RETURNS SETOF text LANGUAGE sql AS $$ SELECT phone FROM readers $$",
        "EXPLAIN (ANALYZE, VERBOSE) SELECT id FROM readers WHERE phone = 'planted phone 1'",
        "WITH x AS (UPDATE readers SET shelf = 1 RETURNING *) SELECT count(*) FROM x",
        "MERGE INTO readers r USING books b ON r.id = b.id WHEN MATCHED THEN UPDATE SET phone = b.city",
        "DELETE FROM books USING readers WHERE phone = 'planted phone 1'",
        "SELECT query_to_xml('SELECT phone FROM rea' || 'ders', true, false, '')",
        "SELECT table_to_xml('rea' || 'ders', true, false, '')",
        "SELECT * FROM ts_stat('SELECT phone FROM readers')",
        "SELECT most_common_vals FROM pg_stats",
        "SELECT phone FROM attic.hidden_view",
        "SELECT phone FROM stored_view",
        "SELECT phone FROM readers_2026",
        "SELECT all_phones()",
        "SELECT * FROM all_phones()",
        "SELECT public.through()",
        "SELECT any_table('rea' || 'ders')",
    ],
}
OTHERS = [
    "SELECT id, shelf FROM readers",
    "SELECT count(*) FROM readers",
    "SELECT b.* FROM books b JOIN readers r ON r.id = b.id",
    "SELECT b.city AS phone, b.age FROM books b, readers r WHERE r.id = b.id",
    "SELECT * FROM books",
    "SELECT id, shelf FROM shelves",
    "WITH x(a) AS (SELECT id FROM readers) SELECT a FROM x",
    "EXPLAIN SELECT id FROM readers",
    "UPDATE readers SET shelf = 5 WHERE id = 1",
    "UPDATE books SET city = 'x' WHERE id = 1",
    "DELETE FROM readers WHERE id = 99",
    "SELECT 'phone' FROM books",
]
OTHERS_IN = {
    "sqlite": ["PRAGMA table_info(readers)", "PRAGMA foreign_keys = ON"],
    "postgresql": [
        "SELECT twice(id) FROM readers",
        "SET LOCAL lock_timeout = '5s'",
        "SHOW server_version",
        "SELECT 'phone' FROM readers",
        "LOCK TABLE readers IN SHARE MODE",
        "SELECT relname FROM pg_class WHERE relname = 'readers'",
        "VALUES (1, 2)",
    ],
}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory, pg_server: Server) -> Iterator[dict[str, Library]]:
    with ExitStack() as opened:
        found = {}
        for name in READS_PHONE_IN:
            folder = tmp_path_factory.mktemp(name)
            database = opened.enter_context(pg_server.database())
            url = pg_server.url(database) if name == "postgresql" else f"sqlite:///{folder / 'library.sqlite'}"
            found[name] = opened.enter_context(open_library(url, folder))
            add_views(found[name])
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def library(libraries: dict[str, Library], dialect: str) -> Library:
    libraries[dialect].wire.clear()
    return libraries[dialect]


def forms(common: list[str], own: dict[str, list[str]]) -> list[Any]:
    """Every form on the databases that know it."""
    return [pytest.param(name, sql, id=f"{name}-{sql}") for name in own for sql in (*common, *own[name])]


def by_text(connection: Connection, sql: str) -> Any:
    return connection.execute(text(sql.replace(":", "\\:")))


def by_driver(connection: Connection, sql: str) -> Any:
    return connection.exec_driver_sql(sql)


def run(library: Library, how: Callable[[Connection, str], Any], sql: str) -> list[Any]:
    with library.engine.connect() as connection:
        found = how(connection, sql)
        return list(found) if found.returns_rows else []


@pytest.mark.parametrize("how", [by_text, by_driver])
@pytest.mark.parametrize("purpose", ["lend", "remind", None])
@pytest.mark.parametrize(("dialect", "sql"), forms(READS_PHONE, READS_PHONE_IN))
def test_text_that_may_touch_a_field_it_should_not_is_refused(
    library: Library, how: Callable[..., Any], purpose: str | None, sql: str
) -> None:
    before = raw_rows(library.url, "SELECT * FROM readers ORDER BY id")
    library.wire.clear()
    if purpose is None:
        with pytest.raises(PrivkitError):
            run(library, how, sql)
    else:
        with library.privacy.purpose(purpose), pytest.raises(PrivkitError):
            run(library, how, sql)

    assert before == raw_rows(library.url, "SELECT * FROM readers ORDER BY id")
    assert not library.wire.holds(b"planted")


@pytest.mark.parametrize("how", [by_text, by_driver])
@pytest.mark.parametrize(("dialect", "sql"), forms(OTHERS, OTHERS_IN))
def test_text_that_touches_nothing_personal_is_sent(library: Library, how: Callable[..., Any], sql: str) -> None:

    run(library, how, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT city FROM readers ORDER BY id",
        "SELECT r.city FROM readers r WHERE r.age < 100 ORDER BY r.id",
        "SELECT city FROM cities ORDER BY id",
        "WITH x AS (SELECT id, city FROM readers) SELECT city FROM x ORDER BY id",
    ],
)
def test_text_may_touch_what_the_purpose_needs_exactly_and_for_ever(library: Library, sql: str) -> None:
    with library.privacy.purpose("lend"):
        assert [(f"planted city {each}",) for each in (1, 2, 3)] == run(library, by_text, sql)
    with (
        library.privacy.purpose("remind"),
        pytest.raises(PurposeError, match=r"readers\.city is not needed for 'remind'"),
    ):
        run(library, by_text, sql)
    with pytest.raises(PurposeError, match="no purpose is set"):
        run(library, by_text, sql)


def test_text_does_not_see_exactly_what_a_purpose_may_see_coarsely(library: Library) -> None:
    with library.privacy.purpose("lend"):
        assert 3 == len(run(library, by_text, "SELECT born FROM readers"))
    with library.privacy.purpose("count"), pytest.raises(PurposeError, match="lower precision"):
        run(library, by_text, "SELECT born FROM readers")


def test_a_refusal_says_why_and_how_to_go_on(library: Library) -> None:
    with library.privacy.purpose("remind"), pytest.raises(StatementRefused) as caught:
        run(library, by_text, "SELECT phone FROM readers WHERE phone = 'planted phone 1'")

    assert "readers.phone" in str(caught.value)
    assert "expire" in str(caught.value)
    assert "privacy.unchecked(" in str(caught.value)
    assert "planted" not in str(caught.value)


def test_bound_parameters_of_every_style_are_understood(library: Library) -> None:
    with library.engine.connect() as connection:
        assert 3 == connection.scalar(text("SELECT id FROM readers WHERE id = :phone"), {"phone": 3})
        found = connection.execute(text("SELECT id FROM readers WHERE id IN (:one, :two)"), {"one": 1, "two": 2}).all()
        assert 2 == len(found)
        style = connection.dialect.paramstyle
        sql, given = ("id = ?", (3,)) if style == "qmark" else ("id = %(id)s", {"id": 3})
        assert [(3,)] == connection.exec_driver_sql(f"SELECT id FROM readers WHERE {sql}", given).all()  # type: ignore[arg-type]
        with pytest.raises(PrivkitError):
            connection.exec_driver_sql(f"SELECT phone FROM readers WHERE {sql}", given)  # type: ignore[arg-type]


def test_unknown_tables_and_functions_of_a_core_statement_are_held_to_the_rule(library: Library) -> None:
    reflected = Table("phones", MetaData(), autoload_with=library.engine)
    statements = [select(table("phones", column("id"))), select(reflected), select(reflected.c.id)]
    if library.engine.dialect.name == "postgresql":
        statements += [
            select(func.all_phones()),
            select(func.query_to_xml("SELECT phone FROM readers", True, False, "")),
            select(Reader.id, func.any_table("readers")),
            select(func.public.through()),
        ]
    for statement in statements:
        with library.privacy.purpose("remind"), library.engine.connect() as connection:
            library.wire.clear()
            with pytest.raises(PrivkitError):
                connection.execute(statement).all()
            assert not library.wire.holds(b"planted")


@pytest.mark.parametrize("who", ["this engine", "another program"])
def test_a_view_that_is_made_later_under_a_known_name_is_seen(sqlite_url: str, tmp_path: Path, who: str) -> None:
    """At once where the engine made it, and otherwise when keys would be forgotten too."""
    with open_library(sqlite_url, tmp_path) as library, library.privacy.purpose("remind"):
        with library.engine.begin() as connection:
            connection.execute(text("CREATE TABLE names (id INTEGER)"))
            assert [] == connection.execute(text("SELECT * FROM names")).all()
            connection.execute(text("DROP TABLE names"))
            assert [] == connection.execute(text("SELECT * FROM books WHERE id > 9")).all()
        view = "CREATE VIEW names AS SELECT id, phone FROM readers"
        if who == "this engine":
            with library.engine.begin() as connection:
                connection.execute(DDL(view))
        else:
            raw_rows(sqlite_url, view)
            library.privacy.guard.keys.max_age = timedelta(0)
        with library.engine.connect() as connection, pytest.raises(StatementRefused):
            connection.execute(text("SELECT * FROM names"))


def test_the_parser_logs_no_statement(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(PrivkitError):
        run(library, by_driver, "DECLARE c CURSOR FOR SELECT 'planted words' FROM readers")

    assert "planted" not in caplog.text
