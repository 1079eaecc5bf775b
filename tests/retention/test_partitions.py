"""Partitions of which all rows are due are dropped whole, and only those, where the policy says so."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Delete,
    FileKeyring,
    Personal,
    Privacy,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.retention import Limits, Plan, Run
from privkit.retention.plan import Partition
from tests.databases import libpq, raw_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """
privkit: 1
naive_datetimes: UTC
runs: {{drop_partitions: {drop}}}
purposes:
  reading: {{description: "Show it", legal_basis: contract, keep: {{for: P30D, after: ended}}}}
"""
QUICK = Limits(lock_timeout=0.2)


class Base(DeclarativeBase): ...


Text = Annotated[str | None, Personal("user.content", purposes={"reading"}, seal=False)]


@data_subject
@not_personal("id", because="row id")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)


@owned_by("rider")
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "day", "rider_id", "ended_at", because="key and event time")
class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    rider_id: Mapped[int | None] = mapped_column(ForeignKey("riders.id"))
    rider: Mapped[Rider | None] = relationship()
    text: Mapped[Text]
    ended_at: Mapped[datetime | None] = mapped_column("ended: at")
    __table_args__ = {"postgresql_partition_by": "RANGE (day)"}


class Service:
    """Visits of 2020, 2021 and 2025 in a partition a year: 20 rows in each, and all but those of 2025 are due."""

    def __init__(self, url: str, folder: Path, drop: str = "true") -> None:
        self.url = url
        (folder / "policy.yaml").write_text(POLICY.format(drop=drop), encoding="utf-8")
        keys = FileKeyring.create(folder / "keys.json")
        self.privacy = Privacy(folder / "policy.yaml", Base, keys, clock=lambda: NOW)
        self.engine: Engine = create_engine(url)
        self.privacy.protect(self.engine)
        Base.metadata.create_all(self.engine)
        with self.privacy.purpose("reading"), Session(self.engine) as session:
            session.add_all([Rider(id=1), Rider(id=2)])
            session.commit()
        for year in (2020, 2021, 2025):
            self.partition(f"visits_{year}", f"('{year}-01-01') TO ('{year + 1}-01-01')")
            self.run(
                f'INSERT INTO visits (id, day, rider_id, text, "ended: at")'
                f" SELECT id, '{year}-05-05', 1, 't', '{year}-12-24' FROM generate_series(1, 20) AS id"
            )

    def partition(self, name: str, bounds: str, of: str = "visits", by: str = "") -> None:
        by = by and f" PARTITION BY RANGE ({by})"
        self.run(f"CREATE TABLE {name} PARTITION OF {of} FOR VALUES FROM {bounds}{by}")

    def run(self, sql: str) -> list[Any]:
        return raw_rows(self.url, sql)

    def plan(self) -> tuple[Plan, tuple[Partition, ...]]:
        plan = self.privacy.plan(self.engine)
        (step,) = [each for each in plan.steps if each.name == "visits"]
        assert step.refused is None
        return plan, step.partitions

    def purge(self, plan: Plan | None = None, **how: Any) -> Run:
        plan = plan or self.plan()[0]
        return self.privacy.purge(self.engine, plan, yes_this_many=plan.due, **how)

    def hold(self) -> int:
        """Hold the second rider."""
        ((key,),) = self.run("SELECT privkit_key FROM riders WHERE id = 2")
        return self.privacy.hold(
            self.engine, reason="claim", by="dpo", subject=bytes(key), until=datetime(2027, 1, 1, tzinfo=UTC)
        )

    def partitions(self) -> list[str]:
        names = self.run("SELECT relid::text FROM pg_partition_tree('visits') WHERE isleaf ORDER BY 1")
        return [name for (name,) in names]

    def batches(self) -> list[tuple[str | None, int]]:
        """The partition and the number of rows that each batch's line names."""
        lines = [json.loads(body) for (body,) in self.run("SELECT body FROM privkit_ledger WHERE kind = 'batch'")]
        return [(line.get("partition"), line["count"]) for line in lines]


@pytest.fixture
def service(pg_url: str, tmp_path: Path) -> Iterator[Service]:
    made = Service(pg_url, tmp_path)
    yield made
    made.engine.dispose()


BOTH = (Partition("visits_2020", 20), Partition("visits_2021", 20))


def test_partitions_of_which_all_is_due_are_dropped_whole_as_the_plan_says(service: Service) -> None:
    plan, partitions = service.plan()
    told: list[int] = []
    assert partitions == BOTH
    assert Plan.load(plan.json()) == plan
    run = service.purge(Plan.load(plan.json()), progress=lambda step, rows: told.append(rows))
    assert (run.ok, run.done, told) == (True, 40, [20, 20])
    assert service.batches() == [("visits_2020", 20), ("visits_2021", 20)]
    assert service.partitions() == ["visits_2025"]
    assert service.run("SELECT to_regclass('visits_2020')") == [(None,)]
    assert service.run("SELECT count(*) FROM visits") == [(20,)]
    assert service.privacy.verify_ledger(service.engine).count > 2
    assert service.plan()[0].due == 0


