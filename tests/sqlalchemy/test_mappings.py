"""Every way to map a class: its personal fields keep every law of the conformance kit."""

import dataclasses
import uuid
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from pydantic import SecretStr
from sqlalchemy import (
    JSON,
    Column,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    select,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    column_property,
    composite,
    declared_attr,
    deferred,
    mapped_column,
    registry,
    relationship,
)
from sqlmodel import Field as ModelField
from sqlmodel import SQLModel

from privkit import Equality, GeoPoint, Location, NotPersonal, Privacy, data_subject, not_personal, owned_by
from privkit.catalog import read
from privkit.errors import MappingError, PurposeError, StatementRefused
from privkit.testing import conformance
from tests.databases import raw_rows
from tests.sqlalchemy.opened import plain, privacy_for, sealed

EMAIL = sealed(search=Equality("email"))
BECAUSE = "no fact about the person"


@dataclasses.dataclass
class Mapping:
    """Classes of one shape: what Privacy is given, where their tables are, and how each class is made."""

    models: Any
    metadata: MetaData
    make: dict[type, Callable[[], Any]]
    annotate: Callable[[Privacy], None] = lambda privacy: None


def base() -> Any:
    return type("Base", (DeclarativeBase,), {"metadata": MetaData()})


def email() -> str:
    return f"planted-{uuid.uuid4()}@example.org"


def declarative() -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]
        name: Mapped[Annotated[str | None, plain()]]

    return Mapping(Base, Base.metadata, {Rider: lambda: Rider(email=email(), name="Planted")})


def imperative() -> Mapping:
    mapping = registry()

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider:
        email: Annotated[str, EMAIL]
        name: Annotated[str | None, plain()]

        def __init__(self, **values: Any) -> None:
            for key, value in values.items():
                setattr(self, key, value)

    riders = Table("riders", mapping.metadata, Column("id", Integer, primary_key=True))
    riders.append_column(Column("email", String, nullable=False))
    riders.append_column(Column("name", String))
    mapping.map_imperatively(Rider, riders)
    return Mapping(mapping, mapping.metadata, {Rider: lambda: Rider(email=email(), name="Planted")})


def imperative_table() -> Mapping:
    Base = base()  # noqa: N806

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base):
        __table__ = Table(
            "riders",
            Base.metadata,
            Column("id", Integer, primary_key=True),
            Column("email", String(80)),
            Column("name", String(80)),
        )
        email: Mapped[Annotated[str, EMAIL]]
        name: Mapped[Annotated[str, plain()]]

    return Mapping(Base, Base.metadata, {Rider: lambda: Rider(email=email(), name="Planted")})


def dataclass_mapped() -> Mapping:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        email: Mapped[Annotated[str, EMAIL]]
        likes: Mapped[Annotated[dict[str, Any] | None, sealed()]] = mapped_column(JSON, default=None)
        name: Mapped[Annotated[str | None, plain()]] = mapped_column(default=None)

    make = {Rider: lambda: Rider(email(), {"planted": "likes"}, "Planted")}
    return Mapping(Base, Base.metadata, make)


def mixin_and_abstract() -> Mapping:
    class HasEmail:
        email: Mapped[Annotated[str, EMAIL]]

        @declared_attr
        def nick(cls) -> Mapped[Annotated[str | None, sealed()]]:
            return mapped_column(String(80))

    class Base(DeclarativeBase):
        pass

    class Somebody(HasEmail, Base):
        __abstract__ = True
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[Annotated[str | None, plain()]]

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Somebody):
        __tablename__ = "riders"

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Driver(Somebody):
        __tablename__ = "drivers"
        plate: Mapped[Annotated[str | None, sealed()]]

    return Mapping(
        Base,
        Base.metadata,
        {
            Rider: lambda: Rider(email=email(), name="Planted", nick="planted nick"),
            Driver: lambda: Driver(email=email(), name="Planted", nick="planted nick", plate="planted plate"),
        },
    )


