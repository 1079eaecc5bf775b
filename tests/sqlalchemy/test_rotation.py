"""Keys move from one master generation to the next, and what a roll destroyed opens nowhere."""

import os
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, create_engine, event, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry

from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal
from privkit.crypto import SubjectKey
from privkit.errors import KeyringError
from privkit.ledger import KINDS
from privkit.purposes import internally
from privkit.sqlalchemy import ledger, rewrap, wrapping
from privkit.sqlalchemy.destroy import destroy_keys
from privkit.sqlalchemy.scan import scan_envelopes
from privkit.sqlalchemy.tables import EPOCH, KEY
from tests.databases import Server, raw_rows
from tests.meta import ROOT
from tests.sqlalchemy.rides import Clock, Rider, RideService, ride_service, rider


def generations_in_use(service: RideService) -> set[int]:
    url = service.engine.url.render_as_string(hide_password=False)
    stored = raw_rows(url, "SELECT wrapped FROM privkit_key WHERE wrapped IS NOT NULL")
    return {int.from_bytes(bytes(wrapped)[:4], "big") for (wrapped,) in stored}


def emails(service: RideService) -> list[str]:
    service.guard.keys.clear()
    with service.privacy.purpose("account"), Session(service.engine) as session:
        return list(session.scalars(select(Rider.email).order_by(Rider.id)))


def erase(service: RideService, number: int) -> bytes:
    with internally(), service.engine.begin() as connection:
        key_id = bytes(connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == number)).scalar_one())
        destroy_keys(connection, service.guard, [key_id])
    return key_id


def wrapped_key(service: RideService, number: int) -> tuple[bytes, bytes]:
    url = service.engine.url.render_as_string(hide_password=False)
    query = f"SELECT k.id, k.wrapped FROM privkit_key k JOIN riders r ON r.privkit_key = k.id WHERE r.id = {number}"
    ((key_id, wrapped),) = raw_rows(url, query)
    return bytes(key_id), bytes(wrapped)


def lines(service: RideService, kind: str) -> list[str]:
    with service.engine.connect() as connection:
        return [each.body for each in ledger.entries(connection, service.guard) if each.kind == kind]


def test_rotating_puts_all_living_keys_under_a_new_generation_and_loses_none(service: RideService) -> None:
    service.sign_up(*(rider(number) for number in range(1, 8)))
    erase(service, 3)
    before = emails_of(service, without=3)
    made = service.privacy.rotate_keys(service.engine, batch=2)
    assert {2} == generations_in_use(service)
    assert (1, 2) == service.guard.keyring.generations
    key = next(each for each in made.databases[0].keys if each.table.endswith(KEY))
    assert (6, 1, 0, 6, 0) == (key.living, key.destroyed, key.left, key.rewrapped, key.failed)
    assert made.ok
    assert before == emails_of(service, without=3)
    assert 1 == len(lines(service, "keys_rotated"))


def emails_of(service: RideService, *, without: int) -> list[str]:
    service.guard.keys.clear()
    with service.privacy.purpose("account"), Session(service.engine) as session:
        return list(session.scalars(select(Rider.email).where(Rider.id != without).order_by(Rider.id)))


def test_rolling_destroys_the_generations_before_and_everything_living_still_opens(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    for generation in (2, 3):
        made = service.privacy.roll_keys(service.engine)
        assert made.ok
        assert (generation,) == service.guard.keyring.generations
        assert (generation - 1,) == made.destroyed
        assert {generation} == generations_in_use(service)
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(service)


def test_a_destroyed_key_opens_until_the_roll_and_never_after_it(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    key_id, stolen = wrapped_key(service, 1)
    erase(service, 1)
    assert key_id == service.guard.keyring.unwrap(key_id, stolen).id  # a copy from a backup still opens
    service.privacy.roll_keys(service.engine)
    with pytest.raises(KeyringError) as refusal:
        service.guard.keyring.unwrap(key_id, stolen)
    assert 1 == refusal.value.data["generation"]
