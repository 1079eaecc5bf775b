"""Every type that can be declared, sealed and not, through ORM and Core, on real databases."""

import enum
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic import Field as ModelField
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Time,
    event,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeEngine

from privkit import Equality, GeoPoint, NotPersonal, Personal, data_subject, not_personal
from privkit.crypto.codec import codec_for
from privkit.crypto.keys import SubjectKey
from privkit.errors import InvalidValue, MappingError, PurposeError, SealedError
from tests.databases import raw_rows
from tests.sqlalchemy.opened import Opened, opened, plain, sealed


class Colour(enum.Enum):
    PLANTED_RED = "red"
    GREEN = "green"


class Size(enum.StrEnum):
    PLANTED_LARGE = "large"
    SMALL = ""


class Level(enum.IntEnum):
    PLANTED_LOW = 0
    HIGH = 1


class Town(BaseModel):
    name: str
    since: date | None = None


class Diet(BaseModel):
    """A model with a list, a nested model, an alias and values that JSON has no type for."""

    likes: list[str] = []
    town: Town | None = None
    eats_at: time = ModelField(default=time(12), alias="eatsAt")
    price: Decimal = Decimal("0")


class Answers(TypedDict):
    planted: str


Email = NewType("Email", str)
EAST = timezone(timedelta(hours=5, minutes=45))
DIET = Diet(likes=["planted żur"], town=Town(name="planted Łódź", since=date(1990, 1, 2)), price=Decimal("1.50"))


@dataclass(frozen=True)
class Case:
    """A declared type, the column type where SQLAlchemy has none for it, and values to store, the empty ones too."""

    annotation: Any
    values: tuple[Any, ...]
    kind: Callable[[], TypeEngine[Any]] | None = None
    bare: bool = True
    postgresql: bool = False
    needles: tuple[bytes, ...] = field(default=(b"planted", b"PLANTED"))


JSONS = ({"a": 1}, {"planted": ["ü", None, {"żółw": 1.0}]}, [], {}, 0, False, "", "planted text", None, 1e300, -0.0)
CASES: dict[str, Case] = {
    "str": Case(str, ("planted text", "", " ", "Zoë planted 🛰", "x" * 5000)),
    "new_type": Case(Email, (Email("planted@example.org"), ""), String),
    "literal": Case(Literal["planted", "other"], ("planted", "other")),
    "bytes": Case(bytes, (b"planted\x00\xff", b"", b"\x00", b"\x01\x01" + bytes(60))),
    "bool": Case(bool, (True, False)),
    "int": Case(int, (0, -1, 2**31 - 1, -(2**31))),
    "big_int": Case(int, (2**63 - 1, -(2**63)), BigInteger),
    "huge_int": Case(int, (2**400, -(2**400), 0), bare=False, kind=lambda: Numeric(150, 0)),
    "float": Case(float, (0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324)),
    "decimal": Case(Decimal, (Decimal("5432.100"), Decimal("0.000"), Decimal("-1.5")), lambda: Numeric(12, 3)),
    "date": Case(date, (date(1987, 6, 5), date.min, date.max), needles=(b"1987-06-05",)),
    "time": Case(time, (time(0), time(23, 59, 59, 999999))),
    "aware_time": Case(time, (time(1, 2, tzinfo=EAST),), lambda: Time(timezone=True)),
    "datetime": Case(datetime, (datetime(1987, 6, 5, 1, 2, 3, 456789), datetime(1, 1, 1)), needles=(b"1987-06-05",)),
    "aware_datetime": Case(
        datetime,
        (datetime(2025, 12, 24, 18, 30, 15, 123456, tzinfo=EAST), datetime(1970, 1, 1, tzinfo=UTC)),
        lambda: DateTime(timezone=True),
    ),
    "timedelta": Case(timedelta, (timedelta(0), timedelta(days=-3, microseconds=1), timedelta(days=400))),
    "enum": Case(Colour, tuple(Colour)),
    "str_enum": Case(Size, tuple(Size)),
    "int_enum": Case(Level, tuple(Level)),
    "uuid": Case(uuid.UUID, (uuid.UUID("b3b8a4a2-59c1-4f26-9a52-6ad2f4a64b11"), uuid.UUID(int=0)), needles=(b"b3b8",)),
    "json": Case(dict[str, Any], JSONS, JSON),
    "json_of_any": Case(Any, JSONS, JSON),
    "json_text": Case(str, ("planted", "", None), JSON),
    "jsonb": Case(dict[str, Any], JSONS[:-1], JSONB, postgresql=True),
    "list": Case(list[str], (["planted", ""], []), JSON),
    "array": Case(list[str], (["planted", ""], []), lambda: ARRAY(String), postgresql=True),
    "typed_dict": Case(Answers, ({"planted": "yes"},), JSON),
    "model": Case(Diet, (DIET, Diet()), JSON, bare=False),
    "secret_str": Case(SecretStr, (SecretStr("planted"), SecretStr("")), String, bare=False),
    "secret_bytes": Case(SecretBytes, (SecretBytes(b"planted\xff"), SecretBytes(b"")), LargeBinary, bare=False),
    "point": Case(GeoPoint, (GeoPoint(51.501364, -0.14189), GeoPoint(0.0, 0.0)), bare=False),
}


