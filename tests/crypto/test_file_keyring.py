"""A keyring file is created once and privately, read late, and believed only when all of it is in order."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privkit.crypto import FileKeyring, SubjectKey
from privkit.errors import KeyringError, PrivkitError, SealedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keyring(path: Path) -> FileKeyring:
    return FileKeyring.create(path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def random_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def test_a_created_keyring_has_one_generation_and_only_its_owner_may_read_it(path: Path, keyring: FileKeyring) -> None:
    document = json.loads(path.read_text())

    assert {"privkit_keyring", "current", "generations", "root"} == set(document)
    assert (1, 1, ["1"]) == (document["privkit_keyring"], document["current"], list(document["generations"]))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 1 == keyring.generation
    assert [path.name] == os.listdir(path.parent)


def test_a_keyring_is_private_under_any_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        FileKeyring.create(path)
    finally:
        os.umask(before)

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_an_existing_keyring_is_never_overwritten(path: Path) -> None:
    FileKeyring.create(path)
    before = path.read_bytes()

    with pytest.raises(KeyringError, match="exists already"):
        FileKeyring.create(path)

    assert before == path.read_bytes()
    assert [path.name] == os.listdir(path.parent)


def test_a_link_that_leads_nowhere_is_not_overwritten_either(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(KeyringError, match="exists already"):
        FileKeyring.create(path)

    assert not (tmp_path / "elsewhere.json").exists()


def test_of_many_that_create_at_the_same_moment_one_wins(path: Path) -> None:
    start, outcomes = threading.Barrier(8), []

    def create() -> None:
        start.wait()
        try:
            FileKeyring.create(path)
            outcomes.append("created")
        except KeyringError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["created"] + ["refused"] * 7 == sorted(outcomes)
    assert 1 == FileKeyring(path).generation


def test_a_keyring_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="cannot be created"):
        FileKeyring.create(tmp_path / "missing" / "keys.json")


def test_the_file_is_read_on_first_use_and_the_path_does_not_follow_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keyring = FileKeyring("keys.json")
    with pytest.raises(KeyringError, match="no keyring"):
        _ = keyring.generation

    FileKeyring.create(tmp_path / "keys.json")
    monkeypatch.chdir("/")

    assert 1 == keyring.generation
    assert f"FileKeyring('{tmp_path}/keys.json')" == repr(keyring)


def test_a_wrapped_key_unwraps_in_another_process_with_the_same_file(path: Path, keyring: FileKeyring) -> None:
    key = SubjectKey.new()

    wrapped = keyring.wrap(key.id, key.secret)
    unwrapped = FileKeyring(path).unwrap(key.id, wrapped)

    assert (key.id, key.secret) == (unwrapped.id, unwrapped.secret)
    assert (1).to_bytes(4, "big") == wrapped[:4]
    assert key.secret not in wrapped
    assert wrapped != keyring.wrap(key.id, key.secret)


def test_a_wrapped_key_does_not_open_under_another_id(keyring: FileKeyring) -> None:
    one, other = SubjectKey.new(), SubjectKey.new()

    with pytest.raises(SealedError):
        keyring.unwrap(other.id, keyring.wrap(one.id, one.secret))


def test_a_key_is_not_wrapped_under_an_id_that_is_not_its_own(keyring: FileKeyring) -> None:
    with pytest.raises(KeyringError, match="not its own"):
        keyring.wrap(bytes(16), SubjectKey.new().secret)


def test_a_damaged_wrapped_key_does_not_open(keyring: FileKeyring) -> None:
    key = SubjectKey.new()
    wrapped = keyring.wrap(key.id, key.secret)

    for place in range(4, len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[place] ^= 1
        with pytest.raises(SealedError):
            keyring.unwrap(key.id, bytes(damaged))
    for cut in (b"", wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(SealedError, match="bytes, not 64"):
            keyring.unwrap(key.id, cut)


def test_a_generation_that_the_keyring_does_not_hold_is_named(keyring: FileKeyring) -> None:
    key = SubjectKey.new()
    wrapped = (9).to_bytes(4, "big") + keyring.wrap(key.id, key.secret)[4:]

    with pytest.raises(KeyringError, match="does not hold generation 9") as caught:
        keyring.unwrap(key.id, wrapped)

    assert 9 == caught.value.data["generation"]


def test_after_a_new_generation_old_keys_unwrap_and_named_secrets_stay(path: Path, keyring: FileKeyring) -> None:
    key = SubjectKey.new()
    old, index = keyring.wrap(key.id, key.secret), keyring.secret("index")
    rewrite(path, lambda document: document.update(current=2))
    rewrite(path, lambda document: document["generations"].update({"2": random_key()}))
    rolled = FileKeyring(path)

    new = rolled.wrap(key.id, key.secret)

    assert 2 == rolled.generation
    assert [key.secret] * 2 == [rolled.unwrap(key.id, wrapped).secret for wrapped in (old, new)]
    assert index == rolled.secret("index")
    with pytest.raises(SealedError):  # the generation is authenticated with the key
        rolled.unwrap(key.id, new[:3] + b"\1" + new[4:])


def reference_wrapped(path: Path, key_id: bytes, secret: bytes, nonce: bytes) -> bytes:
    """The format, built by hand from the file's first generation."""
    master = base64.b64decode(json.loads(path.read_text())["generations"]["1"])
    parts = (b"privkit wrapped key v1", b"\0\0\0\1", key_id)
    associated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return b"\0\0\0\1" + nonce + AESGCM(master).encrypt(nonce, secret, associated)


