"""A keyring's file is changed whole, by one at a time, and what was destroyed is gone from it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from privkit.crypto import FileKeyring, MasterKeyring, SubjectKey
from privkit.crypto.master import LOOK_EVERY, LOOK_EVERY_WRAP
from privkit.crypto.providers.storage import KeyringFile
from privkit.errors import KeyringError
from tests.meta import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def first_generation(path: Path) -> str:
    text: str = json.loads(path.read_text())["generations"]["1"]
    return text


def turn(keyring: FileKeyring) -> None:
    before = keyring.generation
    keyring.add_generation()
    keyring.destroy_generation(before)


def test_a_destroyed_generation_is_in_no_byte_that_the_file_ever_had(path: Path) -> None:
    keyring = FileKeyring.create(path)
    keyring.add_generation()
    destroyed = first_generation(path)
    os.link(path, path.with_name("linked by a backup tool"))
    with path.open("rb", buffering=0) as before:
        keyring.destroy_generation(1)
        left = before.read()

    seen = [left, *(each.read_bytes() for each in path.parent.iterdir())]
    assert 3 == len(seen)
    for secret in (destroyed.encode(), base64.b64decode(destroyed)):
        assert not any(secret in each for each in seen)


def test_an_added_generation_leaves_the_old_file_to_whoever_holds_it(path: Path) -> None:
    keyring = FileKeyring.create(path)
    before = path.read_bytes()
    with path.open("rb", buffering=0) as held:
        keyring.add_generation()
        assert before == held.read()


def test_what_a_link_leads_to_is_changed_and_the_link_stays(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = FileKeyring.create(tmp_path / "real" / "keys.json").path
    path.symlink_to(target)

    FileKeyring(path).add_generation()

    assert path.is_symlink()
    assert (1, 2) == FileKeyring(target).generations


def test_what_a_crash_left_beside_the_file_is_removed_by_the_next_change(path: Path) -> None:
    keyring = FileKeyring.create(path)
    path.with_name(".keys.json.privkit-crashed").write_bytes(path.read_bytes())
    path.with_name(".other.json.privkit-running").write_bytes(b"of another keyring")

    keyring.add_generation()

    assert [".other.json.privkit-running", "keys.json"] == sorted(os.listdir(path.parent))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_changed_file_keeps_its_owner(path: Path) -> None:
    keyring = FileKeyring.create(path)
    os.chown(path, 12_345, 23_456)

    keyring.add_generation()

    assert (12_345, 23_456) == (path.stat().st_uid, path.stat().st_gid)


def test_a_file_that_others_may_read_is_not_changed(path: Path) -> None:
    keyring = FileKeyring.create(path)
    path.chmod(0o644)
    before = path.read_bytes()

    with pytest.raises(KeyringError, match="mode 0644"):
        keyring.add_generation()

    assert before == path.read_bytes()


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"privkit_keyring": 1}'])
def test_a_damaged_file_is_not_changed(path: Path, damage: bytes) -> None:
    keyring = FileKeyring.create(path)
    path.write_bytes(damage)

    with pytest.raises(KeyringError):
        keyring.add_generation()

    assert damage == path.read_bytes()


def test_a_missing_file_is_not_made_by_a_change(path: Path) -> None:
    with pytest.raises(KeyringError, match="no keyring"):
        FileKeyring(path).add_generation()

    assert [] == os.listdir(path.parent)


class Elapsed:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_what_was_destroyed_elsewhere_opens_no_longer_after_the_next_look(path: Path) -> None:
    FileKeyring.create(path)
    elapsed, key = Elapsed(), SubjectKey.new()
    keyring = MasterKeyring(KeyringFile(path), monotonic=elapsed)
    old = keyring.wrap(key.id, key.secret)
    turn(FileKeyring(path))

    assert key.secret == keyring.unwrap(key.id, old).secret
    elapsed.seconds += LOOK_EVERY
    with pytest.raises(KeyringError, match="does not hold generation 1"):
        keyring.unwrap(key.id, old)


def test_a_new_key_is_never_wrapped_under_a_generation_that_was_destroyed_elsewhere(path: Path) -> None:
    FileKeyring.create(path)
    elapsed, key = Elapsed(), SubjectKey.new()
    keyring = MasterKeyring(KeyringFile(path), monotonic=elapsed)
    for turned in range(2, 6):
        turn(FileKeyring(path))
        elapsed.seconds += LOOK_EVERY_WRAP
        assert turned == int.from_bytes(keyring.wrap(key.id, key.secret)[:4], "big")


def test_a_keyring_that_vanished_wraps_nothing_and_opens_nothing_after_the_next_look(path: Path) -> None:
    FileKeyring.create(path)
    elapsed, key = Elapsed(), SubjectKey.new()
    keyring = MasterKeyring(KeyringFile(path), monotonic=elapsed)
    wrapped = keyring.wrap(key.id, key.secret)
    path.rename(path.with_name("moved.json"))

    elapsed.seconds += LOOK_EVERY_WRAP
    with pytest.raises(KeyringError, match="no keyring"):
        keyring.wrap(key.id, key.secret)
    elapsed.seconds += LOOK_EVERY
    with pytest.raises(KeyringError, match="no keyring"):
        keyring.unwrap(key.id, wrapped)

    path.with_name("moved.json").rename(path)
    assert key.secret == keyring.unwrap(key.id, wrapped).secret


def test_readers_beside_a_turning_keyring_never_see_a_part_of_it(path: Path) -> None:
    index = FileKeyring.create(path).secret("index")
    seen: set[bytes] = set()
    problems: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(FileKeyring(path).secret("index"))
            except KeyringError as error:
                problems.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(40):
        turn(FileKeyring(path))
    done.set()
    for reader in readers:
        reader.join(60)

    assert ([], {index}) == (problems, seen)


def test_a_process_killed_while_it_turns_the_keyring_leaves_it_whole_and_unlocked(path: Path) -> None:
    index = FileKeyring.create(path).secret("index")
    script = f"""