def joined() -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", "kind", because=BECAUSE)
    class Staff(Base):
        __tablename__ = "staff"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        email: Mapped[Annotated[str, EMAIL]]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}

    @not_personal("id", because=BECAUSE)
    class Doctor(Staff):
        __tablename__ = "doctors"
        id: Mapped[int] = mapped_column(ForeignKey("staff.id"), primary_key=True)
        licence: Mapped[Annotated[str | None, sealed(search=Equality())]]
        title: Mapped[Annotated[str | None, plain()]]
        __mapper_args__ = {"polymorphic_identity": "doctor"}

    @not_personal("doctor_id", because=BECAUSE)
    class Surgeon(Doctor):
        __tablename__ = "surgeons"
        doctor_id: Mapped[int] = mapped_column(ForeignKey("doctors.id"), primary_key=True)
        scalpel: Mapped[Annotated[str | None, sealed()]]
        __mapper_args__ = {"polymorphic_identity": "surgeon"}

    licence = {"licence": "planted licence", "title": "planted title"}
    return Mapping(
        Base,
        Base.metadata,
        {
            Staff: lambda: Staff(email=email()),
            Doctor: lambda: Doctor(email=email(), **licence),
            Surgeon: lambda: Surgeon(email=email(), scalpel="planted scalpel", **licence),
        },
    )


def single_table() -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", "kind", because=BECAUSE)
    class Contact(Base):
        __tablename__ = "contacts"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        email: Mapped[Annotated[str, EMAIL]]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "contact"}

    class Patient(Contact):
        ward: Mapped[Annotated[str | None, sealed(search=Equality())]] = mapped_column(use_existing_column=True)
        __mapper_args__ = {"polymorphic_identity": "patient"}

    class Nurse(Contact):
        ward: Mapped[Annotated[str | None, sealed(search=Equality())]] = mapped_column(use_existing_column=True)
        badge: Mapped[Annotated[str | None, plain()]]
        __mapper_args__ = {"polymorphic_identity": "nurse"}

    return Mapping(
        Base,
        Base.metadata,
        {
            Contact: lambda: Contact(email=email()),
            Patient: lambda: Patient(email=email(), ward="planted ward"),
            Nurse: lambda: Nurse(email=email(), ward="planted ward", badge="planted badge"),
        },
    )


def concrete(polymorphic: tuple[type, ...] = ()) -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Staff(*polymorphic, Base):
        __tablename__ = "staff"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]
        __mapper_args__ = {"polymorphic_identity": "staff", "concrete": True} if polymorphic else {}

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Doctor(Staff):
        __tablename__ = "doctors"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]
        licence: Mapped[Annotated[str | None, sealed()]]
        __mapper_args__ = {"polymorphic_identity": "doctor", "concrete": True} if polymorphic else {"concrete": True}

    return Mapping(
        Base,
        Base.metadata,
        {
            Staff: lambda: Staff(email=email()),
            Doctor: lambda: Doctor(email=email(), licence="planted licence"),
        },
    )


@dataclasses.dataclass
class Address:
    street: str | None
    town: str | None


def composite_and_deferred() -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        street: Mapped[Annotated[str | None, EMAIL]]
        town: Mapped[Annotated[str | None, plain()]]
        diary: Mapped[Annotated[str | None, sealed()]] = deferred(mapped_column())
        letter: Mapped[Annotated[str | None, sealed()]] = mapped_column(deferred=True, deferred_group="texts")
        notes: Mapped[Annotated[str | None, sealed()]] = column_property(mapped_column("notes_text", String))
        address: Mapped[Address] = composite("street", "town")

    texts = {"diary": "planted diary", "letter": "planted letter", "notes": "planted notes"}
    return Mapping(Base, Base.metadata, {Rider: lambda: Rider(address=Address(email(), "planted town"), **texts)})


Home = Annotated[str | None, mapped_column(String(80), use_existing_column=True), sealed(search=Equality())]


def alias() -> Mapping:
    class Base(DeclarativeBase):
        pass

    class HasHome:
        home: Mapped[Home]

    @data_subject
    @not_personal("id", "kind", because=BECAUSE)
    class Contact(Base):
        __tablename__ = "contacts"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "contact"}

    class Patient(Contact):
        home: Mapped[Home]
        __mapper_args__ = {"polymorphic_identity": "patient"}

    class Nurse(HasHome, Contact):
        __mapper_args__ = {"polymorphic_identity": "nurse"}

    make = {Patient: lambda: Patient(home="planted home"), Nurse: lambda: Nurse(home="planted home")}
    return Mapping(Base, Base.metadata, make)


