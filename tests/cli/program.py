"""A folder with a small ride service in it, and the command line run there as a process of its own.

No run may show what was planted: a data subject's values, or the password of a URL.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests import forked
from tests.databases import Row, raw_rows

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "pl4nted-pw"
PLANTED = (PASSWORD, "Planted", "planted", "secret.example", "51.4242", "0.1717", "1984-03")

PROJECT = """\
[tool.privkit]
app = "rides:privacy"
url = "sqlite:///rides.sqlite"
"""

POLICY = """\
privkit: 1
naive_datetimes: UTC
controller: {name: Rides Zoë Ltd, contact: privacy@rides.example}
purposes:
  account: {description: Run the account, legal_basis: contract, keep: {for: P30D, after: account_closed}}
  age_check: {description: Recognise a child, legal_basis: legal_obligation, children: allowed,
              keep: {for: P1D, after: account_closed}}
  pickup: {description: Find the rider, legal_basis: contract, keep: {for: P1D, after: account_closed}}
  navigation: {description: Guide the driver, legal_basis: contract, keep: {for: P1D, after: trip_ended}}
"""

APP = '''\
"""A ride service: riders, and their trips."""

import itertools
import os
import signal
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from sqlalchemy import Engine, ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    AgeBand, BirthDate, Delete, Equality, FileKeyring, GeoPoint, Location, NotPersonal, Personal, Privacy, Pseudonymise,
    child_protection, data_subject, events, expire_row, not_personal, owned_by,
)

NOW = datetime.fromisoformat(os.environ.get("RIDES_NOW", "2026-06-01T12:00:00+00:00"))


class Base(DeclarativeBase): ...


@data_subject
@child_protection(birth_date="born", country="country")
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account"}, search=Equality("email"))]]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"}, seal=True, then=Pseudonymise("name"))]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"age_check": AgeBand()})]]
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"pickup"})]]
    country: Mapped[Annotated[str, NotPersonal("two-letter code, population over a million")]]
    closed_at: Mapped[datetime | None]
    trips: Mapped[list["Trip"]] = relationship(back_populates="rider")


@owned_by("rider")
@events(trip_ended="ended_at")
@expire_row(Delete())
@not_personal("id", "ended_at", because="row id and event time")
class Trip(Base):
    __tablename__ = "trips"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"))
    rider: Mapped[Rider] = relationship(back_populates="trips")
    start: Mapped[Annotated[GeoPoint, Location(purposes={"navigation"})]]
    ended_at: Mapped[datetime | None]


privacy = Privacy(policy="policy.yaml", models=Base, keys=FileKeyring("keys.json"), clock=lambda: NOW)


def fill(url, count):
    """Store riders, each with a trip; half of the riders are gone, and all trips but every fourth are over."""
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("account", "age_check", "pickup", "navigation"), Session(engine) as session:
        session.add_all(
            Rider(
                email=f"planted{number}@secret.example",
                name=f"Planted {number}",
                born=date(1984, 3, number % 28 + 1),
                home=GeoPoint(51.4242, 0.1717),
                country="GB",
                closed_at=datetime(2026, 1, 1) if number % 2 else None,
                trips=[Trip(start=GeoPoint(51.4242, 0.1717), ended_at=datetime(2026, 5, 1) if number % 4 else None)],
            )
            for number in range(count)
        )
        session.commit()
    engine.dispose()


if "RIDES_STOP" in os.environ:  # a signal, Ctrl-C by default, that comes at a moment a test chooses
    moment, _, number = os.environ["RIDES_STOP"].partition(":")
    counted = itertools.count(1)

    def stop(*args):
        if next(counted) == int(number):
            os.kill(os.getpid(), signal.Signals[os.environ.get("RIDES_SIGNAL", "SIGINT")])

    event.listen(Engine, moment, stop)
'''


@dataclass(frozen=True)
class Ended:
    """How a run ended. ``seen`` is all that it wrote."""

    code: int
    out: str
    err: str

    @property
    def seen(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Project:
    """A folder with ``rides.py``, its policy, keyring, pyproject.toml and database."""

    folder: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'rides.sqlite'}"

    def rows(self, sql: str) -> list[Row]:
        return raw_rows(self.url, sql)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text of one file, which has to be there."""
        path = self.folder / name
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new), encoding="utf-8")

    def run(self, *arguments: str, stdin: str = "", cwd: str = ".", **environment: str) -> Ended:
        """Run ``privkit`` with ``arguments`` in the folder."""
        command = ["-m", "privkit.cli", *arguments]
        process = forked.run(command, cwd=self.folder / cwd, env=clean_environment(**environment), stdin=stdin)
        ended = Ended(process.returncode, process.stdout, process.stderr)
        assert_silent(ended.seen)
        return ended

    def python(self, code: str, **environment: str) -> None:
        """Run a line of Python in the folder."""
        forked.run(["-c", code], cwd=self.folder, env=clean_environment(**environment)).check_returncode()


def assert_silent(seen: str) -> None:
    """Assert that nothing planted was shown, and that no error went past the command line."""
    assert [] == [value for value in (*PLANTED, "Traceback") if value in seen], seen


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what decides how a command line looks and where it looks."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PRIVKIT_") and name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
    }
    return kept | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"} | more


def make_project(folder: Path) -> Project:
    """Write the ride service into a new folder and store 40 riders: 10 trips and 20 riders live on."""
    folder.mkdir()
    for name, content in {"rides.py": APP, "policy.yaml": POLICY, "pyproject.toml": PROJECT}.items():
        (folder / name).write_text(content, encoding="utf-8")
    project = Project(folder)
    assert 0 == project.run("keys", "init").code
    project.python("import rides; rides.fill('sqlite:///rides.sqlite', 40)")
    return project


def copy_of(project: Project, folder: Path) -> Project:
    """Return the same project in another folder."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Project(folder)


class Terminal:
    """A run of the command line on a terminal of its own, ``columns`` wide."""

    def __init__(self, project: Project, *arguments: str, columns: int = 80, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "privkit.cli", *arguments],
            cwd=project.folder,
            env=clean_environment(COLUMNS=str(columns), TERM="xterm-256color", **environment),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.seen = ""

    def read_until(self, awaited: str) -> None:
        """Read until ``awaited`` was written, for up to a minute."""
        while awaited not in self.seen:
            assert self._read(60), self.seen

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> Ended:
        """Read to the end."""
        while self._read(60):
            pass
        code = self.process.wait(60)
        os.close(self.master)
        assert_silent(self.seen)
        return Ended(code, self.seen, "")

    def _read(self, seconds: float) -> bool:
        """Read what there is; False at the end. Linux ends a terminal that nobody holds with an error."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        assert ready, self.seen
        chunk = b""
        with suppress(OSError):
            chunk = os.read(self.master, 65536)
        self.seen += chunk.decode("utf-8", "replace")
        return bool(chunk)
