"""privkit's own tables. They join the models' MetaData, so create_all and Alembic see them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

KEY, EPOCH = "privkit_key", "privkit_epoch"
LEDGER, HOLD, HOLD_ROW, CONSENT = "privkit_ledger", "privkit_hold", "privkit_hold_row", "privkit_consent"
REQUEST, OBSERVATION, OUTBOX = "privkit_consent_request", "privkit_observation", "privkit_outbox"
SWITCH, RECEIPT, ROLLUP, SPENDING = "privkit_switch", "privkit_receipt", "privkit_rollup", "privkit_spending"
OBSERVED_NAMES = {"outcome": 12, "field": 200, "purpose": 200, "place": 200}
"""What is counted, with the longest texts: together they are a primary key in every database."""

_Serial = BigInteger().with_variant(Integer, "sqlite")


def find(metadata: MetaData, name: str) -> Table | None:
    """Return one of privkit's tables in ``metadata``, in its default schema."""
    return metadata.tables.get(f"{metadata.schema}.{name}" if metadata.schema else name)


def is_own(table: Table) -> bool:
    """Whether a table is one of privkit's, by its name."""
    return table.name in _DEFINED


def install(metadata: MetaData) -> None:
    """Add the tables to ``metadata`` that are not there, as reflected ones may be."""
    for name, define in _DEFINED.items():
        if find(metadata, name) is None:
            define(metadata)


def _key(metadata: MetaData) -> None:
    Table(
        KEY,
        metadata,
        Column("id", LargeBinary(16), primary_key=True),
        Column("wrapped", LargeBinary, comment="NULL: destroyed; the row stays as a tombstone"),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("destroyed_at", DateTime(timezone=True)),
    )


def _epoch(metadata: MetaData) -> None:
    Table(
        EPOCH,
        metadata,
        Column("field", String(255), primary_key=True, comment="the field's stable id"),
        Column("number", _Serial, primary_key=True, autoincrement=False, comment="1 began with 1970"),
        Column("event", String(255), nullable=False, comment="whose time tells a value's epoch"),
        Column("starts", DateTime(timezone=True), nullable=False),
        Column("ends", DateTime(timezone=True), nullable=False),
        Column("key_id", LargeBinary(16), nullable=False),
        Column("wrapped", LargeBinary, comment="NULL: destroyed; the row stays as a tombstone"),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("destroyed_at", DateTime(timezone=True)),
    )


def _ledger(metadata: MetaData) -> None:
    ledger = Table(
        LEDGER,
        metadata,
        Column("seq", _Serial, primary_key=True, autoincrement=False),
        Column("at", String(32), nullable=False),
        Column("kind", String(40), nullable=False),
        Column("body", Text, nullable=False),
        Column("link", LargeBinary(32), nullable=False),
    )
    Index("ix_privkit_ledger_kind", ledger.c.kind, ledger.c.seq)


def _hold(metadata: MetaData) -> None:
    Table(
        HOLD,
        metadata,
        Column("id", _Serial, primary_key=True, autoincrement=True),
        Column("subject", LargeBinary(16), comment="key id of the data subject; NULL: the whole table, or chosen rows"),
        Column("table_name", String(255), comment="NULL without a subject: the rows in privkit_hold_row"),
        Column("reference", String(255), unique=True, comment="of its case, or a keyed token of that"),
        Column("reason", Text, nullable=False),
        Column("role", String(60)),
        Column("placed_by", String(255), nullable=False),
        Column("placed_at", DateTime(timezone=True), nullable=False),
        Column("until", DateTime(timezone=True)),
        Column("released_at", DateTime(timezone=True)),
    )


def _hold_row(metadata: MetaData) -> None:
    Table(
        HOLD_ROW,
        metadata,
        Column("table_name", String(255), primary_key=True),
        Column("row_key", String(200), primary_key=True, comment="the primary key as one text; never personal"),
        Column("hold", _Serial, primary_key=True, autoincrement=False),
    )


