"""A keyring behind a PKCS#11 token, against SoftHSM2: who may open it, and what every refusal becomes."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privkit.crypto import Pkcs11Keyring, SubjectKey
from privkit.errors import KeyringError
from tests.crypto.services import AES, OTHER_AES, PIN, RSA, SMALL_AES, TOKEN, Hsm

Made = Callable[..., Pkcs11Keyring]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def settings(hsm: Hsm, **other: Any) -> dict[str, Any]:
    return {"module": hsm.library, "token": TOKEN, "key": AES, "pin": lambda: PIN, **other}


@pytest.fixture
def created(hsm: Hsm, path: Path) -> Pkcs11Keyring:
    return Pkcs11Keyring.create(path, **settings(hsm))


def refused(keyring: Pkcs11Keyring) -> KeyringError:
    with pytest.raises(KeyringError) as caught:
        keyring.secret("index")
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert PIN not in str(caught.value) + repr(caught.value.data) + repr(keyring)
    return caught.value


@pytest.mark.parametrize("key", [AES, RSA])
def test_the_file_holds_only_what_the_token_wrapped(hsm: Hsm, path: Path, key: str) -> None:
    keyring = Pkcs11Keyring.create(path, **settings(hsm, key=key))

    document = json.loads(path.read_text())

    wrapped = base64.b64decode(document["generations"]["1"])
    assert ("pkcs11", {AES: 40, RSA: 256}[key]) == (document["sealed_by"], int.from_bytes(wrapped[:2], "big"))
    assert {"wrap": 2, "unwrap": 2} == keyring.calls
    assert f"Pkcs11Keyring({str(path)!r}, token='privkit', key={key!r})" == repr(keyring)


def test_the_token_is_asked_once_for_each_secret(hsm: Hsm, path: Path, created: Pkcs11Keyring) -> None:
    keyring, subject = Pkcs11Keyring(path, **settings(hsm)), SubjectKey.new()

    for _ in range(20):
        keyring.unwrap(subject.id, keyring.wrap(subject.id, subject.secret))
        keyring.secret("index")

    assert {"unwrap": 2} == keyring.calls


def test_the_pin_comes_from_the_environment_where_no_callable_is_given(
    hsm: Hsm, path: Path, created: Pkcs11Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = Pkcs11Keyring(path, **settings(hsm, pin=None))
    monkeypatch.delenv("PRIVKIT_PKCS11_PIN", raising=False)
    assert "Set PRIVKIT_PKCS11_PIN, or give pin=CALLABLE." == refused(keyring).fix

    monkeypatch.setenv("PRIVKIT_PKCS11_PIN", PIN)

    assert created.secret("index") == keyring.secret("index")


@pytest.mark.parametrize("wrong", ["000000", "1", "9" * 300])
def test_a_wrong_pin_is_told_so_and_not_tried_twice(
    hsm: Hsm, path: Path, created: Pkcs11Keyring, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pkcs11

    pins = [wrong, wrong, PIN]
    keyring = Pkcs11Keyring(path, **settings(hsm, pin=lambda: pins.pop(0)))
    assert "refused the PIN of token 'privkit'" in str(refused(keyring))

    with monkeypatch.context() as unreachable:
        unreachable.setattr(pkcs11, "lib", lambda _: pytest.fail("the token was asked"))
        assert "The same one is not tried again" in refused(keyring).fix

    assert created.secret("index") == keyring.secret("index")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"token": "elsewhere"}, "holds no token 'elsewhere'"),
        ({"token": "twin"}, "holds several tokens 'twin'"),
        ({"key": "nowhere"}, "holds no key 'nowhere' in token 'privkit'"),
        ({"key": SMALL_AES}, "neither AES-256 nor RSA"),
        ({"module": "/nowhere/libnone.so"}, "The PKCS#11 module /nowhere/libnone.so failed"),
    ],
)
def test_what_is_missing_is_named(
    hsm: Hsm, path: Path, created: Pkcs11Keyring, other: dict[str, Any], words: str
) -> None:
    assert words in str(refused(Pkcs11Keyring(path, **settings(hsm, **other))))


@pytest.mark.parametrize("key", [OTHER_AES, RSA])
def test_another_key_of_the_token_does_not_open_it(hsm: Hsm, path: Path, created: Pkcs11Keyring, key: str) -> None:
    error = refused(Pkcs11Keyring(path, **settings(hsm, key=key)))

    assert "the keyring was created with" in error.fix


def test_once_the_key_is_removed_nothing_opens_any_more(hsm: Hsm, path: Path) -> None:
    hsm.new_aes("short-lived")
    Pkcs11Keyring.create(path, **settings(hsm, key="short-lived"))

    hsm.remove("short-lived")

    error = refused(Pkcs11Keyring(path, **settings(hsm, key="short-lived")))
    assert "holds no key 'short-lived'" in str(error)
    assert "pkcs11-tool" in error.fix


def test_a_key_that_took_the_place_of_the_removed_one_opens_nothing(hsm: Hsm, path: Path) -> None:
    hsm.new_aes("replaced")
    Pkcs11Keyring.create(path, **settings(hsm, key="replaced"))
    hsm.remove("replaced")
    hsm.new_aes("replaced")

    refused(Pkcs11Keyring(path, **settings(hsm, key="replaced")))
    hsm.remove("replaced")


def test_two_keys_of_one_label_are_refused(hsm: Hsm, path: Path) -> None:
    hsm.new_aes("doubled")
    hsm.new_aes("doubled")

    with pytest.raises(KeyringError, match="holds several keys 'doubled'"):
        Pkcs11Keyring.create(path, **settings(hsm, key="doubled"))

    assert not path.exists()
    hsm.remove("doubled")


@pytest.mark.parametrize("key", [AES, RSA])
def test_generations_that_change_places_do_not_open(hsm: Hsm, path: Path, key: str) -> None:
    Pkcs11Keyring.create(path, **settings(hsm, key=key)).add_generation()
    document = json.loads(path.read_text())
    one, two = document["generations"].values()
    path.write_text(json.dumps({**document, "generations": {"1": two, "2": one}}))
    subject = SubjectKey.new()

    with pytest.raises(KeyringError, match="did not open what is stored") as caught:
        Pkcs11Keyring(path, **settings(hsm, key=key)).wrap(subject.id, subject.secret)

    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_no_altered_byte_of_a_wrapped_secret_opens(hsm: Hsm, path: Path, created: Pkcs11Keyring) -> None:
    document = json.loads(path.read_text())
    wrapped = base64.b64decode(document["root"])

    for place in range(len(wrapped)):
        altered = bytearray(wrapped)
        altered[place] ^= 1
        path.write_text(json.dumps({**document, "root": base64.b64encode(altered).decode()}))
        refused(Pkcs11Keyring(path, **settings(hsm)))


def test_an_application_that_is_logged_in_to_the_token_stays_logged_in(
    hsm: Hsm, path: Path, created: Pkcs11Keyring
) -> None:
    import pkcs11

    with hsm.session() as session:
        assert created.secret("index") == Pkcs11Keyring(path, **settings(hsm)).secret("index")
        assert session.get_key(pkcs11.ObjectClass.SECRET_KEY, label=AES) is not None


def test_without_the_binding_the_extra_is_named(
    hsm: Hsm, path: Path, created: Pkcs11Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)

    assert "pip install 'privkit[pkcs11]'" == refused(Pkcs11Keyring(path, **settings(hsm))).fix
