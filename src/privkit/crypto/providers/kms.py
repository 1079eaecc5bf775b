"""The keyring whose secrets AWS KMS wraps. Needs the extra: ``pip install privkit[kms]``.

The key service sees each secret when it is wrapped and unwrapped, and writes both to its own audit log with the
encryption context ``{"privkit": "keyring", "generation": "1"}`` (or ``"root"``). A master generation serves all
fields, so the context cannot name one; give ``context={"service": "rides"}`` to keep services apart in IAM conditions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from privkit import clock
from privkit.crypto.aead import KEY_SIZE, KeyMaterial
from privkit.crypto.document import Place
from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers.storage import KeyringFile
from privkit.errors import KeyringError

_DENIED = "Allow the service's role {action} on the key, with the encryption context that it sends."
_STATE = "Enable the key, or cancel its deletion. If it is deleted, nothing that it wrapped opens again."
_NOT_ITS_OWN = "Use the key and the context that the keyring was created with, or restore the file from its backup."
_LATER = "Try again later; ask for a higher quota if it lasts. Keep the keyring warm to ask less often."
_PROBLEMS = {
    "403": ("denied {action}", _DENIED),  # the answer of a proxy or an endpoint, not in the form of the API
    "AccessDeniedException": ("denied {action}", _DENIED),
    "DisabledException": ("says that the key is disabled", _STATE),
    "IncorrectKeyException": ("says that another key wrapped this", _NOT_ITS_OWN),
    "InvalidCiphertextException": ("did not open what is stored", _NOT_ITS_OWN),
    "KMSInvalidStateException": ("says that the key cannot be used in its state", _STATE),
    "LimitExceededException": ("throttled {action}", _LATER),
    "NotFoundException": ("does not know the key", "Check the key's ARN, the region and the account."),
    "ThrottlingException": ("throttled {action}", _LATER),
}


class KmsKeyring(MasterKeyring):
    """A keyring in a file whose generations and root secret are each wrapped by a symmetric key of AWS KMS.

    ``key``: the ARN or id of the key, which is named in every call, so that nothing wrapped by another key opens (an
    alias that is pointed elsewhere no longer opens what it wrapped). ``client``: returns a boto3 KMS client, called
    once in each process; by default one with the region and credentials of the environment, 3 s to connect, 5 s to
    answer and 4 attempts. ``context``: more members for the encryption context, names of yours only. An opened secret
    is kept for ``max_age``, which is how long a revoked permission takes to be felt; at most ``max_size`` are kept.

    Raises KeyringError where KMS does not answer, denies, throttles, or wraps under another key. Never called from a
    thread that runs an event loop: see ``MasterKeyring``.
    """

    __slots__ = ("key", "path")

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str,
        *,
        client: Callable[[], Any] | None = None,
        context: Mapping[str, str] | None = None,
        max_age: timedelta = timedelta(minutes=5),
        max_size: int = 64,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        store = KeyringFile(path, sealed_by="kms")
        provider = _Kms(store.place, key, client or _default_client, context or {})
        super().__init__(store, provider, max_age=max_age.total_seconds(), max_size=max_size, monotonic=monotonic)
        self.path: Path = store.path
        self.key = key

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        key: str,
        *,
        client: Callable[[], Any] | None = None,
        context: Mapping[str, str] | None = None,
        copy_of: MasterKeyring | None = None,
    ) -> KmsKeyring:
        """Write a keyring with one new generation, or with those of ``copy_of``, wrapped by ``key``.

        Each secret is opened once before the file is written. Raises KeyringError when the path exists.
        """
        keyring = cls(path, key, client=client, context=context)
        keyring._create(copy_of)
        return keyring

    def __repr__(self) -> str:
        return f"KmsKeyring({str(self.path)!r}, key={self.key!r})"


class _Kms(KeyMaterial):
    """The provider: two operations of the KMS API."""

    __slots__ = ("_client", "_context", "_key", "_lock", "_make_client", "_place")

    def __init__(self, place: Place, key: str, make_client: Callable[[], Any], context: Mapping[str, str]) -> None:
        self._place, self._key, self._make_client, self._context = place, key, make_client, dict(context)
        self.after_fork()

    def after_fork(self) -> None:
        """Let the parent keep its connections."""
        self._client: Any = None
        self._lock = Lock()

    def wrap(self, label: str, secret: bytes) -> bytes:
        """Return the secret as KMS encrypted it. Raises KeyringError."""
        answer = self._call("encrypt", label, Plaintext=secret)
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, label: str, wrapped: bytes) -> bytes:
        """Return the secret as KMS decrypted it. Raises KeyringError."""
        secret = bytes(self._call("decrypt", label, CiphertextBlob=wrapped)["Plaintext"])
        if len(secret) != KEY_SIZE:
            raise self._place.damaged("holds a wrapped secret of another size")
        return secret

    def _call(self, operation: str, label: str, **arguments: Any) -> Mapping[str, Any]:
        context = {**self._context, "privkit": "keyring", "generation": label}
        botocore = _botocore()
        try:
            with self._lock:
                self._client = self._client or self._make_client()
            call = getattr(self._client, operation)
            answer: Mapping[str, Any] = call(KeyId=self._key, EncryptionContext=context, **arguments)
            return answer
        except botocore.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "an unnamed error"))
        except botocore.BotoCoreError as error:
            code = type(error).__name__
        raise self._failed(code, f"kms:{operation.capitalize()}")

    def _failed(self, code: str, action: str) -> KeyringError:
        problem, fix = _PROBLEMS.get(
            code,
            (f"failed {action} ({code})", "Check the network, the region, the credentials and the state of AWS KMS."),
        )
        return KeyringError(
            f"AWS KMS {problem.format(action=action)}.",
            f"{self._place.name} cannot be used without it.",
            fix.format(action=action),
            **self._place.data,
            key=self._key,
            code=code,
        )


def _botocore() -> Any:
    try:
        import botocore.exceptions
    except ImportError:
        pass
    else:
        return botocore.exceptions
    raise KeyringError("boto3 is not installed.", "KmsKeyring speaks to AWS KMS with it.", "pip install 'privkit[kms]'")


def _default_client() -> Any:
    import boto3
    from botocore.config import Config

    # A session of its own: the default one is not made for threads.
    settings = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 4})
    return boto3.session.Session().client("kms", config=settings)