def sqlmodel() -> Mapping:
    class Base(SQLModel, registry=registry(metadata=MetaData())):
        pass

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base, table=True):
        id: int | None = ModelField(default=None, primary_key=True)
        email: Annotated[str, EMAIL]
        name: Annotated[str | None, plain()] = None
        home: Annotated[GeoPoint | None, Location(purposes={"archive"})] = ModelField(default=None, sa_type=LargeBinary)
        likes: Annotated[dict[str, Any] | None, sealed()] = ModelField(default=None, sa_type=JSON)
        secret: Annotated[SecretStr | None, sealed()] = ModelField(default=None, sa_type=String)

    def rider() -> Rider:
        return Rider(
            email=email(),
            name="Planted",
            home=GeoPoint(51.501364, -0.14189),
            likes={"a": "planted"},
            secret=SecretStr("planted secret"),
        )

    return Mapping(Rider, Base.metadata, {Rider: rider})


def flask() -> Mapping:
    db = SQLAlchemy(metadata=MetaData())

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(db.Model):  # type: ignore[name-defined, misc]
        id = mapped_column(Integer, primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]
        name: Mapped[Annotated[str | None, plain()]]

    return Mapping(db.Model, db.metadata, {Rider: lambda: Rider(email=email(), name="Planted")})


def annotated_outside() -> Mapping:
    class Base(DeclarativeBase):
        pass

    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]
        likes: Mapped[dict[str, Any] | None] = mapped_column(JSON)
        name: Mapped[str | None]

    def annotate(privacy: Privacy) -> None:
        data_subject(Rider)
        privacy.annotate(Rider, email=EMAIL, name=plain(), likes=sealed(), id=NotPersonal(BECAUSE))

    make = {Rider: lambda: Rider(email=email(), name="Planted", likes={"a": "planted likes"})}
    return Mapping(Base, Base.metadata, make, annotate)


def other_names() -> Mapping:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @not_personal("ident", because=BECAUSE)
    class Rider(Base):
        __tablename__ = "Riders Of 2026"
        ident: Mapped[int] = mapped_column("ID", primary_key=True)
        email: Mapped[Annotated[str, EMAIL]] = mapped_column("E-Mail")
        name: Mapped[Annotated[str | None, plain()]] = mapped_column("select")
        nick: Mapped[Annotated[str | None, sealed(search=Equality())]] = mapped_column("Nick", key="nickname")

    make = {Rider: lambda: Rider(email=email(), name="Planted", nick="planted nick")}
    return Mapping(Base, Base.metadata, make)


def in_a_schema() -> Mapping:
    class Base(DeclarativeBase):
        metadata = MetaData(schema="Fleet")

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]
        name: Mapped[Annotated[str | None, plain()]]

    @owned_by("rider")
    @not_personal("id", because=BECAUSE)
    class Trip(Base):
        __tablename__ = "trips"
        __table_args__ = {"schema": "archive"}
        id: Mapped[int] = mapped_column(primary_key=True)
        rider_id: Mapped[int] = mapped_column(ForeignKey("Fleet.riders.id"))
        rider: Mapped[Rider] = relationship()
        start: Mapped[Annotated[GeoPoint, Location(purposes={"archive"})]]

    def rider() -> Rider:
        return Rider(email=email(), name="Planted")

    make = {Rider: rider, Trip: lambda: Trip(rider=rider(), start=GeoPoint(51.501364, -0.14189))}
    return Mapping(Base, Base.metadata, make)


def several_bases() -> Mapping:
    """Two bases and a registry, whose tables share one MetaData."""
    metadata = MetaData()
    one = type("One", (DeclarativeBase,), {"metadata": metadata})
    two = type("Two", (DeclarativeBase,), {"metadata": metadata})

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(one):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Driver(two):
        __tablename__ = "drivers"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]

    make = {Rider: lambda: Rider(email=email()), Driver: lambda: Driver(email=email())}
    return Mapping([one, two], metadata, make)


