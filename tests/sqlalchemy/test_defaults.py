"""A field that a default fills in is collected, and one that ``onupdate`` fills in is changed, like any other."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from sqlalchemy import create_engine, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Equality, FileKeyring, Personal, Privacy, Pseudonymise, data_subject, events, not_personal
from privkit.errors import PurposeError, StatementRefused
from tests.databases import Server, raw_rows
from tests.sqlalchemy.rides import Clock

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  serve: {description: Serve, legal_basis: contract, keep: {for: P30D, after: ended}}
  other: {description: Something else, legal_basis: contract, keep: {for: P30D, after: ended}}
"""


class Base(DeclarativeBase):
    pass


def field(**more: Any) -> Personal:
    return Personal("user.content", purposes={"serve"}, **{"seal": False, **more})


class Visitor:
    __abstract__ = True
    id: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int | None]
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"serve"}, seal=False, then=Pseudonymise("n"))]]
    ended_at: Mapped[datetime | None]


def model(name: str, **columns: Any) -> Any:
    """A data subject with one more field, ``filled``."""
    said = {
        "__tablename__": name,
        "__annotations__": {"filled": columns.pop("kind")},
        "__module__": __name__,
        **columns,
    }
    made = type(name.title(), (Visitor, Base), said)
    return data_subject(events(ended="ended_at")(not_personal("id", "rank", "ended_at", because="no fact")(made)))


PLAIN = Mapped[Annotated[str | None, field()]]
SEALED = Mapped[Annotated[str | None, field(seal=True)]]
SEARCHED = Mapped[Annotated[str | None, field(seal=True, search=Equality("exact"))]]

COLLECTED = {
    "a value": model("valued", kind=PLAIN, filled=mapped_column(default="planted")),
    "a callable": model("called", kind=PLAIN, filled=mapped_column(default=lambda: "planted")),
    "one that looks at the row": model("looked", kind=PLAIN, filled=mapped_column(
        default=lambda context: context.get_current_parameters()["rank"] and "planted")),
    "an expression": model("expressed", kind=PLAIN, filled=mapped_column(default=func.lower("PLANTED"))),
    "the database": model("served", kind=PLAIN, filled=mapped_column(server_default="planted")),
    "a sealed value": model("sealed", kind=SEALED, filled=mapped_column(default="planted")),
    "a searched value": model("searched", kind=SEARCHED, filled=mapped_column(default="planted")),
}  # fmt: skip
CHANGED = {
    "a value": model("valued_u", kind=PLAIN, filled=mapped_column(onupdate="planted")),
    "a callable": model("called_u", kind=PLAIN, filled=mapped_column(onupdate=lambda: "planted")),
    "an expression": model("expressed_u", kind=PLAIN, filled=mapped_column(onupdate=func.lower("PLANTED"))),
    "a sealed value": model("sealed_u", kind=SEALED, filled=mapped_column(onupdate=lambda: "planted")),
    "a searched value": model("searched_u", kind=SEARCHED, filled=mapped_column(onupdate="planted")),
}
REFUSED_EXPRESSION = model("refused_u", kind=SEALED, filled=mapped_column(onupdate=func.lower("PLANTED")))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pg_server: Server
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("defaults")
    (folder / "policy.yaml").write_text(POLICY)
    clock = Clock()
    privacy = Privacy(folder / "policy.yaml", Base, FileKeyring.create(folder / "keys.json"), clock=clock)
    with pg_server.database() as name:
        lite = request.param == "sqlite"
        engine = create_engine(f"sqlite:///{folder / 'shop.sqlite'}" if lite else pg_server.url(name))
        privacy.protect(engine)
        Base.metadata.create_all(engine)
        yield privacy, engine, clock
        engine.dispose()


@pytest.fixture
def shop(opened: Any) -> Any:
    """No rows, and the clock at the beginning."""
    _, engine, clock = opened
    clock.now = datetime(2026, 1, 1, tzinfo=UTC)
    for each in (*COLLECTED.values(), *CHANGED.values(), REFUSED_EXPRESSION):
        raw_rows(engine.url.render_as_string(hide_password=False), f"DELETE FROM {each.__tablename__}")
    return opened


def orm_add(session: Session, model: Any) -> None:
    session.add(model(id=1, rank=1))
    session.flush()


def orm_bulk(session: Session, model: Any) -> None:
    session.execute(insert(model), [{"id": 1, "rank": 1}, {"id": 2, "rank": 2}])


def core_values(session: Session, model: Any) -> None:
    session.connection().execute(insert(model.__table__).values(id=1, rank=1))


def several_rows(session: Session, model: Any) -> None:
    session.execute(insert(model).values([{"id": 1, "rank": 1}, {"id": 2, "rank": 2}]))


