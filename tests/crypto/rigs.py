"""One rig for each way to keep a keyring: how to make it, and the Python expression that opens it in any process."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import privkit.crypto.providers.passphrase as passphrase_module
from privkit.crypto import EnvironmentKeyring, FileKeyring, KmsKeyring, MasterKeyring, Pkcs11Keyring
from tests.crypto.services import AES, OTHER_AES, PIN, RSA, TOKEN, Aws, Hsm
from tests.forked import Forked
from tests.meta import ROOT

PASSPHRASE = "planted correct horse"
PRELUDE = """
import os, sys, threading
from privkit.crypto import EnvironmentKeyring, FileKeyring, KmsKeyring, Pkcs11Keyring, SubjectKey
from privkit.errors import KeyringError, SealedError

def client(endpoint):
    import boto3
    given = dict(region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
    return lambda: boto3.session.Session().client("kms", endpoint_url=endpoint, **given)
"""


class Rig:
    """``create(path)``, and the expressions that open what was created: rightly, and as a stranger (or None)."""

    def __init__(
        self,
        create: Callable[[Path], MasterKeyring],
        opening: Callable[[Path], str],
        stranger: Callable[[Path], str] | None = None,
        *,
        secrets: tuple[str, ...] = (),
        rotates: bool = True,
    ) -> None:
        self.create, self.opening, self.stranger = create, opening, stranger
        self.secrets, self.rotates = secrets, rotates

    def open(self, path: Path) -> MasterKeyring:
        return evaluated(self.opening(path))

    def run(self, path: Path, script: str, *given: str) -> str:
        """Run ``script``, where ``keyring`` is open, in another process; return what it printed."""
        return finished(self.start(path, script, *given))

    def start(self, path: Path, script: str, *given: str) -> Forked:
        code = f"{PRELUDE}\nkeyring = {self.opening(path)}\n{script}"
        return Forked(["-c", code, *given], ROOT, {**os.environ, "PYTHONPATH": str(ROOT / "src")}, "")


def finished(process: Forked) -> str:
    ended = process.ended()
    assert 0 == ended.returncode, ended.stderr
    return ended.stdout.strip()


def evaluated(expression: str) -> MasterKeyring:
    scope: dict[str, object] = {}
    exec(PRELUDE, scope)  # noqa: S102
    keyring = eval(expression, scope)  # noqa: S307
    assert isinstance(keyring, MasterKeyring)
    return keyring


def bare_file() -> Rig:
    return Rig(FileKeyring.create, lambda path: f"FileKeyring({str(path)!r})")


def under_a_passphrase(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(passphrase_module, "WORK", 1 << 14)  # the least that is accepted, so that tests are quick
    return Rig(
        lambda path: FileKeyring.create(path, passphrase=PASSPHRASE),
        lambda path: f"FileKeyring({str(path)!r}, passphrase={PASSPHRASE!r})",
        lambda path: f"FileKeyring({str(path)!r}, passphrase=lambda: 'planted other')",
        secrets=("planted",),
    )


def in_the_environment(monkeypatch: pytest.MonkeyPatch) -> Rig:
    def create(path: Path) -> MasterKeyring:
        if path.name == "keys.json":
            FileKeyring.create(path)
            monkeypatch.setenv("PRIVKIT_KEY", base64.b64encode(path.read_bytes()).decode())
            return EnvironmentKeyring()
        FileKeyring.create(path)
        monkeypatch.setenv("OTHER_KEY", path.read_text())
        return EnvironmentKeyring("OTHER_KEY")

    return Rig(create, lambda _: "EnvironmentKeyring()", rotates=False)


def behind_kms(aws: Aws) -> Rig:
    key, other = aws.new_key(), aws.new_key()

    def opening(key: str) -> Callable[[Path], str]:
        return lambda path: f"KmsKeyring({str(path)!r}, {key!r}, client=client({aws.url!r}))"

    return Rig(lambda path: KmsKeyring.create(path, key, client=aws.client), opening(key), opening(other))


def behind_a_token(hsm: Hsm, key: str, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setenv("PRIVKIT_PKCS11_PIN", PIN)

    def opening(key: str) -> Callable[[Path], str]:
        return lambda path: f"Pkcs11Keyring({str(path)!r}, module={hsm.library!r}, token={TOKEN!r}, key={key!r})"

    return Rig(
        lambda path: Pkcs11Keyring.create(path, module=hsm.library, token=TOKEN, key=key),
        opening(key),
        opening(OTHER_AES),
        secrets=(PIN,),
    )


def rig(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    match name:
        case "file":
            return bare_file()
        case "passphrase":
            return under_a_passphrase(monkeypatch)
        case "environment":
            return in_the_environment(monkeypatch)
        case "kms":
            return behind_kms(request.getfixturevalue("aws"))
        case _:
            return behind_a_token(request.getfixturevalue("hsm"), RSA if name.endswith("rsa") else AES, monkeypatch)


RIGS = ("file", "passphrase", "environment", "kms", "pkcs11-aes", "pkcs11-rsa")
