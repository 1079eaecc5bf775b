"""Where the policy has a run leave receipts, each row and value that it destroyed has one, and nothing else has."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, event

from privkit import FileKeyring, Privacy
from privkit.errors import LedgerError, PolicyError
from privkit.sqlalchemy import receipts
from privkit.sqlalchemy.explain import table_named
from tests.databases import raw_rows
from tests.retention import contacts, test_fast_paths
from tests.retention.contacts import Base, Contact
from tests.retention.test_fast_paths import NOW, Hotel, Stay, Ticket, Visit

RECEIPTS = "runs: {receipts: true, largest_share: 100}\n"
MODELS: dict[str, Any] = {"visits": Visit, "stays": Stay, "tickets": Ticket}


@pytest.fixture
def hotel(database_url: str, tmp_path: Path) -> Iterator[Hotel]:
    yield from test_fast_paths._hotel(database_url, tmp_path, test_fast_paths.POLICY + RECEIPTS)


def mailing(url: str, folder: Path, count: int = 1) -> tuple[Engine, Privacy]:
    return contacts.contacts(url, folder, count, contacts.POLICY + RECEIPTS)


def fields(privacy: Privacy, engine: Engine, model: Any, *key: Any) -> list[str]:
    return sorted(each.field or "row" for each in privacy.receipts(engine, model, key))


@pytest.mark.parametrize("batch", [None, 7], ids=["ranges", "batches"])
def test_each_row_and_value_that_went_has_one_receipt_and_what_stayed_has_none(hotel: Hotel, batch: int | None) -> None:
    due = hotel.fill(Random(7), 40)
    run = hotel.purge(batch=batch)
    assert run.ok
    for table, model in MODELS.items():
        gone = "note" if table == "stays" else "row"
        for number in range(1, 41):
            key = (1 + number % 3, number) if table == "stays" else (number,)
            assert ([gone] if number in due else []) == fields(hotel.privacy, hotel.engine, model, *key)
    sizes = dict(hotel.raw("SELECT line, length(receipts) FROM privkit_receipt"))
    lines = [(line, json.loads(body)) for line, body in hotel.raw("SELECT seq, body FROM privkit_ledger")]
    counts = {line: (body["table"] == "stays", body["count"]) for line, body in lines if "receipts" in body}
    assert sizes == {line: count * 16 if hashed else 28 + count * 8 for line, (hashed, count) in counts.items()}
    assert run.done == sum(count for _, count in counts.values())
    receipt = hotel.privacy.receipts(hotel.engine, "visits", min(due))[0]
    assert (run.id, "deleted with its row") == (receipt.run, receipt.technique)
    assert "P30D after ended" in receipt.rule


def test_a_run_that_was_stopped_halfway_and_ran_again_leaves_one_receipt_for_each_row(hotel: Hotel) -> None:
    due, commits = hotel.fill(Random(8), 30), 0

    def stop(connection: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 4:
            raise KeyboardInterrupt

    event.listen(hotel.engine, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        hotel.purge(batch=3)
    assert hotel.purge(batch=3).ok
    found = {number: fields(hotel.privacy, hotel.engine, Visit, number) for number in range(1, 31)}
    assert {number: ["row"] if number in due else [] for number in range(1, 31)} == found


def test_a_row_that_the_database_refused_has_no_receipt(database_url: str, tmp_path: Path) -> None:
    engine, privacy = mailing(database_url, tmp_path)
    contacts.store(engine, privacy, range(7, 8), phone="555", login="x")
    plan = privacy.plan(engine)
    raw_rows(database_url, "UPDATE contacts SET token = 't' WHERE id = 7")
    run = privacy.purge(engine, plan)
    assert {"contacts.phone"} == {outcome.step.name for outcome in run.outcomes if outcome.failed}
    assert ["email"] == fields(privacy, engine, Contact, 7)
    engine.dispose()


def test_receipts_tell_nothing_without_the_keyring_and_show_when_they_were_altered(
    hotel: Hotel, tmp_path: Path
) -> None:
    number = min(hotel.fill(Random(9), 5))
    assert hotel.purge().ok
    other = Privacy(
        tmp_path / "hotel.yaml", test_fast_paths.Base, FileKeyring.create(tmp_path / "other.json"), clock=lambda: NOW
    )
    with hotel.engine.connect() as connection:
        with pytest.raises(LedgerError, match="sealed under another keyring"):
            receipts.find(connection, other.guard, table_named(other.guard, Visit), (number,))
        keys = [(1 + number % 3, number) for number in range(1, 6)]
        stays = table_named(other.guard, Stay)
        assert [] == [one for key in keys for one in receipts.find(connection, other.guard, stays, key)]
    for change in ("UPDATE privkit_receipt SET receipts = substr(receipts, 2)", "DELETE FROM privkit_receipt"):
        hotel.raw(change)
        with pytest.raises(LedgerError, match="not those of which the ledger tells"):
            hotel.privacy.receipts(hotel.engine, Visit, number)


def test_hashes_that_a_former_version_left_for_integers_are_still_receipts(hotel: Hotel) -> None:
    number = min(hotel.fill(Random(10), 5))
    former = pytest.MonkeyPatch()
    former.setattr(receipts, "_numbered", lambda table: False)
    assert hotel.purge().ok
    former.undo()
    assert ["row"] == fields(hotel.privacy, hotel.engine, Visit, number)
    assert [] == fields(hotel.privacy, hotel.engine, Visit, 99)


def test_integers_that_the_database_has_as_numbers_of_any_size_have_hashes(pg_url: str, tmp_path: Path) -> None:
    for hotel in test_fast_paths._hotel(pg_url, tmp_path, test_fast_paths.POLICY + RECEIPTS):
        number = min(hotel.fill(Random(11), 5))
        hotel.raw("ALTER TABLE visits ALTER id TYPE numeric")
        hotel.raw(f"UPDATE visits SET id = id + {2**70}")
        assert hotel.purge().ok
        assert ["row"] == fields(hotel.privacy, hotel.engine, Visit, number + 2**70)


def test_without_the_policy_s_word_a_run_leaves_none(database_url: str, tmp_path: Path) -> None:
    for hotel in test_fast_paths._hotel(database_url, tmp_path):
        due = hotel.fill(Random(9), 5)
        assert hotel.purge().done == 4 * len(due)
        assert [] == hotel.privacy.receipts(hotel.engine, Visit, min(due))
        assert [(0,)] == hotel.raw("SELECT count(*) FROM privkit_receipt")


def test_partitions_that_are_dropped_unseen_leave_no_receipts_so_a_policy_wants_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(contacts.POLICY + "runs: {receipts: true, drop_partitions: true}\n")
    with pytest.raises(PolicyError, match=r"runs\.receipts needs each row"):
        Privacy(path, Base, FileKeyring.create(tmp_path / "keys.json"))
