"""Births, moves, guardians' words, birthdays and the clock in any order: storage shows what the documents promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date, timedelta
from itertools import count, cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from privkit.errors import ConsentRequired, InvalidValue
from tests.databases import raw_rows
from tests.sqlalchemy.promised import MATERIAL, STRONG, Given, Promised, of_age
from tests.sqlalchemy.rides import START, Clock
from tests.sqlalchemy.school import Note, Parent, Pupil, School, open_school

SIGHTS = (("check",), ("play",), ("letters",), ("adverts",), ("lessons",), ("play", "letters"))
BORN = (None, date(1970, 1, 1), date(1990, 5, 5), date(2012, 2, 29))
"""Beside days around which somebody comes of age within the clock's reach."""

NAMES, NOTES = Pupil.__table__.c, Note.__table__.c
FORMS: tuple[tuple[str, Callable[[Session], Any]], ...] = (
    ("names", lambda session: {each.id: each.name for each in session.scalars(select(Pupil))}),
    ("names", lambda session: paired(session.execute(select(Pupil.id, Pupil.name)))),
    ("names", lambda session: paired(session.connection().execute(select(NAMES.id, NAMES.name)))),
    ("count", lambda session: session.scalar(select(func.count()).select_from(Pupil))),
    ("count", lambda session: session.connection().scalar(select(func.count(NAMES.id)))),
    ("notes", lambda session: {each.id: each.said for each in session.scalars(select(Note))}),
    ("notes", lambda session: paired(session.execute(select(Note.id, Note.said).join(Note.pupil)))),
)
"""Ways to read: seven, so that each of the six sights is seen in every way in turn."""


def paired(rows: Any) -> dict[Any, Any]:
    return dict(tuple(row) for row in rows)


births = st.one_of(
    st.sampled_from(BORN),
    st.builds(date, st.integers(2010, 2015), st.sampled_from([1, 3, 6, 9, 12]), st.sampled_from([1, 2, 28])),
)
countries = st.sampled_from(["GB", "uk", "ES", "IE", "NO", "EU", "XX", "", None])
pupils = st.integers(0, 2)
guardians = st.sampled_from(["mother", "father", "parent"])
consented = st.sampled_from([("play",), ("letters",), ("letters", "play")])
SECOND = timedelta(microseconds=1)