SHAPES = (
    declarative,
    imperative,
    imperative_table,
    dataclass_mapped,
    mixin_and_abstract,
    joined,
    single_table,
    concrete,
    composite_and_deferred,
    alias,
    several_bases,
    sqlmodel,
    flask,
    annotated_outside,
    other_names,
    in_a_schema,
)


SCHEMAS = ("Fleet", "archive")


def prepared(mapping: Mapping, url: str, folder: Path) -> tuple[Privacy, Engine]:
    """A Privacy for the mapping's classes, and a protected engine with their tables."""
    for schema in SCHEMAS if url.startswith("postgresql") else ():
        raw_rows(url, f'CREATE SCHEMA "{schema}"')
    privacy = privacy_for(folder, mapping.models)
    mapping.annotate(privacy)
    engine = create_engine(url)
    if url.startswith("sqlite"):
        event.listen(engine, "connect", lambda connection, _: attach(connection, folder))
    privacy.protect(engine)
    mapping.metadata.create_all(engine)
    return privacy, engine


def attach(connection: Any, folder: Path) -> None:
    """SQLite's schemas are attached files."""
    for schema in SCHEMAS:
        connection.execute(f"ATTACH DATABASE '{folder / schema}.sqlite' AS '{schema}'")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_law_holds_however_a_class_is_mapped(
    shape: Callable[[], Mapping], database_url: str, tmp_path: Path
) -> None:
    mapping = shape()
    privacy, engine = prepared(mapping, database_url, tmp_path)
    report = conformance.examine(privacy, engine, mapping.make)
    engine.dispose()

    assert "" == "\n".join(map(str, report.failures))
    assert {cls.__name__ for cls in mapping.make} == {each.field.partition(".")[0] for each in report.outcomes[:-1]}


def test_a_polymorphic_union_of_concrete_tables_is_refused_and_each_table_works(
    database_url: str, tmp_path: Path
) -> None:
    mapping = concrete((ConcreteBase,))
    privacy, engine = prepared(mapping, database_url, tmp_path)
    staff, doctor = mapping.make
    with privacy.purpose("archive"), Session(engine) as session:
        session.add_all([mapping.make[staff](), mapping.make[doctor]()])
        session.commit()
        for cls in (staff, doctor):
            with pytest.raises(StatementRefused):
                session.scalars(select(cls)).all()
            assert session.execute(select(cls.__table__.c.email)).scalar_one().startswith("planted-")
    engine.dispose()


def test_a38_two_classes_of_one_table_agree_on_its_column_or_are_an_error() -> None:
    mapping = alias()
    patient, nurse = mapping.make
    kinds = {cls.__mapper__.columns["home"] for cls in (patient, nurse)}

    (column,) = kinds
    assert "contacts.home" == column.type.field.id
    assert {"contacts.home"} == {read(cls).fields["home"].id for cls in (patient, nurse)}

    with pytest.raises(MappingError, match="declared twice, differently"):

        class Doctor(patient.__mro__[1]):
            home: Mapped[Annotated[str | None, sealed()]] = mapped_column(String(80), use_existing_column=True)
            __mapper_args__ = {"polymorphic_identity": "doctor"}


def test_two_columns_of_one_table_are_not_sealed_as_one_field() -> None:
    with pytest.raises(MappingError, match="which another column of its table has already"):

        class Rider(base()):
            __tablename__ = "riders"
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[Annotated[str | None, sealed(id="riders.email")]]
            other: Mapped[Annotated[str | None, sealed(id="riders.email")]]


def test_the_repr_of_a_dataclass_shows_no_personal_value_and_its_init_keeps_its_order() -> None:
    (make,) = dataclass_mapped().make.values()
    made = make()

    assert "planted" not in repr(made).lower()
    assert ["self", "email", "likes", "name"] == list(signature(type(made).__init__).parameters)


