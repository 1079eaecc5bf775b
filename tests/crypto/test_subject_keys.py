"""Subject keys commit to their id, derive each field's key once, and live in the cache no longer than allowed."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import pickle
import signal
import threading
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from privkit.crypto.keys import KeyCache, SubjectKey, derive
from privkit.errors import KeyringError

SECRET = bytes(range(32))


class Seconds:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def cache_of(*keys: SubjectKey, size: int = 20, clock: Seconds | None = None) -> KeyCache:
    cache = KeyCache(size, timedelta(minutes=5), clock or Seconds())
    cache.put(keys)
    return cache


def test_the_id_commits_to_the_secret() -> None:
    expected = hashlib.sha256(b"privkit subject key v1\x00" + SECRET).digest()[:16]

    assert expected == SubjectKey(SECRET).id
    assert SubjectKey(SECRET).id != SubjectKey(SECRET[::-1]).id


def test_hkdf_gives_the_answers_of_rfc_5869() -> None:
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"

    assert expected == derive(secret, salt=salt, info=info).hex()
    assert "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d" == derive(secret, info=b"").hex()


@given(st.binary(max_size=100), st.binary(max_size=150), st.binary(max_size=300))
def test_hkdf_agrees_with_an_independent_implementation(secret: bytes, salt: bytes, info: bytes) -> None:
    expected = HKDF(algorithm=SHA256(), length=32, salt=salt or None, info=info).derive(secret)

    assert expected == derive(secret, salt=salt, info=info)


def test_a_field_key_is_the_same_whether_it_is_derived_first_or_after_others() -> None:
    first, later = SubjectKey(SECRET), SubjectKey(SECRET)
    later.value_key("riders.name")

    sealed = first.value_key("riders.email").seal(b"a@x")

    assert b"a@x" == later.value_key("riders.email").open(sealed)


def test_new_keys_differ() -> None:
    one, other = SubjectKey.new(), SubjectKey.new()

    assert one.id != other.id
    assert 32 == len(one.secret)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(KeyringError, match="32 bytes"):
        SubjectKey(bytes(size))


def test_a_value_key_without_an_epoch_is_derived_once_for_each_field() -> None:
    key = SubjectKey(SECRET)
    asked = [("riders.email",), ("riders.name",)]

    first = [key.value_key(*one) for one in asked]  # type: ignore[arg-type]

    assert first == [key.value_key(*one) for one in asked]  # type: ignore[arg-type]
    assert 2 == len(set(first))


def test_an_epoch_without_its_secret_is_refused() -> None:
    with pytest.raises(KeyringError, match="epoch 7 is missing"):
        SubjectKey(SECRET).value_key("riders.email", 7)


def test_a_subject_key_shows_no_secret_and_is_neither_pickled_nor_copied() -> None:
    key = SubjectKey(SECRET)

    assert f"<SubjectKey {key.id.hex()[:8]}>" == repr(key)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyringError):
            attempt(key)


def test_a_cached_key_is_found_and_an_absent_one_is_not() -> None:
    key = SubjectKey.new()
    cache = cache_of(key)

    assert key is cache.get(key.id)
    assert cache.get(bytes(16)) is None


def test_a_key_is_not_found_once_it_is_older_than_the_maximum_age() -> None:
    key, clock = SubjectKey.new(), Seconds()
    cache = cache_of(key, clock=clock)

    clock.now += 300
    assert key is cache.get(key.id)
    clock.now += 0.001
    assert cache.get(key.id) is None
    assert 0 == len(cache)


def test_putting_a_key_again_renews_its_age_and_its_place() -> None:
    one, other, third = SubjectKey.new(), SubjectKey.new(), SubjectKey.new()
    clock = Seconds()
    cache = cache_of(one, other, size=2, clock=clock)

    clock.now += 200
    cache.put([one])
    cache.put([third])
    clock.now += 200

    assert [one, None, third] == [cache.get(key.id) for key in (one, other, third)]


def test_the_oldest_keys_are_evicted_beyond_the_maximum_size() -> None:
    keys = [SubjectKey.new() for _ in range(5)]
    cache = cache_of(*keys, size=3)

    assert [None, None, *keys[2:]] == [cache.get(key.id) for key in keys]


def test_an_evicted_key_stays_findable_while_a_page_refers_to_it() -> None:
    page = [SubjectKey.new() for _ in range(5)]
    cache = cache_of(*page, size=1)
    evicted = page[0].id

    assert page[0] is cache.pinned(evicted)
    page.clear()
    gc.collect()
    assert cache.pinned(evicted) is None


def test_a_key_unwrapped_twice_stays_pinned_by_the_page_that_had_it_first() -> None:
    of_page = SubjectKey(SECRET)
    cache = cache_of(of_page, size=1)

    cache.put([SubjectKey(SECRET)])
    cache.put([SubjectKey.new()])
    gc.collect()

    assert of_page is cache.pinned(of_page.id)


def test_the_cache_alone_does_not_pin_a_key_beyond_its_age() -> None:
    clock = Seconds()
    key_id = SubjectKey(SECRET).id
    cache = cache_of(SubjectKey(SECRET), clock=clock)

    assert cache.pinned(key_id) is not None
    clock.now += 301
    gc.collect()
    assert cache.pinned(key_id) is None


def test_a_forgotten_key_is_found_nowhere_although_a_page_refers_to_it() -> None:
    destroyed, kept = SubjectKey.new(), SubjectKey.new()
    cache = cache_of(destroyed, kept)

    cache.forget(destroyed.id)
    cache.forget(bytes(16))

    assert [None, None] == [cache.get(destroyed.id), cache.pinned(destroyed.id)]
    assert [kept, kept] == [cache.get(kept.id), cache.pinned(kept.id)]


def test_a_cleared_cache_finds_nothing() -> None:
    key = SubjectKey.new()
    cache = cache_of(key)

    cache.clear()

    assert [None, None] == [cache.get(key.id), cache.pinned(key.id)]


def test_what_a_loop_looks_up_leaves_together_with_the_key() -> None:
    clock = Seconds()
    for leave in (
        lambda cache, key: cache.forget(key.id),
        lambda cache, key: cache.clear(),
        lambda cache, key: cache.put([SubjectKey.new()]),  # evicts the oldest
        lambda cache, key: (setattr(clock, "now", clock.now + 301), cache.drop_expired()),
    ):
        key = SubjectKey.new()
        cache = cache_of(key, size=1, clock=clock)
        made = cache.value_key(key, "riders.email")
        live, of_field = cache.live, cache.of_field("riders.email")
        assert key is live[key.header]
        assert made is of_field[key.header]

        leave(cache, key)

        assert key.header not in live
        assert key.header not in of_field
        assert made is cache.value_key(key, "riders.email")  # whoever still holds the key may derive
        assert key.header not in of_field  # but nothing of it stays behind


def test_the_cache_can_be_used_from_many_threads() -> None:
    keys = [SubjectKey.new() for _ in range(40)]
    cache = cache_of(size=10)
    wrong: list[object] = []

    def work() -> None:
        try:
            for key in keys * 20:
                cache.put([key])
                found = cache.get(key.id)
                if found is not None and found.id != key.id:
                    wrong.append(found)
                if cache.pinned(key.id) is not key and key is not keys[7]:
                    wrong.append("unpinned")
                cache.forget(keys[7].id)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == wrong
    assert 10 >= len(cache)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_was_forked_while_another_thread_held_the_cache_uses_it() -> None:
    cache, held, done = KeyCache(), threading.Event(), threading.Event()

    def hold() -> None:
        with cache._lock:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    child = os.fork()
    if not child:
        signal.alarm(5)
        cache.put([SubjectKey.new()])
        os._exit(0)
    done.set()
    holder.join()
    assert 0 == os.waitpid(child, 0)[1]
