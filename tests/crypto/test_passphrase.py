"""A keyring file under a passphrase is one sealed payload, and whoever mistypes the passphrase is told so."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import privkit.crypto.providers.passphrase as passphrase_module
from privkit.crypto import EnvironmentKeyring, FileKeyring, SubjectKey
from privkit.errors import KeyringError

RIGHT, WRONG = "planted right passphrase", "planted wrong passphrase"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passphrase_module, "WORK", 1 << 14)  # the least that is accepted, so that tests are quick
    return tmp_path / "keys.json"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_new_keyring_spends_128_mib_on_a_guess(tmp_path: Path) -> None:
    FileKeyring.create(tmp_path / "keys.json", passphrase=RIGHT)

    costs = json.loads((tmp_path / "keys.json").read_text())["scrypt"]

    assert (131_072, 8, 1) == (costs["n"], costs["r"], costs["p"])
    assert 16 == len(base64.b64decode(costs["salt"]))


def test_the_file_is_one_payload_that_another_implementation_opens(path: Path) -> None:
    index = FileKeyring.create(path, passphrase=RIGHT).secret("index")
    document = json.loads(path.read_text())
    costs, sealed = document["scrypt"], base64.b64decode(document["payload"])
    salt = base64.b64decode(costs["salt"])
    key = hashlib.scrypt(RIGHT.encode(), salt=salt, n=costs["n"], r=costs["r"], p=costs["p"], maxmem=1 << 26, dklen=32)
    numbers = [costs[name].to_bytes(8, "big") for name in ("n", "r", "p")]
    parts = [b"privkit keyring under a passphrase v1", *numbers, salt]
    associated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    inner = AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)

    assert {"privkit_keyring", "sealed_by", "scrypt", "payload"} == set(document)
    path.write_bytes(inner)
    assert index == FileKeyring(path).secret("index")


def test_two_keyrings_under_one_passphrase_have_different_salts(path: Path, tmp_path: Path) -> None:
    FileKeyring.create(path, passphrase=RIGHT)
    FileKeyring.create(tmp_path / "other.json", passphrase=RIGHT)

    assert 2 == len({json.loads(each.read_text())["scrypt"]["salt"] for each in tmp_path.glob("*.json")})


@pytest.mark.parametrize("given", [WRONG, lambda: WRONG, RIGHT + " ", RIGHT.upper()])
def test_a_wrong_passphrase_is_told_so_and_not_repeated(path: Path, given: str | Callable[[], str]) -> None:
    FileKeyring.create(path, passphrase=RIGHT)
    keyring = FileKeyring(path, passphrase=given)

    for _ in range(2):
        with pytest.raises(KeyringError, match="the passphrase is wrong") as caught:
            keyring.secret("index")

    assert "planted" not in str(caught.value) + repr(caught.value.data) + repr(keyring)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_a_callable_is_asked_on_first_use_and_once(path: Path) -> None:
    asked: list[str] = []

    def ask() -> str:
        asked.append("asked")
        return RIGHT

    FileKeyring.create(path, passphrase=RIGHT)
    keyring = FileKeyring(path, passphrase=ask)
    assert [] == asked

    keyring.secret("index")
    FileKeyring(path, passphrase=RIGHT).add_generation()

    assert 2 == keyring.generation
    assert 3 == keyring.add_generation()
    assert ["asked"] == asked


def test_a_callable_that_mistyped_is_asked_again(path: Path) -> None:
    typed = [WRONG, RIGHT]
    FileKeyring.create(path, passphrase=RIGHT)
    keyring = FileKeyring(path, passphrase=lambda: typed.pop(0))

    with pytest.raises(KeyringError, match="passphrase is wrong"):
        keyring.secret("index")

    assert 32 == len(keyring.secret("index"))


@pytest.mark.parametrize("given", ["", lambda: "", lambda: None, lambda: b"planted", "planted \ud800"])
def test_no_passphrase_at_all_is_refused_rather_than_left_out(path: Path, given: Any) -> None:
    with pytest.raises(KeyringError, match="passphrase") as caught:
        FileKeyring.create(path, passphrase=given)

    assert not path.exists()
    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_same_letters_typed_two_ways_are_one_passphrase(path: Path) -> None:
    FileKeyring.create(path, passphrase="caf\u00e9")

    assert 1 == FileKeyring(path, passphrase="cafe\u0301").generation


def test_the_environment_is_not_asked_for_a_passphrase(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileKeyring.create(path, passphrase=RIGHT)
    monkeypatch.setenv("PRIVKIT_PASSPHRASE", RIGHT)

    with pytest.raises(KeyringError, match="none was given"):
        FileKeyring(path).secret("index")


def test_a_bare_file_that_took_the_place_of_a_sealed_one_is_refused(path: Path) -> None:
    FileKeyring.create(path)

    with pytest.raises(KeyringError, match="not under a passphrase, though one was given"):
        FileKeyring(path, passphrase=RIGHT).secret("index")


def test_a_passphrase_is_changed_by_a_copy(path: Path, tmp_path: Path) -> None:
    old, key = FileKeyring.create(path, passphrase=RIGHT), SubjectKey.new()
    wrapped = old.wrap(key.id, key.secret)

    FileKeyring.create(tmp_path / "new.json", passphrase="another", copy_of=old)

    assert key.secret == FileKeyring(tmp_path / "new.json", passphrase="another").unwrap(key.id, wrapped).secret


def test_no_altered_byte_of_the_payload_opens(path: Path) -> None:
    FileKeyring.create(path, passphrase=RIGHT)
    sealed = base64.b64decode(json.loads(path.read_text())["payload"])

    for place in (0, 11, 12, len(sealed) // 2, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[place] ^= 1
        rewrite(path, lambda document, altered=altered: document.update(payload=base64.b64encode(altered).decode()))
        with pytest.raises(KeyringError, match="or the file was altered"):
            FileKeyring(path, passphrase=RIGHT).secret("index")


ALTERED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("does not open", lambda document: document["scrypt"].update(p=2)),
    ("does not open", lambda document: document["scrypt"].update(n=1 << 15)),
    ("does not open", lambda document: document["scrypt"].update(salt=base64.b64encode(os.urandom(16)).decode())),
    ("does not open", lambda document: document.update(payload="planted")),
    ("does not open", lambda document: document.pop("payload")),
    ("no usable scrypt", lambda document: document["scrypt"].update(n=1 << 40)),
    ("no usable scrypt", lambda document: document["scrypt"].update(n=1 << 13)),
    ("no usable scrypt", lambda document: document["scrypt"].update(n=(1 << 14) + 1)),
    ("no usable scrypt", lambda document: document["scrypt"].update(n=True)),
    ("no usable scrypt", lambda document: document["scrypt"].update(r=1 << 30)),
    ("no usable scrypt", lambda document: document["scrypt"].update(p=0)),
    ("no usable scrypt", lambda document: document["scrypt"].update(salt="planted!")),
    ("no usable scrypt", lambda document: document.update(scrypt="planted")),
    ("no usable scrypt", lambda document: document.pop("scrypt")),
    ("something else", lambda document: document.update(sealed_by="planted")),
]


@pytest.mark.parametrize(("problem", "change"), ALTERED)
def test_altered_parameters_are_refused_within_bounded_memory(
    path: Path, problem: str, change: Callable[[dict[str, Any]], object]
) -> None:
    FileKeyring.create(path, passphrase=RIGHT)
    rewrite(path, change)

    with pytest.raises(KeyringError, match=problem) as caught:
        FileKeyring(path, passphrase=RIGHT).secret("index")

    assert "planted" not in str(caught.value) + repr(caught.value.data)


def test_a_sealed_document_may_stand_in_the_environment_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = FileKeyring.create(path, passphrase=RIGHT).secret("index")
    monkeypatch.setenv("PRIVKIT_KEY", path.read_text())

    assert index == EnvironmentKeyring(passphrase=RIGHT).secret("index")
    with pytest.raises(KeyringError, match="none was given"):
        EnvironmentKeyring().secret("index")
