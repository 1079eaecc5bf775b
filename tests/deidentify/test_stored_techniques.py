"""Each technique as the end of a stored field: what the purge leaves, and what the bytes of the table are then."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    AddNoise,
    AgeBand,
    Bins,
    BirthDate,
    Clamp,
    Displace,
    FileKeyring,
    Generalise,
    GeoPoint,
    KeepLast,
    Location,
    Map,
    Microaggregate,
    Personal,
    Privacy,
    Pseudonymise,
    Redact,
    Reversible,
    ShiftDates,
    Substitute,
    Zip3,
    catalog,
    data_subject,
    events,
    not_personal,
)
from privkit.crypto import DESTROYED
from privkit.deidentify import restore, token
from privkit.location import metres_between
from privkit.location.formats import from_wkt
from privkit.location.noise import PlanarLaplace
from privkit.policy.precisions import unfit
from tests.databases import raw_rows

NOW = datetime(2026, 6, 15, tzinfo=UTC)
POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  mail: {description: "Send letters", legal_basis: contract, keep: {for: P2Y, after: left}}
"""


class Base(DeclarativeBase): ...


def personal(then: Any, **more: Any) -> Any:
    return Personal("user.contact", purposes={"mail"}, then=then, **more)


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    card: Mapped[Annotated[str, personal(KeepLast(4), seal=True)]]
    note: Mapped[Annotated[str | None, personal(Redact(r"\d+"), seal=False)]]
    login: Mapped[Annotated[str, personal(Substitute("login"), seal=False)]] = mapped_column(unique=True)
    letter: Mapped[Annotated[str, personal(Reversible("letter"), seal=True)]]
    mail: Mapped[Annotated[str, personal(Pseudonymise("mail", "email"), seal=False)]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"mail"}, then=Generalise(AgeBand()))]]
    joined: Mapped[Annotated[date | None, personal(ShiftDates(30), seal=False)]]
    paid: Mapped[Annotated[date | None, personal(ShiftDates(30), seal=True)]]
    zip: Mapped[Annotated[str | None, personal(Zip3(), seal=False)]]
    income: Mapped[Annotated[int | None, personal(Bins((1000, 2000)), seal=False)]]
    age: Mapped[Annotated[int | None, personal(Clamp(high=90), seal=False)]]
    job: Mapped[Annotated[str | None, personal(Map({"nurse": "health"}, "other"), seal=False)]]
    weight: Mapped[Annotated[float | None, personal(AddNoise(2.0, 20, 200), seal=False)]]
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"mail"}, then=Displace(PlanarLaplace(within=2000)))]]
    left_at: Mapped[datetime | None]


def member(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "card": f"4111 1111 1111 {number:04}",
        "note": "call 12345, " + "please " * 40,
        "login": f"ada{number}",
        "letter": "Dear Ada",
        "mail": f"Ada{number}@example.org",
        "born": date(1933, 1, 1),
        "joined": date(2020, 2, 29),
        "paid": date(2020, 3, 1),
        "zip": "03601",
        "income": 1500,
        "age": 93,
        "job": "spy",
        "weight": 70.5,
        "home": GeoPoint(51.5074, -0.1278),
        "left_at": datetime(2020, 1, 1),
    }


def test_c36_each_technique_leaves_its_residue_and_no_text_in_a_sealed_column(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    keyring = FileKeyring.create(tmp_path / "keys.json")
    privacy = Privacy(tmp_path / "policy.yaml", Base, keyring, clock=lambda: NOW)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("mail"), engine.begin() as connection:
        connection.execute(insert(Member), [member(number) for number in range(1, 4)])
    plan = privacy.plan(engine)
    assert "moved by up to 30 days, all dates of a data subject alike" in {step.technique for step in plan.steps}
    run = privacy.purge(engine, plan)
    assert (0, 14 * 3) == (run.overdue, sum(outcome.done for outcome in run.outcomes))
    engine.dispose()

    names = [
        "card",
        "note",
        "login",
        "letter",
        "mail",
        "born",
        "joined",
        "paid",
        "zip",
        "income",
        "age",
        "job",
        "weight",
        "home",
    ]
    columns = ", ".join(f"{name}_residue" for name in names)
    rows = [
        dict(zip(names, row, strict=True))
        for row in raw_rows(database_url, f"SELECT {columns} FROM members ORDER BY id")
    ]
    for number, row in enumerate(rows, start=1):
        assert f"*{number:04}" == row["card"]
        assert "call [redacted], " + "please " * 40 == row["note"]
        assert "Dear Ada" == restore(keyring.secret("reversible:letter"), "letter", row["letter"])
        assert token(keyring.secret("pseudonym"), "mail", f"ada{number}@example.org") == row["mail"]
        assert ("90+", "000", "1000 to under 2000", "90", "other") == tuple(
            row[name] for name in ("born", "zip", "income", "age", "job")
        )
        moved = date.fromisoformat(row["joined"]) - date(2020, 2, 29)
        assert 0 < abs(moved.days) <= 30
        assert moved == date.fromisoformat(row["paid"]) - date(2020, 3, 1)
        assert 20 <= float(row["weight"]) <= 200
        assert 0 < metres_between(from_wkt(row["home"]), GeoPoint(51.5074, -0.1278)) <= 2000
    assert 3 == len({row["login"] for row in rows}) == len({row["home"] for row in rows})
    stored = raw_rows(database_url, "SELECT login, note, income, weight, joined FROM members ORDER BY id")
    assert [(row["login"], None, None, None, None) for row in rows] == [tuple(row) for row in stored]
    emptied = raw_rows(database_url, "SELECT card, letter, born, paid FROM members")
    assert {(DESTROYED, DESTROYED, None, None)} == {
        tuple(None if value is None else bytes(value) for value in row) for row in emptied
    }

    again = privacy.purge(engine, privacy.plan(engine))
    assert 0 == sum(outcome.done for outcome in again.outcomes)
    assert [tuple(row) for row in stored] == [
        tuple(row)
        for row in raw_rows(database_url, "SELECT login, note, income, weight, joined FROM members ORDER BY id")
    ]
    engine.dispose()


@pytest.mark.parametrize(
    ("python_type", "then", "said"),
    [
        (str, ShiftDates(3), "ShiftDates does not fit"),
        (str, Bins((1,)), "Bins does not fit"),
        (int, KeepLast(2), "KeepLast does not fit"),
        (date, Reversible("a"), "Reversible does not fit"),
        (float, Substitute("a"), "Substitute does not fit"),
        (list[str], Redact("a"), "Redact does not fit"),
        (int, Microaggregate(5), "needs a whole column"),
        (str, Displace(PlanarLaplace()), "Displace does not fit"),
        (GeoPoint, Displace(500), "Displace has no noise"),
        (str, Redact("a*"), "matches the empty text"),
        (str, KeepLast(0), "keeps nothing"),
        (str, Generalise(AgeBand()), "the residue is AgeBand"),
    ],
)
def test_a_technique_that_does_not_fit_its_field_is_a_mistake_of_the_models(
    python_type: Any, then: Any, said: str
) -> None:
    class Plain:
        field: Annotated[python_type, personal(then)]

    [item] = catalog.read(Plain).fields.values()
    assert [] != [text for text, _ in unfit(item, then) if said in text]
