"""The one walker finds every marker, wherever a class hides it, and loses none in silence."""

from datetime import date, datetime
from typing import Annotated, Any, Optional

import pytest
from pydantic import BaseModel
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, declared_attr, mapped_column, registry
from typing_extensions import TypeAliasType

from privkit.catalog import annotate, read, with_type
from privkit.errors import MappingError
from privkit.markers import (
    AgeBand,
    BirthDate,
    Cell,
    ChildProtection,
    Delete,
    Exact,
    Latest,
    Location,
    NotPersonal,
    Personal,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    observers,
    owned_by,
)
from tests import postponed_models as postponed

EMAIL = Personal("user.contact.email", purposes={"account"})
HOME = Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})
Email = Annotated[str, EMAIL]


class Base(DeclarativeBase):
    pass


class Contact:
    """A mixin."""

    email: Mapped[Email]


class Person(Contact, Base):
    __tablename__ = "people"
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
    kind: Mapped[Annotated[str, NotPersonal("which subclass")]]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


class Driver(Person):
    """Joined-table inheritance."""

    __tablename__ = "drivers"
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(ForeignKey("people.id"), primary_key=True)
    licence: Mapped[Annotated[str, Personal("user.government_id", purposes={"account"})]]
    __mapper_args__ = {"polymorphic_identity": "driver"}


class Courier(Person):
    """Single-table inheritance."""

    bicycle: Mapped[Annotated[str | None, Personal("user.device", purposes={"account"})]]
    __mapper_args__ = {"polymorphic_identity": "courier"}


def names(cls: type) -> list[str]:
    return sorted(read(cls).fields)


def test_a_pydantic_field_is_found_with_its_marker_type_and_purposes() -> None:
    class Form(BaseModel):
        email: Email
        home: Annotated[str, HOME]

    home = read(Form).fields["home"]
    assert ["email", "home"] == names(Form)
    assert (HOME, str, False) == (home.marker, home.python_type, home.many)
    assert {"pickup": Exact(), "demand_map": Cell(7)} == home.purposes
    assert ("Form.home", "Form.home") == (home.id, str(home))


def test_a_mapped_field_is_found_and_named_after_its_table() -> None:
    email = read(Person).fields["email"]
    assert (EMAIL, str, "people.email") == (email.marker, email.python_type, email.id)
    assert {"id": "row id", "kind": "which subclass"} == read(Person).not_personal


@pytest.mark.parametrize(
    ("annotation", "python_type", "many"),
    [
        (Annotated[str | None, EMAIL], str, False),
        (Annotated[str, EMAIL] | None, str, False),
        (Optional[Annotated[str, EMAIL]], str, False),  # noqa: UP045
        (Annotated[Optional[str], EMAIL], str, False),  # noqa: UP045
        (list[Annotated[str, EMAIL]], str, True),
        (Annotated[list[str], EMAIL], list[str], True),
        (Annotated[list[str] | None, EMAIL], list[str], True),
        (set[Annotated[str, EMAIL] | None] | None, str, True),
        (tuple[Annotated[str, EMAIL], ...], str, True),
        (dict[str, Annotated[str, EMAIL]], str, False),
        (Annotated[Annotated[str, "a note"], EMAIL], str, False),
        (Mapped[Annotated[str, EMAIL] | None], str, False),
        (Mapped[list[Annotated[str, EMAIL]]], str, True),
        (Email, str, False),
        (Email | None, str, False),
        ("Email | None", str, False),
        (Mapped["Email"], str, False),
        (list["Email"], str, True),
    ],
)
def test_a_marker_is_found_at_any_depth(annotation: Any, python_type: Any, many: bool) -> None:
    cls = type("Form", (), {"__module__": __name__, "__annotations__": {"email": annotation}})
    field = read(cls).fields["email"]
    assert (EMAIL, python_type, many) == (field.marker, field.python_type, field.many)


