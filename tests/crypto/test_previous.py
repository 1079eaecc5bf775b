"""What other libraries stored is read with ours, and what ours writes is read with theirs."""

import warnings
from datetime import date, datetime
from typing import Any

import pytest
import sqlalchemy
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy_utils import EncryptedType, StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, FernetEngine

from privkit.crypto.previous import Scheme, scheme_for
from privkit.errors import InvalidValue, KeyringError, MappingError, SealedError
from privkit.previous import AdvancedAlchemy, FernetTokens, Plain, Previous, SqlalchemyUtils

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own, under SQLAlchemy 2.1
    from advanced_alchemy.types import EncryptedString, EncryptedText

SECRET = "planted previous key"
DIALECT = DefaultDialect()
ENGINES = {"aes": AesEngine, "aes_gcm": AesGcmEngine, "fernet": FernetEngine}
PADDINGS = ["naive", "pkcs5", "oneandzeroes", "zeroes"]
VALUES: list[tuple[Any, Any]] = [
    (sqlalchemy.String(), "Zoë at planted.example"),
    (sqlalchemy.String(), ""),
    (sqlalchemy.String(), "x" * 16),
    (sqlalchemy.Integer(), -42),
    (sqlalchemy.Float(), 51.4242),
    (sqlalchemy.Boolean(), True),
    (sqlalchemy.Boolean(), False),
    (sqlalchemy.Date(), date(1984, 3, 7)),
    (sqlalchemy.DateTime(), datetime(1984, 3, 7, 12, 30, 1, 250)),
]


def secret() -> str:
    return SECRET


def theirs(type_in: Any, engine: str, padding: str | None = None, *, binary: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return (EncryptedType if binary else StringEncryptedType)(type_in, SECRET, ENGINES[engine], padding)


def ours(value: Any, marker: Previous) -> Scheme:
    return scheme_for(marker, type(value))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize(("type_in", "value"), VALUES)
def test_each_engine_of_sqlalchemy_utils_is_read_and_written(
    type_in: Any, value: Any, engine: Any, binary: bool
) -> None:
    library = theirs(type_in, engine, binary=binary)
    scheme = ours(value, SqlalchemyUtils(secret, engine, binary=binary))
    stored = library.process_bind_param(value, DIALECT)
    assert value == scheme.read(stored)
    assert type(value) is type(scheme.read(memoryview(stored) if binary else stored))
    assert type(stored) is type(scheme.write(value))
    assert value == library.process_result_value(scheme.write(value), DIALECT)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32])
def test_each_padding_of_sqlalchemy_utils_is_read_and_written(padding: Any, length: int) -> None:
    value = "p" * length
    library = theirs(sqlalchemy.String(), "aes", padding)
    scheme = scheme_for(SqlalchemyUtils(secret, padding=padding), str)
    assert value == scheme.read(library.process_bind_param(value, DIALECT))
    assert library.process_bind_param(value, DIALECT) == scheme.write(value)


@pytest.mark.parametrize("kind", [EncryptedString, EncryptedText])
def test_advanced_alchemy_is_read_and_written(kind: Any) -> None:
    library, scheme = kind(key=SECRET), scheme_for(AdvancedAlchemy(secret), str)
    assert "Zoë" == scheme.read(library.process_bind_param("Zoë", DIALECT))
    assert "Zoë" == library.process_result_value(scheme.write("Zoë"), DIALECT)


def test_fernet_tokens_are_read_under_any_of_their_keys_and_written_under_the_first() -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    scheme = scheme_for(FernetTokens([lambda: new, lambda: old]), str)
    assert "Zoë" == scheme.read(Fernet(old).encrypt("Zoë".encode()))
    assert "Zoë" == scheme.read(MultiFernet([Fernet(new), Fernet(old)]).encrypt("Zoë".encode()).decode())
    assert "Zoë" == Fernet(new).decrypt(scheme.write("Zoë")).decode()


