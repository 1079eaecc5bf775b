"""What every keyring must do, wherever its master generations are kept. A new provider adds a rig, not a test."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import pickle
import stat
import threading
from pathlib import Path

import pytest

from privkit.crypto import FileKeyring, MasterKeyring, SubjectKey
from privkit.errors import KeyringError, SealedError
from tests.crypto.rigs import RIGS, Rig, evaluated, finished, rig


@pytest.fixture(params=RIGS)
def any_rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return rig(request.param, request, monkeypatch)


@pytest.fixture(params=[name for name in RIGS if name not in ("file", "environment")])
def mastered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose document is sealed by a master key, so that there is a wrong one."""
    return rig(request.param, request, monkeypatch)


@pytest.fixture(params=[name for name in RIGS if name != "environment"])
def turning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose generations change in place."""
    return rig(request.param, request, monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def wrapped(keyring: MasterKeyring, key: SubjectKey) -> bytes:
    return keyring.wrap(key.id, key.secret)


def test_a_created_keyring_has_one_generation_and_wraps(any_rig: Rig, path: Path) -> None:
    keyring, key = any_rig.create(path), SubjectKey.new()

    assert (1, (1,)) == (keyring.generation, keyring.generations)
    assert key.secret == keyring.unwrap(key.id, wrapped(keyring, key)).secret


def test_an_opened_keyring_is_the_one_that_was_created(any_rig: Rig, path: Path) -> None:
    created, key = any_rig.create(path), SubjectKey.new()
    opened = any_rig.open(path)

    assert key.secret == opened.unwrap(key.id, wrapped(created, key)).secret
    assert key.secret == created.unwrap(key.id, wrapped(opened, key)).secret
    assert created.secret("index") == opened.secret("index")


def test_another_keyring_of_the_same_kind_opens_nothing(any_rig: Rig, path: Path, tmp_path: Path) -> None:
    one, key = any_rig.create(path), SubjectKey.new()
    other = any_rig.create(tmp_path / "other.json")

    with pytest.raises(SealedError):
        other.unwrap(key.id, wrapped(one, key))
    assert one.secret("index") != other.secret("index")


def test_a_damaged_or_moved_wrapped_key_does_not_open(any_rig: Rig, path: Path) -> None:
    keyring, key, other = any_rig.create(path), SubjectKey.new(), SubjectKey.new()
    whole = wrapped(keyring, key)

    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"\0"):
        with pytest.raises(SealedError):
            keyring.unwrap(key.id, damaged)
    with pytest.raises(SealedError):
        keyring.unwrap(other.id, whole)
    with pytest.raises(KeyringError, match="does not hold generation 7"):
        keyring.unwrap(key.id, b"\0\0\0\7" + whole[4:])


def test_the_wrong_master_key_opens_nothing_and_the_error_shows_nothing(mastered: Rig, path: Path) -> None:
    assert mastered.stranger is not None
    mastered.create(path)

    with pytest.raises(KeyringError) as caught:
        evaluated(mastered.stranger(path)).secret("index")

    assert str(path) in str(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert_holds_none(mastered, path, str(caught.value) + repr(caught.value.data))


def test_its_repr_and_its_document_show_no_secret(any_rig: Rig, path: Path) -> None:
    keyring = any_rig.create(path)
    root = keyring.secret("index")

    assert_holds_none(any_rig, path, repr(keyring))
    assert root.hex() not in repr(keyring)
    if any_rig.secrets or any_rig.stranger:
        assert_holds_none(any_rig, path, path.read_text())


def assert_holds_none(any_rig: Rig, path: Path, text: str) -> None:
    assert [] == [secret for secret in any_rig.secrets if secret in text]
    if not any_rig.stranger:
        document = json.loads(path.read_text())
        assert [] == [secret for secret in (document["root"], *document["generations"].values()) if secret in text]


def test_it_is_neither_pickled_nor_copied_even_after_use(any_rig: Rig, path: Path) -> None:
    keyring = any_rig.create(path)
    keyring.secret("index")

    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyringError, match="cannot be pickled"):
            attempt(keyring)


def test_another_process_opens_what_this_one_wrapped_and_the_other_way_round(any_rig: Rig, path: Path) -> None:
    keyring, key = any_rig.create(path), SubjectKey.new()
    script = """
