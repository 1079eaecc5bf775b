"""Search on sealed fields: uniqueness, the change of an index key without down-time, and what is refused."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from sqlalchemy import (
    Engine,
    ForeignKey,
    Index,
    MetaData,
    UniqueConstraint,
    bindparam,
    create_engine,
    insert,
    lambda_stmt,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from privkit import (
    Equality,
    FileKeyring,
    GeoPoint,
    Location,
    Nearby,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from privkit.errors import MappingError, SearchError, StatementRefused
from privkit.location import nearby
from privkit.sqlalchemy import index
from tests.databases import raw_rows

POLICY = """
privkit: 1
controller: {name: Test Ltd, contact: privacy@test.example}
purposes:
  account: {description: "Run it", legal_basis: contract, keep: {for: P30D, after: account_closed}}
categories: {user.name: {seal: required}}
"""
MAIL = "planted@mail.example"
BERLIN = GeoPoint(52.52, 13.405)

OLD = Equality("email")
STARTING = Equality("email", also=(2,))
CHANGING = Equality("email", key=2, also=(1,))
NEW = Equality("email", key=2)


def personal(**more: Any) -> Personal:
    return Personal("user.contact.email", purposes={"account"}, **more)


@dataclass
class Build:
    """One build of a service: its own classes, its own Privacy, one database and keyring for all builds."""

    privacy: Privacy
    engine: Engine
    person: Any

    def add(self, *mails: str | None, **more: Any) -> None:
        with self.privacy.purpose("account"), Session(self.engine) as session:
            session.add_all([self.person(email=mail, **more) for mail in mails])
            session.commit()

    def found(self, condition: Callable[[Any], Any], parameters: Any = None) -> list[int]:
        with self.privacy.purpose("account"), Session(self.engine) as session:
            query = select(self.person.id).where(condition(self.person)).order_by(self.person.id)
            return list(session.scalars(query, parameters or {}))


def build(url: str, folder: Path, search: Any, place: Any = None, **column: Any) -> Build:
    """Deploy a build whose ``email`` is found by ``search``; ``column`` goes to mapped_column."""

    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "tenant", "closed_at", because="made up for a test")
    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant: Mapped[int] = mapped_column(default=1)
        closed_at: Mapped[datetime | None]
        email: Mapped[Annotated[str | None, personal(search=search)]] = mapped_column(**column)
        home: Mapped[Annotated[GeoPoint | None, Location(purposes={"account"}, search=place or Nearby(8))]]

    return deploy(url, folder, Base, Person)


def deploy(url: str, folder: Path, base: Any, person: Any) -> Build:
    policy, path = folder / "policy.yaml", folder / "keys.json"
    policy.write_text(POLICY, encoding="utf-8")
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy, base, keys)
    engine = create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
    privacy.protect(engine)
    base.metadata.create_all(engine)
    return Build(privacy, engine, person)


Deploy = Callable[..., Build]


@pytest.fixture
def deployed(database_url: str, tmp_path: Path) -> Iterator[Deploy]:
    made: list[Build] = []

    def run(*args: Any, **more: Any) -> Build:
        made.append(build(database_url, tmp_path, *args, **more))
        return made[-1]

    yield run
    for each in made:
        each.engine.dispose()


def hashes(url: str) -> list[bytes]:
    return [bytes(value) for (value,) in raw_rows(url, "SELECT email_ix FROM people ORDER BY id")]


# Uniqueness.


UNIQUE: dict[str, dict[str, Any]] = {
    "a unique column": {"unique": True},
    "a unique indexed column": {"unique": True, "index": True},
}


@pytest.mark.parametrize("how", UNIQUE)
def test_a_unique_sealed_field_is_unique_by_its_normalised_value(how: str, deployed: Deploy) -> None:
    service = deployed(OLD, **UNIQUE[how])
    service.add(MAIL, "other@mail.example", None, None)

    with pytest.raises(IntegrityError) as refusal:
        service.add(MAIL.upper())

    assert MAIL.lower() not in f"{refusal.value!s} {refusal.value.orig!s} {refusal.value.params!r}".lower()
    assert [1] == service.found(lambda person: person.email == MAIL)


def test_one_unique_column_has_one_index_on_its_hashes(deployed: Deploy) -> None:
    table = deployed(OLD, unique=True).person.__table__
    constraints = [each.columns.keys() for each in table.constraints if isinstance(each, UniqueConstraint)]

    assert [["email_ix"]] == constraints
    assert [] == [each for each in table.indexes if "email_ix" in each.columns]


def declared_by_name(table_args: Any, later: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
    class Base(DeclarativeBase):
        metadata = MetaData(
            naming_convention={"uq": "uq_%(table_name)s_%(column_0_N_name)s", "ix": "ix_%(column_0_label)s"}
        )

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "tenant", "closed_at", because="made up for a test")
    class Person(Base):
        __tablename__ = "people"
        __table_args__ = table_args
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant: Mapped[int] = mapped_column(default=1)
        closed_at: Mapped[datetime | None]
        email: Mapped[Annotated[str | None, personal(search=OLD)]]

    if later is not None:
        later(Person)
    return Base, Person


NAMED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a constraint": lambda: declared_by_name((UniqueConstraint("tenant", "email", name="one_each"),)),
    "a constraint without a name": lambda: declared_by_name((UniqueConstraint("tenant", "email"),)),
    "an index": lambda: declared_by_name((Index("one_each", "tenant", "email", unique=True),)),
    "an index after the class": lambda: declared_by_name(
        (), lambda person: Index("one_each", person.tenant, person.email, unique=True)
    ),
}


@pytest.mark.parametrize("how", NAMED)
def test_what_is_unique_together_stays_so(how: str, database_url: str, tmp_path: Path) -> None:
    base, person = NAMED[how]()
    service = deploy(database_url, tmp_path, base, person)
    service.add(MAIL, tenant=1)
    service.add(MAIL, tenant=2)

    with pytest.raises(IntegrityError) as refusal:
        service.add(MAIL, tenant=2)

    if database_url.startswith("postgresql"):
        assert ("uq_people_tenant_email_ix" if "without" in how else "one_each") in str(refusal.value)
    service.engine.dispose()


def mapped(annotation: Any, *, table_args: Any = (), policy: str = POLICY, **column: Any) -> Any:
    """Map a class whose ``value`` is annotated so."""

    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "closed_at", because="made up for a test")
    class Person(Base):
        __tablename__ = "people"
        __table_args__ = table_args
        id: Mapped[int] = mapped_column(primary_key=True)
        closed_at: Mapped[datetime | None]
        value: Mapped[annotation] = mapped_column(**column)

    return Base


NOT_UNIQUE = {
    "no search": lambda: mapped(Annotated[str, personal(seal=True)], unique=True),
    "another search": lambda: mapped(
        Annotated[GeoPoint, Location(purposes={"account"}, search=Nearby(8))], unique=True
    ),
    "nulls that are equal": lambda: mapped(
        Annotated[str, personal(search=OLD)],
        table_args=(UniqueConstraint("value", postgresql_nulls_not_distinct=True),),
    ),
}


@pytest.mark.parametrize("what", NOT_UNIQUE)
def test_uniqueness_that_ciphertext_cannot_have_is_refused(what: str) -> None:
    with pytest.raises(MappingError, match=r"search=Equality\("):
        NOT_UNIQUE[what]()


def test_uniqueness_of_a_field_that_only_the_policy_seals_is_refused_with_the_policy(tmp_path: Path) -> None:
    base = mapped(Annotated[str, Personal("user.name", purposes={"account"})], unique=True)

    with pytest.raises(MappingError, match="sealed and declared unique"):
        deploy("sqlite://", tmp_path, base, None)


def test_a_sealed_field_does_not_identify_rows() -> None:
    with pytest.raises(MappingError, match="a primary key"):
        mapped(Annotated[str, personal(search=OLD)], primary_key=True)
    with pytest.raises(MappingError, match="a foreign key"):
        mapped(Annotated[str, personal(search=OLD), mapped_column(ForeignKey("others.id"))])


def test_no_foreign_key_refers_to_a_sealed_field(tmp_path: Path) -> None:
    base = mapped(Annotated[str, personal(search=OLD)], unique=True)

    class Order(base):  # type: ignore[misc, valid-type]
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        buyer: Mapped[str] = mapped_column(ForeignKey("people.value"))

    with pytest.raises(MappingError, match="referred to"):
        deploy("sqlite://", tmp_path, base, None)


# What is guessable, or cannot work, is refused while the class is mapped.


class Plan(Enum):
    FREE = 1
    PAID = 2


@pytest.mark.parametrize("kind", [bool, Plan, Plan | None, Literal["free", "paid"]])
def test_equality_on_a_handful_of_values_needs_a_reason(kind: Any) -> None:
    with pytest.raises(MappingError, match="2 possible values"):
        mapped(Annotated[kind, personal(search=Equality())])
    mapped(Annotated[kind, personal(search=Equality(guessable="both plans are on the invoice anyway"))])


@pytest.mark.parametrize(
    "search",
    [
        Equality(key=0),
        Equality(key=256),
        Equality(also=(1,)),
        Equality(also=(Equality("email"),)),
        Equality(also=(2, 2)),
        Equality(also=(Equality(key=2, also=(3,)),)),
        Equality("telephone"),
        Equality(also=(Equality("telephone", key=2),)),
    ],
)
def test_a_search_that_cannot_work_is_refused_while_the_class_is_mapped(search: Equality) -> None:
    with pytest.raises(MappingError, match=r"index keys cannot be told apart|no normaliser"):
        mapped(Annotated[str, personal(search=search)])


# The index key changes, builds run side by side.


def test_a_hash_begins_with_the_number_of_its_key(deployed: Deploy, database_url: str) -> None:
    deployed(OLD).add(MAIL)
    deployed(NEW).add(MAIL)

    old, new = hashes(database_url)

    assert (b"\1\1", b"\1\2") == (old[:2], new[:2])
    assert old[2:] != new[2:]


def by_lambda(service: Build) -> list[int]:
    wanted, person = MAIL, service.person
    with service.privacy.purpose("account"), Session(service.engine) as session:
        statement = lambda_stmt(lambda: select(person.id).order_by(person.id), track_on=[person])
        statement += lambda query: query.where(person.email == wanted)
        return list(session.scalars(statement))


LOOK_UPS: dict[str, Callable[[Build], list[int]]] = {
    "==": lambda service: service.found(lambda person: person.email == MAIL),
    "in_": lambda service: service.found(lambda person: person.email.in_([MAIL.upper(), "x@x"])),
    "not !=": lambda service: service.found(lambda person: ~(person.email != MAIL)),
    "not not_in": lambda service: service.found(lambda person: ~person.email.not_in([MAIL])),
    "a named parameter": lambda service: service.found(lambda person: person.email == bindparam("m"), {"m": MAIL}),
    "a lambda": by_lambda,
    "an alias": lambda service: service.found(
        lambda person: person.id.in_(select((other := aliased(person)).id).where(other.email == MAIL))
    ),
}


@pytest.mark.parametrize("how", LOOK_UPS)
@pytest.mark.parametrize("search", [STARTING, CHANGING], ids=["starting", "changing"])
def test_every_look_up_finds_what_builds_on_both_sides_of_a_step_wrote(
    search: Equality, how: str, deployed: Deploy
) -> None:
    for each in (STARTING, CHANGING):
        deployed(each).add(MAIL, "other@mail.example")

    assert [1, 3] == LOOK_UPS[how](deployed(search))


def by_lambda_list(service: Build) -> list[int]:
    wanted, person = [MAIL], service.person
    with service.privacy.purpose("account"), Session(service.engine) as session:
        statement = lambda_stmt(lambda: select(person.id), track_on=[person])
        statement += lambda query: query.where(person.email.in_(wanted))
        return list(session.scalars(statement))


UNSERVED: dict[str, Callable[[Build], list[int]]] = {
    "a named list": lambda service: service.found(
        lambda person: person.email.in_(bindparam("m", expanding=True)), {"m": [MAIL]}
    ),
    "a lambda's list": by_lambda_list,
    "a tuple with the hidden column": lambda service: service.found(
        lambda person: tuple_(person.id, person.__table__.c.email_ix).in_([(1, MAIL)])
    ),
}


@pytest.mark.parametrize("how", UNSERVED)
def test_a_comparison_that_cannot_look_for_both_keys_is_refused(how: str, deployed: Deploy) -> None:
    service = deployed(CHANGING)

    with pytest.raises(SearchError):
        UNSERVED[how](service)


def test_the_normaliser_can_change_with_the_key(deployed: Deploy) -> None:
    deployed(Equality("exact")).add(MAIL)
    service = deployed(Equality("email", key=2, also=(Equality("exact"),)))
    service.add(MAIL.upper())

    assert [1, 2] == service.found(lambda person: person.email == MAIL)


def test_the_resolution_of_a_location_search_can_change_with_the_key(deployed: Deploy) -> None:
    deployed(OLD, place=Nearby(7)).add(MAIL, home=BERLIN)
    service = deployed(OLD, place=Nearby(9, key=2, also=(Nearby(7),)))
    service.add(MAIL, home=BERLIN)
    centre = GeoPoint(BERLIN.lat + 0.001, BERLIN.lon)

    with service.privacy.purpose("account"), Session(service.engine) as session:
        found = nearby(session, select(service.person), service.person.home, centre, metres=200)

        assert [1, 2] == sorted(each.id for each in found)


def test_a_value_has_one_present_hash_and_it_is_the_new_key_s(deployed: Deploy, database_url: str) -> None:
    deployed(OLD).add(MAIL, None)
    service = deployed(CHANGING)
    service.add(MAIL)
    field = service.person.__table__.c.email.type.field
    old, _, new = (row and bytes(row) for (row,) in raw_rows(database_url, "SELECT email_ix FROM people ORDER BY id"))

    assert new == index.hash_for(service.privacy.guard, field, MAIL)
    assert old != new
    assert None is index.hash_for(service.privacy.guard, field, None)


def test_once_the_old_hashes_are_made_anew_the_last_build_finds_every_row(deployed: Deploy, database_url: str) -> None:
    deployed(STARTING, unique=True).add("one@mail.example", "two@mail.example", None)
    service = deployed(CHANGING, unique=True)
    service.add(MAIL)
    field = service.person.__table__.c.email.type.field

    assert [4] == deployed(NEW, unique=True).found(lambda person: person.email.in_(["one@mail.example", MAIL]))
    done = service.privacy.reseal(service.engine)

    assert (True, 2) == (done.ok, done.fields["people.email"].resealed)
    stored = [row and bytes(row) for (row,) in raw_rows(database_url, "SELECT email_ix FROM people ORDER BY id")]
    mails = ["one@mail.example", "two@mail.example", None, MAIL]
    assert [index.hash_for(service.privacy.guard, field, mail) for mail in mails] == stored
    assert [1, 4] == deployed(NEW, unique=True).found(lambda person: person.email.in_(["one@mail.example", MAIL]))


# Uniqueness while the key changes.


SIDES = [(STARTING, CHANGING), (CHANGING, STARTING)]


@pytest.mark.parametrize(("first", "second"), SIDES, ids=["old first", "new first"])
def test_a_value_that_another_build_stored_under_its_own_key_is_refused(
    first: Equality, second: Equality, deployed: Deploy
) -> None:
    deployed(first, unique=True).add(MAIL)
    service = deployed(second, unique=True)

    with pytest.raises(IntegrityError) as refusal:
        service.add(MAIL.upper())

    assert isinstance(refusal.value.orig, StatementRefused)
    assert MAIL not in str(refusal.value).lower()


def test_an_update_is_refused_the_value_of_another_row_and_may_keep_its_own(deployed: Deploy) -> None:
    deployed(STARTING, unique=True).add(MAIL, "other@mail.example")
    service = deployed(CHANGING, unique=True)
    person = service.person

    with service.privacy.purpose("account"), Session(service.engine) as session:
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(update(person).where(person.id == 2).values(email=MAIL))
        session.execute(update(person), [{"id": 1, "email": MAIL.upper()}])
        session.commit()

    assert [1] == service.found(lambda person: person.email == MAIL)


def test_many_rows_are_looked_up_in_few_statements(deployed: Deploy) -> None:
    deployed(STARTING, unique=True).add("rider250@mail.example")
    service = deployed(CHANGING, unique=True)
    rows = [{"email": f"rider{number}@mail.example"} for number in range(300)]

    with service.privacy.purpose("account"), service.engine.begin() as connection:
        with pytest.raises(IntegrityError):
            connection.execute(insert(service.person), rows)
        connection.execute(insert(service.person), rows[:250])


def test_of_columns_unique_together_all_count_while_a_key_changes(deployed: Deploy) -> None:
    deployed(STARTING).add(MAIL, tenant=1)
    service = deployed(CHANGING)
    UniqueConstraint(service.person.tenant, service.person.email)
    service.add(MAIL, tenant=2)

    with pytest.raises(IntegrityError):
        service.add(MAIL, tenant=1)
    with (
        pytest.raises(StatementRefused, match="Set all of them"),
        service.privacy.purpose("account"),
        Session(service.engine) as session,
    ):
        session.execute(update(service.person).where(service.person.id == 2).values(tenant=1))


def compete(url: str, folder: str, search: Equality, barrier: Any, results: Any) -> None:
    service = build(url, Path(folder), search, unique=True)
    for number in range(20):
        barrier.wait()
        try:
            service.add(f"rider{number}@mail.example")
        except IntegrityError:
            results.put((number, "refused"))
        else:
            results.put((number, "stored"))


def test_of_two_builds_that_store_one_value_at_once_one_is_refused(
    deployed: Deploy, database_url: str, tmp_path: Path
) -> None:
    service = deployed(STARTING, unique=True)
    service.engine.dispose()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=compete, args=(database_url, str(tmp_path), search, barrier, results))
        for search in (STARTING, CHANGING)
    ]
    for each in workers:
        each.start()
    outcomes = sorted(results.get(timeout=120) for _ in range(40))
    for each in workers:
        each.join(60)

    assert [(number, word) for number in range(20) for word in ("refused", "stored")] == outcomes
    assert [(20,)] == raw_rows(database_url, "SELECT count(*) FROM people")
