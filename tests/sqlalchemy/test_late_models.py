"""Models that are mapped after the Privacy was made, or created in the database before it, obey the policy too."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal
from privkit.errors import PolicyError, PurposeError
from tests.databases import raw_rows

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  duty: {description: "Plan shifts", legal_basis: contract, keep: {for: P30D, after: left}}
"""


def test_a_class_that_was_mapped_later_is_sealed_and_held_to_its_purposes(sqlite_url: str, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    privacy = Privacy(policy, Base, FileKeyring.create(tmp_path / "keys.json"))
    engine = create_engine(sqlite_url)
    privacy.protect(engine)

    @data_subject
    @events(left="left_at")
    @not_personal("id", "left_at", because="row id and event time")
    class Driver(Base):
        __tablename__ = "drivers"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[Annotated[str, Personal("user.name", purposes={"duty"}, seal=True)]]
        left_at: Mapped[datetime | None]

    Base.metadata.create_all(engine)
    with privacy.purpose("duty"), Session(engine) as session:
        session.add(Driver(id=1, name="planted name"))
        session.commit()
        assert session.scalars(select(Driver.name)).all() == ["planted name"]
    with Session(engine) as session, pytest.raises(PurposeError):
        session.scalars(select(Driver.name)).all()
    assert b"planted" not in bytes(raw_rows(sqlite_url, "SELECT name FROM drivers")[0][0])
    assert [step.name for step in privacy.plan(engine).steps] == ["drivers.name"]
    engine.dispose()


def test_a_later_class_that_does_not_fit_the_policy_stops_the_next_statement(sqlite_url: str, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    privacy = Privacy(policy, Base, FileKeyring.create(tmp_path / "keys.json"))
    engine = create_engine(sqlite_url)
    privacy.protect(engine)

    @data_subject
    @not_personal("id", because="row id")
    class Guest(Base):
        __tablename__ = "guests"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[Annotated[str, Personal("user.name", purposes={"dutty"})]]

    with pytest.raises(PolicyError, match="dutty"), Session(engine) as session:
        session.execute(select(Guest.id))
    engine.dispose()