def test_a_nested_model_keeps_its_fields_to_itself() -> None:
    class Address(BaseModel):
        home: Annotated[str, HOME]

    class Form(BaseModel):
        address: Address
        email: Email

    assert ["email"] == names(Form)
    assert ["home"] == names(Address)


def test_a_pydantic_subclass_inherits_and_may_decide_anew() -> None:
    class Form(BaseModel):
        email: Email
        born: Annotated[date, BirthDate(purposes={"age_check": AgeBand()})]

    class Public(Form):
        email: Annotated[str, NotPersonal("the company's own address")]

    assert ["born"] == names(Public)
    assert {"email": "the company's own address"} == read(Public).not_personal
    assert ["born", "email"] == names(Form)


def test_joined_inheritance_binds_each_field_to_the_table_that_holds_it() -> None:
    assert {"email": "people.email", "licence": "drivers.licence"} == ids(Driver)


def test_single_table_inheritance_binds_every_field_to_the_one_table() -> None:
    assert {"email": "people.email"} == ids(Person)
    assert {"email", "bicycle"} == set(ids(Courier))
    assert "people.email" == ids(Courier)["email"]


def ids(cls: type) -> dict[str, str]:
    return {name: field.id for name, field in read(cls).fields.items()}


def test_a_mixin_gives_each_table_a_field_of_its_own() -> None:
    class OtherBase(DeclarativeBase):
        pass

    class Shop(Contact, OtherBase):
        __tablename__ = "shops"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert ({"email": "people.email"}, {"email": "shops.email"}) == (ids(Person), ids(Shop))


def test_an_abstract_base_with_a_computed_table_name_is_no_home_of_a_field() -> None:
    class OtherBase(DeclarativeBase):
        @declared_attr.directive
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

    class Located(OtherBase):
        __abstract__ = True
        home: Mapped[Annotated[str, HOME]]

    class Stop(Located):
        id: Mapped[int] = mapped_column(primary_key=True)

    assert {"home": "stop.home"} == ids(Stop)


def test_a_dataclass_mapping_is_read_like_any_other() -> None:
    class OtherBase(MappedAsDataclass, DeclarativeBase):
        pass

    class Rider(OtherBase):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        email: Mapped[Email | None] = mapped_column(default=None)

    assert {"email": "riders.email"} == ids(Rider)


def test_postponed_annotations_of_mapped_classes_are_read_through_a_named_alias() -> None:
    expected = {"email": "postponed.email", "second_email": "postponed.second_email", "home": "postponed.home"}
    assert expected == ids(postponed.Postponed)
    assert {} == ids(postponed.PostponedChild)


def test_postponed_annotations_of_pydantic_models_are_read_the_same_way() -> None:
    fields = read(postponed.PostponedForm).fields
    assert {"email": False, "second_email": False, "homes": True} == {name: fields[name].many for name in fields}


def test_a_marker_that_cannot_be_read_is_an_error_not_an_unprotected_field() -> None:
    with pytest.raises(MappingError, match=r"^PK104: An annotation of Lost holds a privkit marker") as refusal:
        read(postponed.Lost)
    assert "TYPE_CHECKING" in refusal.value.fix


def test_an_unreadable_name_without_a_marker_is_left_to_others() -> None:
    assert not read(postponed.Elsewhere).marked


def test_a_class_is_annotated_from_outside() -> None:
    class Foreign:
        email: str

    annotate(Foreign, {"email": EMAIL, "last_ip": NotPersonal("of a load balancer")})
    assert EMAIL == read(Foreign).fields["email"].marker
    assert {"last_ip": "of a load balancer"} == read(Foreign).not_personal


def test_an_imperatively_mapped_class_is_annotated_from_outside_and_bound_to_its_table() -> None:
    class Legacy:
        pass

    table = Table("legacy_people", MetaData(), Column("id", Integer, primary_key=True), Column("email", String))
    registry().map_imperatively(Legacy, table)
    annotate(Legacy, {"email": EMAIL})
    assert {"email": "legacy_people.email"} == ids(Legacy)


