"""A ride service with a copy of its ledger outside the database, and backups of the database that are put back."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url

from privkit import FileKeyring, Privacy
from privkit.ledger import OutsideLedger
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, Base, Clock, RideService


def ride_service(
    url: str, folder: Path, outside: OutsideLedger | None, clock: Callable[[], object] | None = None
) -> RideService:
    """Return a protected engine on ``url``, as one process has it; call ``engine.dispose()`` after the test."""
    path = folder / "keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    time = clock or Clock()
    privacy = Privacy(policy=POLICY, models=Base, keys=keys, clock=time, ledger=outside)  # type: ignore[arg-type]
    engine = create_engine(url)
    privacy.protect(engine)
    try:
        Base.metadata.create_all(engine)
        engine.connect().close()
    except BaseException:
        engine.dispose()
        raise
    return RideService(privacy, engine, time)  # type: ignore[arg-type]


@contextmanager
def backup(url: str) -> Iterator[Callable[[], None]]:
    """Back up a database to which nobody is connected; what it gives puts the backup back, whoever is connected."""
    where = make_url(url)
    name = str(where.database)
    if where.get_backend_name() == "sqlite":
        shutil.copy(name, f"{name}.backup")
        yield lambda: _put_back(name)
        return
    server, copy = str(where.set(database="postgres").render_as_string(hide_password=False)), f"b_{uuid.uuid4().hex}"
    raw_rows(server, f"CREATE DATABASE {copy} TEMPLATE {name}")

    def restore() -> None:
        raw_rows(server, f"DROP DATABASE {name} WITH (FORCE)")
        raw_rows(server, f"CREATE DATABASE {name} TEMPLATE {copy}")

    try:
        yield restore
    finally:
        raw_rows(server, f"DROP DATABASE {copy}")


def _put_back(name: str) -> None:
    shutil.copy(f"{name}.backup", f"{name}.new")
    Path(f"{name}.new").replace(name)
