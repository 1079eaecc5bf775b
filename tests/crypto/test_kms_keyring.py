"""A keyring behind AWS KMS, against moto's server: what is asked, how often, and what every refusal becomes."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from privkit.crypto import FileKeyring, KmsKeyring, SubjectKey
from privkit.errors import InvalidValue, KeyringError
from tests.crypto.services import Aws


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(aws: Aws) -> str:
    return aws.new_key()


@pytest.fixture
def created(aws: Aws, path: Path, key: str) -> KmsKeyring:
    keyring = KmsKeyring.create(path, key, client=aws.client)
    aws.seen.clear()
    aws.contexts.clear()
    return keyring


class Elapsed:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def refused(keyring: KmsKeyring) -> KeyringError:
    with pytest.raises(KeyringError) as caught:
        keyring.secret("index")
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    return caught.value


def test_each_secret_is_wrapped_under_a_context_that_names_it(aws: Aws, path: Path, key: str) -> None:
    keyring = KmsKeyring.create(path, key, client=aws.client, context={"service": "rides"})
    keyring.add_generation()

    sent = [(context["privkit"], context["service"], context["generation"]) for context in aws.contexts]

    labels = ("1", "1", "root", "root", "2", "2")  # wrapped, then opened once
    assert [("keyring", "rides", label) for label in labels] == sent
    assert {"wrap": 3, "unwrap": 3} == keyring.calls
    assert (3, 3) == (aws.seen["Encrypt"], aws.seen["Decrypt"])


def test_the_file_holds_what_kms_wrapped_and_no_key(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    document = json.loads(path.read_text())
    wrapped = base64.b64decode(document["generations"]["1"])
    context = {"privkit": "keyring", "generation": "1"}

    bare = aws.client().decrypt(CiphertextBlob=wrapped, KeyId=key, EncryptionContext=context)["Plaintext"]

    assert ("kms", 32) == (document["sealed_by"], len(bare))
    assert bare not in path.read_bytes()
    assert base64.b64encode(bare) not in path.read_bytes()
    assert f"KmsKeyring({str(path)!r}, key={key!r})" == repr(created)


def test_a_secret_is_asked_for_on_first_use_and_kept(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    keyring, subject = KmsKeyring(path, key, client=aws.client), SubjectKey.new()
    assert 0 == aws.seen.total()

    for _ in range(100):
        keyring.unwrap(subject.id, keyring.wrap(subject.id, subject.secret))

    assert {"unwrap": 1} == keyring.calls
    assert 1 == aws.seen["Decrypt"]


def test_a_kept_secret_is_asked_for_again_once_it_is_too_old(
    aws: Aws, path: Path, key: str, created: KmsKeyring
) -> None:
    elapsed = Elapsed()
    keyring = KmsKeyring(path, key, client=aws.client, max_age=timedelta(seconds=60), monotonic=elapsed)
    keyring.secret("index")
    elapsed.seconds = 59.9
    keyring.secret("index")
    assert 1 == aws.seen["Decrypt"]

    elapsed.seconds = 60
    keyring.secret("index")
    assert 2 == aws.seen["Decrypt"]

    aws.fault = lambda _: "DisabledException"
    elapsed.seconds = 120
    assert "is disabled" in str(refused(keyring))


def test_no_more_secrets_are_kept_than_allowed(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    subject, wrapped = SubjectKey.new(), []
    for _ in range(3):
        wrapped.append(created.wrap(subject.id, subject.secret))
        created.add_generation()
    keyring = KmsKeyring(path, key, client=aws.client, max_size=2)
    aws.seen.clear()

    for each in (wrapped[0], wrapped[1], wrapped[1], wrapped[2], wrapped[0]):
        keyring.unwrap(subject.id, each)

    assert 4 == aws.seen["Decrypt"]


@pytest.mark.parametrize("limits", [{"max_size": 1}, {"max_age": timedelta(0)}])
def test_a_cache_that_could_keep_nothing_is_refused(path: Path, limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        KmsKeyring(path, "key", **limits)


def test_many_threads_that_ask_at_once_make_one_call(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    keyring, start = KmsKeyring(path, key, client=aws.client), threading.Barrier(12)
    secrets: list[bytes] = []

    def ask() -> None:
        start.wait()
        secrets.append(keyring.secret("index"))

    aws.gate.clear()
    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    aws.gate.set()
    for thread in threads:
        thread.join(60)

    assert [created.secret("index")] * 12 == secrets
    assert (1, {"unwrap": 1}) == (aws.seen["Decrypt"], keyring.calls)


def test_threads_that_wait_for_one_call_all_learn_of_its_failure(
    aws: Aws, path: Path, key: str, created: KmsKeyring
) -> None:
    keyring, errors = KmsKeyring(path, key, client=aws.client), []
    aws.fault = lambda _: "ThrottlingException"

    def ask() -> None:
        with pytest.raises(KeyringError) as caught:
            keyring.secret("index")
        errors.append(caught.value)

    aws.gate.clear()
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    aws.gate.set()
    for thread in threads:
        thread.join(60)

    assert ["ThrottlingException"] * 6 == [error.data["code"] for error in errors]
    assert 6 == len({id(error) for error in errors})
    assert keyring.calls["unwrap"] == keyring.calls["failed"] == aws.seen["Decrypt"]


def test_another_context_does_not_open_it(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    error = refused(KmsKeyring(path, key, client=aws.client, context={"service": "rides"}))

    assert "InvalidCiphertextException" == error.data["code"]
    assert "did not open what is stored" in str(error)


def test_a_context_cannot_rename_what_it_binds(aws: Aws, path: Path, key: str) -> None:
    KmsKeyring.create(path, key, client=aws.client, context={"generation": "any", "privkit": "none"})

    assert [{"privkit": "keyring", "generation": label} for label in ("1", "1", "root", "root")] == aws.contexts


def test_generations_that_change_places_do_not_open(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    created.add_generation()
    document = json.loads(path.read_text())
    one, two = document["generations"].values()
    path.write_text(json.dumps({**document, "generations": {"1": two, "2": one}}))
    subject = SubjectKey.new()

    with pytest.raises(KeyringError, match="did not open what is stored"):
        KmsKeyring(path, key, client=aws.client).wrap(subject.id, subject.secret)


def test_a_key_that_is_not_the_keyrings_is_refused(aws: Aws, path: Path, created: KmsKeyring) -> None:
    error = refused(KmsKeyring(path, aws.new_key(), client=aws.client))

    assert error.data["code"] in ("IncorrectKeyException", "InvalidCiphertextException", "AccessDeniedException")


def test_a_key_that_does_not_exist_is_named(aws: Aws, path: Path, created: KmsKeyring) -> None:
    missing = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-4000-8000-000000000000"

    error = refused(KmsKeyring(path, missing, client=aws.client))

    assert ("NotFoundException", missing) == (error.data["code"], error.data["key"])
    assert "does not know the key" in str(error)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "denied kms:Decrypt"),
        ("DisabledException", "says that the key is disabled"),
        ("KMSInvalidStateException", "says that the key cannot be used in its state"),
        ("LimitExceededException", "throttled kms:Decrypt"),
        ("NovelException", "failed kms:Decrypt (NovelException)"),
    ],
)
def test_what_moto_never_refuses_is_an_error_too_when_kms_does(
    aws: Aws, path: Path, key: str, created: KmsKeyring, code: str, words: str
) -> None:
    aws.fault = lambda _: code

    error = refused(KmsKeyring(path, key, client=aws.client))

    assert (code, True) == (error.data["code"], words in str(error))


def test_throttling_that_passes_is_waited_for(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    answers = iter(["ThrottlingException"])
    aws.fault = lambda _: next(answers, None)

    keyring = KmsKeyring(path, key, client=lambda: aws.client(attempts=3))

    assert created.secret("index") == keyring.secret("index")
    assert (2, {"unwrap": 1}) == (aws.seen["Decrypt"], keyring.calls)


def test_throttling_that_lasts_is_an_error_and_is_not_remembered(
    aws: Aws, path: Path, key: str, created: KmsKeyring
) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)
    aws.fault = lambda _: "ThrottlingException"
    assert "throttled kms:Decrypt" in str(refused(keyring))

    aws.fault = lambda _: None

    assert created.secret("index") == keyring.secret("index")
    assert {"unwrap": 2, "failed": 1} == keyring.calls


def test_an_endpoint_that_is_down_is_an_error(aws: Aws, path: Path, key: str, created: KmsKeyring) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Aws.__new__(Aws)
        down.url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        error = refused(KmsKeyring(path, key, client=down.client))

    assert "EndpointConnectionError" == error.data["code"]


@pytest.fixture
def strict(aws: Aws, key: str, created: KmsKeyring) -> Iterator[Callable[..., dict[str, str]]]:
    """Make accounts that are allowed some actions, and have moto check permissions from the first one on."""
    from moto.core.authorization import disable_iam_authentication, enable_iam_authentication

    def account(*actions: str) -> dict[str, str]:
        with disable_iam_authentication():
            iam, name = aws.client("iam"), f"service-{uuid.uuid4()}"
            iam.create_user(UserName=name)
            statement = {"Effect": "Allow", "Action": [*actions, "kms:Nothing"], "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iam.put_user_policy(UserName=name, PolicyName="some", PolicyDocument=document)
            found = iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": found["AccessKeyId"], "aws_secret_access_key": found["SecretAccessKey"]}

    with enable_iam_authentication():
        yield account


def test_a_role_without_permission_is_told_which_one(
    aws: Aws, path: Path, key: str, created: KmsKeyring, strict: Callable[..., dict[str, str]]
) -> None:
    denied, allowed = strict(), strict("kms:Decrypt")

    error = refused(KmsKeyring(path, key, client=lambda: aws.client(**denied)))

    assert "denied kms:Decrypt" in str(error)
    assert created.secret("index") == KmsKeyring(path, key, client=lambda: aws.client(**allowed)).secret("index")
    with pytest.raises(KeyringError, match="denied kms:Encrypt"):
        KmsKeyring(path, key, client=lambda: aws.client(**allowed)).add_generation()
    assert (1,) == created.generations


def test_a_role_that_may_wrap_and_not_open_makes_no_keyring(
    aws: Aws, tmp_path: Path, key: str, strict: Callable[..., dict[str, str]]
) -> None:
    account = strict("kms:Encrypt")

    with pytest.raises(KeyringError, match="denied kms:Decrypt"):
        KmsKeyring.create(tmp_path / "never.json", key, client=lambda: aws.client(**account))

    assert not (tmp_path / "never.json").exists()


def test_missing_credentials_or_region_are_named(
    path: Path, created: KmsKeyring, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "NoRegionError" == refused(KmsKeyring(path, key)).data["code"]

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")

    assert "NoCredentialsError" == refused(KmsKeyring(path, key)).data["code"]


def test_without_boto3_the_extra_is_named(
    path: Path, created: KmsKeyring, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)

    assert "pip install 'privkit[kms]'" == refused(KmsKeyring(path, key)).fix


def test_a_file_keyring_moves_behind_kms_and_its_keys_open(aws: Aws, key: str, path: Path, tmp_path: Path) -> None:
    old, subject = FileKeyring.create(tmp_path / "old.json"), SubjectKey.new()
    first = old.wrap(subject.id, subject.secret)
    old.add_generation()
    old.destroy_generation(1)
    old.add_generation()
    second = old.wrap(subject.id, subject.secret)

    KmsKeyring.create(path, key, client=aws.client, copy_of=old)

    moved = KmsKeyring(path, key, client=aws.client)
    assert ((2, 3), old.secret("index")) == (moved.generations, moved.secret("index"))
    assert subject.secret == moved.unwrap(subject.id, second).secret
    with pytest.raises(KeyringError, match="does not hold generation 1"):
        moved.unwrap(subject.id, first)