def test_a_subclass_inherits_what_was_annotated_from_outside() -> None:
    class Foreign(BaseModel):
        email: str

    class Local(Foreign):
        home: Annotated[str, HOME]

    annotate(Foreign, {"email": EMAIL})
    assert ["email", "home"] == names(Local)


def test_an_annotation_from_outside_replaces_the_one_inside() -> None:
    class Foreign(BaseModel):
        email: Email
        home: Annotated[str, NotPersonal("a mistake")]

    annotate(Foreign, {"email": NotPersonal("a role address"), "home": HOME})
    assert ["home"] == names(Foreign)
    assert {"email": "a role address"} == read(Foreign).not_personal


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[str, EMAIL, HOME],
        Annotated[str, EMAIL, NotPersonal("no")],
        Annotated[Annotated[str, EMAIL], HOME],
        Annotated[str, EMAIL] | Annotated[int, HOME],
        Annotated[list[Annotated[str, HOME]], EMAIL],
    ],
)
def test_two_markers_on_one_field_are_an_error(annotation: Any) -> None:
    cls = type("Form", (), {"__module__": __name__, "__annotations__": {"email": annotation}})
    with pytest.raises(MappingError, match=r"^PK104: Form\.email carries two privkit markers"):
        read(cls)


def test_a_field_both_personal_and_not_is_an_error() -> None:
    @not_personal("email", because="it is not")
    class Form(BaseModel):
        email: Email

    with pytest.raises(MappingError, match=r"Form\.email is declared personal and not personal"):
        read(Form)


def test_class_markers_are_collected() -> None:
    @data_subject
    @child_protection(birth_date="born", country="country")
    @owned_by("household", "guardian_id")
    @events(account_closed="closed_at", trip_ended=Latest("trips.ended_at"))
    @expire_row(Delete())
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider:
        born: Annotated[date, BirthDate(purposes={"age_check"})]
        closed_at: datetime

    model = read(Rider)
    assert (True, True) == (model.marked, model.data_subject)
    assert ("household", "guardian_id") == model.owners
    assert {"account_closed": "closed_at", "trip_ended": Latest("trips.ended_at")} == model.events
    assert (Delete(), ChildProtection("born", "country")) == (model.expire_row, model.child)
    assert {"id", "closed_at"} == set(model.not_personal)


def test_a_subclass_inherits_class_markers_and_its_own_come_first() -> None:
    @owned_by("rider")
    @events(trip_ended="ended_at", account_closed="rider.closed_at")
    class Trip:
        pass

    @owned_by("driver")
    @events(trip_ended="arrived_at")
    class Delivery(Trip):
        pass

    assert ("driver",) == read(Delivery).owners
    assert {"trip_ended": "arrived_at", "account_closed": "rider.closed_at"} == read(Delivery).events
    assert {"trip_ended": "ended_at", "account_closed": "rider.closed_at"} == read(Trip).events


def test_a_class_without_declarations_is_unmarked() -> None:
    class Plain(BaseModel):
        name: str

    assert not read(Plain).marked


def test_observers_hear_of_a_class_when_a_decorator_marks_it() -> None:
    heard: list[type] = []
    observers.append(heard.append)
    try:

        @data_subject
        class Rider:
            pass

    finally:
        observers.remove(heard.append)
    assert [Rider] == heard


def test_storage_may_tell_the_type_that_no_annotation_told() -> None:
    class Foreign:
        pass

    annotate(Foreign, {"email": EMAIL})
    field = read(Foreign).fields["email"]
    assert (None, str) == (field.python_type, with_type(field, str).python_type)
    assert field.id == with_type(field, str).id


def test_a_marker_behind_a_type_alias_is_found() -> None:
    email = Personal("user.contact.email", purposes={"account"})
    alias = TypeAliasType("alias", Annotated[str, email])

    class Form(BaseModel):
        email: alias | None  # type: ignore[valid-type]

    assert read(Form).fields["email"].marker == email