def model_of(case: Case, name: str = "things") -> Any:
    """A class that stores the type sealed, unsealed, and, where SQLAlchemy knows it, as no personal data at all."""
    base = type("Base", (DeclarativeBase,), {"metadata": MetaData()})
    given = case.annotation | None if case.annotation is not Any else Any
    hints: dict[str, Any] = {
        "id": Mapped[int],
        "sealed": Mapped[Annotated[given, sealed()]],
        "plain": Mapped[Annotated[given, plain()]],
        "bare": Mapped[Annotated[given, NotPersonal("what SQLAlchemy makes of it")]],
    }
    if not case.bare:
        del hints["bare"]
    columns: dict[str, Any] = {"id": mapped_column(primary_key=True)}
    if case.kind is not None:
        columns |= {key: mapped_column(case.kind(), nullable=True) for key in hints if key != "id"}
    cls = type("Thing", (base,), {"__tablename__": name, "__annotations__": hints, "__module__": __name__, **columns})
    return not_personal("id", because="row id")(data_subject(cls))


def exact(value: Any) -> Any:
    """What equality does not see: types inside JSON, the scale of a Decimal, an offset, -0.0, what a secret hides."""
    if isinstance(value, SecretStr | SecretBytes):
        return type(value), value.get_secret_value()
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return (type(value), value) if isinstance(value, GeoPoint | BaseModel) else (type(value), repr(value))


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, database_url: str) -> Case:
    found = CASES[request.param]
    return replace(found, kind=JSON) if found.postgresql and database_url.startswith("sqlite") else found


def row(case: Case, value: Any) -> dict[str, Any]:
    """A row with the value in every column that can hold it; no database has an integer of 400 bits."""
    other = None if case is CASES["huge_int"] else value
    return {"sealed": value, "plain": other} | ({"bare": other} if case.bare else {})


def check(case: Case, value: Any, got: Any) -> None:
    assert exact(value) == exact(got.sealed)
    expected = got.bare if case.bare else row(case, value)["plain"]
    assert exact(expected) == exact(got.plain)


def check_bytes(case: Case, service: Opened) -> None:
    found = [value for value in service.column("things", "sealed") if value is not None]
    assert all(value[:2] == b"\x01\x01" and len(value) >= 50 for value in found)
    assert [] == [needle for needle in case.needles for value in found if needle in value]


def test_what_is_written_by_orm_or_core_comes_back_by_both_with_its_type(
    case: Case, database_url: str, tmp_path: Path
) -> None:
    cls = model_of(case)
    values = (*case.values, None)
    with opened(database_url, tmp_path, cls) as service:
        with service.archive() as session:
            for number, value in enumerate(values, 1):
                session.add(cls(id=number, **row(case, value)))
            session.commit()
            rows = [row(case, value) for value in values]
            session.execute(insert(cls.__table__), [{"id": 100 + number, **each} for number, each in enumerate(rows)])
            session.commit()
        check_bytes(case, service)
        with service.archive() as session:
            objects = session.scalars(select(cls).order_by(cls.id)).all()
            tuples = session.connection().execute(select(cls.__table__).order_by(cls.__table__.c.id)).all()
            for value, got, core in zip(values * 2, objects, tuples, strict=True):
                check(case, value, got)
                check(case, value, core)


