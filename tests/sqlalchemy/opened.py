"""A protected engine for whatever models a test declares, under a policy of one purpose that keeps for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.orm import Session

from privkit import FileKeyring, Personal, Privacy
from tests.databases import raw_rows

POLICY = """\
privkit: 1
controller: {name: Shop Ltd, contact: privacy@shop.example, regions: [eu-west-1]}
purposes:
  archive: {description: Never forget, legal_basis: contract, keep: forever, because: The law of this shop.}
  survey:  {description: Ask how it was, legal_basis: contract, keep: forever, because: The law of this shop.}
"""


def sealed(**more: Any) -> Personal:
    """A sealed field for the archive."""
    return Personal("user.contact", purposes={"archive"}, seal=True, **more)


def plain(**more: Any) -> Personal:
    """An unsealed field for the archive."""
    return Personal("user.name", purposes={"archive"}, seal=False, **more)


class Archive:
    """A purpose and a session in it. No generator: a purpose does not hold while one is suspended."""

    def __init__(self, privacy: Privacy, engine: Engine) -> None:
        self.block, self.session = privacy.purpose("archive"), Session(engine)

    def __enter__(self) -> Session:
        self.block.__enter__()
        return self.session

    def __exit__(self, *error: object) -> None:
        self.session.close()
        self.block.__exit__(*error)


@dataclass(frozen=True)
class Opened:
    """A protected engine and what protects it."""

    url: str
    engine: Engine
    privacy: Privacy

    def archive(self) -> "Archive":
        """A session under the purpose that needs every field."""
        return Archive(self.privacy, self.engine)

    def column(self, table: str, column: str) -> list[Any]:
        """What stands in a column, in the order of ids, as the driver gives it."""
        rows = raw_rows(self.url, f'SELECT "{column}" FROM {table} ORDER BY id')
        return [bytes(value) if isinstance(value, memoryview) else value for (value,) in rows]


def privacy_for(folder: Path, models: Any) -> Privacy:
    """A Privacy with a keyring and a policy of its own in ``folder``."""
    policy, keys = folder / "policy.yaml", folder / "keys.json"
    policy.write_text(POLICY, encoding="utf-8")
    return Privacy(policy=policy, models=models, keys=FileKeyring(keys) if keys.exists() else FileKeyring.create(keys))


@contextmanager
def opened(url: str, folder: Path, models: Any, *metadata: MetaData) -> Iterator[Opened]:
    """Make the tables of ``models`` (a base, or several with their MetaData) on a protected engine."""
    privacy = privacy_for(folder, models)
    engine = create_engine(url)
    privacy.protect(engine)
    for each in metadata or (models.metadata,):
        each.create_all(engine)
    try:
        yield Opened(url, engine, privacy)
    finally:
        engine.dispose()
