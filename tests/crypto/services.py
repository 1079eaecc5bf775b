"""The services behind keyrings: moto's AWS on loopback, seen through a gate that can fail, and SoftHSM2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.databases import unavailable

PIN = "482915"
AES, OTHER_AES, SMALL_AES, RSA = "master", "other master", "small", "pair"
TOKEN = "privkit"
_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


_making = threading.Lock()


@cache
def _session() -> Any:
    """One for all clients: each would read what boto3 knows of AWS anew, and only one may be made at a time."""
    import boto3

    return boto3.session.Session()


class Aws:
    """moto's server. What passes is counted by operation, may be held at ``gate``, and ``fault`` may answer instead."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                """Say nothing."""

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.seen: Counter[str] = Counter()
        self.contexts: list[dict[str, str]] = []
        self.fault: Callable[[str], str | None] = lambda _: None
        self.gate = threading.Event()
        self.gate.set()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        self.seen[operation] += 1
        if operation in ("Encrypt", "Decrypt"):
            self._note_context(environ)
        self.gate.wait(30)
        code = self.fault(operation)
        if code is None:
            return self._moto(environ, start_response)
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps({"__type": code, "message": "no"}).encode()]

    def _note_context(self, environ: dict[str, Any]) -> None:
        import io

        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        self.contexts.append(json.loads(body).get("EncryptionContext", {}))

    def client(self, service: str = "kms", attempts: int = 1, **more: Any) -> Any:
        from botocore.config import Config

        given = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "test", **more}
        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = Config(connect_timeout=2, read_timeout=30, retries=retries)
        with _making:
            return _session().client(service, endpoint_url=self.url, config=config, **given)

    def new_key(self) -> str:
        arn: str = self.client().create_key()["KeyMetadata"]["Arn"]
        return arn

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_aws() -> Iterator[Aws]:
    try:
        import boto3  # noqa: F401
        import moto  # noqa: F401
    except ImportError:
        unavailable("AWS KMS is moto's here: pip install 'moto[server]' boto3 (make test installs both)")
    aws = Aws()
    try:
        yield aws
    finally:
        aws.stop()


class Hsm:
    """SoftHSM2 with one token, its keys, and their labels. One for the whole process, as its library is."""

    def __init__(self, folder: Path, library: str) -> None:
        self.folder, self.library = folder, library
        tokens = folder / "tokens"
        tokens.mkdir()
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(settings)
        for label in (TOKEN, "twin", "twin"):
            command = [
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                label,
                "--pin",
                PIN,
                "--so-pin",
                "87654321",
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A session that may create and destroy keys."""
        import pkcs11

        with pkcs11.lib(self.library).get_token(token_label=TOKEN).open(rw=True, user_pin=PIN) as session:
            yield session

    def new_aes(self, label: str, bits: int = 256) -> None:
        from pkcs11 import KeyType, MechanismFlag

        with self.session() as session:
            may = MechanismFlag.WRAP | MechanismFlag.UNWRAP
            session.generate_key(KeyType.AES, bits, label=label, store=True, capabilities=may)

    def new_rsa(self, label: str) -> None:
        from pkcs11 import KeyType, MechanismFlag

        with self.session() as session:
            may = MechanismFlag.WRAP | MechanismFlag.UNWRAP
            session.generate_keypair(KeyType.RSA, 2048, label=label, store=True, capabilities=may)

    def remove(self, label: str) -> None:
        from pkcs11 import Attribute

        with self.session() as session:
            for found in list(session.get_objects({Attribute.LABEL: label})):
                found.destroy()


@contextmanager
def running_hsm(factory: pytest.TempPathFactory) -> Iterator[Hsm]:
    library = next((path for path in _LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        unavailable("SoftHSM2 is not installed: apt-get install softhsm2 (.ci/run does it)")
    try:
        import pkcs11  # noqa: F401
    except ImportError:
        unavailable("the PKCS#11 binding comes with: pip install python-pkcs11 (make test installs it)")
    before = os.environ.get("SOFTHSM2_CONF")
    hsm = Hsm(factory.mktemp("softhsm"), library)
    for label, bits in ((AES, 256), (OTHER_AES, 256), (SMALL_AES, 128)):
        hsm.new_aes(label, bits)
    hsm.new_rsa(RSA)
    try:
        yield hsm
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