def test_a_wrapped_key_is_what_the_reference_makes_with_the_same_nonce(path: Path, keyring: FileKeyring) -> None:
    key = SubjectKey.new()

    wrapped = keyring.wrap(key.id, key.secret)

    assert wrapped == reference_wrapped(path, key.id, key.secret, wrapped[4:16])


def test_a_key_that_opens_but_is_not_the_one_its_id_commits_to_is_refused(path: Path, keyring: FileKeyring) -> None:
    planted = reference_wrapped(path, SubjectKey.new().id, os.urandom(32), bytes(12))
    one = SubjectKey.new()

    with pytest.raises(SealedError, match="commits to"):
        keyring.unwrap(one.id, reference_wrapped(path, one.id, os.urandom(32), bytes(12)))
    with pytest.raises(SealedError, match="did not open"):
        keyring.unwrap(one.id, planted)


def test_a_wrapped_key_is_bound_to_its_generation_even_where_two_generations_are_equal(
    path: Path, keyring: FileKeyring
) -> None:
    key = SubjectKey.new()
    wrapped = keyring.wrap(key.id, key.secret)
    rewrite(path, lambda document: document["generations"].update({"2": document["generations"]["1"]}))

    with pytest.raises(SealedError, match="did not open"):
        FileKeyring(path).unwrap(key.id, b"\0\0\0\2" + wrapped[4:])


def test_a_key_wrapped_by_another_keyring_does_not_open(keyring: FileKeyring, tmp_path: Path) -> None:
    other, key = FileKeyring.create(tmp_path / "other.json"), SubjectKey.new()

    with pytest.raises(SealedError):
        keyring.unwrap(key.id, other.wrap(key.id, key.secret))


def test_named_secrets_are_32_bytes_stable_and_independent(path: Path, keyring: FileKeyring, tmp_path: Path) -> None:
    names = ("index", "ledger", "pseudonym")
    secrets = [keyring.secret(name) for name in names]

    assert {32} == {len(secret) for secret in secrets}
    assert 3 == len(set(secrets))
    assert secrets == [FileKeyring(path).secret(name) for name in names]
    assert secrets[0] != FileKeyring.create(tmp_path / "other.json").secret("index")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o666])
def test_a_keyring_that_others_may_use_is_refused_with_the_command_to_run(path: Path, mode: int) -> None:
    FileKeyring.create(path)
    path.chmod(mode)

    with pytest.raises(KeyringError, match=rf"mode {mode:04o}[\s\S]*chmod 600 {path}"):
        _ = FileKeyring(path).generation


