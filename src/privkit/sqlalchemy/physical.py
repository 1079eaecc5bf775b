"""What is left on disks of what was destroyed: in the files of the database, in its log, in its backups.

A row that is gone for every statement leaves its bytes behind. SQLite overwrites what it frees where it is told to, but
pages that it merges keep copies until VACUUM. PostgreSQL keeps dead rows until VACUUM, and after it their bytes in
free space until new rows take it, or VACUUM FULL writes the table anew. Sealed values do not depend on any of this
(``privkit.sqlalchemy.finality``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, Table, select, text
from sqlalchemy.exc import SQLAlchemyError

from privkit.clock import as_utc
from privkit.periods import Period
from privkit.purposes import internally
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

_OVERWRITES = "privkit_overwrites"

_DEAD = text(
    "SELECT coalesce(sum(n_dead_tup), 0), max(last_vacuum), max(greatest(last_vacuum, last_autovacuum)) "
    "FROM pg_stat_user_tables WHERE relid = to_regclass(:name) "
    "OR relid IN (SELECT relid FROM pg_partition_tree(to_regclass(:name)))"
)


@dataclass(frozen=True, slots=True)
class Physical:
    """Where what was gone for every statement at ``logically`` may still lie.

    ``rewritten``: since when no file of the database holds it; None: some may, and ``rewrite`` is what ends that.
    ``backups``: how long the policy says they are kept. ``notes``: what is known of each table, and what failed.
    """

    logically: datetime
    rewritten: datetime | None
    rewrite: str
    backups: Period | None
    notes: tuple[str, ...] = ()

    @property
    def by(self) -> datetime | None:
        """By when no disk holds it; None where the files may, or nobody says how long backups are kept."""
        return self.backups.after(self.rewritten) if self.rewritten is not None and self.backups is not None else None

    def __str__(self) -> str:
        if self.by is not None:
            end = f"physically by {self.by:%Y-%m-%d %H:%M} UTC"
        elif self.rewritten is not None:
            end = "physically once the last backup is gone (the policy does not say when: backups: P35D)"
        else:
            kept = f"{self.backups} after" if self.backups is not None else "with the last backup from before"
            end = f"physically {kept} {self.rewrite}"
        return f"logically gone at {self.logically:%Y-%m-%d %H:%M:%S} UTC, {end}"


def overwrite(connection: Connection) -> None:
    """Have SQLite overwrite what it frees, on every connection: builds differ in whether they do so by themselves."""
    if connection.dialect.name == "sqlite" and _OVERWRITES not in connection.info:
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()
        connection.info[_OVERWRITES] = True


def settle(guard: Guard, engine: Engine, names: Iterable[str], *, vacuum: bool = False) -> Physical:
    """Empty the log of what was destroyed in the tables called ``names``, and say what is left of it.

    ``vacuum``: also run VACUUM, on SQLite of the whole file. What the database does not do is a note, never an error:
    what was destroyed is destroyed.
    """
    logically, tables = guard.now(), [each for each in guard.tables if each.fullname in set(names)]
    rewritten, notes = False, list[str]()
    with internally():
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if engine.dialect.name == "sqlite":
                    rewritten = _settle_file(connection, notes, vacuum=vacuum)
                elif engine.dialect.name == "postgresql":
                    _settle_tables(connection, tables, notes, vacuum=vacuum)
            if vacuum:
                with engine.begin() as connection:
                    body = {"tables": sorted(each.fullname[:200] for each in tables), "rewritten": rewritten}
                    ledger.append(connection, guard, "vacuumed", body)
        except SQLAlchemyError as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            rewritten = False
            notes.append(f"the database did not finish it: {kind}; run it again")
    since = guard.now() if rewritten else None
    return Physical(logically, since, _rewrite(engine.dialect.name, tables), guard.policy.backups, tuple(notes))


def state(guard: Guard, connection: Connection) -> Physical | None:
    """Say what is left of the last that a run or an erasure destroyed here; None where nothing was."""
    line = guard.own_table(LEDGER)
    query = select(line.c.at, line.c.kind, line.c.body).order_by(line.c.seq.desc())
    rewritten: datetime | None = None
    with internally():
        for at, kind, body in connection.execute(query.where(line.c.kind.in_(["erased", "run_ended", "vacuumed"]))):
            told = json.loads(body)
            if kind == "vacuumed":
                rewritten = datetime.fromisoformat(at) if told["rewritten"] else rewritten
            elif kind == "erased" or told["done"]:
                break
        else:
            return None
        tables, notes = list(guard.tables), list[str]()
        if connection.dialect.name == "postgresql":
            notes = [note for table in tables if (note := _note(connection, table))]
    rewrite = _rewrite(connection.dialect.name, tables)
    return Physical(datetime.fromisoformat(at), rewritten, rewrite, guard.policy.backups, tuple(notes))


def _rewrite(dialect: str, tables: list[Table]) -> str:
    if dialect == "sqlite":
        return "the file is written anew (privkit purge --vacuum)"
    if dialect == "postgresql":
        return f"VACUUM FULL of {', '.join(table.fullname for table in tables)}"
    return "the tables are written anew"


def _settle_file(connection: Connection, notes: list[str], *, vacuum: bool) -> bool:
    """Return whether neither the file of a SQLite database nor its log can hold anything any more."""
    if vacuum:
        connection.execute(text("VACUUM"))
    if connection.execute(text("PRAGMA journal_mode")).scalar() == "persist":  # it keeps the pages of the last write
        connection.execute(text("PRAGMA journal_mode = DELETE"))
        connection.execute(text("PRAGMA journal_mode = PERSIST"))
    busy, *_ = connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()
    if busy:
        notes.append("the write-ahead log still holds old pages: another connection reads them; run it again")
    return vacuum and not busy


def _settle_tables(connection: Connection, tables: list[Table], notes: list[str], *, vacuum: bool) -> None:
    if (connection.dialect.server_version_info or ()) >= (15,):
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    for table in tables:
        name = connection.dialect.identifier_preparer.format_table(table)
        if vacuum:
            before = connection.execute(_DEAD, {"name": name}).one()[1]
            connection.execute(text(f"VACUUM (SKIP_LOCKED) {name}"))
            if connection.execute(_DEAD, {"name": name}).one()[1] == before:
                notes.append(
                    f"{table.fullname}: was not vacuumed; it is locked, or this account may not (GRANT MAINTAIN)"
                )
        if note := _note(connection, table):
            notes.append(note)


def _note(connection: Connection, table: Table) -> str:
    """Say how many dead rows a table of PostgreSQL has and what ends them, or nothing where there are none."""
    name = connection.dialect.identifier_preparer.format_table(table)
    dead, _, last = connection.execute(_DEAD, {"name": name}).one()
    when = f"last vacuumed at {as_utc(last):%Y-%m-%d %H:%M} UTC" if last is not None else "never vacuumed"
    return f"{table.fullname}: about {dead:,} dead rows, {when}; VACUUM {name} frees their space" if dead else ""
