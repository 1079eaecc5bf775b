"""Values are sealed anew when their field id, search or key changes; a concurrent write wins, nothing is guessed."""

from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Equality, FileKeyring, Personal, Privacy, data_subject, events, not_personal, owned_by
from privkit.errors import InvalidValue, KeyringError, MappingError, PolicyError, SealedError
from privkit.sqlalchemy import ledger
from tests.databases import raw_rows
from tests.sqlalchemy.rides import UNTIL, Rider, RideService, Trip, rider

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  duty: {description: "Plan shifts", legal_basis: contract, keep: {for: P30D, after: left}}
  logs: {description: "Find faults", legal_basis: contract, keep: {for: P30D, after: noted}}
"""
NAMES = ("Ada", "Bob", "Cleo", "Dora", "Emil")


class Build:
    """One release of a service: its models, as their markers say."""

    def __init__(self, url: str, folder: Path, policy: str = POLICY, note: Any = None, **marker: Any) -> None:
        class Base(DeclarativeBase):
            pass

        @data_subject
        @events(left="left_at")
        @not_personal("id", "left_at", because="row id and event time")
        class Driver(Base):
            __tablename__ = "drivers"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[Annotated[str | None, Personal("user.name", purposes={"duty"}, seal=True, **marker)]]
            left_at: Mapped[datetime | None]

        @owned_by("driver_id")
        @events(noted="noted_at")
        @not_personal("id", "noted_at", because="row id and event time")
        class Note(Base):
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            driver_id: Mapped[int] = mapped_column(ForeignKey("drivers.id"))
            text: Mapped[Annotated[str, Personal("user.content", purposes={"logs"}, seal=True, **(note or {}))]]
            noted_at: Mapped[datetime | None]

        path = folder / "keys.json"
        file = folder / "policy.yaml"
        file.write_text(policy)
        self.Driver, self.Note, self.url = Driver, Note, url
        keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
        self.privacy = Privacy(file, Base, keys, clock=lambda: NOW[0])
        self.engine: Engine = create_engine(url)
        self.privacy.protect(self.engine)
        Base.metadata.create_all(self.engine)

    def fill(self) -> None:
        with self.privacy.purpose("duty", "logs"), Session(self.engine) as session:
            session.add_all(self.Driver(id=number, name=name) for number, name in enumerate(NAMES, 1))
            session.flush()
            session.add_all(self.Note(driver_id=number, text=f"note {number}") for number in (1, 1, 2))
            session.commit()

    def names(self) -> list[Any]:
        self.privacy.guard.keys.clear()
        with self.privacy.purpose("duty"), Session(self.engine) as session:
            return list(session.scalars(select(self.Driver.name).order_by(self.Driver.id)))

    def texts(self) -> list[str]:
        self.privacy.guard.keys.clear()
        with self.privacy.purpose("logs"), Session(self.engine) as session:
            return list(session.scalars(select(self.Note.text).order_by(self.Note.id)))

    def find(self, name: str) -> list[int]:
        with self.privacy.purpose("duty"), Session(self.engine) as session:
            return list(session.scalars(select(self.Driver.id).where(self.Driver.name == name)))

    def raw(self, column: str = "name") -> list[bytes]:
        rows = raw_rows(self.url, f"SELECT {column} FROM drivers WHERE {column} IS NOT NULL ORDER BY id")
        return [bytes(value) for (value,) in rows]

    def counts(self, **options: Any) -> tuple[int, int, int, int]:
        each = self.privacy.reseal(self.engine, fields=["drivers.name"], **options).fields["drivers.name"]
        return each.scanned, each.resealed, each.left, each.failed

    def lines(self) -> list[str]:
        with self.engine.connect() as connection:
            found = ledger.entries(connection, self.privacy.guard)
            return [each.body for each in found if each.kind == "resealed"]


NOW = [datetime.fromisoformat("2026-01-01T12:00:00+00:00")]


@pytest.fixture
def build(database_url: str, tmp_path: Path) -> Any:
    made: list[Build] = []

    def make(**options: Any) -> Build:
        made.append(Build(database_url, tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()


def test_nothing_is_written_where_everything_is_as_it_would_be_sealed_now(build: Any) -> None:
    service = build()
    service.fill()
    before = service.raw()
    assert (5, 0, 0, 0) == service.counts()
    assert before == service.raw()
    assert [] == service.lines()


def test_a_changed_field_id_opens_under_the_former_one_until_all_is_resealed(build: Any) -> None:
    build().fill()
    forgetful = build(id="staff.name")
    with pytest.raises(SealedError):
        forgetful.names()
    service = build(id="staff.name", formerly="drivers.name")
    assert list(NAMES) == service.names()
    assert (5, 5, 0, 0) == service.counts(batch=2)
    assert list(NAMES) == service.names()
    assert list(NAMES) == forgetful.names()
    assert ['{"count":2,"field":"drivers.name"}'] * 2 + ['{"count":1,"field":"drivers.name"}'] == service.lines()
    assert (5, 0, 0, 0) == service.counts()


def test_a_former_id_that_another_field_has_is_refused(build: Any) -> None:
    with pytest.raises(PolicyError, match=r"was formerly 'notes\.text'"):
        build(formerly="notes.text")


def test_a_value_of_another_field_does_not_open_through_a_former_id(build: Any) -> None:
    service = build(id="staff.name", formerly=("drivers.name", "people.name"))
    service.fill()
    raw_rows(service.url, "UPDATE drivers SET name = (SELECT text FROM notes WHERE driver_id = 2) WHERE id = 2")
    with pytest.raises(SealedError):
        service.names()
    assert (5, 0, 0, 1) == service.counts()


def test_a_changed_normaliser_gives_new_hashes_and_leaves_the_envelopes(build: Any) -> None:
    build(search=Equality()).fill()
    service = build(search=Equality("case"))
    assert [] == service.find("ADA")
    made = service.privacy.reseal(service.engine)
    assert 5 == made.fields["drivers.name"].resealed
    assert made.ok
    assert [1] == service.find("ADA")
    assert (5, 0, 0, 0) == service.counts()


def test_a_missing_hash_is_made(build: Any) -> None:
    service = build(search=Equality())
    service.fill()
    raw_rows(service.url, "UPDATE drivers SET name_ix = NULL WHERE id = 2")
    assert [] == service.find("Bob")
    assert (5, 1, 0, 0) == service.counts()
    assert [2] == service.find("Bob")


def test_a_row_that_was_given_to_another_data_subject_by_hand_is_reported_and_left(build: Any) -> None:
    service = build(id="staff.name", formerly="drivers.name")
    service.fill()
    raw_rows(service.url, "UPDATE notes SET driver_id = 3 WHERE driver_id = 2")
    before = raw_rows(service.url, "SELECT text FROM notes ORDER BY id")
    made = service.privacy.reseal(service.engine)
    assert (3, 0, 0, 1) == tuple(
        getattr(made.fields["notes.text"], name) for name in ("scanned", "resealed", "left", "failed")
    )
    assert not made.ok
    assert [bytes(text) for (text,) in before] == [
        bytes(text) for (text,) in raw_rows(service.url, "SELECT text FROM notes ORDER BY id")
    ]


def test_a_damaged_value_is_reported_and_the_others_are_resealed(build: Any) -> None:
    build().fill()
    service = build(id="staff.name", formerly="drivers.name")
    cut = "substr(name, 1, length(name) - 1)"
    raw_rows(service.url, f"UPDATE drivers SET name = {cut} WHERE id = 2")
    assert (5, 4, 0, 1) == service.counts()


def test_a_value_under_a_destroyed_key_is_neither_left_nor_failed(build: Any) -> None:
    build().fill()
    service = build(id="staff.name", formerly="drivers.name")
    raw_rows(
        service.url, "UPDATE privkit_key SET wrapped = NULL WHERE id = (SELECT privkit_key FROM drivers WHERE id = 2)"
    )
    assert (5, 4, 0, 0) == service.counts()


def test_a_write_that_comes_between_wins(build: Any) -> None:
    build().fill()
    service = build(id="staff.name", formerly="drivers.name")
    other = build(id="staff.name", formerly="drivers.name")
    written: list[str] = []

    def write(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM privkit_key" in statement and not written:  # the page has been read
            written.append("name")
            with other.privacy.purpose("duty"), Session(other.engine) as session:
                session.get_one(other.Driver, 3).name = "Written meanwhile"
                session.commit()

    event.listen(service.engine, "before_cursor_execute", write)
    assert (5, 4, 0, 0) == service.counts()
    assert written
    assert ["Ada", "Bob", "Written meanwhile", "Dora", "Emil"] == service.names()


class _Stop(BaseException):
    """A kill, from inside."""


def test_a_run_that_stops_at_any_statement_goes_on(build: Any) -> None:
    build().fill()
    service = build(id="staff.name", formerly="drivers.name")
    resealed = number = 0
    while True:
        number += 2
        counted = iter(range(number))

        def stop(*_: Any, counted: Any = counted) -> None:
            if next(counted, None) is None:
                raise _Stop

        event.listen(service.engine, "before_cursor_execute", stop)
        try:
            resealed = service.counts(batch=1)[1]
            break
        except _Stop:
            pass
        finally:
            event.remove(service.engine, "before_cursor_execute", stop)
        assert list(NAMES) == service.names()
    assert resealed < 5
    assert 5 == len(service.lines())
    assert list(NAMES) == service.names()


def test_an_unknown_field_is_refused_with_the_nearest(build: Any) -> None:
    service = build()
    with pytest.raises(MappingError, match=r"Did you mean drivers\.name"):
        service.privacy.reseal(service.engine, fields=["driver.name"])


def key_of(service: Build, number: int) -> bytes:
    ((key_id,),) = raw_rows(service.url, f"SELECT privkit_key FROM drivers WHERE id = {number}")
    return bytes(key_id)


def test_a_fresh_subject_key_seals_own_and_owned_rows_and_the_old_key_is_destroyed(build: Any) -> None:
    service = build(search=Equality())
    service.fill()
    old, names, texts = key_of(service, 1), service.names(), service.texts()
    made = service.privacy.reseal(service.engine, subject=old)
    assert {"drivers.name": 1, "notes.text": 2} == {name: each.resealed for name, each in made.fields.items()}
    new = key_of(service, 1)
    assert new != old
    assert [new] == [envelope[2:18] for envelope in service.raw()][:1]
    assert {new} == {
        bytes(text)[2:18] for (text,) in raw_rows(service.url, "SELECT text FROM notes WHERE driver_id = 1")
    }
    assert (names, texts) == (service.names(), service.texts())
    assert [1] == service.find("Ada")
    ((gone,),) = raw_rows(service.url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NULL")
    assert 1 == gone
    assert service.privacy.reseal(service.engine).ok


def test_an_old_copy_of_a_value_does_not_open_after_its_data_subject_got_a_fresh_key(build: Any) -> None:
    service = build()
    service.fill()
    old, copy = key_of(service, 1), service.raw()[0]
    service.privacy.reseal(service.engine, subject=old)
    quoted = f"x'{copy.hex()}'" if service.url.startswith("sqlite") else f"'\\x{copy.hex()}'"
    raw_rows(service.url, f"UPDATE drivers SET name = {quoted} WHERE id = 1")
    with pytest.raises(SealedError):
        service.names()


def test_a_renewal_that_stopped_in_the_middle_is_ended_by_the_same_call(build: Any) -> None:
    service = build()
    service.fill()
    old = key_of(service, 1)

    def stop(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "privkit_key" in statement and "SET wrapped" in statement:
            raise _Stop

    event.listen(service.engine, "before_cursor_execute", stop)
    with pytest.raises(_Stop):
        service.privacy.reseal(service.engine, subject=old)
    event.remove(service.engine, "before_cursor_execute", stop)
    new = key_of(service, 1)
    assert list(NAMES) == service.names()
    service.privacy.reseal(service.engine, subject=old)
    assert new == key_of(service, 1)
    assert [(1,)] == raw_rows(service.url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NULL")


def test_what_was_written_under_the_old_key_while_it_was_replaced_is_resealed_too(build: Any) -> None:
    service = build()
    service.fill()
    old, texts = key_of(service, 1), service.texts()
    ((straggler,),) = raw_rows(service.url, "SELECT text FROM notes WHERE id = 1")
    quoted = f"x'{straggler.hex()}'" if service.url.startswith("sqlite") else f"'\\x{straggler.hex()}'"
    committed: list[Any] = []

    def write(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if len(committed) == 1:
            committed.append(raw_rows(service.url, f"UPDATE notes SET text = {quoted} WHERE id = 1"))

    event.listen(service.engine, "commit", committed.append)
    event.listen(service.engine, "before_cursor_execute", write)
    service.privacy.reseal(service.engine, subject=old)
    event.remove(service.engine, "before_cursor_execute", write)
    assert len(committed) > 2
    assert texts == service.texts()
    new = key_of(service, 1)
    assert 0 == service.privacy.reseal(service.engine, subject=old).fields["notes.text"].resealed
    assert new == key_of(service, 1)


def test_a_fresh_key_for_nobody_is_refused(build: Any) -> None:
    service = build()
    service.fill()
    with pytest.raises(KeyringError, match="No data subject"):
        service.privacy.reseal(service.engine, subject=bytes(16))
    assert [(5,)] == raw_rows(service.url, "SELECT count(*) FROM privkit_key")


def test_a_damaged_value_stops_the_renewal_before_anything_is_changed(build: Any) -> None:
    service = build()
    service.fill()
    raw_rows(service.url, "UPDATE notes SET text = substr(text, 1, length(text) - 1) WHERE id = 1")
    old = key_of(service, 1)
    with pytest.raises(SealedError, match=r"notes\.text"):
        service.privacy.reseal(service.engine, subject=old)
    assert old == key_of(service, 1)
    assert [(5,)] == raw_rows(service.url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL")


def test_holds_and_consents_follow_the_data_subject_to_the_fresh_key(service: RideService) -> None:
    service.sign_up(rider(1))
    url = service.engine.url.render_as_string(hide_password=False)
    ((old,),) = raw_rows(url, "SELECT privkit_key FROM riders")
    service.privacy.hold(service.engine, reason="case 7", by="legal", subject=bytes(old), until=UNTIL)
    with Session(service.engine) as session, service.privacy.purpose("account"):
        service.privacy.consent.grant(
            session, subject=session.get_one(Rider, 1), purposes={"pickup"}, guardian="g-1", method="signed_form"
        )
        session.commit()
    service.privacy.reseal(service.engine, subject=bytes(old))
    ((new,),) = raw_rows(url, "SELECT privkit_key FROM riders")
    for table in ("privkit_hold", "privkit_consent"):
        assert [bytes(new)] == [bytes(subject) for (subject,) in raw_rows(url, f"SELECT subject FROM {table}")]
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        assert 1 == len(session.scalars(select(Trip.start)).all())


DIVIDED = POLICY.replace("keep: {for: P30D, after: noted}", "keep: {for: P30D, after: noted, epoch: P1D}")


def test_values_move_into_the_epochs_that_the_policy_has_brought_in(build: Any) -> None:
    service = build()
    service.fill()
    raw_rows(service.url, "UPDATE notes SET noted_at = '2025-12-31 10:00:00' WHERE id < 3")
    divided = build(policy=DIVIDED)
    made = divided.privacy.reseal(divided.engine).fields["notes.text"]
    assert (3, 2, 1) == (made.scanned, made.resealed, made.failed)  # one row does not say when it was
    raw_rows(service.url, "UPDATE notes SET noted_at = '2025-12-30 10:00:00' WHERE id = 3")
    assert divided.privacy.reseal(divided.engine).ok
    assert [(2,)] == raw_rows(service.url, "SELECT count(*) FROM privkit_epoch WHERE wrapped IS NOT NULL")
    assert ["note 1", "note 1", "note 2"] == divided.texts()
    assert {2} == {envelope_epochs(divided)}
    assert divided.privacy.roll_keys(divided.engine).ok
    (stored,) = {bytes(wrapped)[:4] for (wrapped,) in raw_rows(service.url, "SELECT wrapped FROM privkit_epoch")}
    assert 2 == int.from_bytes(stored, "big")
    divided.privacy.guard.keys.clear()
    assert ["note 1", "note 1", "note 2"] == divided.texts()


def envelope_epochs(service: Build) -> int:
    return len({bytes(text)[18:22] for (text,) in raw_rows(service.url, "SELECT text FROM notes")})


def test_epochs_of_a_former_field_id_open_until_all_is_resealed_and_are_then_destroyed(build: Any) -> None:
    before = build(policy=DIVIDED)
    with before.privacy.purpose("duty", "logs"), Session(before.engine) as session:
        session.add(before.Driver(id=1, name="Ada"))
        session.flush()
        session.add_all(
            before.Note(driver_id=1, text=f"note {day}", noted_at=datetime(2025, 12, 31 - day)) for day in (1, 2)
        )
        session.commit()
    service = build(policy=DIVIDED, note={"id": "remarks.text", "formerly": "notes.text"})
    assert ["note 1", "note 2"] == service.texts()
    assert service.privacy.reseal(service.engine).ok
    assert ["note 1", "note 2"] == service.texts()
    living = "SELECT field, wrapped IS NOT NULL FROM privkit_epoch ORDER BY field, number"
    expected = [("notes.text", False)] * 2 + [("remarks.text", True)] * 2
    assert expected == [(field, bool(lives)) for field, lives in raw_rows(service.url, living)]


def test_what_an_older_build_writes_while_its_epochs_end_is_resealed_first(pg_url: str, tmp_path: Path) -> None:
    before = Build(pg_url, tmp_path, policy=DIVIDED)

    def note(text: str) -> Any:
        return before.Note(driver_id=1, text=text, noted_at=datetime(2025, 12, 30))

    with before.privacy.purpose("duty", "logs"), Session(before.engine) as session:
        session.add(before.Driver(id=1, name="Ada"))
        session.flush()
        session.add(note("one"))
        session.commit()
    after = Build(pg_url, tmp_path, policy=DIVIDED, note={"id": "remarks.text", "formerly": "notes.text"})
    looked = Event()
    with before.privacy.purpose("duty", "logs"), Session(before.engine) as session:
        session.add(note("two"))
        session.flush()
        event.listen(after.engine, "commit", lambda *_: looked.set())
        run = Thread(target=lambda: after.privacy.reseal(after.engine, fields=["notes.text"]))
        run.start()
        assert looked.wait(10)
        run.join(0.5)
        session.commit()
    run.join()
    assert ["one", "two"] == sorted(after.texts())
    assert [("notes.text",)] == raw_rows(pg_url, "SELECT field FROM privkit_epoch WHERE wrapped IS NULL")
    before.engine.dispose()
    after.engine.dispose()


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_a_row_is_refused_and_does_not_pass_for_done(build: Any, batch: int) -> None:
    service = build()
    service.fill()
    with pytest.raises(InvalidValue, match="at least one row"):
        service.privacy.reseal(service.engine, batch=batch)
    with pytest.raises(InvalidValue, match="at least one row"):
        service.privacy.rotate_keys(service.engine, batch=batch)
