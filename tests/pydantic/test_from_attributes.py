"""An object is read for the declared fields that the purpose needs, and for nothing else (case G24)."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AliasChoices, AliasPath, ConfigDict, Field, RootModel, TypeAdapter
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    Cell,
    Exact,
    FileKeyring,
    GeoPoint,
    Location,
    NotPersonal,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from privkit.errors import PurposeError
from privkit.location import cell
from privkit.pydantic import PersonalModel
from tests.meta import ROOT
from tests.pydantic.scopes import EMAIL, HOME, NAME, purpose


class Watched:
    """Counts what is read of it."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values, reads=Counter())

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name != "reads":
            self.reads[name] += 1
        return super().__getattribute__(name)


class View(PersonalModel):
    model_config = ConfigDict(from_attributes=True)
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account", "receipts"})] = None
    name: Annotated[str | None, Personal("user.name", purposes={"account"})] = None
    id: Annotated[int, NotPersonal("row id")] = 0


class OpenView(View):
    model_config = ConfigDict(extra="allow")


class Views(RootModel[list[View]]):
    pass


class Reply(PersonalModel):
    model_config = ConfigDict(from_attributes=True)
    rider: View


def watched() -> Watched:
    return Watched(id=7, email=EMAIL, name=NAME, born="secret", notes="secret")


@pytest.mark.parametrize("cls", [View, OpenView])
def test_g24_only_declared_and_needed_attributes_are_touched(cls: type[View]) -> None:
    rider = watched()
    with purpose("receipts"):
        view = cls.model_validate(rider)
        assert {"id": 7, "email": EMAIL} == view.model_dump()
    assert {"id": 1, "email": 1} == rider.reads
    assert {"id", "email"} == view.model_fields_set


def test_g24_adapters_lists_root_models_and_nested_views_touch_no_more() -> None:
    for read in (
        lambda rider: TypeAdapter(View).validate_python(rider),
        lambda rider: TypeAdapter(list[View]).validate_python([rider]),
        lambda rider: Views.model_validate([rider]),
        lambda rider: Reply.model_validate(Watched(rider=rider)),
        lambda rider: View.model_validate((rider, {})),
    ):
        rider = watched()
        with purpose("receipts"):
            read(rider)
        assert {"id", "email"} == set(rider.reads)


def test_without_a_purpose_nothing_personal_is_touched_and_the_read_is_refused() -> None:
    rider = watched()
    with pytest.raises(PurposeError, match=r"View\.email is personal data and no purpose is set") as info:
        View.model_validate(rider)
    assert {"id"} >= set(rider.reads)
    assert (None, None) == (info.value.__cause__, info.value.__context__)


def test_an_object_without_personal_attributes_needs_no_purpose() -> None:
    assert 3 == View.model_validate(Watched(id=3)).id


def test_an_attribute_that_equals_the_default_needs_no_purpose() -> None:
    assert View(id=3) == View.model_validate(Watched(id=3, email=None, name=None))
    assert View(id=3) == View.model_validate(View.model_construct(id=3))
    with pytest.raises(PurposeError, match=r"View\.name"):
        View.model_validate(Watched(id=3, email=None, name=NAME))


def test_refusing_views_do_not_touch_what_they_refuse() -> None:
    class Refusing(View, unneeded="refuse"):
        pass

    rider = watched()
    with purpose("receipts"), pytest.raises(PurposeError, match=r"Refusing\.name is not needed"):
        Refusing.model_validate(rider)
    assert "name" not in rider.reads


def test_a_required_field_that_is_not_needed_is_refused_untouched() -> None:
    class Required(PersonalModel):
        model_config = ConfigDict(from_attributes=True)
        name: Annotated[str, Personal("user.name", purposes={"account"})]

    rider = watched()
    with purpose("receipts"), pytest.raises(PurposeError, match=r"Required\.name"):
        Required.model_validate(rider)
    assert not rider.reads


def test_aliases_are_hidden_too_unless_a_needed_field_reads_the_same_attribute() -> None:
    class Aliased(PersonalModel):
        model_config = ConfigDict(from_attributes=True)
        mail: Annotated[str | None, Personal("user.contact.email", purposes={"receipts"})] = Field(None, alias="email")
        call: Annotated[str | None, Personal("user.name", purposes={"account"})] = Field(
            None, validation_alias=AliasChoices("nickname", AliasPath("names", 0), "email")
        )

    rider = Watched(email=EMAIL, nickname="A", names=[NAME])
    with purpose("receipts"):
        aliased = Aliased.model_validate(rider)
    assert (EMAIL, None) == (aliased.mail, aliased.call)
    assert {"email"} == set(rider.reads)


def test_what_an_attribute_raises_is_told_without_its_message() -> None:
    class Broken:
        id = 1

        @property
        def email(self) -> str:
            raise RuntimeError(f"cannot decode {EMAIL}")

    with purpose("account"), pytest.raises(ValueError, match="get_attribute_error") as info:
        View.model_validate(Broken())
    assert EMAIL not in str(info.value)


class Base(DeclarativeBase):
    pass


@data_subject
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"}, seal=True)]]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"}, seal=True)]]
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})]]
    closed_at: Mapped[datetime | None]


class RiderOut(PersonalModel):
    model_config = ConfigDict(from_attributes=True)
    id: Annotated[int, NotPersonal("row id")]
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account", "receipts"})] = None
    name: Annotated[str | None, Personal("user.name", purposes={"account"})] = None
    home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None


@pytest.fixture
def stored(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[Privacy, Engine]]:
    keys = FileKeyring.create(str(tmp_path / "keys.json"))
    privacy = Privacy(policy=ROOT / "policies" / "rides.yaml", models=Base, keys=keys)
    engine = create_engine(sqlite_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("account", "pickup"), Session(engine) as session:
        session.add(Rider(id=7, email=EMAIL, name=NAME, home=HOME))
        session.commit()
    yield privacy, engine
    engine.dispose()


def test_g24_a_stored_row_is_read_for_what_the_purpose_needs(stored: tuple[Privacy, Engine]) -> None:
    privacy, engine = stored
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    expected = {
        "receipts": {"id": 7, "email": EMAIL},
        "account": {"id": 7, "email": EMAIL, "name": NAME},
        "demand_map": {"id": 7, "home": cell(HOME, 7)},
        "navigation": {"id": 7},
    }
    for name, dumped in expected.items():
        with privacy.purpose(name), Session(engine) as session:
            rider = session.get(Rider, 7)
            before = len(statements)
            view = RiderOut.model_validate(rider)
            assert dumped == view.model_dump()
            assert before == len(statements)
            assert {"id", *dumped} == view.model_fields_set
