"""A keyring in the environment is read on first use, in two forms, and shows nothing of either."""

from __future__ import annotations

import base64
import textwrap
from pathlib import Path

import pytest

from privkit.crypto import EnvironmentKeyring, FileKeyring
from privkit.errors import KeyringError


@pytest.fixture
def document(tmp_path: Path) -> str:
    return FileKeyring.create(tmp_path / "keys.json").path.read_text()


def in_base64(document: str) -> str:
    return base64.b64encode(document.encode()).decode()


@pytest.mark.parametrize("form", [str, in_base64, lambda text: "\n".join(textwrap.wrap(in_base64(text), 76)) + "\n"])
def test_json_and_base64_with_or_without_line_ends_are_read(
    form: object, document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVKIT_KEY", form(document))  # type: ignore[operator]

    assert FileKeyring(tmp_path / "keys.json").secret("index") == EnvironmentKeyring().secret("index")


def test_the_variable_is_read_on_first_use_and_not_before(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIDES_KEY", raising=False)
    keyring = EnvironmentKeyring(prefix="RIDES_KEY")
    with pytest.raises(KeyringError, match="RIDES_KEY is not set") as caught:
        _ = keyring.generation
    assert 'export RIDES_KEY="$(base64 -w0 keys.json)"' in caught.value.fix

    monkeypatch.setenv("RIDES_KEY", document)

    assert 1 == keyring.generation
    assert "EnvironmentKeyring('RIDES_KEY')" == repr(keyring)


@pytest.mark.parametrize("value", ["planted", "{planted", '{"planted": 1}', "cGxhbnRlZA==", "plänted", '["planted"]'])
def test_a_damaged_value_is_refused_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVKIT_KEY", value)

    with pytest.raises(KeyringError, match="environment variable PRIVKIT_KEY is not a") as caught:
        EnvironmentKeyring().secret("index")

    assert value not in str(caught.value) + repr(caught.value.data)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_it_cannot_be_a_copy(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVKIT_KEY", document)

    with pytest.raises(KeyringError, match="cannot be created in place"):
        EnvironmentKeyring()._create()