def _consent(metadata: MetaData) -> None:
    consent = Table(
        CONSENT,
        metadata,
        Column("seq", _Serial, primary_key=True, autoincrement=True),
        Column("subject", LargeBinary(16), nullable=False),
        Column("purpose", String(255), nullable=False),
        Column("event", String(20), nullable=False),
        Column("guardian", LargeBinary(16), comment="keyed token of the guardian's reference; NULL: for all guardians"),
        Column("method", String(60)),
        Column("verifier", LargeBinary(16), comment="keyed token of who verified the guardian"),
        Column("notice", String(60)),
        Column("notice_sha256", LargeBinary(32), comment="of the text that was seen"),
        Column("locale", String(60)),
        Column("material", Boolean),
        Column("at", DateTime(timezone=True), nullable=False, comment="when it was recorded"),
        Column(
            "claimed_at", DateTime(timezone=True), comment="when it is said to have happened, where that is earlier"
        ),
        Column("expires", DateTime(timezone=True)),
        Column(
            "disclosure", Boolean, comment="of a consent: whether there was a separate yes to giving data to others"
        ),
    )
    Index("ix_privkit_consent_subject", consent.c.subject, consent.c.purpose, consent.c.seq)
    Index("ix_privkit_consent_guardian", consent.c.guardian)


def _request(metadata: MetaData) -> None:
    request = Table(
        REQUEST,
        metadata,
        Column("id", LargeBinary(16), primary_key=True, comment="random; the token names it"),
        Column("subject", LargeBinary(16), nullable=False),
        Column("guardian", LargeBinary(16), nullable=False, comment="keyed token of the guardian's reference"),
        Column("purposes", Text, nullable=False, comment="their names as a JSON list"),
        Column("notice", String(60)),
        Column("locale", String(60)),
        Column("asked_at", DateTime(timezone=True), nullable=False),
        Column("closed_at", DateTime(timezone=True), comment="answered, or called back; NULL: its token answers"),
    )
    Index("ix_privkit_consent_request_subject", request.c.subject)


def _observation(metadata: MetaData) -> None:
    names = (Column(name, String(length), primary_key=True) for name, length in OBSERVED_NAMES.items())
    Table(
        OBSERVATION,
        metadata,
        Column("day", Date, primary_key=True, comment="UTC"),
        *names,
        Column("count", BigInteger, nullable=False),
    )


def _outbox(metadata: MetaData) -> None:
    Table(
        OUTBOX,
        metadata,
        Column("id", _Serial, primary_key=True, autoincrement=True),
        Column("store", String(200), nullable=False),
        Column("name", LargeBinary, comment="of the file, sealed; NULL: its key had been destroyed before"),
        Column("subject", LargeBinary(16), comment="key id of the data subject whose row named it"),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("last_error", String(80), comment="the kind alone"),
    )


def _switch(metadata: MetaData) -> None:
    Table(
        SWITCH,
        metadata,
        Column("subject", LargeBinary(16), primary_key=True),
        Column("purpose", String(200), primary_key=True),
        Column("on_until", DateTime(timezone=True), nullable=False),
    )


def _receipt(metadata: MetaData) -> None:
    Table(
        RECEIPT,
        metadata,
        Column("line", _Serial, primary_key=True, autoincrement=False, comment="of the ledger, with their SHA-256"),
        Column("receipts", LargeBinary, nullable=False, comment="keyed hashes of 16 bytes, sorted"),
    )


def _rollup(metadata: MetaData) -> None:
    Table(
        ROLLUP,
        metadata,
        Column("id", LargeBinary(16), primary_key=True, comment="keyed token of the summary and the cell"),
        Column("summary", String(255), nullable=False),
        Column("state", LargeBinary, nullable=False, comment="what waits to be published, sealed"),
        Column("changed_at", DateTime(timezone=True), nullable=False),
    )


def _spending(metadata: MetaData) -> None:
    spending = Table(
        SPENDING,
        metadata,
        Column("id", LargeBinary(16), primary_key=True, comment="keyed token of the budget and of what was shown"),
        Column("subject", LargeBinary(16), nullable=False, comment="keyed token of the data subject"),
        Column("budget", String(255), nullable=False),
        Column("cost", Float(53), nullable=False),
        Column("made_at", DateTime(timezone=True), nullable=False),
        Column("until", DateTime(timezone=True), nullable=False, comment="when it counts no more"),
    )
    Index("ix_privkit_spending_subject", spending.c.subject)
    Index("ix_privkit_spending_until", spending.c.until)


_DEFINED: dict[str, Callable[[MetaData], None]] = {
    KEY: _key,
    EPOCH: _epoch,
    LEDGER: _ledger,
    HOLD: _hold,
    HOLD_ROW: _hold_row,
    CONSENT: _consent,
    REQUEST: _request,
    OBSERVATION: _observation,
    OUTBOX: _outbox,
    SWITCH: _switch,
    RECEIPT: _receipt,
    ROLLUP: _rollup,
    SPENDING: _spending,
}