def upsert(session: Session, model: Any) -> None:
    dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(model).values(id=1, rank=1).on_conflict_do_nothing())


@pytest.mark.parametrize("how", [orm_add, orm_bulk, core_values, several_rows, upsert])
@pytest.mark.parametrize("what", COLLECTED)
def test_a_default_is_not_collected_for_a_purpose_that_does_not_need_it(
    shop: Any, what: str, how: Callable[[Session, Any], None]
) -> None:
    privacy, engine, _ = shop
    found = COLLECTED[what]
    url = engine.url.render_as_string(hide_password=False)
    with privacy.purpose("other"), Session(engine) as session, pytest.raises(PurposeError, match="filled"):
        how(session, found)
    with Session(engine) as session, pytest.raises(PurposeError, match="no purpose"):
        how(session, found)
    assert [] == raw_rows(url, f"SELECT * FROM {found.__tablename__}")
    with privacy.purpose("serve"), Session(engine) as session:
        how(session, found)
        session.commit()
        assert {"planted"} == set(session.scalars(select(found.filled)))


@pytest.mark.parametrize("what", ["a value", "a callable", "an expression", "the database", "a sealed value"])
def test_a_row_can_be_stored_without_the_field_by_saying_none(shop: Any, what: str) -> None:
    privacy, engine, _ = shop
    found = COLLECTED[what]
    with privacy.purpose("other"), engine.begin() as connection:
        connection.execute(insert(found.__table__).values(id=1, filled=None))
    url = engine.url.render_as_string(hide_password=False)

    assert [(None,)] == raw_rows(url, f"SELECT filled FROM {found.__tablename__}")


def orm_flush(session: Session, model: Any) -> None:
    session.get_one(model, 1).rank = 7
    session.flush()


def orm_update(session: Session, model: Any) -> None:
    session.execute(update(model).where(model.id == 1).values(rank=7))


def by_primary_key(session: Session, model: Any) -> None:
    session.execute(update(model), [{"id": 1, "rank": 7}])


def core_update(session: Session, model: Any) -> None:
    session.connection().execute(update(model.__table__).where(model.__table__.c.id == 1).values(rank=7))


@pytest.mark.parametrize("how", [orm_flush, orm_update, by_primary_key, core_update])
@pytest.mark.parametrize("what", CHANGED)
def test_onupdate_does_not_change_a_field_for_a_purpose_that_does_not_need_it(
    shop: Any, what: str, how: Callable[[Session, Any], None]
) -> None:
    privacy, engine, _ = shop
    found = CHANGED[what]
    with privacy.purpose("serve"), Session(engine) as session:
        session.add(found(id=1, rank=1, filled="before"))
        session.commit()
    with privacy.purpose("other"), Session(engine) as session, pytest.raises(PurposeError, match="filled"):
        how(session, found)
    with privacy.purpose("serve"), Session(engine) as session:
        loaded = session.get_one(found, 1)
        assert "before" == loaded.filled
        how(session, found)
        if how is orm_flush:
            assert "planted" == loaded.filled
        session.commit()
        assert ["planted"] == session.scalars(select(found.filled)).all()
        if what == "a searched value":
            assert [1] == session.scalars(select(found.id).where(found.filled == "planted")).all()


def test_onupdate_with_an_expression_cannot_change_a_sealed_field(shop: Any) -> None:
    privacy, engine, _ = shop
    with privacy.purpose("serve"), Session(engine) as session:
        session.add(REFUSED_EXPRESSION(id=1, rank=1, filled="before"))
        session.commit()
        with pytest.raises(StatementRefused, match="SQL expression"):
            orm_flush(session, REFUSED_EXPRESSION)


@pytest.mark.parametrize("what", CHANGED)
def test_a_field_that_is_set_is_not_filled_in(shop: Any, what: str) -> None:
    privacy, engine, _ = shop
    found = CHANGED[what]
    with privacy.purpose("serve"), Session(engine) as session:
        session.add(found(id=1, rank=1, filled="before"))
        session.commit()
        session.execute(update(found).where(found.id == 1).values(rank=2, filled="after"))
        session.commit()
        assert ["after"] == session.scalars(select(found.filled)).all()


@pytest.mark.parametrize("what", CHANGED)
def test_a_run_does_not_fill_in_what_onupdate_says(shop: Any, what: str) -> None:
    privacy, engine, clock = shop
    found = CHANGED[what]
    with privacy.purpose("serve"), Session(engine) as session:
        session.add(found(id=1, rank=1, name="a name", filled="before", ended_at=datetime(2026, 1, 2)))
        session.commit()
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    for _ in range(2):
        assert privacy.purge(engine, privacy.plan(engine)).ok
    url = engine.url.render_as_string(hide_password=False)

    assert [(None,)] == raw_rows(url, f"SELECT filled FROM {found.__tablename__}")
