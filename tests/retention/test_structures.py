"""Whatever the rows are tied to: lists, circles, composite keys, partitions, inheritance, triggers and views."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    DateTime,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    column,
    create_engine,
    event,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Delete,
    FileKeyring,
    NotPersonal,
    Personal,
    Privacy,
    Pseudonymise,
    data_subject,
    events,
    expire_row,
    not_personal,
    retention,
)
from privkit.errors import PlanError
from privkit.purposes import internally
from privkit.retention import Limits, Plan, Run
from privkit.sqlalchemy import due, references
from tests.databases import raw_rows
from tests.retention.fleet import fleet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1)
POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  reading: {description: "Show it", legal_basis: contract, keep: {for: P30D, after: ended}}
"""


Text = Annotated[str | None, Personal("user.content", purposes={"reading"}, seal=False)]


class Lists(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "ended_at", because="row id and event time")
class Entry(Lists):
    """A list: each entry names the one before it."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    before_id: Mapped[Annotated[int | None, NotPersonal("row id")]] = mapped_column(ForeignKey("entries.id"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


class Trees(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "root_id", "ended_at", because="row ids and event time")
class Reply(Trees):
    """A tree whose root names itself, as its link may not be empty."""

    __tablename__ = "replies"
    id: Mapped[int] = mapped_column(primary_key=True)
    root_id: Mapped[int] = mapped_column(ForeignKey("replies.id"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


class Copies(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "copy_of", "ended_at", because="row ids and event time")
class Note(Copies):
    """A link that may be emptied in rows that stay: its declaration says so."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    copy_of: Mapped[int | None] = mapped_column(ForeignKey("notes.id", ondelete="SET NULL"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


class Circles(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "first_id", "ended_at", because="row ids and event time")
class Thread(Circles):
    __tablename__ = "threads"
    id: Mapped[str] = mapped_column(primary_key=True)
    first_id: Mapped[int | None] = mapped_column(ForeignKey("posts.id", use_alter=True, name="thread_first"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "thread_id", "ended_at", because="row ids and event time")
class Post(Circles):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    thread_id: Mapped[str] = mapped_column(ForeignKey("threads.id"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


def service(base: Any, url: str, folder: Path, *annotated: Any) -> tuple[Privacy, Engine]:
    """Make the tables in a database that checks foreign keys. ``annotated``: classes whose text is marked here."""
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    privacy = Privacy(folder / "policy.yaml", base, FileKeyring.create(folder / "keys.json"), clock=lambda: NOW)
    for model in annotated:
        privacy.annotate(model, text=Personal("user.content", purposes={"reading"}, seal=False))
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda driver, record: driver.execute("PRAGMA foreign_keys = ON"))
    privacy.protect(engine)
    base.metadata.create_all(engine)
    return privacy, engine


@pytest.fixture(params=[None, 1], ids=["one batch", "a batch a row"])
def batch(request: pytest.FixtureRequest) -> int | None:
    """How many rows go into a transaction."""
    found: int | None = request.param
    return found


def store(privacy: Privacy, engine: Engine, model: Any, link: str, rows: Sequence[tuple[Any, Any, bool]]) -> None:
    """Store rows of (key, link, whether it ended)."""
    values = [
        {
            next(iter(model.__table__.primary_key)).key: key,
            link: to,
            "text": "t",
            "ended_at": LONG_AGO if ended else None,
        }
        for key, to, ended in rows
    ]
    with privacy.purpose("reading"), engine.begin() as connection:
        connection.execute(insert(model), values)


def counts(plan: Plan, name: str) -> tuple[int, int]:
    (step,) = [each for each in plan.steps if each.name == name]
    assert step.refused is None
    return step.due, step.blocked


def purge(privacy: Privacy, engine: Engine, **how: Any) -> tuple[Plan, Run]:
    """Purge what is due; what the plan counts is what the run does."""
    plan = privacy.plan(engine)
    run = privacy.purge(engine, plan, yes_this_many=plan.due, **how)
    if run.ok:
        assert [(each.step.name, each.step.due) for each in run.outcomes] == [
            (each.step.name, each.done) for each in run.outcomes
        ]
    return plan, run


def test_b11_a_list_of_which_all_is_due_goes_in_one_run(database_url: str, tmp_path: Path, batch: int | None) -> None:
    privacy, engine = service(Lists, database_url, tmp_path)
    store(privacy, engine, Entry, "before_id", [(number, number - 1 or None, True) for number in range(1, 41)])
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "entries") == (40, 0)
    assert run.ok
    assert raw_rows(database_url, "SELECT id FROM entries") == []
    engine.dispose()


def test_b11_what_rows_that_stay_refer_to_stays_however_far_away(database_url: str, tmp_path: Path) -> None:
    """Of 20 entries the even ones are due; only those after the last that stays go."""
    privacy, engine = service(Lists, database_url, tmp_path)
    rows = [(number, number - 1 or None, number % 2 == 0) for number in range(1, 21)]
    store(privacy, engine, Entry, "before_id", [*rows, (21, 20, True), (22, 20, True)])
    plan, run = purge(privacy, engine)
    assert counts(plan, "entries") == (3, 9)
    assert run.ok
    assert raw_rows(database_url, "SELECT max(id), count(*), count(before_id) FROM entries") == [(19, 19, 18)]
    engine.dispose()


def test_b11_a_circle_of_two_rows_and_one_that_names_itself_go(
    database_url: str, tmp_path: Path, batch: int | None
) -> None:
    privacy, engine = service(Lists, database_url, tmp_path)
    store(
        privacy,
        engine,
        Entry,
        "before_id",
        [(1, None, True), (2, 1, True), (3, 3, True), (4, None, False), (5, 5, False)],
    )
    raw_rows(database_url, "UPDATE entries SET before_id = 2 WHERE id = 1")
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "entries") == (3, 0)
    assert run.ok
    assert raw_rows(database_url, "SELECT id FROM entries ORDER BY id") == [(4,), (5,)]
    engine.dispose()


