"""What guardians' words amount to, decided without a database."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.consent.state import EVENTS, NO, ConsentEvent, state
from privkit.periods import Period
from privkit.policy import ConsentTerms

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ANY = ConsentTerms()


def event(seq: int, kind: str, guardian: str | None = "a", **said: object) -> ConsentEvent:
    given: dict[str, object] = {"at": NOW - timedelta(days=30) + timedelta(hours=seq), "method": "signed_form"} | said
    return ConsentEvent(seq=seq, subject="s", purpose="p", event=kind, guardian=guardian, **given)  # type: ignore[arg-type]


def amounts_to(*events: ConsentEvent, terms: ConsentTerms = ANY, now: datetime = NOW) -> str | None:
    return state(events, now, terms)


def test_d21_no_record_is_no_consent() -> None:
    assert amounts_to() is None
    assert "asked" == amounts_to(event(1, "asked"))


def test_the_newest_word_of_a_guardian_counts_and_a_question_changes_nothing() -> None:
    assert "given" == amounts_to(event(1, "given"), event(2, "asked"))
    assert "withdrawn" == amounts_to(event(1, "given"), event(2, "withdrawn"), event(3, "asked"))
    assert "given" == amounts_to(event(1, "refused"), event(2, "given"))


@pytest.mark.parametrize("no", NO)
def test_two_guardians_who_disagree_are_a_no_in_either_order(no: str) -> None:
    assert no == amounts_to(event(1, "given"), event(2, no, "b"))
    assert no == amounts_to(event(1, no, "b"), event(2, "given"))
    assert "given" == amounts_to(event(1, no, "b"), event(2, "given"), event(3, "given", "b"))


def test_a_withdrawal_for_all_is_undone_by_any_guardian_who_consents_after_it() -> None:
    assert "withdrawn" == amounts_to(event(1, "given"), event(2, "withdrawn", None))
    assert "given" == amounts_to(event(1, "given"), event(2, "withdrawn", None), event(3, "given", "b"))
    assert "withdrawn" == amounts_to(event(1, "withdrawn", "b"), event(2, "withdrawn", None), event(3, "given"))


def test_a_guardian_who_is_one_no_more_neither_consents_nor_forbids() -> None:
    assert "lapsed" == amounts_to(event(1, "given"), event(2, "lapsed"))
    assert "given" == amounts_to(event(1, "withdrawn", "b"), event(2, "given"), event(3, "lapsed", "b"))


def test_d16_of_one_instant_the_withdrawal_counts_whatever_the_order() -> None:
    same = {"at": NOW - timedelta(days=1)}
    assert "withdrawn" == amounts_to(event(1, "given", **same), event(2, "withdrawn", **same))
    assert "withdrawn" == amounts_to(event(1, "withdrawn", **same), event(2, "given", **same))


def test_d16_a_consent_that_arrives_late_does_not_undo_a_withdrawal_after_its_date() -> None:
    ten, eleven, twelve = (NOW - timedelta(hours=24 - hour) for hour in (10, 11, 12))
    words = [event(1, "given", at=ten), event(2, "withdrawn", at=twelve)]
    assert "withdrawn" == amounts_to(*words, event(3, "given", at=NOW, claimed_at=eleven))
    assert "withdrawn" == amounts_to(*words, event(3, "given", at=NOW, claimed_at=twelve))
    assert "given" == amounts_to(*words, event(3, "given", at=NOW, claimed_at=twelve + timedelta(microseconds=1)))


def test_d16_a_clock_that_goes_backwards_changes_no_order() -> None:
    assert "given" == amounts_to(event(1, "withdrawn", at=NOW), event(2, "given", at=NOW - timedelta(hours=1)))
    assert "withdrawn" == amounts_to(event(1, "given", at=NOW), event(2, "withdrawn", at=NOW - timedelta(hours=1)))


def test_a_consent_ends_at_its_own_instant_and_at_the_policy_s() -> None:
    given_at, terms = NOW - timedelta(days=30), ConsentTerms(valid=Period.parse("P30D"))
    consent = event(1, "given", at=given_at)
    assert "expired" == amounts_to(consent, terms=terms)
    assert "given" == amounts_to(consent, terms=terms, now=NOW - timedelta(microseconds=1))
    assert "expired" == amounts_to(event(1, "given", at=given_at, expires=NOW))
    assert "expired" == amounts_to(event(1, "given", at=NOW, claimed_at=given_at), terms=terms)


def test_d15_a_consent_on_an_earlier_notice_does_not_count_from_the_day_of_a_material_one() -> None:
    terms = ConsentTerms(renewals=((date(2026, 6, 1), ("v4", "v5")),))
    assert "superseded" == amounts_to(event(1, "given", notice="v3"), terms=terms)
    assert "given" == amounts_to(event(1, "given", notice="v3"), terms=terms, now=NOW - timedelta(microseconds=1))
    assert "given" == amounts_to(event(1, "given", notice="v5"), terms=terms)
    assert "superseded" == amounts_to(event(1, "given"), terms=terms)


def test_a_weak_method_is_not_enough_where_a_strong_one_is_asked_for() -> None:
    terms = ConsentTerms(methods=("signed_form",))
    assert "unverified" == amounts_to(event(1, "given", method="email_plus"), terms=terms)
    assert "given" == amounts_to(event(1, "given", method="email_plus"), event(2, "given", "b"), terms=terms)


words = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["a", "b", None])), max_size=7)


@settings(max_examples=200)
@given(words)
def test_a_withdrawal_for_all_at_the_end_always_means_no(said: list[tuple[str, str | None]]) -> None:
    told = [event(seq, kind, guardian) for seq, (kind, guardian) in enumerate(said, 1)]
    assert "withdrawn" == amounts_to(*told, event(len(told) + 1, "withdrawn", None))


@settings(max_examples=200)
@given(words)
def test_nothing_but_a_consent_turns_a_state_into_given_except_that_a_guardian_is_one_no_more(
    said: list[tuple[str, str | None]],
) -> None:
    before: str | None = None
    for count in range(1, len(said) + 1):
        told = [event(seq, kind, guardian) for seq, (kind, guardian) in enumerate(said[:count], 1)]
        now = amounts_to(*told)
        assert now != "given" or before == "given" or said[count - 1][0] in ("given", "lapsed")
        before = now
