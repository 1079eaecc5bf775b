"""``privacy.unchecked("why")`` opens SQL text that cannot be checked, nothing else, and not without evidence."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from privkit.errors import InvalidValue, PrivkitError, PurposeError, StatementRefused
from privkit.sqlalchemy.textual import LINES
from tests.databases import raw_rows
from tests.sqlalchemy.library import Library, Loan, Reader, add_views, open_library

PHONES = "SELECT phone FROM readers ORDER BY id"


@pytest.fixture
def library(database_url: str, tmp_path: Path) -> Iterator[Library]:
    with open_library(database_url, tmp_path) as opened:
        add_views(opened)
        yield opened


def run(library: Library, sql: str) -> list[Any]:
    with library.engine.connect() as connection:
        found = connection.execute(text(sql))
        return [tuple(row) for row in found] if found.returns_rows else []


def lines(library: Library) -> list[dict[str, Any]]:
    found = raw_rows(library.url, "SELECT body FROM privkit_ledger WHERE kind = 'unchecked' ORDER BY seq")
    return [json.loads(body) for (body,) in found]


@pytest.mark.parametrize(
    "sql",
    [
        PHONES,
        "SELECT phone FROM phones ORDER BY id",
        "SELECT phone FROM phones_of_phones ORDER BY id",
        "WITH x AS (SELECT id, phone AS p FROM readers) SELECT p FROM x ORDER BY id",
    ],
)
def test_text_that_no_rule_could_be_applied_to_runs_and_leaves_a_line(library: Library, sql: str) -> None:
    with library.privacy.purpose("remind"):
        with pytest.raises(StatementRefused):
            run(library, sql)
        with library.privacy.unchecked("the vendor's report"):
            assert [(f"planted phone {each}",) for each in (1, 2, 3)] == run(library, sql)

    (line,) = lines(library)
    assert "the vendor's report" == line["reason"]
    assert ["readers"] == line["tables"]
    assert 64 == len(line["statement"])
    assert library.privacy.verify_ledger(library.engine).count >= 1


def test_text_that_does_not_parse_runs_within_a_purpose(library: Library) -> None:
    sql = "PRAGMA no; EXPLAIN garble readers" if library.url.startswith("sqlite") else "DO $$ BEGIN PERFORM 1; END $$"
    with library.privacy.purpose("remind"), pytest.raises(StatementRefused, match="could not be understood"):
        run(library, sql)
    with library.privacy.purpose("remind"), library.privacy.unchecked("a job of the database's"):
        try:
            run(library, sql)
        except DBAPIError:
            assert library.url.startswith("sqlite")  # it was sent

    assert 1 == len(lines(library))


def test_a_purpose_still_has_to_need_what_is_touched(library: Library) -> None:
    with library.privacy.unchecked("the vendor's report"):
        for sql in (PHONES, "SELECT * FROM readers", "SELECT phone FROM phones"):
            for names in ([], ["lend"], ["count"]):
                with pytest.raises(PurposeError):
                    under(library, names, sql)
        with pytest.raises(PurposeError, match="without a purpose"):
            run(library, "DECLARE c CURSOR FOR SELECT * FROM readers")

    assert [] == lines(library)


def under(library: Library, names: list[str], sql: str) -> list[Any]:
    if not names:
        return run(library, sql)
    with library.privacy.purpose(*names):
        return run(library, sql)


def test_nothing_but_text_is_opened(library: Library) -> None:
    with library.privacy.unchecked("the vendor's report"), Session(library.engine) as session:
        with library.privacy.purpose("lend"), pytest.raises(PurposeError):
            session.execute(select(Reader.phone)).all()
        with pytest.raises(PurposeError):
            session.execute(select(Reader.city)).all()
        with library.privacy.purpose("remind"):
            session.add(Loan(id=9, reader_id=1, title="another"))
            session.flush()
            session.add(Reader(id=9, city="planted city 9"))
            with pytest.raises(PurposeError):
                session.flush()

    assert [] == lines(library)


def test_sealed_fields_stay_sealed(library: Library) -> None:
    before = raw_rows(library.url, "SELECT note FROM readers ORDER BY id")
    with library.privacy.purpose("lend", "remind"), library.privacy.unchecked("the vendor's report"):
        library.wire.clear()
        assert [] == [row for row in run(library, "SELECT note FROM readers") if b"planted" in bytes(row[0])]
        for sql in (
            "UPDATE readers SET note = 'planted note'",
            "UPDATE readers SET note = (SELECT note FROM readers WHERE id = 2)",
            "UPDATE readers SET note_ix = NULL",
            "UPDATE readers SET privkit_key = NULL",
            "DELETE FROM privkit_ledger",
        ):
            with pytest.raises(StatementRefused):
                run(library, sql)
        with library.engine.begin() as connection:
            connection.execute(text("UPDATE readers SET phone = 'written' WHERE id = 1"))

    assert before == raw_rows(library.url, "SELECT note FROM readers ORDER BY id")
    assert [("written",)] == raw_rows(library.url, "SELECT phone FROM readers WHERE id = 1")
    assert not library.wire.holds(b"planted note")


def test_what_a_statement_says_of_its_columns_is_still_held_to_the_rule(library: Library) -> None:
    statement = text("SELECT note FROM readers").columns(Reader.note)
    opened = library.privacy.unchecked("a hint")
    with library.privacy.purpose("lend"), opened, pytest.raises(StatementRefused), library.engine.connect() as one:
        one.execute(statement)


def test_a_view_that_was_made_unchecked_is_held_to_the_rule_outside(library: Library) -> None:
    with library.privacy.purpose("remind"):
        with library.privacy.unchecked("a view of the vendor's"), library.engine.begin() as connection:
            connection.execute(text("CREATE VIEW made AS SELECT id, phone FROM readers"))
            assert 3 == len(connection.execute(text("SELECT phone FROM made")).all())
        with pytest.raises(StatementRefused):
            run(library, "SELECT phone FROM made")


def test_a_hot_loop_leaves_one_line(library: Library) -> None:
    with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
        for each in range(50):
            run(library, f"SELECT phone FROM readers WHERE id = {each} AND phone <> 'planted {each}'")
    with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
        run(library, "SELECT phone FROM readers WHERE id = 5 AND phone <> 'x'")

    first, second = lines(library)
    assert first["statement"] == second["statement"]
    assert first["block"] != second["block"]


def test_a_block_of_many_statements_is_cut_off_with_a_last_line(library: Library) -> None:
    opened = library.privacy.unchecked("the vendor's report")
    with library.privacy.purpose("remind"), opened, library.engine.connect() as connection:
        for each in range(LINES + 5):
            connection.execute(text(f"SELECT phone AS p{'x' * each} FROM readers"))

    assert LINES + 1 == len(lines(library))
    assert lines(library)[-1]["more"] is True


def test_the_line_stands_when_the_transaction_is_rolled_back(library: Library) -> None:
    opened = library.privacy.unchecked("the vendor's report")
    with library.privacy.purpose("remind"), opened, library.engine.connect() as connection:
        connection.execute(text(PHONES)).all()
        connection.rollback()

    assert 1 == len(lines(library))


def test_a_statement_is_not_sent_where_the_line_cannot_be_written(library: Library) -> None:
    raw_rows(library.url, "ALTER TABLE privkit_ledger RENAME TO elsewhere")
    library.wire.clear()
    opened = library.privacy.unchecked("the vendor's report")
    with library.privacy.purpose("remind"), opened, pytest.raises(DBAPIError):
        run(library, PHONES)

    assert not library.wire.holds(b"planted")


def test_no_value_of_a_statement_is_in_its_line(library: Library) -> None:
    with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
        run(library, "SELECT id FROM readers WHERE phone = 'planted phone 1'")

    assert "planted" not in json.dumps(lines(library))


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, None, 5])
def test_a_reason_is_required(library: Library, reason: Any) -> None:
    with pytest.raises(InvalidValue, match="reason"):
        library.privacy.unchecked(reason)


def refused(library: Library) -> bool:
    try:
        run(library, PHONES)
    except PrivkitError:
        return True
    return False


def test_nested_blocks_end_one_by_one(library: Library) -> None:
    with library.privacy.purpose("remind"):
        block = library.privacy.unchecked("outer")
        with block:
            with library.privacy.unchecked("inner"):
                assert not refused(library)
            assert not refused(library)
            with block:
                assert not refused(library)
            assert not refused(library)
        assert refused(library)

    assert ["inner", "outer", "outer"] == [line["reason"] for line in lines(library)]


def test_an_error_ends_the_block(library: Library) -> None:
    with library.privacy.purpose("remind"):
        with pytest.raises(ZeroDivisionError), library.privacy.unchecked("the vendor's report"):
            raise ZeroDivisionError
        assert refused(library)


def test_a_suspended_generator_opens_nothing_for_its_caller(library: Library) -> None:
    def generator() -> Iterator[bool]:
        with library.privacy.unchecked("the vendor's report"):
            yield refused(library)
            yield refused(library)

    with library.privacy.purpose("remind"):
        started = generator()
        assert not next(started)
        assert refused(library)
        assert not next(started)
        started.close()
        assert refused(library)


async def test_a_suspended_async_generator_opens_nothing_for_its_caller(library: Library) -> None:
    async def generator() -> AsyncIterator[bool]:
        with library.privacy.unchecked("the vendor's report"):
            yield refused(library)
            yield refused(library)

    with library.privacy.purpose("remind"):
        started = generator()
        assert not await anext(started)
        assert refused(library)
        await asyncio.create_task(_close(started))
        assert refused(library)


async def _close(generator: Any) -> None:
    await generator.aclose()


def test_a_thread_is_not_in_the_block(library: Library) -> None:
    seen: list[bool] = []

    def look() -> None:
        with library.privacy.purpose("remind"):
            seen.append(refused(library))

    with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    assert [True] == seen


async def test_a_task_that_outlives_the_block_is_not_in_it(library: Library) -> None:
    ended = asyncio.Event()

    async def later() -> tuple[bool, bool]:
        with library.privacy.purpose("remind"):
            inside = refused(library)
            await ended.wait()
            return inside, refused(library)

    with library.privacy.unchecked("the vendor's report"):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
        assert not ended.is_set()
    ended.set()

    assert (False, True) == await task


async def test_tasks_that_share_a_block_leave_it_one_by_one(library: Library) -> None:
    block = library.privacy.unchecked("the vendor's report")

    async def work(turns: int) -> tuple[bool, bool]:
        with library.privacy.purpose("remind"):
            with block:
                for _ in range(turns):
                    await asyncio.sleep(0)
                inside = refused(library)
            return inside, refused(library)

    assert [(False, True)] * 3 == await asyncio.gather(work(3), work(1), work(2))


async def test_an_async_engine_leaves_a_line_too(library: Library) -> None:
    engine = create_async_engine(library.async_url)
    library.privacy.protect(engine)
    with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
        async with engine.connect() as connection:
            found = (await connection.execute(text(PHONES))).all()
    await engine.dispose()

    assert 3 == len(found)
    assert 1 == len(lines(library))


def test_the_check_of_a_database_counts_the_blocks(library: Library) -> None:
    assert [] == [each for each in library.privacy.check(library.engine) if "unchecked" in each.title]
    for _ in range(2):
        with library.privacy.purpose("remind"), library.privacy.unchecked("the vendor's report"):
            run(library, PHONES)
            run(library, "SELECT max(phone) FROM readers")
    (found,) = [each for each in library.privacy.check(library.engine) if "unchecked" in each.title]

    assert "2 blocks" in found.what
    assert "4 statements" in found.what
    assert "2026-01-01" in found.what
    assert "the vendor's report" in found.what
