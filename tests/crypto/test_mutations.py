"""100,000 envelopes that were changed or moved: none opens, and every refusal is a SealedError."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import NamedTuple

import pytest

from privkit.crypto import HEADER_SIZE, SubjectKey
from privkit.crypto.envelope import OVERHEAD, ValueKey, open_own
from privkit.errors import SealedError

MUTATIONS = 100_000
SUBJECTS = [SubjectKey(bytes([number]) * 32) for number in range(1, 6)]
FIELDS = ["riders.email", "riders.home", "trips.start", "trips.email"]
EPOCHS = {0: b"", 1: b"\x01" * 32, 20_000: b"\x02" * 32}
CIPHERTEXT = HEADER_SIZE + 12
"""Where the nonce ends."""


class Place(NamedTuple):
    """Which subject's row, which field and which epoch a value is stored in."""

    subject: int
    field: str
    epoch: int

    @property
    def key(self) -> ValueKey:
        return SUBJECTS[self.subject].value_key(self.field, self.epoch, EPOCHS[self.epoch])


PLACES = [Place(subject, field, epoch) for subject in range(len(SUBJECTS)) for field in FIELDS for epoch in EPOCHS]


class Stored(NamedTuple):
    """An envelope, and the place where it was put."""

    place: Place
    envelope: bytes


def sealed(random: Random) -> Stored:
    place = random.choice(PLACES)
    return Stored(place, place.key.seal(random.randbytes(random.choice([0, 1, 8, 16, 16, 40, 300]))))


def flip_a_bit(random: Random, stored: Stored, start: int = 0, stop: int | None = None) -> Stored:
    changed = bytearray(stored.envelope)
    at = random.randrange(start, len(changed) if stop is None else stop)
    changed[at] ^= 1 << random.randrange(8)
    return stored._replace(envelope=bytes(changed))


def truncate(random: Random, stored: Stored) -> Stored:
    count = random.randrange(1, len(stored.envelope) + 1)
    return stored._replace(envelope=random.choice([stored.envelope[count:], stored.envelope[:-count]]))


def cut_out_ciphertext(random: Random, stored: Stored) -> Stored:
    """The header, nonce and tag stay whole."""
    size = len(stored.envelope) - OVERHEAD
    if not size:
        return truncate(random, stored)
    count = random.randrange(1, size + 1)
    return stored._replace(envelope=stored.envelope[:CIPHERTEXT] + stored.envelope[CIPHERTEXT + count :])


def extend(random: Random, stored: Stored) -> Stored:
    more = random.randbytes(random.randrange(1, 40))
    at = random.choice([0, HEADER_SIZE, CIPHERTEXT, len(stored.envelope) - 16, len(stored.envelope)])
    return stored._replace(envelope=stored.envelope[:at] + more + stored.envelope[at:])


def repeat(random: Random, stored: Stored) -> Stored:
    return stored._replace(envelope=stored.envelope * random.randrange(2, 4))


def move(random: Random, stored: Stored, *parts: str) -> Stored:
    """Put an envelope, as it is, where it does not belong: another subject, field (a column or a table) or epoch."""
    return stored._replace(place=_elsewhere(random, stored.place, *parts))


def disguise(random: Random, stored: Stored, *parts: str) -> Stored:
    """Move an envelope and rewrite its header, so that it names the key of the place where it is now."""
    place = _elsewhere(random, stored.place, *parts)
    return Stored(place, place.key.header + stored.envelope[HEADER_SIZE:])


def rename(random: Random, stored: Stored) -> Stored:
    """Rewrite the header alone: another subject or epoch that exists."""
    return stored._replace(envelope=disguise(random, stored, random.choice(["subject", "epoch"])).envelope)


def splice(random: Random, stored: Stored) -> Stored:
    """Take nonce, ciphertext and tag from different values of one place."""
    other = stored.place.key.seal(random.randbytes(len(stored.envelope) - OVERHEAD))
    at = random.choice([CIPHERTEXT, len(stored.envelope) - 16])
    return stored._replace(envelope=stored.envelope[:at] + other[at:])


def noise(random: Random, stored: Stored) -> Stored:
    return stored._replace(envelope=random.randbytes(random.randrange(0, 120)))


def _elsewhere(random: Random, place: Place, *parts: str) -> Place:
    other = random.choice(PLACES)
    while any(getattr(other, part) == getattr(place, part) for part in parts):
        other = random.choice(PLACES)
    return place._replace(**{part: getattr(other, part) for part in parts})