def test_flask_sqlalchemy_writes_and_reads_in_its_own_session(database_url: str, tmp_path: Path) -> None:
    db = SQLAlchemy(metadata=MetaData())

    @data_subject
    @not_personal("id", because=BECAUSE)
    class Rider(db.Model):
        id = mapped_column(Integer, primary_key=True)
        email: Mapped[Annotated[str, EMAIL]]

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db.init_app(app)
    privacy = privacy_for(tmp_path, db.Model)
    with app.app_context():
        privacy.protect(db.engine)
        db.create_all()
        with privacy.purpose("archive"):
            db.session.add(Rider(id=1, email="planted@example.org"))
            db.session.commit()
            assert ["planted@example.org"] == [
                each.email for each in Rider.query.filter_by(email="planted@example.org")
            ]
        with pytest.raises(PurposeError):
            _ = db.session.get(Rider, 1).email
        assert b"\x01\x01" == bytes(raw_rows(database_url, "SELECT email FROM rider")[0][0])[:2]
        db.session.remove()
        db.engine.dispose()


def service_tables(url: str, folder: Path) -> None:
    """A database that an earlier run of the service made."""
    mapping = declarative()
    privacy, engine = prepared(mapping, url, folder)
    with privacy.purpose("archive"), Session(engine) as session:
        session.add_all(made(email="planted@example.org", name="Planted") for made in mapping.make)
        session.commit()
    engine.dispose()


def reflected_rider(how: str, engine: Engine, arguments: dict[str, Any]) -> Any:
    """A class for the riders that are in the database, with what it tells the mapper."""
    if how == "reflected":
        models = base()
        riders = Table("riders", models.metadata, autoload_with=engine)
        return type("Rider", (models,), {"__table__": riders, "__mapper_args__": arguments})
    models = automap_base()
    rider = type("Rider", (models,), {"__tablename__": "riders", "__mapper_args__": arguments})
    models.prepare(autoload_with=engine)
    return rider


@pytest.mark.parametrize("how", ["automap", "reflected"])
def test_tables_that_an_earlier_run_sealed_are_reflected_and_annotated_from_outside(
    how: str, database_url: str, tmp_path: Path
) -> None:
    service_tables(database_url, tmp_path)
    engine = create_engine(database_url)
    rider = reflected_rider(how, engine, {"exclude_properties": ["email_ix"]})
    privacy = privacy_for(tmp_path, rider)
    data_subject(rider)
    privacy.annotate(rider, email=Annotated[str, EMAIL], name=plain(), id=NotPersonal(BECAUSE))
    privacy.protect(engine)

    with privacy.purpose("archive"), Session(engine) as session:
        (found,) = session.scalars(select(rider).filter_by(email="planted@example.org"))
        assert "Planted" == found.name
    report = conformance.examine(privacy, engine, {rider: lambda: rider(email=email(), name="Planted")})
    engine.dispose()
    assert "" == "\n".join(map(str, report.failures))


def test_a_reflected_search_hash_is_not_mapped(sqlite_url: str, tmp_path: Path) -> None:
    service_tables(sqlite_url, tmp_path)
    engine = create_engine(sqlite_url)
    rider = reflected_rider("reflected", engine, {})
    engine.dispose()
    with pytest.raises(MappingError, match="maps 'email_ix', a search hash") as caught:
        privacy_for(tmp_path, rider).annotate(rider, email=Annotated[str, EMAIL])
    assert "__mapper_args__ = {\"exclude_properties\": ['email_ix']}" in str(caught.value)


def test_an_annotation_from_outside_without_a_marker_is_an_error(tmp_path: Path) -> None:
    mapping = annotated_outside()
    (rider,) = mapping.make
    with pytest.raises(MappingError, match="with no marker"):
        privacy_for(tmp_path, mapping.models).annotate(rider, email=Annotated[str, "no marker"])


def test_a37_a_secret_needs_a_column_type_and_is_never_stored_without_one() -> None:
    with pytest.raises(ValueError, match="has no matching SQLAlchemy type"):

        class Rider(SQLModel, table=True):
            id: int | None = ModelField(default=None, primary_key=True)
            secret: Annotated[SecretStr, sealed()]

    with pytest.raises(ArgumentError, match="SecretStr"):

        class Driver(base()):
            __tablename__ = "drivers"
            id: Mapped[int] = mapped_column(primary_key=True)
            secret: Mapped[Annotated[SecretStr, sealed()]]
