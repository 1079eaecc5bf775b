"""A budget of noisy places that several processes share: never overdrawn, and no longer remembered than it counts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    FileKeyring,
    GeoPoint,
    Personal,
    Privacy,
    SpendingInDatabase,
    data_subject,
    not_personal,
)
from privkit.errors import BudgetSpent
from privkit.location.budget import Budget
from privkit.location.noise import PlanarLaplace, add_budgeted_noise
from tests.databases import raw_rows

POLICY = """
privkit: 1
purposes:
  account: {description: Run the account, legal_basis: contract, keep: {forever: true, because: a test}}
"""
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NOISE = PlanarLaplace()
THREE = Budget(3 * NOISE.eps, DAY)
PLACES = [GeoPoint(51.5 + number / 10, -0.1) for number in range(8)]


class Base(DeclarativeBase): ...


@data_subject
@not_personal("id", because="row id")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"account"})]]


@dataclass
class Service:
    """One process of it."""

    privacy: Privacy
    engine: Engine
    at: datetime = NOW

    def show(self, place: int, *, subject: str = "7", budget: Budget = THREE, name: str = "map") -> GeoPoint:
        spending = SpendingInDatabase(self.privacy, self.engine, name)
        where: Any = {"key": b"k" * 32, "domain": name, "subject": subject}
        return add_budgeted_noise(NOISE, PLACES[place], spending=spending, budget=budget, now=self.at, **where)


def started(url: str, folder: Path, **how: Any) -> Service:
    path, keys = folder / "policy.yaml", folder / "keys.json"
    path.write_text(POLICY)
    keyring = FileKeyring(keys) if keys.exists() else FileKeyring.create(keys)
    engine = create_engine(url, **how)
    made = Service(None, engine)  # type: ignore[arg-type]
    made.privacy = Privacy(path, Base, keyring, clock=lambda: made.at)
    made.privacy.protect(engine)
    Base.metadata.create_all(engine)
    return made


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    made = started(database_url, tmp_path)
    yield made
    made.engine.dispose()


def spent(url: str) -> int:
    return int(raw_rows(url, "SELECT count(*) FROM privkit_spending")[0][0])


def test_another_process_sees_what_was_spent_and_the_same_place_costs_nothing_more(
    service: Service, database_url: str, tmp_path: Path
) -> None:
    other = started(database_url, tmp_path)
    shown = [service.show(0), other.show(1), service.show(2)]
    with pytest.raises(BudgetSpent):
        other.show(3)
    assert shown == [other.show(0), service.show(1), other.show(2)]
    assert 3 == spent(database_url)
    service.show(3, subject="8")
    service.show(3, name="another map")
    other.engine.dispose()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_of_many_at_once_no_more_are_shown_than_the_budget_allows(
    database_url: str, tmp_path: Path, isolation: str
) -> None:
    how = {"isolation_level": isolation} if "postgresql" in database_url else {}
    services = [started(database_url, tmp_path, **how) for _ in range(2)]

    def shown(number: int) -> bool:
        try:
            services[number % 2].show(number)
        except BudgetSpent:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert 3 == sum(pool.map(shown, range(8)))
    assert 3 == spent(database_url)
    for each in services:
        each.engine.dispose()


def test_after_the_period_there_is_room_again_and_the_notes_are_gone(service: Service, database_url: str) -> None:
    for place in range(3):
        service.show(place)
    service.show(0, subject="8")
    service.at = NOW + DAY - timedelta(seconds=1)
    with pytest.raises(BudgetSpent):
        service.show(3)
    service.at = NOW + DAY
    service.show(3)
    assert 2 == spent(database_url)  # one of somebody who has not come again
    assert service.privacy.purge(service.engine, service.privacy.plan(service.engine)).ok
    assert 1 == spent(database_url)


def test_a_budget_whose_period_became_shorter_counts_by_the_new_one(service: Service) -> None:
    for place in range(3):
        service.show(place)
    service.at = NOW + timedelta(hours=2)
    hourly = Budget(3 * NOISE.eps, timedelta(hours=1))
    for place in range(3):
        service.show(place, budget=hourly)
    with pytest.raises(BudgetSpent):
        service.show(3, budget=hourly)


def test_two_budgets_of_two_periods_do_not_forget_for_each_other(service: Service) -> None:
    week = Budget(2 * NOISE.eps, 7 * DAY)
    for place in (0, 1):
        service.show(place, budget=week, name="week")
    service.at = NOW + 2 * DAY
    service.show(0)
    with pytest.raises(BudgetSpent):
        service.show(2, budget=week, name="week")


def test_an_erasure_forgets_and_so_does_who_is_asked_to(service: Service, database_url: str) -> None:
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(insert(Rider), [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bea"}])
    key, other = (bytes(row[0]) for row in raw_rows(database_url, "SELECT privkit_key FROM riders ORDER BY id"))
    service.show(0, subject=key.hex())
    service.show(0, subject=other.hex())
    assert 2 == spent(database_url)
    service.privacy.erase(service.engine, key, by="herself")
    assert 1 == spent(database_url)
    SpendingInDatabase(service.privacy, service.engine, "map").forget(other.hex())
    assert 0 == spent(database_url)


def test_what_is_kept_names_nobody_and_no_place(service: Service, database_url: str) -> None:
    service.show(0, subject="planted")
    [(report, subject, budget)] = raw_rows(database_url, "SELECT id, subject, budget FROM privkit_spending")
    assert (16, 16, "map") == (len(bytes(report)), len(bytes(subject)), budget)
    assert "SpendingInDatabase('map')" == repr(SpendingInDatabase(service.privacy, service.engine, "map"))
