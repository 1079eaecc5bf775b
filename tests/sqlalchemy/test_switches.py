"""What a category says is off for children: not read and not written, until it is switched on for a session."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, union_all, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, aliased

from privkit import GeoPoint, LedgerFile
from privkit.errors import ConsentRequired, InvalidValue, StatementRefused
from privkit.location import nearby
from privkit.sqlalchemy import ledger
from tests.databases import raw_rows
from tests.sqlalchemy.camp import (
    ADULT,
    BORN,
    CHILD,
    HERE,
    OTHER,
    PHONE,
    UNKNOWN,
    Camp,
    Camper,
    Clock,
    Sighting,
    camp,
    fill,
)
from tests.sqlalchemy.restored import backup

HOUR, TICK = timedelta(hours=1), timedelta(microseconds=1)
EVERYBODY = {CHILD, ADULT, UNKNOWN, OTHER}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def there(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[Camp]:
    found = camp(database_url, tmp_path, clock)
    fill(found)
    yield found
    found.engine.dispose()


def readers(name: str, field: str) -> dict[str, Any]:
    """Statements that return the id and a field, each in another form."""
    model: Any = Camper if name == "campers" else Sighting
    other, column = aliased(model), getattr(model, field)
    inner = select(model).subquery()
    return {
        "columns": select(model.id, column),
        "alias": select(other.id, getattr(other, field)),
        "subquery": select(inner.c.id, inner.c[field]),
        "union": union_all(select(model.id, column), select(model.id, column).where(model.id < 0)),
        "join": select(model.id, column).join(model.sightings if model is Camper else model.camper),
    }


def values(there: Camp, table: str, field: str, *names: str) -> dict[int, Any]:
    """A field of every row that is seen, by its id: all forms of reading have to agree."""
    found = None
    for form, statement in readers(table, field).items():
        rows = dict(there.rows(statement, *names))
        assert found is None or found == rows, form
        found = rows
    model: Any = Camper if table == "campers" else Sighting
    entities = there.run(
        lambda session: {one.id: getattr(one, field) for one in session.scalars(select(model))}, *names
    )
    assert found == entities
    return entities  # type: ignore[no-any-return]


def phones(there: Camp) -> set[int]:
    """Whose phone number is read."""
    found = values(there, "campers", "phone", "call")
    assert EVERYBODY == set(found)
    return {number for number, phone in found.items() if phone is not None}


# What is read.


def test_b_without_the_rule_a_childs_fields_are_read(there: Camp) -> None:
    """The bypass: without a ``child: off`` in the policy, ``allowed`` shows all of a child."""
    assert EVERYBODY == set(values(there, "campers", "name", "call"))
    assert 4 == len(raw_rows(there.url, f"SELECT id FROM campers WHERE phone = '{PHONE}'"))


@pytest.mark.parametrize(("table", "field"), [("campers", "phone"), ("sightings", "rang")])
def test_a_childs_field_is_absent_in_every_form_of_reading(there: Camp, table: str, field: str) -> None:
    assert {ADULT: PHONE} == {k: v for k, v in values(there, table, field, "call").items() if v is not None}


@pytest.mark.parametrize(("table", "field"), [("campers", "place"), ("sightings", "spot")])
def test_consent_alone_does_not_switch_a_sealed_place_on(there: Camp, table: str, field: str) -> None:
    there.consent(CHILD, "find")
    assert {CHILD: None, ADULT: HERE} == values(there, table, field, "find")
    there.switch(True, CHILD, "find")
    assert {CHILD: HERE, ADULT: HERE} == values(there, table, field, "find")


def test_a_coarse_precision_is_off_too(there: Camp) -> None:
    there.consent(CHILD, "map")
    assert values(there, "campers", "place", "map")[CHILD] is None
    there.switch(True, CHILD, "map")
    assert values(there, "campers", "place", "map")[CHILD] == values(there, "campers", "place", "map")[ADULT]


def test_a_field_that_is_off_is_found_by_no_comparison(there: Camp) -> None:
    def found(condition: Any) -> set[int]:
        return set(there.rows(select(Camper.id).where(condition), "call"))

    assert (
        {ADULT} == found(Camper.phone == PHONE) == found(Camper.phone.like("020%")) == found(Camper.phone.is_not(None))
    )
    assert {ADULT} == found(there.privacy.live(Camper.phone) == PHONE)
    assert EVERYBODY - {ADULT} == found(there.privacy.live(Camper.phone).is_(None))
    assert set() == found(Camper.phone.is_(None))
    assert set() == found(Camper.phone != PHONE)


def test_a_place_that_is_off_is_not_nearby(there: Camp) -> None:
    there.consent(CHILD, "find")

    def near() -> set[int]:
        return there.run(
            lambda session: {one.id for one in nearby(session, select(Camper), Camper.place, HERE, metres=500)}, "find"
        )

    assert {ADULT} == near()
    there.switch(True, CHILD, "find")
    assert {CHILD, ADULT} == near()


def test_computing_and_sorting_go_through_live(there: Camp) -> None:
    longest = func.max(there.privacy.live(Camper.phone))
    assert [None] == there.rows(select(longest).where(Camper.id == CHILD), "call")
    assert [PHONE] == there.rows(select(longest), "call")
    for statement in (select(func.lower(Camper.phone)), select(Camper.id).order_by(Camper.phone)):
        with pytest.raises(StatementRefused, match="live"):
            there.rows(statement, "call")


def test_text_does_not_read_what_is_off(there: Camp) -> None:
    with pytest.raises(StatementRefused, match="off for children"):
        there.rows(text("SELECT id, phone FROM campers"), "call")


def test_a_subquery_without_the_key_is_refused(there: Camp) -> None:
    inner = select(Camper.id, Camper.phone).subquery()
    with pytest.raises(StatementRefused, match="left out"):
        there.rows(select(inner.c.phone), "call")


def test_an_object_that_was_loaded_meets_the_switch_when_it_is_refreshed(there: Camp) -> None:
    there.consent(CHILD, "call")
    with there.privacy.purpose("call"), Session(there.engine) as session:
        one = session.get_one(Camper, CHILD)
        assert one.phone is None
        assert ("off", "child: off for user.contact.phone_number") == (
            (found := there.privacy.state(one, "phone")).word,
            found.rule,
        )
        there.privacy.consent.switch_on(session, subject=one, purposes={"call"})
        session.refresh(one)
        assert (PHONE, "set") == (one.phone, there.privacy.state(one, "phone").word)
        there.privacy.consent.switch_off(session, subject=one)
        assert one.phone is None


def test_a_duty_reads_what_it_keeps(there: Camp) -> None:
    with there.privacy.duty("register"), Session(there.engine) as session:
        found = session.execute(select(Camper.id, Camper.place))
        assert dict.fromkeys(EVERYBODY, HERE) == {number: place for number, place in found}  # noqa: C416


# What switches it on, and off.


def test_only_with_a_guardians_consent_something_is_switched_on(there: Camp) -> None:
    with pytest.raises(ConsentRequired, match="'call'"):
        there.switch(True, CHILD, "call")
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    assert {CHILD, ADULT} == phones(there)


def test_it_ends_by_itself_at_the_instant(there: Camp, clock: Clock) -> None:
    there.consent(CHILD, "call")
    assert clock.now + HOUR == there.switch(True, CHILD, "call")
    for moment, expected in [(HOUR - TICK, {CHILD, ADULT}), (TICK, {ADULT}), (HOUR, {ADULT})]:
        clock.now += moment
        assert expected == phones(there)


def test_said_again_it_lasts_from_then_on(there: Camp, clock: Clock) -> None:
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    clock.now += HOUR
    there.switch(True, CHILD, "call", lasting=HOUR * 2)
    clock.now += HOUR
    assert {CHILD, ADULT} == phones(there)
    assert 1 == len(raw_rows(there.url, "SELECT purpose FROM privkit_switch"))


@pytest.mark.parametrize("lasting", [timedelta(), -HOUR, timedelta(hours=12) + TICK])
def test_it_lasts_hours_and_no_longer(there: Camp, lasting: timedelta) -> None:
    there.consent(CHILD, "call")
    with pytest.raises(InvalidValue, match="12 hours"):
        there.switch(True, CHILD, "call", lasting=lasting)
    there.switch(True, CHILD, "call", lasting=timedelta(hours=12))


def test_it_is_one_childs_and_one_purposes(there: Camp) -> None:
    for number in (CHILD, OTHER):
        there.consent(number, "call", "find", "map")
    there.switch(True, CHILD, "find")
    assert {ADULT} == phones(there)
    assert [None] == there.rows(select(Camper.place).where(Camper.id == OTHER), "find")
    assert [None] == there.rows(select(Camper.place).where(Camper.id == CHILD), "map")


def test_purposes_together_need_each_of_them_switched_on(there: Camp) -> None:
    there.consent(CHILD, "find", "map")
    there.switch(True, CHILD, "find")
    place = select(Camper.place).where(Camper.id == CHILD)
    assert [None] == there.rows(place, "find", "map")
    for outer, inner in (("find", "map"), ("map", "find")):
        with there.privacy.purpose(outer):
            assert [None] == there.rows(place, inner)
    there.switch(True, CHILD, "map")
    assert [HERE] == there.rows(place, "find", "map")


def test_a_withdrawal_ends_it_at_once_and_switching_off_too(there: Camp, clock: Clock) -> None:
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    there.consent(CHILD, "call", withdraw=True)
    assert {ADULT} == phones(there)
    clock.now += TICK
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    assert {CHILD, ADULT} == phones(there)
    there.switch(False, CHILD)
    assert {ADULT} == phones(there)


def test_for_an_adult_there_is_nothing_to_switch_on(there: Camp) -> None:
    there.switch(True, ADULT, "call")
    assert [] == raw_rows(there.url, "SELECT purpose FROM privkit_switch")


def test_a_purpose_under_which_nothing_is_off_is_refused_with_those_there_are(there: Camp) -> None:
    there.consent(CHILD, "play")
    with pytest.raises(InvalidValue, match="call, find, map"):
        there.switch(True, CHILD, "play")


def test_another_process_sees_it_and_none_keeps_it(there: Camp, tmp_path: Path, clock: Clock) -> None:
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    again = camp(there.url, tmp_path, clock)
    assert {CHILD, ADULT} == phones(again)
    clock.now += HOUR
    assert {ADULT} == phones(again) == phones(there)
    again.engine.dispose()


def test_the_ledger_tells_of_it_by_the_key_alone(there: Camp, clock: Clock) -> None:
    there.consent(CHILD, "call")
    until = there.switch(True, CHILD, "call")
    there.switch(False, CHILD, "call")
    with there.engine.connect() as connection:
        *_, on, off = ledger.entries(connection, there.privacy.guard)
    assert ("switched_on", "switched_off") == (on.kind, off.kind)
    (key,) = raw_rows(there.url, f"SELECT privkit_key FROM campers WHERE id = {CHILD}")[0]
    whose = {"subject": bytes(key).hex(), "purposes": ["call"]}
    assert (whose | {"until": until.isoformat()}, whose) == (json.loads(on.body), json.loads(off.body))


def test_a_restored_backup_is_switched_off_again(database_url: str, tmp_path: Path, clock: Clock) -> None:
    first = camp(database_url, tmp_path, clock, LedgerFile(tmp_path / "ledger.jsonl"))
    fill(first)
    first.consent(CHILD, "call")
    first.switch(True, CHILD, "call")
    first.engine.dispose()
    with backup(database_url) as restore:
        first.switch(False, CHILD, "call")
        first.engine.dispose()
        restore()
        second = camp(database_url, tmp_path, clock, LedgerFile(tmp_path / "ledger.jsonl"))
        assert {ADULT} == phones(second)
        second.engine.dispose()


# What is written.


def upsert(there: Camp) -> Any:
    dialect: Any = postgresql if there.engine.dialect.name == "postgresql" else sqlite
    found = dialect.insert(Camper)
    return found.on_conflict_do_update(index_elements=["id"], set_={"phone": found.excluded.phone})


NEW = {"id": 9, "name": "Camper 9", "phone": "planted 9", "place": None}
WAYS: dict[str, Callable[[Camp, Session, int], Any]] = {
    "object": lambda there, session, n: setattr(session.get_one(Camper, n), "phone", "planted"),
    "place": lambda there, session, n: setattr(session.get_one(Camper, n), "place", GeoPoint(1, 1)),
    "update": lambda there, session, n: session.execute(update(Camper).where(Camper.id == n).values(phone="planted")),
    "bulk": lambda there, session, n: session.execute(update(Camper), [{"id": n, "phone": "planted"}]),
    "core": lambda there, session, n: session.connection().execute(
        update(Camper.__table__).where(Camper.__table__.c.id == n).values(phone="planted")
    ),
    "upsert": lambda there, session, n: session.execute(upsert(there), [{"id": n, "name": "N", "phone": "planted"}]),
    "owned": lambda there, session, n: session.add(Sighting(id=90, camper_id=n, rang="planted")),
    "owned insert": lambda there, session, n: session.execute(
        insert(Sighting), [{"id": 90, "camper_id": n, "rang": "planted"}, {"id": 91, "camper_id": ADULT, "rang": "b"}]
    ),
    "owned update": lambda there, session, n: session.execute(
        update(Sighting).where(Sighting.camper_id == n).values(rang="planted")
    ),
    "another's": lambda there, session, n: session.execute(
        update(Sighting).where(Sighting.id == ADULT).values(rang="planted", camper_id=n, spot=None)
    ),
}
STORED = (
    "SELECT phone FROM campers WHERE phone LIKE 'planted%' "
    "UNION ALL SELECT rang FROM sightings WHERE rang LIKE 'planted%'"
)


@pytest.mark.parametrize("way", WAYS)
def test_a_childs_field_that_is_off_is_not_written(there: Camp, way: str) -> None:
    there.consent(CHILD, "find", "call")
    write = WAYS[way]
    place = "SELECT place FROM campers WHERE id = 1"
    before = raw_rows(there.url, place)
    with pytest.raises(ConsentRequired, match=r"switch_on") as refusal:
        there.run(lambda session: write(there, session, CHILD), "find", "call")
    assert "planted" not in str(refusal.value)
    assert [] == raw_rows(there.url, STORED)
    assert before == raw_rows(there.url, place)
    there.switch(True, CHILD, "find", "call")
    there.run(lambda session: write(there, session, CHILD), "find", "call")
    assert bool(raw_rows(there.url, STORED)) is (way != "place")
    assert (before == raw_rows(there.url, place)) is (way != "place")


@pytest.mark.parametrize("way", WAYS)
def test_an_adults_field_is_written(there: Camp, way: str) -> None:
    there.run(lambda session: WAYS[way](there, session, ADULT), "find", "call")
    assert way == "place" or raw_rows(there.url, STORED)


@pytest.mark.parametrize("born", [BORN[CHILD], None])
def test_a_new_child_is_stored_without_the_field_alone(there: Camp, born: Any) -> None:
    for add in (
        lambda session: session.add(Camper(**NEW, born=born)),
        lambda session: session.execute(insert(Camper), [NEW | {"born": born}, NEW | {"id": 10, "born": BORN[ADULT]}]),
        lambda session: session.execute(insert(Camper).values([NEW | {"born": born}])),
        lambda session: session.execute(upsert(there), [NEW | {"born": born}]),
    ):
        with pytest.raises(ConsentRequired, match=r"campers\.phone"):
            there.run(add, "check", "play", "call", "find")
    assert [] == raw_rows(there.url, "SELECT id FROM campers WHERE id IN (9, 10)")
    there.run(lambda session: session.add(Camper(**NEW | {"phone": None}, born=born)), "check", "play")
    there.run(lambda session: session.add(Camper(**NEW | {"id": 10}, born=BORN[ADULT])), "check", "play", "call")
    assert [(9,), (10,)] == raw_rows(there.url, "SELECT id FROM campers WHERE id IN (9, 10) ORDER BY id")


def test_what_is_off_can_be_emptied(there: Camp) -> None:
    there.consent(CHILD, "find")
    there.run(lambda session: session.execute(update(Camper).values(phone=None)), "call")
    there.run(lambda session: session.execute(update(Camper).where(Camper.id == CHILD).values(place=None)), "find")
    assert [(None, None)] == raw_rows(there.url, "SELECT phone, place FROM campers WHERE id = 1")
    with pytest.raises(StatementRefused):
        there.run(lambda session: session.execute(update(Camper).values(phone=Camper.name)), "call")


def test_what_is_off_is_not_set_for_several_at_once_nor_computed(there: Camp) -> None:
    for value in ("planted", func.concat("planted", "!")):
        with pytest.raises(StatementRefused):
            there.run(lambda session, v=value: session.execute(update(Camper).values(phone=v)), "call")
    assert [] == raw_rows(there.url, STORED)


def test_a_write_and_switching_off_wait_for_each_other(there: Camp) -> None:
    there.consent(CHILD, "call")
    there.switch(True, CHILD, "call")
    wait = "SET lock_timeout = '100ms'" if there.engine.dialect.name == "postgresql" else "PRAGMA busy_timeout = 100"
    with there.privacy.purpose("call", "check"), Session(there.engine) as writer, Session(there.engine) as other:
        one = other.get_one(Camper, CHILD)
        other.commit()
        writer.get_one(Camper, CHILD).phone = "planted"
        writer.flush()
        with there.privacy.unchecked("a time-out"):
            other.execute(text(wait))
        with pytest.raises(OperationalError):
            there.privacy.consent.switch_off(other, subject=one)
        other.rollback()
        writer.commit()
        there.privacy.consent.switch_off(other, subject=one)
        other.commit()
        writer.get_one(Camper, CHILD).phone = "planted again"
        with pytest.raises(ConsentRequired):
            writer.flush()


def test_a_run_ends_what_is_off(there: Camp, clock: Clock) -> None:
    there.run(lambda session: setattr(session.get_one(Camper, CHILD), "left_at", clock.now), "play")
    clock.now += timedelta(days=400)
    there.privacy.purge(there.engine, there.privacy.plan(there.engine), yes_this_many=3)
    with there.privacy.duty("register"), Session(there.engine) as session:
        assert session.scalars(select(Camper.place).where(Camper.id == CHILD)).one() is None