def test_a_changed_value_of_every_type_comes_back_and_none_of_it_without_a_purpose(
    case: Case, database_url: str, tmp_path: Path
) -> None:
    cls = model_of(case)
    first, last = case.values[0], case.values[-1]
    with opened(database_url, tmp_path, cls) as service:
        with service.archive() as session:
            thing = cls(id=1, **row(case, last))
            session.add_all([thing, cls(id=2, **row(case, last))])
            session.commit()
            thing.sealed = first
            session.commit()
            session.execute(update(cls).where(cls.id == 2).values(sealed=first))
            session.commit()
            session.refresh(thing)
            assert exact(first) == exact(thing.sealed)
        check_bytes(case, service)
        with service.archive() as session:
            assert [exact(first)] * 2 == [exact(each) for each in session.scalars(select(cls.sealed))]
            assert exact(first) == exact(session.merge(cls(id=1, sealed=first)).sealed)
            assert not session.is_modified(session.get_one(cls, 1))
        with Session(service.engine) as session:
            for field in (cls.sealed, cls.plain, cls.__table__.c.sealed):
                with pytest.raises(PurposeError):
                    session.execute(select(field)).all()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LAWS: dict[Any, st.SearchStrategy[Any]] = {
    Size: st.sampled_from(Size),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Email: st.text(),
    SecretStr: st.text().map(SecretStr),
    SecretBytes: st.binary().map(SecretBytes),
    list[str]: st.lists(st.text()),
    Answers: st.fixed_dictionaries({"planted": st.text()}),
    dict[str, Any]: JSON_VALUES,
    Diet: st.builds(
        Diet,
        likes=st.lists(st.text(st.characters(codec="utf-8"))),
        town=st.none() | st.builds(Town, name=st.text(st.characters(codec="utf-8")), since=st.none() | st.dates()),
        eatsAt=st.times(),
        price=st.decimals(allow_nan=False, allow_infinity=False, places=3),
    ),
}


