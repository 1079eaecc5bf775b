"""The kit passes on models that are protected, and fails on each way in which one is not."""

import uuid
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import Equality, GeoPoint, data_subject, not_personal, purposes
from privkit.errors import ConformanceError, NotProtectedError
from privkit.testing import conformance
from tests.databases import raw_rows
from tests.sqlalchemy import rides, shop
from tests.sqlalchemy.opened import Opened, opened, plain, sealed

RIDES: dict[type, Callable[[], Any]] = {
    rides.Rider: lambda: rides.rider(0, email=f"{uuid.uuid4()}@rides.example"),
    rides.Trip: lambda: rides.Trip(rider=rides.rider(0), start=GeoPoint(1, 2)),
}


def person() -> shop.Person:
    return shop.Person(**shop.PLANTED, **shop.PLAIN, answer="yes")


def person_of_a_visit(number: int) -> shop.Person:
    return shop.Person(id=number, note="planted note")


def order() -> shop.Order:
    return shop.Order(person=person(), address="planted address", wish="a wish")


def member() -> shop.Member:
    return shop.Member(street="planted street", town="a town", born=shop.PLAIN["named_on"])


SHOP: dict[type, Callable[[], Any]] = {
    shop.Person: person,
    shop.Order: order,
    shop.Line: lambda: shop.Line(order=order(), engraving="planted engraving"),
    shop.Staff: lambda: shop.Staff(phone="planted phone"),
    shop.Doctor: lambda: shop.Doctor(phone="planted phone", licence="planted licence"),
    shop.Contact: lambda: shop.Contact(phone="planted phone"),
    shop.Patient: lambda: shop.Patient(phone="planted phone", ward="planted ward"),
    shop.Card: lambda: shop.Card(holder="planted holder"),
    shop.Member: member,
    shop.Parcel: lambda: shop.Parcel(member=member(), wish="a wish"),
    shop.Ticket: lambda: shop.Ticket(code="planted code", mail="planted@a.example", about="planted", seat="a seat"),
    shop.Stub: lambda: shop.Stub(code="planted code"),
    shop.Guest: lambda: shop.Guest(login="planted login"),
}


def test_the_ride_service_keeps_every_law(database_url: str, tmp_path: Path) -> None:
    service = rides.ride_service(database_url, tmp_path, rides.Clock())
    report = conformance.check(service.privacy, service.engine, RIDES)
    service.engine.dispose()

    assert () == report.failures
    assert {law.name for law in conformance.laws()} | {"undone"} == {each.law for each in report.outcomes}
    assert {"Rider.email", "Rider.home", "Trip.start", "every table"} <= {each.field for each in report.outcomes}
    assert "Rider.home: found: holds" in str(report).splitlines()
    assert [(0,)] == raw_rows(database_url, "SELECT count(*) FROM riders")


def test_the_shop_keeps_every_law_in_every_shape(database_url: str, tmp_path: Path) -> None:
    service = shop.open_shop(database_url, tmp_path)
    with service.privacy.purpose("care"), service.session() as session:
        session.add_all(person_of_a_visit(number) for number in (1001, 1002))
        session.commit()
    numbers = cycle((1001, 1002))
    visits = {shop.Visit: lambda: shop.Visit(person_id=next(numbers), where="planted where")}
    report = conformance.examine(service.privacy, service.engine, SHOP | visits)
    service.engine.dispose()

    assert "" == "\n".join(map(str, report.failures))


class Base(DeclarativeBase):
    pass


@data_subject
@not_personal("id", "remark", because="row id and a remark")
class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str | None, sealed(search=Equality("email"))]]
    name: Mapped[Annotated[str, plain()]]
    remark: Mapped[str | None]


def thing() -> Thing:
    return Thing(email="planted@example.org", name="Planted")


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Opened]:
    with opened(database_url, tmp_path, Base) as found:
        yield found


def failing(service: Opened, make: Any = thing) -> set[str]:
    """The laws that fail; no planted value is in the report of it."""
    with pytest.raises(ConformanceError, match="laws do not hold") as caught:
        conformance.check(service.privacy, service.engine, {Thing: make} if make else {})
    assert "lanted" not in str(caught.value)
    return {f"{each.field}: {each.law}" for each in caught.value.data["failures"]}


