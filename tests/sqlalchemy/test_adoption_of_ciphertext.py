"""Columns that another library has encrypted: read, sealed in place or beside, and given back."""

import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import String, create_engine, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from sqlalchemy_utils import EncryptedType, StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, FernetEngine

from privkit import Adopting, AdvancedAlchemy, FernetTokens, Plain, SqlalchemyUtils
from privkit.crypto.envelope import VERSION
from privkit.errors import SealedError, SearchError
from privkit.previous import Previous
from tests.sqlalchemy.adopter import PLANTED, UNTIL, Build, build, migrate
from tests.sqlalchemy.rides import Clock

ROWS = 12
EXPECTED = {number: PLANTED.format(number) for number in range(1, ROWS + 1)}
KEY = Fernet.generate_key().decode()
ENGINES: dict[Any, Any] = {"aes": AesEngine, "aes_gcm": AesGcmEngine, "fernet": FernetEngine}


def key() -> str:
    return KEY


class OldBuild:
    """The service as it was, with the other library's type on the column."""

    def __init__(self, url: str, kind: Any) -> None:
        class Base(DeclarativeBase):
            pass

        class Rider(Base):
            __tablename__ = "riders"
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[Any] = mapped_column(kind, nullable=True)
            closed_at: Mapped[datetime | None]

        self.engine, self.model = create_engine(url, poolclass=NullPool), Rider
        Base.metadata.create_all(self.engine)

    def add(self, number: int, email: str) -> None:
        with Session(self.engine) as session:
            session.execute(insert(self.model), {"id": number, "email": email})
            session.commit()

    def emails(self) -> dict[int, Any]:
        with Session(self.engine) as session:
            return {each.id: each.email for each in session.scalars(select(self.model))}


def encrypted(engine: Any, *, binary: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return (EncryptedType if binary else StringEncryptedType)(String(), KEY, ENGINES[engine])


def service(url: str, kind: Any, rows: int = ROWS) -> OldBuild:
    old = OldBuild(url, kind)
    for number in range(1, rows + 1):
        old.add(number, PLANTED.format(number))
    return old


def in_place(url: str, folder: Path, clock: Clock, previous: Previous, **marker: Any) -> Build:
    """The one deploy of a column that stays where it is."""
    made = build(url, folder, clock, Adopting(previous, until=UNTIL), "email", **{"search": None} | marker)
    made.model.metadata.create_all(made.engine)
    if "privkit_key" not in str(made.raw(_COLUMNS["sqlite" if "sqlite" in url else "postgresql"])):
        binary = "BLOB" if "sqlite" in url else "BYTEA"
        made.raw(f"ALTER TABLE riders ADD COLUMN privkit_key {binary}")
    return made


_COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info('riders')",
    "postgresql": "SELECT column_name FROM information_schema.columns WHERE table_name = 'riders'",
}


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_column_in_place_is_read_sealed_and_given_back(
    database_url: str, tmp_path: Path, clock: Clock, engine: Any
) -> None:
    old = service(database_url, encrypted(engine, binary=True))
    new = in_place(database_url, tmp_path, clock, SqlalchemyUtils(key, engine, binary=True))
    assert EXPECTED == new.emails()
    (each,) = new.privacy.adoption(new.engine)
    assert ("in place", ROWS, 0, ROWS) == (each.phase, each.waiting, each.sealed, each.read_before)
    new.add(90, "new@secret.example")
    run = new.privacy.seal(new.engine, "riders.email", batch=5)
    assert (True, ROWS) == (run.ok, run.done)
    assert {VERSION} == {each[:1] for each in new.stored("email") if each}
    assert EXPECTED | {90: "new@secret.example"} == new.emails()
    run = new.privacy.unseal(new.engine, "riders.email")
    assert (True, ROWS + 1) == (run.ok, run.done)
    assert EXPECTED | {90: "new@secret.example"} == old.emails()


def test_text_in_place_on_sqlite_is_read_sealed_and_given_back(sqlite_url: str, tmp_path: Path, clock: Clock) -> None:
    old = service(sqlite_url, String())
    new = in_place(sqlite_url, tmp_path, clock, Plain())
    assert EXPECTED == new.emails()
    assert new.privacy.seal(new.engine, "riders.email").ok
    assert EXPECTED == new.emails()
    assert new.privacy.unseal(new.engine, "riders.email").ok
    assert EXPECTED == old.emails()