def test_without_the_policys_word_the_same_rows_go_by_batches(pg_url: str, tmp_path: Path) -> None:
    service = Service(pg_url, tmp_path, drop="false")
    plan, partitions = service.plan()
    assert partitions == ()
    assert service.purge(plan).done == 40
    assert service.batches() == [(None, 40)]
    assert service.partitions() == ["visits_2020", "visits_2021", "visits_2025"]
    service.run("INSERT INTO visits (id, day, \"ended: at\") VALUES (1, '2020-05-05', '2020-12-24')")
    plan = service.plan()[0]
    forged = tuple(replace(step, partitions=BOTH) for step in plan.steps)
    assert service.purge(replace(plan, steps=forged)).done == 1
    assert service.partitions() == ["visits_2020", "visits_2021", "visits_2025"]
    service.engine.dispose()


def test_b08_a_row_without_an_end_keeps_its_partition_and_the_others_go_by_batches(service: Service) -> None:
    service.run("UPDATE visits SET \"ended: at\" = NULL WHERE id = 7 AND day = '2020-05-05'")
    assert service.plan()[1] == BOTH[1:]
    assert service.purge().done == 39
    assert service.partitions() == ["visits_2020", "visits_2025"]
    assert service.run('SELECT id FROM visits WHERE "ended: at" IS NULL') == [(7,)]
    assert service.batches() == [("visits_2021", 20), (None, 19)]


def test_a_held_row_keeps_its_partition(service: Service) -> None:
    """One of two riders is under a hold, and has one visit."""
    service.run("UPDATE visits SET rider_id = 2 WHERE id = 7 AND day = '2020-05-05'")
    service.hold()
    assert service.plan()[1] == BOTH[1:]
    assert service.purge().done == 39
    assert service.run("SELECT id, rider_id FROM visits_2020") == [(7, 2)]


def test_a_hold_that_comes_after_the_plan_keeps_its_partition(service: Service) -> None:
    plan, _ = service.plan()
    service.run("UPDATE visits SET rider_id = 2 WHERE id = 7 AND day = '2020-05-05'")
    service.hold()
    assert service.purge(plan).done == 39
    assert service.run("SELECT id, rider_id FROM visits_2020") == [(7, 2)]