from privkit.crypto import FileKeyring
keyring = FileKeyring({str(path)!r})
while True:
    keyring.add_generation()
    keyring.destroy_generation(keyring.generation - 1)
    print(keyring.generation, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for turns in (1, 7, 23):
        turning = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
        assert turning.stdout is not None
        for _ in range(turns):
            turning.stdout.readline()
        turning.send_signal(signal.SIGKILL)
        turning.wait(60)
        turning.stdout.close()

        keyring = FileKeyring(path)
        assert index == keyring.secret("index")
        assert keyring.generation in keyring.generations
        turn(keyring)

    assert ["keys.json"] == os.listdir(path.parent)


def test_a_release_that_does_not_know_the_suite_in_use_opens_and_never_writes(path: Path) -> None:
    key, keyring = SubjectKey.new(), FileKeyring.create(path)
    keyring.require_writable()
    wrapped = keyring.wrap(key.id, key.secret)
    path.write_text(json.dumps({**json.loads(path.read_text()), "suite": 2}))
    again = FileKeyring(path)
    assert key.id == again.unwrap(key.id, wrapped).id
    for write in (
        again.require_writable,
        lambda: again.wrap(key.id, key.secret),
        again.add_generation,
        lambda: again.destroy_generation(1),
    ):
        with pytest.raises(KeyringError, match="newer release") as refusal:
            write()
        assert 2 == refusal.value.data["suite"]
    assert 2 == json.loads(path.read_text())["suite"]


def test_a_change_keeps_the_suite(path: Path) -> None:
    keyring = FileKeyring.create(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "suite": 1}))
    turn(keyring)
    keyring.require_writable()


@pytest.mark.parametrize("suite", [0, -1, "1", True, None, 1.0])
def test_a_suite_that_is_no_number_is_a_damaged_document(path: Path, suite: object) -> None:
    FileKeyring.create(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "suite": suite}))
    with pytest.raises(KeyringError, match="suite"):
        FileKeyring(path).require_writable()


def test_a_document_of_a_newer_version_asks_for_an_upgrade_and_not_for_a_backup(path: Path) -> None:
    FileKeyring.create(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "privkit_keyring": 2}))
    with pytest.raises(KeyringError, match="Upgrade privkit"):
        _ = FileKeyring(path).generation