key = keyring.unwrap(bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]))
print(keyring.wrap(key.id, key.secret).hex())
"""
    out = any_rig.run(path, script, key.id.hex(), wrapped(keyring, key).hex())

    assert key.secret == keyring.unwrap(key.id, bytes.fromhex(out)).secret


def test_threads_that_use_it_first_at_the_same_moment_all_succeed(any_rig: Rig, path: Path) -> None:
    any_rig.create(path)
    keyring, start, key = any_rig.open(path), threading.Barrier(6), SubjectKey.new()
    outcomes: list[bytes] = []

    def use() -> None:
        start.wait()
        outcomes.append(keyring.unwrap(key.id, wrapped(keyring, key)).secret)

    in_threads(use, 6)

    assert [key.secret] * 6 == outcomes


def in_threads(work: object, count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


FORKS = """
key = SubjectKey.new()

def forked(work):
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

def use(keyring):
    assert key.secret == keyring.unwrap(key.id, keyring.wrap(key.id, key.secret)).secret

keyring._lock.acquire()  # as another thread may hold them at the moment of the fork
keyring._secrets._lock.acquire()
forked(lambda: use(keyring))
keyring._lock.release()
keyring._secrets._lock.release()
use(keyring)
forked(lambda: use(keyring))
forked(lambda: use({opening}))
use(keyring)
use({opening})
"""


def test_a_forked_child_and_its_parent_both_go_on_cold_and_warm(any_rig: Rig, path: Path) -> None:
    any_rig.create(path)

    assert ["0", "0", "0"] == any_rig.run(path, FORKS.format(opening=any_rig.opening(path))).split()


async def test_prefetching_brings_everything_to_hand_on_an_event_loop(any_rig: Rig, path: Path) -> None:
    await asyncio.to_thread(any_rig.create, path)
    keyring, key = any_rig.open(path), SubjectKey.new()

    await keyring.prefetch()

    assert key.secret == keyring.unwrap(key.id, wrapped(keyring, key)).secret
    async with keyring.warm():
        assert 32 == len(keyring.secret("index"))


def test_its_generations_turn_and_its_secrets_stay(turning: Rig, path: Path) -> None:
    keyring, key = turning.create(path), SubjectKey.new()
    old, index = wrapped(keyring, key), keyring.secret("index")

    assert 2 == keyring.add_generation()

    new = wrapped(keyring, key)
    for each in (keyring, turning.open(path)):
        assert (2, (1, 2), index) == (each.generation, each.generations, each.secret("index"))
        assert [key.secret] * 2 == [each.unwrap(key.id, each_wrapped).secret for each_wrapped in (old, new)]
    assert (b"\0\0\0\1", b"\0\0\0\2") == (old[:4], new[:4])


def test_what_a_destroyed_generation_wrapped_opens_nowhere(turning: Rig, path: Path) -> None:
    keyring, key = turning.create(path), SubjectKey.new()
    old, index = wrapped(keyring, key), keyring.secret("index")
    keyring.add_generation()
    new = wrapped(keyring, key)

    keyring.destroy_generation(1)

    for each in (keyring, turning.open(path)):
        assert ((2,), index) == (each.generations, each.secret("index"))
        assert key.secret == each.unwrap(key.id, new).secret
        with pytest.raises(KeyringError, match="does not hold generation 1"):
            each.unwrap(key.id, old)
    assert 3 == keyring.add_generation()


def test_the_current_generation_and_one_not_held_are_not_destroyed(turning: Rig, path: Path) -> None:
    keyring = turning.create(path)
    before = path.read_bytes()

    with pytest.raises(KeyringError, match="current one"):
        keyring.destroy_generation(1)
    with pytest.raises(KeyringError, match="does not hold generation 2"):
        keyring.destroy_generation(2)

    assert before == path.read_bytes()


def test_a_process_notices_the_generations_that_another_made_and_destroyed(turning: Rig, path: Path) -> None:
    keyring, key = turning.create(path), SubjectKey.new()
    old = wrapped(keyring, key)
    script = """