def test_plain_values_are_left_to_the_column_and_a_binary_column_hands_out_text() -> None:
    assert "Zoë" == scheme_for(Plain(), str).read("Zoë")
    assert "Zoë" == scheme_for(Plain(), str, in_place=True).read("Zoë".encode())


def test_a_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = theirs(sqlalchemy.String(), "aes_gcm").process_bind_param("Zoë", DIALECT)
    scheme = scheme_for(SqlalchemyUtils("RIDES_OLD_KEY", "aes_gcm"), str)
    monkeypatch.setenv("RIDES_OLD_KEY", SECRET)
    assert "Zoë" == scheme.read(stored)


@pytest.mark.parametrize("literal", [SECRET, "PLANTEDKEY", "p1anted-key="])
def test_a_key_given_in_place_of_a_name_is_refused_and_not_repeated(literal: str) -> None:
    marker = SqlalchemyUtils(literal)
    with pytest.raises(KeyringError) as refused:
        scheme_for(marker, str).read("AAAA")
    assert literal not in f"{refused.value} {refused.value.__context__} {marker!r}"
    assert literal not in repr(FernetTokens([literal]))


def test_a_bad_fernet_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(KeyringError) as refused:
        scheme_for(FernetTokens([lambda: "planted"]), str).read("gAAAA")
    assert "planted" not in f"{refused.value} {refused.value.__context__}"


@pytest.mark.parametrize(
    "marker",
    [
        SqlalchemyUtils(lambda: "another key", "aes_gcm"),
        SqlalchemyUtils(lambda: "another key", "fernet"),
        SqlalchemyUtils(lambda: "another key", "aes", "pkcs5"),
        AdvancedAlchemy(lambda: "another key"),
    ],
)
def test_a_value_under_another_key_does_not_open(marker: Any) -> None:
    right = SqlalchemyUtils(secret, getattr(marker, "engine", "fernet"), getattr(marker, "padding", "naive"))
    stored = scheme_for(right, str).write("planted value")
    with pytest.raises(SealedError) as refused:
        scheme_for(marker, str).read(stored)
    assert None is refused.value.__context__
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("stored", ["", "planted", b"\xff\xfe", "AAAA", "planted value at planted.example"])
def test_what_is_not_in_the_previous_form_does_not_open(engine: Any, stored: Any) -> None:
    with pytest.raises(SealedError) as refused:
        scheme_for(SqlalchemyUtils(secret, engine, "pkcs5"), str).read(stored)
    assert "planted" not in str(refused.value)


def test_a_type_that_the_library_does_not_bring_back_is_refused() -> None:
    for marker in (AdvancedAlchemy(secret), SqlalchemyUtils(secret), FernetTokens([secret])):
        with pytest.raises(MappingError):
            scheme_for(marker, bytes)
    with pytest.raises(MappingError):
        scheme_for(Plain(), int, in_place=True)


def test_a_value_of_another_type_is_not_written() -> None:
    with pytest.raises(InvalidValue) as refused:
        scheme_for(AdvancedAlchemy(secret), str).write(17)
    assert "17" not in str(refused.value)


@given(st.text().filter(lambda text: not text.endswith("*")))
def test_what_is_written_is_read_back(value: str) -> None:
    for engine in ENGINES:
        scheme = scheme_for(SqlalchemyUtils(secret, engine), str)  # type: ignore[arg-type]
        assert value == scheme.read(scheme.write(value))


@given(st.text(min_size=1), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_an_authenticated_value_that_was_changed_does_not_open(value: str, place: int, change: int) -> None:
    scheme = scheme_for(SqlalchemyUtils(secret, "fernet", binary=True), str)
    stored = bytearray(scheme.write(value))  # type: ignore[arg-type]
    stored[place % len(stored)] ^= change
    try:
        opened = scheme.read(bytes(stored))
    except SealedError:
        return
    assert value == opened  # only base64's unused bits may differ