def test_a_hold_that_comes_after_the_count_keeps_its_partition(service: Service) -> None:
    """The run has detached it, and not yet told the ledger."""
    service.run("UPDATE visits SET rider_id = 2 WHERE id = 7 AND day = '2020-05-05'")
    placed = []

    def held(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "DETACH" in statement and not placed:
            placed.append(service.hold())

    event.listen(service.engine, "after_cursor_execute", held)
    plan, partitions = service.plan()
    assert partitions == BOTH
    assert service.purge(plan).done == 39
    assert len(placed) == 1
    assert service.run("SELECT id, rider_id FROM visits_2020") == [(7, 2)]


def test_a_row_that_comes_after_the_plan_keeps_its_partition(service: Service) -> None:
    plan, _ = service.plan()
    service.run("INSERT INTO visits (id, day) VALUES (99, '2020-05-05')")
    assert service.purge(plan).done == 40
    assert service.run("SELECT id FROM visits_2020") == [(99,)]
    assert service.batches() == [("visits_2021", 20), (None, 20)]


@pytest.mark.parametrize(
    "sql", ["INSERT INTO visits (id, day) VALUES (99, '2020-05-05')", "SELECT id FROM visits_2020"]
)
def test_a_partition_that_somebody_uses_is_left_to_the_batches(service: Service, sql: str) -> None:
    """The row that is inserted commits while the batches work."""
    plan, partitions = service.plan()
    assert partitions == BOTH
    with psycopg.connect(libpq(make_url(service.url))) as other:
        other.execute(sql)
        run = service.purge(plan, limits=QUICK)
    assert (run.ok, run.done) == (True, 40)
    assert "visits_2020" in service.partitions()
    assert service.run("SELECT id FROM visits_2020") == ([(99,)] if "INSERT" in sql else [])


def test_a_run_that_is_killed_before_it_commits_has_dropped_nothing(service: Service) -> None:
    plan, dropped = service.plan()[0], []

    def executed(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "DROP TABLE" in statement:
            dropped.append(statement)

    def killed(connection: Any) -> None:
        if dropped:
            raise KeyboardInterrupt

    event.listen(service.engine, "after_cursor_execute", executed)
    event.listen(service.engine, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        service.purge(plan)
    event.remove(service.engine, "commit", killed)
    assert len(dropped) == 1
    assert service.partitions() == ["visits_2020", "visits_2021", "visits_2025"]
    assert (service.run("SELECT count(*) FROM visits"), service.batches()) == ([(60,)], [])
    assert service.purge(plan).done == 40
    assert service.batches() == [("visits_2020", 20), ("visits_2021", 20)]


STAYS = {
    "a trigger on rows": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
    "CREATE TRIGGER t BEFORE DELETE ON visits FOR EACH ROW EXECUTE FUNCTION f()",
    "a trigger on statements": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER t AFTER DELETE ON visits EXECUTE FUNCTION f()",
    "a rule": "CREATE RULE r AS ON DELETE TO visits_2020 DO ALSO SELECT 1",
    "a reference": "CREATE TABLE others (id int, day date, FOREIGN KEY (id, day) REFERENCES visits (id, day))",
    "a publication": "CREATE PUBLICATION {database} FOR TABLE visits",
    "a publication of all": "CREATE PUBLICATION {database} FOR ALL TABLES WITH (publish_via_partition_root)",
    "a view": "CREATE VIEW v AS SELECT id FROM visits_2020",
}


@pytest.mark.parametrize("why", STAYS)
def test_a_partition_stays_where_dropping_it_would_pass_over_what_deleting_a_row_does(
    service: Service, why: str
) -> None:
    service.run(STAYS[why].format(database=make_url(service.url).database))
    run = service.purge()
    assert (run.ok, run.done) == (True, 40)
    assert "visits_2020" in service.partitions()
    assert service.run("SELECT count(*) FROM visits_2020") == [(0,)]


def test_only_ranges_of_days_that_are_over_are_dropped(service: Service) -> None:
    """The default, an open range, one that ends tomorrow, and one that is not of days stay, empty."""
    service.partition("visits_old", "(MINVALUE) TO ('2010-01-01')")
    service.partition("visits_now", "('2026-01-01') TO ('2026-01-02')")
    service.partition("visits_new", "('2030-01-01') TO (MAXVALUE)")
    service.run("CREATE TABLE visits_rest PARTITION OF visits DEFAULT")
    service.partition("visits_2015", "('2015-01-01') TO ('2016-01-01')", by="id")
    service.partition("visits_2015_few", "(1) TO (9)", of="visits_2015")
    service.partition("visits_2016", "('2016-01-01') TO ('2017-01-01')", by="day")
    service.partition("visits_2016_may", "('2016-05-01') TO ('2016-06-01')", of="visits_2016")
    for day in ("2009-05-05", "2015-05-05", "2016-05-05", "2017-05-05", "2026-01-01", "2035-05-05"):
        service.run(f"INSERT INTO visits (id, day, \"ended: at\") VALUES (1, '{day}', '2020-01-01')")
    _, partitions = service.plan()
    assert {each.name for each in partitions} == {"visits_2020", "visits_2021", "visits_old", "visits_2016_may"}
    run = service.purge()
    assert (run.ok, run.done) == (True, 46)
    stays = ["visits_2015_few", "visits_2025", "visits_new", "visits_now", "visits_rest"]
    assert service.partitions() == stays


def test_rows_that_row_security_hides_are_not_dropped(service: Service) -> None:
    """The account owns the table and may drop it, and sees one row of two in each partition."""
    role = f"r_{make_url(service.url).database}"
    service.run(f"CREATE ROLE {role} LOGIN")
    try:
        service.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON SCHEMA public TO {role}")
        for table in ("visits", "visits_2020", "visits_2021", "visits_2025"):
            service.run(f"ALTER TABLE {table} OWNER TO {role}")
        service.run("ALTER TABLE visits ENABLE ROW LEVEL SECURITY; ALTER TABLE visits FORCE ROW LEVEL SECURITY")
        service.run("CREATE POLICY even ON visits USING (id % 2 = 0)")
        service.engine.dispose()
        service.engine = create_engine(make_url(service.url).set(username=role))
        service.privacy.protect(service.engine)
        plan, partitions = service.plan()
        assert (plan.due, partitions) == (20, ())
        assert service.purge(plan).done == 20
        assert service.run("SELECT count(*) FROM visits_2020") == [(10,)]
    finally:
        service.engine.dispose()
        service.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("workers", [1, 3])
def test_runs_at_once_drop_each_partition_once(service: Service, workers: int) -> None:
    plan = service.plan()[0]
    found: list[Run] = []
    threads = [threading.Thread(target=lambda: found.append(service.purge(plan, workers=workers))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [run.overdue for run in found] == [0, 0, 0]
    assert sum(run.done for run in found) == sum(count for _, count in service.batches()) == 40