@pytest.mark.parametrize("declared", LAWS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_what_is_sealed_opens_as_it_was(declared: Any, data: st.DataObject) -> None:
    value = data.draw(LAWS[declared])
    codec, key = codec_for(declared), SubjectKey(bytes(32)).value_key("things.sealed")

    assert exact(value) == exact(codec.decode(key.open(key.seal(codec.encode(value)))))


@pytest.mark.parametrize("case", ["str"], indirect=True)
def test_a01_an_empty_text_is_no_null_and_no_two_are_stored_alike(
    case: Case, database_url: str, tmp_path: Path
) -> None:
    cls = model_of(case)
    with opened(database_url, tmp_path, cls) as service, service.archive() as session:
        session.add_all([cls(id=1, sealed=""), cls(id=2, sealed=""), cls(id=3, sealed=" "), cls(id=4, sealed=None)])
        session.commit()
        first, second, space, nothing = service.column("things", "sealed")
        assert nothing is None
        assert first != second
        assert len(first) + 1 == len(space)
        assert [4] == list(session.scalars(select(cls.id).where(cls.sealed.is_(None))))
        assert ["", "", " ", None] == list(session.scalars(select(cls.sealed).order_by(cls.id)))


def written(cls: Any, service: Opened, session: Session) -> dict[str, list[bool]]:
    """Write None in each way; say for each column whether SQL NULL stands there, in the order of the ways."""
    session.add_all([cls(id=1), cls(id=2, sealed=None, plain=None), cls(id=3, sealed=null(), plain=null())])
    session.add(cls(id=4, sealed=JSON.NULL, plain=JSON.NULL))
    session.commit()
    table = cls.__table__
    session.execute(insert(table).values(id=5, sealed=None, plain=None))
    session.execute(insert(table), [{"id": 6, "sealed": None, "plain": None}])
    session.execute(insert(table).values(id=7, sealed=null(), plain=null()))
    session.add_all(cls(id=number, sealed={"a": 1}, plain={"a": 1}) for number in (8, 9, 10))
    session.commit()
    session.execute(update(cls).where(cls.id == 8).values(sealed=None, plain=None))
    session.execute(update(cls).where(cls.id == 9).values(sealed=null(), plain=null()))
    thing = session.get_one(cls, 10)
    thing.sealed = thing.plain = None
    session.commit()
    assert {None} == set(session.scalars(select(cls.sealed))) | set(session.scalars(select(cls.plain)))
    rows = raw_rows(service.url, "SELECT sealed IS NULL, plain IS NULL FROM things ORDER BY id")
    return {"sealed": [bool(each) for each, _ in rows], "plain": [bool(each) for _, each in rows]}


@pytest.mark.parametrize("none_as_null", [False, True])
def test_a04_json_null_and_sql_null_stand_where_a_plain_json_column_has_them(
    database_url: str, tmp_path: Path, none_as_null: bool
) -> None:
    cls = model_of(Case(dict[str, Any], (), lambda: JSON(none_as_null=none_as_null)))
    with opened(database_url, tmp_path, cls) as service, service.archive() as session:
        found = written(cls, service, session)
        assert found["plain"] == found["sealed"]
        where_null = session.scalars(select(cls.id).where(cls.sealed.is_(None)).order_by(cls.id))
        assert [number for number, empty in enumerate(found["plain"], 1) if empty] == list(where_null)


def test_a05_json_is_a_dict_on_every_way_to_load_it(database_url: str, tmp_path: Path) -> None:
    cls = model_of(CASES["json"])
    with opened(database_url, tmp_path, cls) as service, service.archive() as session:
        thing = cls(id=1, sealed={"a": 1})
        session.add(thing)
        session.flush()
        session.expunge_all()
        loaded = session.get_one(cls, 1)
        found = [loaded.sealed]
        session.refresh(loaded)
        found += [loaded.sealed, session.merge(cls(id=1, sealed={"a": 1})).sealed]
        found += session.scalars(insert(cls).returning(cls.sealed), [{"id": 2, "sealed": {"a": 1}}])
        found += session.scalars(update(cls).where(cls.id == 2).values(sealed={"a": 1}).returning(cls.sealed))
        found += session.connection().execute(select(cls.__table__.c.sealed)).scalars()
        assert [{"a": 1}] * 7 == found


def test_a_stored_model_that_no_longer_fits_its_class_is_an_error_without_the_value(
    database_url: str, tmp_path: Path
) -> None:
    old = model_of(Case(dict[str, Any], (), JSON))
    with opened(database_url, tmp_path, old) as service, service.archive() as session:
        session.add(old(id=1, sealed={"likes": "planted"}, plain={"likes": "planted"}))
        session.commit()
    new = model_of(Case(Diet, (), JSON, bare=False))
    with opened(database_url, tmp_path, new) as service, service.archive() as session:
        for column, kind in ((new.sealed, SealedError), (new.plain, InvalidValue)):
            with pytest.raises(kind, match=r"things\.") as caught:
                session.scalars(select(column)).all()
            assert "planted" not in str(caught.value)
            assert caught.value.__context__ is None or "planted" not in str(caught.value.__context__)


class Lossy(BaseModel):
    shown: str = ""
    hidden: str = ModelField(default="", exclude=True)


@pytest.mark.parametrize("column", ["sealed", "plain"])
def test_a_model_that_would_not_come_back_is_refused_when_it_is_written(
    database_url: str, tmp_path: Path, column: str
) -> None:
    cls = model_of(Case(Lossy, (), JSON, bare=False))
    with opened(database_url, tmp_path, cls) as service, service.archive() as session:
        session.add(cls(id=1, **{column: Lossy(hidden="planted")}))
        with pytest.raises(InvalidValue, match="does not come back") as caught:
            session.flush()
        assert "planted" not in str(caught.value)
        session.rollback()
        session.add(cls(id=1, **{column: {"shown": "planted"}}))
        with pytest.raises(InvalidValue, match="declared Lossy was given as dict"):
            session.flush()


class Permission(enum.Flag):
    READ = 1


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (list[date], JSON()),
        (dict[str, bytes], JSON()),
        (list[GeoPoint], JSON()),
        (set[str], JSON()),
        (int | str, String()),
        (complex, String()),
        (Permission, Integer()),
        (Literal["a", 1], String()),
    ],
)
def test_a_type_that_cannot_be_sealed_is_an_error_when_it_is_mapped(annotation: Any, kind: Any) -> None:
    with pytest.raises(MappingError, match=r"things\.sealed: .* cannot be sealed") as caught:
        model_of(Case(annotation, (), lambda: kind))

    assert "Declare one of: str" in str(caught.value)


def test_a_marker_inside_a_list_means_the_whole_list(database_url: str, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because="row id")
    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        names: Mapped[list[Annotated[str, sealed()]]] = mapped_column(JSON)

    with opened(database_url, tmp_path, Base) as service, service.archive() as session:
        session.add(Thing(id=1, names=["planted", ""]))
        session.commit()
        assert b"\x01\x01" == service.column("things", "names")[0][:2]
        assert ["planted", ""] == session.get_one(Thing, 1).names


def updates(service: Opened) -> list[str]:
    """The UPDATE statements that are sent from now on."""
    sent: list[str] = []

    @event.listens_for(service.engine, "before_cursor_execute")
    def before_cursor_execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("UPDATE"):
            sent.append(statement)

    return sent


TRACKED: dict[str, tuple[Any, Callable[[], TypeEngine[Any]], Any, Callable[[Any], None]]] = {
    "dict": (dict[str, Any], lambda: MutableDict.as_mutable(JSON), {"a": 1}, lambda value: value.update(b=2)),
    "list": (list[str], lambda: MutableList.as_mutable(JSON), ["a"], lambda value: value.append("b")),
    "jsonb": (
        dict[str, Any],
        lambda: MutableDict.as_mutable(JSON().with_variant(JSONB(), "postgresql")),
        {"a": 1},
        lambda value: value.update(b=2),
    ),
}