def test_each_law_is_a_test_of_its_own(service: Opened) -> None:
    found = conformance.cases(service.privacy, {Thing: thing})
    for case in found:
        case.check(service.engine)

    names = [law.name for law in conformance.laws()]
    assert [f"Thing.{field}-{name}" for field in ("email", "name") for name in names] == list(map(str, found))


def test_an_engine_that_is_not_protected_is_not_examined(service: Opened) -> None:
    bare = create_engine(service.url)
    with pytest.raises(NotProtectedError, match="not protected by this Privacy"):
        conformance.check(service.privacy, bare, {Thing: thing})
    bare.dispose()


def test_a_listener_that_copies_a_sealed_value_is_found(service: Opened) -> None:
    def before_insert(mapper: Any, connection: Any, target: Thing) -> None:
        target.remark = f"wrote to {target.email}"

    event.listen(Thing, "before_insert", before_insert)
    try:
        assert {"Thing.email: sealed"} == failing(service)
    finally:
        event.remove(Thing, "before_insert", before_insert)


def test_a_listener_that_stores_plain_text_is_stopped_by_the_database_and_found(service: Opened) -> None:
    @event.listens_for(service.engine, "before_cursor_execute", retval=True)
    def before_cursor_execute(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> Any:
        swap = {key: in_the_clear(value) for key, value in parameters.items()} if isinstance(parameters, dict) else None
        return statement, swap or tuple(map(in_the_clear, parameters))

    assert {"Thing.email: sealed", "Thing.email: comes_back"} <= failing(service)


def in_the_clear(value: Any) -> Any:
    return b"planted@example.org" if isinstance(value, bytes) and len(value) >= 50 else value


def test_plain_text_is_found_where_the_database_has_no_check_either(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'unchecked.sqlite'}"
    with opened(url, tmp_path, Base) as service:
        raw_rows(url, "DROP TABLE things")
        raw_rows(url, "CREATE TABLE things (id INTEGER PRIMARY KEY, email, email_ix, name, remark, privkit_key)")
        test_a_listener_that_stores_plain_text_is_stopped_by_the_database_and_found(service)


def test_a_search_that_misses_is_found(service: Opened) -> None:
    def after_insert(mapper: Any, connection: Any, target: Thing) -> None:
        with purposes.internally():
            connection.execute(text("UPDATE things SET email_ix = NULL"))

    event.listen(Thing, "after_insert", after_insert)
    try:
        assert {"Thing.email: found"} == failing(service)
    finally:
        event.remove(Thing, "after_insert", after_insert)


def test_a_value_that_comes_back_as_another_one_is_found(service: Opened) -> None:
    def before_insert(mapper: Any, connection: Any, target: Thing) -> None:
        target.name = target.name.upper()

    event.listen(Thing, "before_insert", before_insert)
    try:
        assert {"Thing.name: comes_back"} == failing(service)
    finally:
        event.remove(Thing, "before_insert", before_insert)


def test_a_class_without_a_factory_or_a_field_without_a_value_proves_nothing(service: Opened) -> None:
    names = {law.name for law in conformance.laws()}
    assert {f"Thing.{field}: {name}" for field in ("email", "name") for name in names} == failing(service, None)
    assert {f"Thing.email: {name}" for name in names} == failing(service, lambda: Thing(name="Planted"))


def test_a_factory_that_makes_one_data_subject_or_fails_is_found(service: Opened) -> None:
    one = thing()
    assert "Thing.email: moved" in failing(service, lambda: one)
    assert "Thing.email: comes_back" in failing(service, lambda: Thing(planted="planted"))


def test_rows_that_stay_behind_are_found(service: Opened) -> None:
    once = [thing()]

    def make() -> Thing:
        with service.archive() as session:
            session.add_all(once)
            session.commit()
        once.clear()
        return thing()

    assert {"every table: undone"} == failing(service, make)