def test_b11_links_that_may_not_be_empty_go_with_what_they_name(
    database_url: str, tmp_path: Path, batch: int | None
) -> None:
    """A tree, a circle, and a tree of which one reply stays."""
    privacy, engine = service(Trees, database_url, tmp_path)
    tree = [(1, 1, True), (2, 1, True), (3, 2, True), (4, 4, True), (5, 4, True), (6, 6, True), (7, 6, False)]
    store(privacy, engine, Reply, "root_id", tree)
    raw_rows(database_url, "UPDATE replies SET root_id = 5 WHERE id = 4")
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "replies") == (5, 1)
    assert run.ok
    assert raw_rows(database_url, "SELECT id FROM replies ORDER BY id") == [(6,), (7,)]
    engine.dispose()


def test_b11_a_link_of_a_row_that_stays_is_emptied_where_its_declaration_says_so(
    database_url: str, tmp_path: Path
) -> None:
    privacy, engine = service(Copies, database_url, tmp_path)
    store(privacy, engine, Note, "copy_of", [(1, None, True), (2, 1, False), (3, 1, True), (4, 4, True), (5, 2, False)])
    plan, run = purge(privacy, engine, batch=1)
    assert counts(plan, "notes") == (3, 0)
    assert run.ok
    assert raw_rows(database_url, "SELECT id, copy_of FROM notes ORDER BY id") == [(2, None), (5, 2)]
    engine.dispose()


