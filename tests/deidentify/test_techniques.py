from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from privkit.deidentify import label, leaves_residue, residue, token
from privkit.errors import InvalidValue
from privkit.location import GeoPoint, cell
from privkit.markers import Cell, Delete, Generalise, Pseudonymise, Suppress, Technique, Year

KEY, TODAY = bytes(range(32)), date(2026, 6, 15)
FIELD_TECHNIQUES: list[Technique] = [Suppress(), Generalise(Cell(6)), Generalise(Year()), Pseudonymise("name")]


def left(technique: Any, value: Any) -> str | None:
    return residue(technique, value, key=KEY, today=TODAY)


@pytest.mark.parametrize("technique", FIELD_TECHNIQUES)
def test_c11_none_leaves_none(technique: Any) -> None:
    assert left(technique, None) is None


@pytest.mark.parametrize("value", ["ada", "", 0, False, GeoPoint(0, 0)])
def test_suppress_leaves_nothing(value: Any) -> None:
    assert left(Suppress(), value) is None


def test_generalise_leaves_the_text_of_the_coarser_value() -> None:
    assert cell(GeoPoint(0, 0), 6) == left(Generalise(Cell(6)), GeoPoint(0, 0))
    assert "1987" == left(Generalise(Year()), date(1987, 5, 4))


@pytest.mark.parametrize(
    "value", ["Ada", "", 0, 12, Decimal("1.5"), date(1987, 5, 4), datetime(1987, 5, 4, 3), UUID(int=7)]
)
def test_pseudonymise_leaves_the_token_of_the_text(value: Any) -> None:
    assert token(KEY, "name", str(value)) == left(Pseudonymise("name"), value)


@pytest.mark.parametrize("value", [GeoPoint(12.5, 3), SecretStr("hidden"), ["a"], {"a": 1}, b"a", object()])
def test_values_whose_text_does_not_tell_them_apart_get_no_token(value: Any) -> None:
    with pytest.raises(InvalidValue, match="Pseudonymise does not fit") as caught:
        left(Pseudonymise("name"), value)
    assert "12.5" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "ada"])
def test_delete_is_refused_for_a_field(value: Any) -> None:
    with pytest.raises(InvalidValue, match="expire_row"):
        left(Delete(), value)


@pytest.mark.parametrize(("technique", "value"), [(Generalise(Cell(6)), "home"), (Generalise(Year()), "1987")])
def test_a_technique_that_does_not_fit_is_refused(technique: Any, value: Any) -> None:
    with pytest.raises(InvalidValue):
        left(technique, value)


def test_only_generalise_and_pseudonymise_leave_a_residue() -> None:
    assert [False, True, True, True] == [leaves_residue(technique) for technique in FIELD_TECHNIQUES]
    assert leaves_residue(Delete()) is False


def test_each_technique_has_words_that_promise_nothing_more() -> None:
    words = [label(technique) for technique in [*FIELD_TECHNIQUES, Delete()]]
    assert words == [
        "suppressed",
        "generalised to H3 cell 6",
        "generalised to the year",
        "pseudonymised in domain 'name'",
        "deleted with its row",
    ]
    assert not any("anonym" in text for text in words)