@pytest.mark.parametrize("tracked", list(TRACKED))
def test_a29_a_change_in_place_is_saved_where_the_type_is_declared_mutable(
    tracked: str, database_url: str, tmp_path: Path
) -> None:
    declared, kind, value, change = TRACKED[tracked]
    cls = model_of(Case(declared, (), kind))
    with opened(database_url, tmp_path, cls) as service:
        with service.archive() as session:
            session.add(cls(id=1, sealed=value, plain=value, bare=value))
            session.commit()
        with service.archive() as session:
            thing = session.get_one(cls, 1)
            for each in (thing.sealed, thing.plain, thing.bare):
                change(each)
            session.commit()
            assert type(value) in type(thing.sealed).__mro__
        with service.archive() as session:
            thing = session.get_one(cls, 1)
            assert thing.bare == thing.sealed == thing.plain
            assert len(value) + 1 == len(thing.sealed)


def test_a29_what_was_read_and_not_changed_is_not_written_again(database_url: str, tmp_path: Path) -> None:
    mutable = model_of(Case(dict[str, Any], (), lambda: MutableDict.as_mutable(JSON)))
    for cls in (mutable, model_of(Case(dict[str, Any], (), JSON), "others")):
        with opened(database_url, tmp_path, cls) as service:
            sent = updates(service)
            with service.archive() as session:
                session.add(cls(id=1, sealed={"a": [1]}))
                session.flush()
                session.commit()
                thing = session.get_one(cls, 1)
                assert {"a": [1]} == thing.sealed
                thing.sealed = {"a": [1]}
                session.flush()
                thing.sealed["a"].append(2)  # inside a nested list nothing is tracked, as in a plain column
                session.commit()
                assert {"a": [1]} == session.get_one(cls, 1).sealed
            assert [] == sent


def test_a28_two_columns_with_arguments_of_their_own_never_take_each_other_s_statement(
    database_url: str, tmp_path: Path
) -> None:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because="row id")
    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        one: Mapped[Annotated[dict[str, Any] | None, sealed(duties=[])]] = mapped_column(JSON)
        two: Mapped[Annotated[dict[str, Any] | None, sealed(duties=set())]] = mapped_column(JSON)
        three: Mapped[Annotated[str | None, Personal("user.name", purposes=["survey"], seal=True)]]

    with opened(database_url, tmp_path, Base) as service:
        for name in ("one", "two") * 2:
            with service.archive() as session:
                session.execute(insert(Thing), [{name: {"planted": name}}])
                session.commit()
        with service.privacy.purpose("archive", "survey"), Session(service.engine) as session:
            for name in ("one", "two") * 3:
                column = getattr(Thing, name)
                found = session.scalars(select(column).where(column.is_not(None))).all()
                assert [{"planted": name}] * 2 == found
            assert [None] * 4 == session.scalars(select(Thing.three)).all()
        with service.archive() as session, pytest.raises(PurposeError):
            session.scalars(select(Thing.three)).all()


@pytest.mark.parametrize("rows", [3, 2500])
def test_a26_rows_of_one_batch_come_back_to_their_own_objects(rows: int, database_url: str, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", "number", "made", because="row id, number and time")
    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int]
        made: Mapped[datetime] = mapped_column(server_default=func.now())
        email: Mapped[Annotated[str | None, sealed(search=Equality("email"))]]
        name: Mapped[Annotated[str | None, plain()]]

    with opened(database_url, tmp_path, Base) as service:
        with service.archive() as session:
            things = [Thing(number=number, email=f"{number}@a.example", name=f"N{number}") for number in range(rows)]
            session.add_all(things)
            session.flush()
            taken = {thing.id: number for number, thing in enumerate(things)}
            assert {datetime} == {type(thing.made) for thing in things}
            session.commit()
            returned = session.execute(
                insert(Thing).returning(Thing.id, Thing.number, Thing.email, sort_by_parameter_order=True),
                [{"number": rows + number, "email": f"{rows + number}@a.example"} for number in range(rows)],
            ).all()
            session.commit()
        assert [(rows + number, f"{rows + number}@a.example") for number in range(rows)] == [
            (number, email) for _, number, email in returned
        ]
        with service.archive() as session:
            stored = session.execute(select(Thing.id, Thing.number, Thing.email)).all()
        assert {(number, f"{number}@a.example") for number in range(2 * rows)} == {each[1:] for each in stored}
        assert taken.items() <= {each[0]: each[1] for each in stored}.items()