def test_a34_what_is_put_into_the_column_after_its_last_day_is_an_error(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    old = service(database_url, encrypted("fernet", binary=True))
    new = in_place(database_url, tmp_path, clock, SqlalchemyUtils(key, "fernet", binary=True))
    new.privacy.seal(new.engine, "riders.email")
    old.add(90, "late@secret.example")
    assert "late@secret.example" == new.emails()[90]
    clock.now = datetime.combine(date(2026, 7, 1), datetime.min.time(), UTC)
    with pytest.raises(SealedError, match="is not sealed") as refused:
        new.emails()
    assert "late" not in str(refused.value)


def test_a02_what_does_not_open_is_named_by_its_key_and_stops_nobody_else(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    service(database_url, encrypted("fernet", binary=True))
    new = in_place(database_url, tmp_path, clock, SqlalchemyUtils(key, "fernet", binary=True))
    new.raw("UPDATE riders SET email = '' WHERE id = 3")
    with pytest.raises(SealedError, match=r"riders\.email: A value in its previous form did not open"):
        new.emails()
    new.privacy.seal(new.engine, "riders.email")
    with new.purpose(), Session(new.engine) as session:
        rows = session.execute(select(new.model.id, new.model.email).where(new.model.id != 3))
        others = {row.id: row.email for row in rows}
    assert {number: email for number, email in EXPECTED.items() if number != 3} == others
    run = new.privacy.seal(new.engine, "riders.email")
    assert (False, 1, [(3,)]) == (run.ok, run.unopened, run.keys)
    with new.purpose(), new.engine.begin() as connection:
        connection.execute(update(new.model).where(new.model.id == 3).values(email="mended@secret.example"))
    assert new.privacy.seal(new.engine, "riders.email").ok


def test_a_search_that_would_miss_what_is_not_sealed_is_refused(sqlite_url: str, tmp_path: Path, clock: Clock) -> None:
    made = build(sqlite_url, tmp_path, clock, Adopting(AdvancedAlchemy(key), until=UNTIL), "email")
    with pytest.raises(SearchError, match="quietly miss"):
        select(made.model).where(made.model.email == "x@secret.example")


def beside(url: str, folder: Path, clock: Clock, previous: Previous, until: date | None = UNTIL) -> Build:
    return build(url, folder, clock, Adopting(previous, beside="email", until=until), "email_sealed")


SCHEMES: list[tuple[Callable[[], Any], Previous]] = [
    (lambda: encrypted("aes", binary=False), SqlalchemyUtils(key)),
    (lambda: encrypted("aes_gcm", binary=True), SqlalchemyUtils(key, "aes_gcm", binary=True)),
    (lambda: encrypted("fernet", binary=False), FernetTokens([lambda: Fernet.generate_key(), lambda: _derived()])),
]


def _derived() -> bytes:
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    return urlsafe_b64encode(sha256(KEY.encode()).digest())


@pytest.mark.parametrize(("kind", "previous"), SCHEMES)
def test_a_column_beside_is_read_sealed_and_written_in_both_forms(
    database_url: str, tmp_path: Path, clock: Clock, kind: Any, previous: Previous
) -> None:
    old = service(database_url, kind())
    new = beside(database_url, tmp_path, clock, previous)
    migrate(new)
    assert EXPECTED == new.emails()
    assert ROWS == new.privacy.adoption(new.engine)[0].read_before
    assert new.privacy.seal(new.engine, "riders.email").ok
    strict = beside(database_url, tmp_path, clock, previous, until=None)
    assert EXPECTED == strict.emails()
    assert [3] == strict.found(PLANTED.format(3))
    if not isinstance(previous, FernetTokens):
        strict.add(90, "new@secret.example")
        strict.change(3, "changed@secret.example")
        assert EXPECTED | {90: "new@secret.example", 3: "changed@secret.example"} == old.emails()
    assert strict.privacy.seal(strict.engine, "riders.email").ok


def test_the_other_library_s_ciphertext_never_leaves_as_the_value(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    service(database_url, encrypted("fernet", binary=False))
    new = beside(database_url, tmp_path, clock, SqlalchemyUtils(key, "fernet"))
    migrate(new)
    old = new.model.__table__.c.email
    with new.purpose(), Session(new.engine) as session:
        assert PLANTED.format(1) == session.scalars(select(old).order_by(new.model.id)).first()
        with pytest.raises(SearchError):
            select(old).where(old == PLANTED.format(1))
        with pytest.raises(SearchError):
            select(old).where(old.like("gAAAA%"))


def test_finishing_empties_ciphertext_too(database_url: str, tmp_path: Path, clock: Clock) -> None:
    service(database_url, encrypted("aes_gcm", binary=False))
    new = beside(database_url, tmp_path, clock, SqlalchemyUtils(key, "aes_gcm"))
    migrate(new)
    assert new.privacy.seal(new.engine, "riders.email").ok
    adopting = Adopting(SqlalchemyUtils(key, "aes_gcm"), beside="email", phase="finished")
    last = build(database_url, tmp_path, clock, adopting, "email_sealed")
    assert last.privacy.finish_sealing(last.engine, "riders.email").ok
    assert [(None,)] == last.raw("SELECT DISTINCT email FROM riders")
    assert EXPECTED == last.emails()