KINDS: dict[str, Callable[[Random, Stored], Stored]] = {
    "flipped anywhere": flip_a_bit,
    "flipped in version or suite": partial(flip_a_bit, stop=2),
    "flipped in the key id": partial(flip_a_bit, start=2, stop=18),
    "flipped in the epoch": partial(flip_a_bit, start=18, stop=HEADER_SIZE),
    "flipped in the nonce": partial(flip_a_bit, start=HEADER_SIZE, stop=CIPHERTEXT),
    "flipped behind the nonce": partial(flip_a_bit, start=CIPHERTEXT),
    "truncated": truncate,
    "shortened within": cut_out_ciphertext,
    "extended": extend,
    "repeated": repeat,
    "another subject's": lambda random, stored: move(random, stored, "subject"),
    "another field's": lambda random, stored: move(random, stored, "field"),
    "another epoch's": lambda random, stored: move(random, stored, "epoch"),
    "another place's": lambda random, stored: move(random, stored, "subject", "field", "epoch"),
    "another subject's, disguised": lambda random, stored: disguise(random, stored, "subject"),
    "another field's, disguised": lambda random, stored: disguise(random, stored, "field"),
    "another epoch's, disguised": lambda random, stored: disguise(random, stored, "epoch"),
    "renamed": rename,
    "spliced": splice,
    "noise": noise,
}


NAMED = {(place.field, place.key.header): place.key for place in PLACES}
"""Value keys as a reader finds them: by the field that is read and the first bytes of what is stored there."""


def mutated(seed: int, count: int) -> Iterator[tuple[str, Stored]]:
    """Yield as many changed values as asked for, of every kind in turn; the same for the same seed."""
    random = Random(seed)
    for number in range(count):
        if number % 10 == 0:
            original = sealed(random)
        kind = list(KINDS)[number % len(KINDS)]
        yield kind, KINDS[kind](random, original)


def attempts(kind: str, stored: Stored) -> Iterator[Callable[[], bytes]]:
    """Yield the ways to open it: under the key of its place, and in a loop under the key that it names itself."""
    yield partial(stored.place.key.open, stored.envelope)
    named = NAMED.get((stored.place.field, stored.envelope[:HEADER_SIZE]))
    if named is not None and kind not in ("another subject's", "another epoch's"):
        yield partial(open_own, named, stored.envelope, named.associated, HEADER_SIZE)


def test_of_100_000_changed_or_moved_envelopes_none_opens_and_all_raise_typed_errors() -> None:
    refused: Counter[str] = Counter()
    opened: Counter[str] = Counter()
    for kind, stored in mutated(20260101, MUTATIONS):
        for attempt in attempts(kind, stored):
            try:
                attempt()
                opened[kind] += 1
            except SealedError:  # anything else ends the test
                refused[kind] += 1
    assert Counter() == opened
    assert set(KINDS) == set(refused)
    assert min(refused.values()) >= MUTATIONS // len(KINDS)


def test_the_values_that_are_changed_do_open_before_that() -> None:
    random = Random(20260101)
    for _ in range(1000):
        stored = sealed(random)
        key = NAMED[stored.place.field, stored.envelope[:HEADER_SIZE]]
        assert stored.place.key.open(stored.envelope) == open_own(key, stored.envelope, key.associated, HEADER_SIZE)


def test_the_same_seed_makes_the_same_changes() -> None:
    """Nonces aside, which nobody chooses."""
    first, second = ([(kind, each.place, len(each.envelope)) for kind, each in mutated(7, 500)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_no_refusal_shows_what_was_sealed_or_chains_another_error(kind: str) -> None:
    random = Random(3)
    place = PLACES[0]
    for _ in range(20):
        stored = KINDS[kind](random, Stored(place, place.key.seal(b"planted value of 24 bytes")))
        with pytest.raises(SealedError) as caught:
            stored.place.key.open(stored.envelope)
        assert "planted" not in f"{caught.value!r} {caught.value.data}"
        assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_under_its_own_key_a_value_opens_wherever_it_stands_in_its_field() -> None:
    """What the envelope alone does not show: which row it is in. Whose row it is, the read gate compares."""
    place = PLACES[0]
    one, other = place.key.seal(b"first row"), place.key.seal(b"second row")
    assert [b"second row", b"first row"] == [place.key.open(each) for each in (other, one)]