keyring.add_generation()
key = keyring.unwrap(bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]))
print(keyring.wrap(key.id, key.secret).hex())
keyring.destroy_generation(1)
"""
    new = bytes.fromhex(turning.run(path, script, key.id.hex(), old.hex()))

    assert key.secret == keyring.unwrap(key.id, new).secret
    assert b"\0\0\0\2" == wrapped(keyring, key)[:4]
    with pytest.raises(KeyringError, match="does not hold generation 1"):
        keyring.unwrap(key.id, old)


def test_of_two_processes_that_add_generations_none_loses_one(turning: Rig, path: Path) -> None:
    keyring, key = turning.create(path), SubjectKey.new()
    script = "for _ in range(4):\n    print(keyring.add_generation())\n"

    numbers = [int(n) for process in [turning.start(path, script) for _ in range(2)] for n in finished(process).split()]

    assert list(range(2, 10)) == sorted(numbers)
    assert tuple(range(1, 10)) == keyring.generations
    assert key.secret == keyring.unwrap(key.id, wrapped(keyring, key)).secret


def test_of_threads_that_add_generations_none_loses_one(turning: Rig, path: Path) -> None:
    keyring, numbers = turning.create(path), []

    in_threads(lambda: numbers.append(keyring.add_generation()), 4)

    assert [2, 3, 4, 5] == sorted(numbers)
    assert (1, 2, 3, 4, 5) == keyring.generations


def test_a_changed_file_keeps_its_mode_and_leaves_nothing_beside_it(turning: Rig, path: Path) -> None:
    keyring = turning.create(path)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o400)

    keyring.add_generation()
    keyring.destroy_generation(1)

    assert 0o400 == stat.S_IMODE(path.stat().st_mode)
    assert [path.name] == [each.name for each in path.parent.iterdir()]


def test_a_copy_under_another_provider_opens_what_the_first_wrapped(turning: Rig, path: Path, tmp_path: Path) -> None:
    first, key = turning.create(path), SubjectKey.new()
    old = wrapped(first, key)
    first.add_generation()

    copied = FileKeyring.create(tmp_path / "copy.json", copy_of=first)

    assert (2, (1, 2), first.secret("index")) == (copied.generation, copied.generations, copied.secret("index"))
    assert key.secret == copied.unwrap(key.id, old).secret


def test_a_document_of_one_kind_is_not_opened_as_another(mastered: Rig, path: Path, tmp_path: Path) -> None:
    mastered.create(path)
    bare = FileKeyring.create(tmp_path / "bare.json").path

    with pytest.raises(KeyringError, match="is sealed"):
        FileKeyring(path).secret("index")
    with pytest.raises(KeyringError, match=r"is not under a passphrase|is sealed by something else"):
        mastered.open(bare).secret("index")


def test_an_environment_variable_says_how_its_generations_turn(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring, key = rig("environment", request, monkeypatch).create(path), SubjectKey.new()
    old = wrapped(keyring, key)

    for attempt in (keyring.add_generation, lambda: keyring.destroy_generation(1)):
        with pytest.raises(KeyringError, match=r"in place[\s\S]*FileKeyring\(PATH\)[\s\S]*PRIVKIT_KEY"):
            attempt()

    FileKeyring(path).add_generation()
    monkeypatch.setenv("PRIVKIT_KEY", base64.b64encode(path.read_bytes()).decode())
    assert 2 == keyring.generation
    assert key.secret == keyring.unwrap(key.id, old).secret
