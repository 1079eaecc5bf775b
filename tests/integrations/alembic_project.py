"""A real Alembic project in a folder, and the models of a service as it adopts privkit release by release."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import ForeignKey, MetaData, NullPool, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import Equality, FileKeyring, Personal, Privacy, data_subject, events, not_personal
from privkit.integrations.alembic import privacy_options
from privkit.previous import Adopting, Plain

POLICY = """\
privkit: 1
enforcement: enforce
naive_datetimes: UTC
controller: {name: Shop Ltd, contact: privacy@shop.example, regions: [eu-west-1]}
purposes:
  care: {description: Serve the person, legal_basis: contract, keep: {for: P30D, after: closed}}
categories:
  user.contact.phone_number: {seal: required, severity: {scale: 3, scope: 2, irremediable: 3}}
"""
ENV = """\
from alembic import context
from sqlalchemy import create_engine, pool
from privkit.integrations.alembic import privacy_options

config = context.config
privacy, metadata = config.attributes["privacy"], config.attributes["metadata"]
options = {"target_metadata": metadata, "render_as_batch": config.attributes["batch"]}
if privacy is not None:
    options |= privacy_options(privacy, compare_server_default=True)

if context.is_offline_mode():
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
    with engine.connect() as connection:
        config.attributes["prepare"](connection)
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
"""
SCRIPT = '''\
"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''


@dataclass
class Project:
    """An Alembic project; ``release`` says which models and which ``Privacy`` its env.py has from now on."""

    folder: Path
    url: str
    metadata: MetaData | None = None
    privacy: Privacy | None = None
    batch: bool = False
    prepare: Callable[[Any], None] = lambda connection: None
    keys: FileKeyring = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "versions").mkdir(parents=True)
        (self.folder / "env.py").write_text(ENV, encoding="utf-8")
        (self.folder / "script.py.mako").write_text(SCRIPT, encoding="utf-8")
        (self.folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
        self.keys = FileKeyring(self.folder / "no-keys-here.json")

    def release(self, base: Any, *, protected: bool = True, policy: Path | None = None) -> None:
        """Let env.py know the models of ``base``, and their Privacy, whose keyring need not exist."""
        self.metadata = base.metadata
        where = policy or self.folder / "policy.yaml"
        self.privacy = Privacy(where, models=base, keys=self.keys) if protected else None

    @property
    def config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("sqlalchemy.url", self.url.replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        names = ("metadata", "privacy", "batch", "prepare")
        config.attributes |= {name: getattr(self, name) for name in names}
        return config

    def generate(self, revision: str) -> str:
        """Write a migration of what autogenerate finds, and return its text."""
        command.revision(self.config, message=revision, autogenerate=True, rev_id=revision)
        return self.text(revision)

    def write(self, revision: str, upgrade: str, downgrade: str = "pass") -> None:
        """Write a migration by hand."""
        command.revision(self.config, message=revision, rev_id=revision)
        (path,) = (self.folder / "versions").glob(f"{revision}_*.py")
        text = path.read_text(encoding="utf-8")
        head, _, _ = text.partition("def upgrade()")
        body = f"def upgrade() -> None:\n    {upgrade}\n\n\ndef downgrade() -> None:\n    {downgrade}\n"
        path.write_text(head + body, encoding="utf-8")

    def text(self, revision: str) -> str:
        (path,) = (self.folder / "versions").glob(f"{revision}_*.py")
        return path.read_text(encoding="utf-8")

    def upgrade(self, revision: str = "head") -> None:
        command.upgrade(self.config, revision)

    def downgrade(self, revision: str) -> None:
        command.downgrade(self.config, revision)

    def offline(self, revision: str = "head") -> str:
        """Return the SQL of ``alembic upgrade --sql``."""
        config, written = self.config, io.StringIO()
        config.output_buffer = written
        with redirect_stdout(written):
            command.upgrade(config, revision, sql=True)
        return written.getvalue()

    def difference(self) -> list[Any]:
        """Return what autogenerate would write now."""
        assert self.privacy is not None
        options = privacy_options(self.privacy, compare_server_default=True)
        with create_engine(self.url, poolclass=NullPool).connect() as connection:
            context = MigrationContext.configure(connection, opts={"target_metadata": self.metadata, **options})
            return list(compare_metadata(context, self.metadata))


def plain_service() -> Any:
    """The service before privkit: riders with an e-mail address, and their trips."""

    class Base(DeclarativeBase):
        pass

    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str | None]
        closed_at: Mapped[datetime | None]

    class Trip(Base):
        __tablename__ = "trips"
        id: Mapped[int] = mapped_column(primary_key=True)
        rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id", ondelete="CASCADE"))

    Base.Rider = Rider
    return Base


def adopting_service(phase: str | None = "dual") -> Any:
    """A release that seals the e-mail address: with both columns in a phase of the move, or (None) after it."""
    adopting = Adopting(Plain(), beside="email_sealed" if phase == "dual" else "email", phase=phase) if phase else None  # type: ignore[arg-type]
    sealed = Personal("user.contact.email", purposes={"care"}, search=Equality("email"), seal=True, adopting=adopting)

    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str | None, sealed]] = mapped_column("email" if phase == "dual" else "email_sealed")
        closed_at: Mapped[datetime | None]

    class Trip(Base):
        __tablename__ = "trips"
        id: Mapped[int] = mapped_column(primary_key=True)
        rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id", ondelete="CASCADE"))

    Base.Rider = Rider
    return Base


def sealed_service() -> Any:
    """The release that knows the sealed column alone."""
    return adopting_service(None)