def test_a_refused_keyring_works_once_its_mode_is_put_right(path: Path, keyring: FileKeyring) -> None:
    path.chmod(0o644)
    with pytest.raises(KeyringError):
        keyring.secret("index")

    path.chmod(0o400)

    assert 32 == len(keyring.secret("index"))


def test_a_missing_keyring_names_the_command_that_creates_one(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="privkit keys init") as caught:
        FileKeyring(tmp_path / "my keys.json").secret("index")

    assert f"'{tmp_path}/my keys.json'" in caught.value.fix


def test_a_link_is_followed_and_the_mode_is_that_of_its_target(path: Path, tmp_path: Path) -> None:
    FileKeyring.create(path)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert 1 == FileKeyring(link).generation

    path.chmod(0o644)

    with pytest.raises(KeyringError, match="mode 0644"):
        _ = FileKeyring(link).generation


def test_a_folder_or_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(KeyringError, match="is not a file"):
            _ = FileKeyring(place).generation


DAMAGE: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("not a keyring of version 1", lambda document: document.pop("privkit_keyring")),
    ("not a keyring of version 1", lambda document: document.update(privkit_keyring=0)),
    ("not a keyring of version 1", lambda document: document.update(privkit_keyring=True)),
    ("no current generation", lambda document: document.pop("current")),
    ("no current generation", lambda document: document.update(current=2)),
    ("no current generation", lambda document: document.update(current="1")),
    ("no current generation", lambda document: document.update(current=[1])),
    ("no generations", lambda document: document.pop("generations")),
    ("no generations", lambda document: document.update(generations={})),
    ("no generations", lambda document: document.update(generations=["planted"])),
    ("whole number above 0", lambda document: document["generations"].update(planted=random_key())),
    ("whole number above 0", lambda document: document["generations"].update({"01": random_key()})),
    ("whole number above 0", lambda document: document["generations"].update({"0": random_key()})),
    ("whole number above 0", lambda document: document["generations"].update({"4294967296": random_key()})),
    ("lacks a generation", lambda document: document["generations"].update({"1": "cGxhbnRlZA=="})),
    ("lacks a generation", lambda document: document["generations"].update({"1": "planted!"})),
    ("lacks a generation", lambda document: document["generations"].update({"1": "plänted"})),
    ("lacks a generation", lambda document: document["generations"].update({"1": None})),
    ("lacks the root secret", lambda document: document.pop("root")),
    ("lacks the root secret", lambda document: document.update(root=random_key()[:-8])),
]


@pytest.mark.parametrize(("problem", "change"), DAMAGE)
def test_a_damaged_keyring_says_what_is_wrong_and_never_what_it_holds(
    path: Path, problem: str, change: Callable[[dict[str, Any]], object]
) -> None:
    FileKeyring.create(path)
    keys = list(json.loads(path.read_text())["generations"].values())
    rewrite(path, change)

    with pytest.raises(KeyringError, match=problem) as caught:
        _ = FileKeyring(path).generation

    assert f"privkit keys init {path}" in str(caught.value)
    assert_holds_none(caught.value, [*keys, "planted"])


@pytest.mark.parametrize("content", [b"", b"planted", b"\xff\xfeplanted", b'["planted"]', b'"planted"', b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused_without_showing_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(KeyringError, match="not a JSON object") as caught:
        _ = FileKeyring(path).generation

    assert_holds_none(caught.value, ["planted"])


def assert_holds_none(error: PrivkitError, words: list[str]) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    for word in words:
        assert word not in str(error)
        assert word not in repr(error.data)


def test_a_keyring_is_neither_pickled_nor_copied_even_after_use(keyring: FileKeyring) -> None:
    keyring.secret("index")

    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyringError, match="cannot be pickled"):
            attempt(keyring)


def test_threads_that_use_a_keyring_first_at_the_same_moment_all_succeed(path: Path) -> None:
    FileKeyring.create(path)
    keyring, start, key = FileKeyring(path), threading.Barrier(4), SubjectKey.new()
    unwrapped: list[bytes] = []

    def use() -> None:
        start.wait()
        unwrapped.append(keyring.unwrap(key.id, keyring.wrap(key.id, key.secret)).secret)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [key.secret] * 4 == unwrapped