class ConsentMachine(RuleBasedStateMachine):
    """``school`` is set by each test, on a database of its own; every example begins with an empty one."""

    school: ClassVar[School]
    numbers: ClassVar[Iterator[int]] = count(1)

    @initialize()
    def opens(self) -> None:
        self.clock.now, self.pupils, self.run = START, dict[int, Promised](), next(self.numbers)
        self.forms, self.disclosed = cycle(FORMS), cycle([False, True])
        self.parent = self._add(Parent, name="parent")
        self.signs_up(born=date(2013, 3, 1), country="GB")

    @precondition(lambda self: len(self.pupils) < 3)
    @rule(born=births, country=countries)
    def signs_up(self, born: date | None, country: str | None) -> None:
        number = next(self.numbers)
        self._add(Pupil, id=number, name=f"pupil {number}", born=born, country=country)
        joined = of_age(born, country, self.clock.now)
        self.pupils[number] = Promised(f"pupil {number}", born, country, joined_of_age=joined)

    @rule(which=pupils, country=countries)
    def moves(self, which: int, country: str | None) -> None:
        for number, pupil in self._those(which):
            self._change(number, country=country)
            pupil.country = country
            pupil.stored(self.clock.now)

    @rule(which=pupils, born=births)
    def turns_out_to_be_born(self, which: int, born: date | None) -> None:
        for number, pupil in self._those(which):
            self._change(number, born=born)
            pupil.born = born
            pupil.stored(self.clock.now)

    @rule(which=pupils, purposes=consented, guardian=guardians)
    def is_asked_for(self, which: int, purposes: tuple[str, ...], guardian: str) -> None:
        for number, pupil in self._those(which):
            notice = "v1" if "play" in purposes else None
            self._say("ask", number, purposes=purposes, guardian=self._guardian(guardian), notice=notice)
            for each in purposes:
                pupil.words[each].last = pupil.words[each].last or "asked"

    @rule(
        which=pupils,
        purposes=consented,
        guardian=guardians,
        method=st.sampled_from(["signed_form", "signed_form", "email_plus"]),
        notice=st.sampled_from(["v1", "v2", "v2"]),
        ago=st.sampled_from([None, None, None, timedelta(0), timedelta(hours=1), timedelta(days=31)]),
        days=st.sampled_from([None, None, 1, 30]),
        to_others=st.booleans(),
    )
    def consents(
        self,
        which: int,
        purposes: tuple[str, ...],
        guardian: str,
        method: str,
        notice: str,
        ago: timedelta | None,
        days: int | None,
        to_others: bool,
    ) -> None:
        now = self.clock.now
        shown = notice if "play" in purposes else None
        until = now + timedelta(days=days) if days else None
        said = Given(now, method, shown, None if ago is None else now - ago, until, to_others)
        told: dict[str, Any] = {"method": method, "notice": shown, "claimed_at": said.claimed, "until": until}
        for number, pupil in self._those(which):
            given = told | {"purposes": purposes, "guardian": self._guardian(guardian)}
            given["disclosure"] = purposes if to_others else ()
            if (to_others or "letters" in purposes) and method not in STRONG:
                with pytest.raises(InvalidValue):
                    self._say("grant", number, **given)
                continue
            self._say("grant", number, **given)
            for each in purposes:
                pupil.words[each].give(self._known_as(guardian), said)

    @rule(
        which=pupils,
        word=st.sampled_from(["refuse", "withdraw"]),
        purposes=consented,
        guardian=st.one_of(guardians, st.none()),
    )
    def says_no(self, which: int, word: str, purposes: tuple[str, ...], guardian: str | None) -> None:
        for number, pupil in self._those(which):
            self._say(word, number, purposes=purposes, guardian=guardian and self._guardian(guardian))
            for each in purposes:
                event = {"refuse": "refused", "withdraw": "withdrawn"}[word]
                pupil.words[each].deny(event, guardian and self._known_as(guardian), self.clock.now)

    @rule(which=st.one_of(pupils, st.none()), guardian=guardians)
    def is_a_guardian_no_more(self, which: int | None, guardian: str) -> None:
        if which is None:
            with Session(self.school.engine) as session:
                self.school.privacy.consent.lapse(session, guardian=self._guardian(guardian))
                session.commit()
            self._lapse(self._known_as(guardian), self.pupils.values())
        else:
            for number, pupil in self._those(which):
                self._say("lapse", number, guardian=self._guardian(guardian))
                self._lapse(self._known_as(guardian), [pupil])

    @rule()
    def a_parent_is_erased(self) -> None:
        self.school.privacy.erase(self.school.engine, self.parent, by="clerk")
        self._lapse(self._known_as("parent"), self.pupils.values())
        self.parent = self._add(Parent, name="parent")

    @rule(which=pupils)
    def a_pupil_is_erased(self, which: int) -> None:
        for number, _ in self._those(which):
            self.school.privacy.erase(self.school.engine, self._load(number), by="clerk")
            del self.pupils[number]

    @rule()
    def what_ended_is_noted(self) -> None:
        with Session(self.school.engine) as session:
            self.school.privacy.consent.note_ended(session)
            session.commit()
        for pupil in self.pupils.values():
            for purpose, words in pupil.words.items():
                for guardian, how in words.ended(purpose, self.clock.now):
                    words.end(how, guardian)

    @rule(passed=st.sampled_from([timedelta(minutes=1), timedelta(hours=12), timedelta(days=1), timedelta(days=29)]))
    def time_passes(self, passed: timedelta) -> None:
        self.clock.now += passed

    @rule(which=st.integers(0, 9), early=st.booleans())
    def a_day_comes(self, which: int, early: bool) -> None:
        """The first moment of a birthday, of a law or of a notice, or the last one before it."""
        days = [day for pupil in self.pupils.values() for day in pupil.birthdays()]
        moments = sorted(each for each in {MATERIAL, *days} if each - SECOND > self.clock.now)
        if moments:
            self.clock.now = moments[which % len(moments)] - (SECOND if early else timedelta(0))

    @rule(which=pupils, purpose=st.sampled_from(["play", "letters", "adverts", "lessons"]))
    def is_written_about(self, which: int, purpose: str) -> None:
        for number, pupil in self._those(which):
            note = next(self.numbers)
            if self._written(purpose, pupil, insert(Note).values(id=note, pupil_id=number, said=f"note {note}")):
                pupil.notes[note] = f"note {note}"

    @rule(which=pupils, purpose=st.sampled_from(["play", "letters", "adverts", "lessons"]))
    def is_renamed(self, which: int, purpose: str) -> None:
        for number, pupil in self._those(which):
            name = f"pupil {next(self.numbers)}"
            if self._written(purpose, pupil, update(Pupil).where(Pupil.id == number).values(name=name)):
                pupil.name = name

    @invariant()
    def what_is_seen_is_what_was_promised(self) -> None:
        """Each purpose after each step, in every form in turn."""
        for purposes in SIGHTS:
            seen = {number: each for number, each in self.pupils.items() if each.seen_for(purposes, self.clock.now)}
            names = {number: each.name for number, each in seen.items()}
            notes = {number: text for each in seen.values() for number, text in each.notes.items()}
            expected = {"names": names, "notes": notes, "count": len(names)}
            what, look = next(self.forms)
            with self.school.privacy.purpose(*purposes), Session(self.school.engine) as session:
                assert expected[what] == look(session), purposes

    @invariant()
    def what_is_said_of_consent_is_what_was_promised(self) -> None:
        consent, now = self.school.privacy.consent, self.clock.now
        with Session(self.school.engine) as session:
            for number, pupil in self.pupils.items():
                subject = self._load(number)
                assert pupil.statuses(now) == consent.status(session, subject=subject)
                disclosed = next(self.disclosed)
                asked: dict[str, Any] = {"subject": subject, "purpose": "play", "disclosure": disclosed}
                assert pupil.seen_for(("play",), now, disclosed=disclosed) == consent.allows(session, **asked)

    def teardown(self) -> None:
        for table in ("notes", "pupils", "parents", "privkit_consent"):
            raw_rows(self.school.url, f"DELETE FROM {table}")

    # What the rules do it with.

    @property
    def clock(self) -> Clock:
        return self.school.clock  # type: ignore[no-any-return]

    def _those(self, which: int) -> list[tuple[int, Promised]]:
        """The one that is meant, or nobody where there is none yet."""
        known = list(self.pupils.items())
        return [known[which % len(known)]] if known else []

    def _guardian(self, name: str) -> Any:
        return self.parent if name == "parent" else f"{name} {self.run}"

    def _known_as(self, name: str) -> str:
        return f"parent {self.parent.id}" if name == "parent" else name

    def _lapse(self, guardian: str, pupils: Any) -> None:
        for pupil in pupils:
            for words in pupil.words.values():
                if words.spoke.get(guardian):
                    words.end("lapsed", guardian)

    def _add(self, model: Callable[..., Any], **values: Any) -> Any:
        with self.school.privacy.purpose("check"), Session(self.school.engine, expire_on_commit=False) as session:
            made = model(**values)
            session.add(made)
            session.commit()
            return made

    def _load(self, number: int) -> Pupil:
        with self.school.privacy.purpose("check"), Session(self.school.engine) as session:
            return session.get_one(Pupil, number)

    def _change(self, number: int, **values: Any) -> None:
        with self.school.privacy.purpose("check"), Session(self.school.engine) as session:
            session.execute(update(Pupil), [{"id": number, **values}])
            session.commit()

    def _say(self, word: str, number: int, **said: Any) -> None:
        with Session(self.school.engine) as session:
            getattr(self.school.privacy.consent, word)(session, subject=self._load(number), **said)
            session.commit()

    def _written(self, purpose: str, pupil: Promised, statement: Any) -> bool:
        """Whether the statement may write, as promised; where it may not, it is refused and writes nothing."""
        allowed = pupil.seen_for((purpose,), self.clock.now)
        with self.school.privacy.purpose(purpose), Session(self.school.engine) as session:
            with nullcontext() if allowed else pytest.raises(ConsentRequired):
                session.execute(statement)
            session.commit()
        return allowed


EXAMPLES = {"sqlite": 10, "postgresql": 4}


def test_in_any_order_of_events_storage_shows_what_the_documents_promise(database_url: str, tmp_path: Path) -> None:
    school = open_school(database_url, tmp_path, Clock())
    machine = type("Machine", (ConsentMachine,), {"school": school, "numbers": count(1)})
    how: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
    examples = EXAMPLES[school.engine.dialect.name]
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25, **how))
    school.engine.dispose()