def test_b11_a_circle_over_two_tables_goes_and_one_with_a_row_that_stays_is_kept_whole(
    database_url: str, tmp_path: Path, batch: int | None
) -> None:
    privacy, engine = service(Circles, database_url, tmp_path)
    store(privacy, engine, Thread, "first_id", [("gone", None, True), ("kept", None, True), ("new", None, False)])
    posts = [
        (1, "gone", True),
        (2, "gone", True),
        (3, "kept", True),
        (4, "kept", False),
        (5, "new", True),
        (6, "new", True),
    ]
    store(privacy, engine, Post, "thread_id", posts)
    raw_rows(database_url, "UPDATE threads SET first_id = CASE id WHEN 'gone' THEN 1 WHEN 'kept' THEN 3 ELSE 5 END")
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "threads") == (1, 1)
    assert counts(plan, "posts") == (3, 2)
    assert run.ok
    assert raw_rows(database_url, "SELECT id, first_id FROM threads ORDER BY id") == [("kept", 3), ("new", 5)]
    assert raw_rows(database_url, "SELECT id FROM posts ORDER BY id") == [(3,), (4,), (5,)]
    engine.dispose()


Graph = tuple[list[tuple[int | None, bool]], list[tuple[int, bool]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Threads (their first post, whether they ended) and posts (their thread, whether they ended), numbered from 0."""
    threads, posts = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    first = st.none() | st.integers(0, posts - 1) if posts else st.none()
    return (
        draw(st.lists(st.tuples(first, st.booleans()), min_size=threads, max_size=threads)),
        draw(st.lists(st.tuples(st.integers(0, threads - 1), st.booleans()), min_size=posts, max_size=posts)),
    )


def going(graph: Graph) -> set[tuple[str, int]]:
    """What no row that stays refers to, found step by step."""
    threads, posts = graph
    links = {("threads", n): ("posts", first) for n, (first, _) in enumerate(threads) if first is not None}
    links |= {("posts", n): ("threads", thread) for n, (thread, _) in enumerate(posts)}
    found = {("threads", n) for n, (_, ended) in enumerate(threads) if ended}
    found |= {("posts", n) for n, (_, ended) in enumerate(posts) if ended}
    while kept := {to for source, to in links.items() if source not in found and to in found}:
        found -= kept
    return found


def test_b11_in_any_graph_of_two_tables_what_goes_is_what_no_row_that_stays_refers_to(
    sqlite_url: str, tmp_path: Path
) -> None:
    privacy, engine = service(Circles, sqlite_url, tmp_path)
    when = {True: "'2020-01-01 00:00:00.000000'", False: "NULL"}

    @settings(max_examples=25, deadline=None)
    @given(graphs())
    def holds(graph: Graph) -> None:
        statements = ["DELETE FROM threads", "DELETE FROM posts"]
        for number, (first, ended) in enumerate(graph[0]):
            to = "NULL" if first is None else first
            statements.append(f"INSERT INTO threads VALUES ('{number}', {to}, 't', {when[ended]})")
        for number, (thread, ended) in enumerate(graph[1]):
            statements.append(f"INSERT INTO posts VALUES ({number}, '{thread}', 't', {when[ended]})")
        for statement in statements:
            raw_rows(sqlite_url, statement)
        found = set()
        with internally(), engine.connect() as connection:
            for model in (Thread, Post):
                table = model.__table__
                chosen = due.deletable(privacy.guard, table, lambda: NOW)
                found |= {(table.name, int(key)) for key in connection.scalars(select(table.c.id).where(chosen))}
        assert going(graph) == found

    holds()
    engine.dispose()


class Tight(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "other_id", "ended_at", because="row ids and event time")
class Left(Tight):
    __tablename__ = "lefts"
    id: Mapped[int] = mapped_column(primary_key=True)
    other_id: Mapped[int] = mapped_column(
        ForeignKey("rights.id", use_alter=True, name="left_right", deferrable=True, initially="DEFERRED")
    )
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "other_id", "ended_at", because="row ids and event time")
class Right(Tight):
    __tablename__ = "rights"
    id: Mapped[int] = mapped_column(primary_key=True)
    other_id: Mapped[int] = mapped_column(ForeignKey("lefts.id", deferrable=True, initially="DEFERRED"))
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


def test_b11_a_circle_in_which_no_reference_may_be_empty_is_refused_with_the_way_out(
    database_url: str, tmp_path: Path
) -> None:
    privacy, engine = service(Tight, database_url, tmp_path)
    values = {"id": 1, "other_id": 1, "text": "t", "ended_at": LONG_AGO}
    with privacy.purpose("reading"), engine.begin() as connection:
        for model in (Left, Right):
            connection.execute(insert(model), [values])
    plan, run = purge(privacy, engine)
    refused = {step.name: step.refused or "" for step in plan.steps if step.due}
    assert set(refused) == {"lefts", "rights"}
    assert all("make one column nullable" in why for why in refused.values())
    assert (run.ok, run.done) == (False, 0)
    assert raw_rows(database_url, "SELECT count(*) FROM lefts JOIN rights ON lefts.id = rights.id") == [(1,)]
    engine.dispose()


class Keyed(DeclarativeBase): ...


@events(ended="ended")
@expire_row(Delete())
@not_personal("day", "number", "ended", because="key and event time")
class Shift(Keyed):
    __tablename__ = "Shift Plan"
    day: Mapped[date] = mapped_column("Day", primary_key=True)
    number: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    text: Mapped[Text] = mapped_column("select")
    ended: Mapped[datetime | None] = mapped_column("Ended At")


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("day", "number", "line", "before", "ended_at", because="key and event time")
class Line(Keyed):
    """A list by a composite key."""

    __tablename__ = "lines"
    day: Mapped[date] = mapped_column(primary_key=True)
    number: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    before: Mapped[int | None]
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["day", "number"], ["Shift Plan.Day", "Shift Plan.number"]),
        ForeignKeyConstraint(["day", "number", "before"], ["lines.day", "lines.number", "lines.line"]),
    )


def test_keys_of_several_columns_of_any_type_under_any_name(
    database_url: str, tmp_path: Path, batch: int | None
) -> None:
    """A shift with a line that stays is kept, and so is the line before that one."""
    privacy, engine = service(Keyed, database_url, tmp_path)
    days, number = [date(2020, 1, day) for day in (1, 2)], uuid.UUID(int=7)
    ended = {"ended_at": LONG_AGO}
    with privacy.purpose("reading"), engine.begin() as connection:
        shifts = [{"Day": day, "number": number, "select": "t", "Ended At": LONG_AGO} for day in days]
        connection.execute(insert(Shift.__table__), shifts)
        lines = [
            {"day": day, "number": number, "line": line, "before": line - 1 or None, "text": "t", **ended}
            for day in days
            for line in (1, 2, 3)
        ]
        lines[4]["ended_at"] = None
        connection.execute(insert(Line), lines)
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "lines") == (4, 1)
    assert counts(plan, "Shift Plan") == (1, 1)
    assert run.ok
    assert raw_rows(database_url, "SELECT line FROM lines ORDER BY line") == [(1,), (2,)]
    assert raw_rows(database_url, 'SELECT count(*) FROM "Shift Plan"') == [(1,)]
    engine.dispose()


class Parted(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "region", "ended_at", because="key and event time")
class Visit(Parted):
    """The same id in two partitions names two rows."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]
    __table_args__ = {"postgresql_partition_by": "LIST (region)"}


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "region", "ended_at", because="key and event time")
class Hit(Parted):
    """The database has no key that tells its rows apart, nor has the model."""

    __table__ = Table(
        "hits",
        Parted.metadata,
        Column("id", Integer),
        Column("region", String),
        Column("text", String),
        Column("ended_at", DateTime),
        postgresql_partition_by="LIST (region)",
    )
    __mapper_args__ = {"primary_key": [__table__.c.id, __table__.c.region]}


@pytest.mark.parametrize("batch", [5, None])
def test_b16_rows_of_other_partitions_are_not_met_and_a_table_without_a_key_is_refused(
    pg_url: str, tmp_path: Path, batch: int | None
) -> None:
    """In each partition the rows lie in the same places, and in one of them half are due."""
    privacy, engine = service(Parted, pg_url, tmp_path, Hit)
    for table in ("visits", "hits"):
        for region, ended in (("a", "'2020-01-01'"), ("b", "CASE WHEN id % 2 = 0 THEN timestamp '2020-01-01' END")):
            raw_rows(pg_url, f"CREATE TABLE {table}_{region} PARTITION OF {table} FOR VALUES IN ('{region}')")
            chosen = f"SELECT id, '{region}', 't', {ended} FROM generate_series(1, 20) AS id"
            raw_rows(pg_url, f"INSERT INTO {table} (id, region, text, ended_at) {chosen}")
    plan, run = purge(privacy, engine, batch=batch)
    assert counts(plan, "visits") == (30, 0)
    (hits,) = [step for step in plan.steps if step.name == "hits"]
    assert (hits.refused or "").startswith("hits has no primary key and no unique key")
    assert not run.ok
    left = "SELECT region, count(*), count(ended_at) FROM {} GROUP BY region ORDER BY region"
    assert raw_rows(pg_url, left.format("visits")) == [("b", 10, 0)]
    assert raw_rows(pg_url, left.format("hits")) == [("a", 20, 20), ("b", 20, 10)]
    engine.dispose()


@pytest.mark.parametrize(
    ("index", "key"),
    [
        (Index("whole", "code", unique=True), True),
        (Index("plain", "code"), False),
        (Index("nullable", "code", "other", unique=True), False),
        (Index("partial", "code", unique=True, postgresql_where=text("code > 'm'")), False),
        (Index("partial_lite", "code", unique=True, sqlite_where=text("code > 'm'")), False),
        (Index("expression", func.lower(column("code")), unique=True), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_b17_a_unique_index_tells_rows_apart_where_it_covers_them_all(index: Index, key: bool) -> None:
    table = Table("t", MetaData(), Column("code", String, nullable=False), Column("other", String), index)
    if key:
        assert [each.name for each in references.key_columns(table)] == ["code"]
    else:
        with pytest.raises(PlanError, match="no unique key without NULLs"):
            references.key_columns(table)


class Firm(DeclarativeBase): ...


@not_personal("id", because="row id")
class Company(Firm):
    __tablename__ = "companies"
    id: Mapped[int] = mapped_column(primary_key=True)


@data_subject
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "kind", "ended_at", because="row id, class and event time")
class Employee(Firm):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    ended_at: Mapped[datetime | None]
    text: Mapped[Text]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


@not_personal("id", "company_id", because="keys")
class Engineer(Employee):
    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    company_id: Mapped[int] = mapped_column(ForeignKey("companies.id", ondelete="CASCADE"))
    notes: Mapped[Text]
    __mapper_args__ = {"polymorphic_identity": "engineer"}


def test_b19_both_rows_of_a_subclass_go_and_what_a_cascade_left_of_one_is_told_and_purged(
    database_url: str, tmp_path: Path
) -> None:
    """One company takes the row of an engineer with it; of the two others, and an employee, one has not left."""
    privacy, engine = service(Firm, database_url, tmp_path)
    with privacy.purpose("reading"), Session(engine) as session:
        session.add_all([Company(id=1), Company(id=2)])
        session.flush()
        for number in (1, 2, 3):
            ended = LONG_AGO if number < 3 else None
            session.add(Engineer(id=number, company_id=number // 2 + 1, text="t", notes="n", ended_at=ended))
        session.add(Employee(id=4, text="t", ended_at=LONG_AGO))
        session.commit()
    with internally(), engine.begin() as connection:
        connection.execute(text("DELETE FROM companies WHERE id = 1"))
    plan, run = purge(privacy, engine)
    assert counts(plan, "engineers") == (1, 0)
    assert counts(plan, "employees") == (3, 0)
    (step,) = [each for each in plan.steps if each.name == "employees"]
    assert "1 of kind engineer has no row in engineers" in step.warnings
    assert run.ok
    assert raw_rows(database_url, "SELECT id FROM employees") == [(3,)]
    assert raw_rows(database_url, "SELECT id FROM engineers") == [(3,)]
    assert raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL") == [(1,)]
    engine.dispose()


def keep_row(url: str, table: str, condition: str) -> None:
    """Make a trigger that lets a DELETE of some rows pass without deleting them."""
    if url.startswith("sqlite"):
        body = f"BEFORE DELETE ON {table} WHEN {condition} BEGIN SELECT RAISE(IGNORE); END"
        raw_rows(url, f"CREATE TRIGGER keep {body}")
        return
    body = f"$$ BEGIN IF {condition} THEN RETURN NULL; END IF; RETURN OLD; END $$"
    raw_rows(url, f"CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS {body}")
    raw_rows(url, f"CREATE TRIGGER keep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()")


def test_b25_a_row_that_a_trigger_keeps_in_silence_keeps_its_key_and_makes_the_run_red(
    database_url: str, tmp_path: Path
) -> None:
    engine, guard = fleet(database_url, tmp_path, leavers=3)
    keep_row(database_url, "drivers", "OLD.id = 11")
    with engine.connect() as connection:
        plan = retention.make(guard, connection)
    (step,) = [each for each in plan.steps if each.name == "drivers"]
    assert (step.due, step.warnings) == (4, ("fires the trigger keep", *step.warnings[1:]))
    run = retention.purge(guard, engine, plan, limits=Limits(lock_timeout=0.01))
    assert (run.done, run.overdue, run.ok) == (3, 1, False)
    assert raw_rows(database_url, "SELECT id FROM drivers ORDER BY id") == [(2,), (11,)]
    assert raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL") == [(2,)]
    engine.dispose()


def test_a_view_that_a_trigger_makes_writable_is_refused_and_the_others_go(database_url: str, tmp_path: Path) -> None:
    privacy, engine = service(Circles, database_url, tmp_path)
    store(privacy, engine, Thread, "first_id", [("a", None, True)])
    raw_rows(database_url, "ALTER TABLE posts RENAME TO all_posts")
    raw_rows(database_url, "CREATE VIEW posts AS SELECT * FROM all_posts")
    plan, run = purge(privacy, engine)
    refused = {step.name: step.refused for step in plan.steps if step.refused}
    assert refused["posts"] == "posts is a view in the database, and a run destroys in tables"
    assert not run.ok
    assert raw_rows(database_url, "SELECT count(*) FROM threads") == [(0,)]
    engine.dispose()


class Pointed(DeclarativeBase): ...


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "about_table", "about_id", "ended_at", because="keys and event time")
class Remark(Pointed):
    """What it is about, no foreign key says."""

    __tablename__ = "remarks"
    id: Mapped[int] = mapped_column(primary_key=True)
    about_table: Mapped[str]
    about_id: Mapped[int]
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


def test_e24_a_pointer_to_nothing_stops_no_run(database_url: str, tmp_path: Path) -> None:
    privacy, engine = service(Pointed, database_url, tmp_path)
    values = {"about_table": "nothing", "about_id": 7, "text": "t"}
    with privacy.purpose("reading"), engine.begin() as connection:
        connection.execute(insert(Remark), [values | {"ended_at": LONG_AGO}, values | {"ended_at": None}])
    _, run = purge(privacy, engine)
    assert (run.ok, run.done) == (True, 1)
    assert raw_rows(database_url, "SELECT about_id, ended_at FROM remarks") == [(7, None)]
    engine.dispose()


class Cases(DeclarativeBase): ...


@not_personal("id", "closed_at", because="row id and event time")
class Case(Cases):
    __tablename__ = "cases"
    id: Mapped[int] = mapped_column(primary_key=True)
    closed_at: Mapped[datetime | None]


@events(ended="case.closed_at")
@expire_row(Delete())
@not_personal("id", "case_id", because="keys")
class Letter(Cases):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id"))
    case: Mapped[Case] = relationship()
    text: Mapped[Text]


@events(ended="case.closed_at")
@not_personal("id", "case_id", because="keys")
class Call(Cases):
    __tablename__ = "calls"
    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id"))
    case: Mapped[Case] = relationship()
    text: Mapped[Text]
    caller: Mapped[
        Annotated[str | None, Personal("user.name", purposes={"reading"}, then=Pseudonymise("c"), seal=False)]
    ]


def test_an_event_that_is_corrected_in_another_row_while_a_batch_is_in_hand_counts(pg_url: str, tmp_path: Path) -> None:
    """The case is opened again between the choice of the rows and each statement that destroys."""
    privacy, engine = service(Cases, pg_url, tmp_path)
    with privacy.purpose("reading"), Session(engine) as session:
        session.add_all([Case(id=1, closed_at=LONG_AGO), Case(id=2, closed_at=LONG_AGO)])
        session.flush()
        for number in (1, 2):
            session.add_all([Letter(case_id=number, text="t"), Call(case_id=number, text="t", caller="Ada")])
        session.commit()
    reopened: list[object] = []

    def reopen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not reopened and statement.startswith(("DELETE FROM letters", "UPDATE calls")):
            reopened.append(raw_rows(pg_url, "UPDATE cases SET closed_at = NULL WHERE id = 2"))

    for destroyed in (("letters", 1), ("calls.text", 1), ("calls.caller", 1)):
        raw_rows(pg_url, "UPDATE cases SET closed_at = '2020-01-01'")
        reopened.clear()
        plan = privacy.plan(engine)
        steps = tuple(replace(step, refused=None if step.name == destroyed[0] else "later") for step in plan.steps)
        event.listen(engine, "before_cursor_execute", reopen)
        run = privacy.purge(engine, replace(plan, steps=steps))
        event.remove(engine, "before_cursor_execute", reopen)
        assert reopened
        assert {each.step.name: each.done for each in run.outcomes if each.done} == dict([destroyed])
    assert raw_rows(pg_url, "SELECT case_id FROM letters") == [(2,)]
    assert raw_rows(pg_url, "SELECT case_id, text, caller FROM calls WHERE case_id = 2") == [(2, "t", "Ada")]
    engine.dispose()


class Taken(DeclarativeBase): ...


@data_subject
@events(ended="ended_at")
@not_personal("id", "ended_at", because="row id and event time")
class Holder(Taken):
    __tablename__ = "holders"
    id: Mapped[int] = mapped_column(primary_key=True)
    card: Mapped[Annotated[str, Personal("user.payment", purposes={"reading"}, seal=False)]] = mapped_column(
        unique=True
    )
    ended_at: Mapped[datetime | None]


@not_personal("id", because="row id")
class Fee(Taken):
    """Its foreign key has no type, and takes over that of the personal column it refers to."""

    __table__ = Table(
        "fees", Taken.metadata, Column("id", Integer, primary_key=True), Column("card", ForeignKey("holders.card"))
    )


@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "ended_at", because="row id and event time")
class Other(Taken):
    __tablename__ = "others"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[Text]
    ended_at: Mapped[datetime | None]


def test_a_foreign_key_that_takes_over_a_personal_type_is_refused_with_the_way_out_and_the_others_go(
    sqlite_url: str, tmp_path: Path
) -> None:
    privacy, engine = service(Taken, sqlite_url, tmp_path)
    with privacy.purpose("reading"), engine.begin() as connection:
        connection.execute(insert(Other), [{"text": "t", "ended_at": LONG_AGO}])
    plan, run = purge(privacy, engine)
    (step,) = [each for each in plan.steps if each.name == "fees.card"]
    assert "'ended', which it does not map" in (step.refused or "")
    assert (run.done, run.ok) == (1, False)
    engine.dispose()
