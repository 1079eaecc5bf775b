"""Births, moves, guardians' words, birthdays and the clock in any order: storage shows what the documents promise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count, cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
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
from tests.sqlalchemy.promised import CLICK, IN_PERSON, MATERIAL, STRONG, Given, Promised, of_age
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


@dataclass(frozen=True)
class Said:
    """One word, some time ``after`` what happened before. A guardian of None stands for all."""

    word: str
    guardian: str | None
    purposes: tuple[str, ...] = ("letters", "play")
    method: str = CLICK
    notice: str = "v2"
    ago: timedelta | None = None
    days: int | None = None
    to_others: bool = True
    after: timedelta = timedelta(minutes=1)


born_lately = st.builds(date, st.integers(2010, 2015), st.sampled_from([1, 3, 6, 9, 12]), st.sampled_from([1, 2, 28]))
births = st.one_of(born_lately, born_lately, st.sampled_from(BORN))
countries = st.sampled_from(["GB", "uk", "ES", "IE", "NO", "EU", "XX", "", None])
pupils = st.integers(0, 2)
guardians = st.sampled_from(["mother", "father", "parent"])
of_time: dict[str, Any] = {
    "purposes": st.sampled_from([("letters", "play"), ("play",), ("letters",)]),
    "after": st.sampled_from([timedelta(minutes=1), timedelta(0), timedelta(days=1)]),
}
of_consent: dict[str, Any] = of_time | {
    "notice": st.sampled_from(["v2", "v2", "v1"]),
    "ago": st.sampled_from([None, None, None, timedelta(0), timedelta(hours=1), timedelta(days=31)]),
    "days": st.sampled_from([None, 1, 30]),
}
methods = st.sampled_from(["signed_form", "signed_form", "email_plus"])
consents = st.builds(Said, st.just("grant"), guardians, method=methods, to_others=st.booleans(), **of_consent)
answers = st.builds(Said, st.sampled_from(["grant", "grant", "refuse", "lapse"]), st.just(IN_PERSON), **of_consent)
noes = st.builds(Said, st.sampled_from(["refuse", "withdraw"]), st.one_of(guardians, st.none()), **of_time)
others = st.builds(Said, st.sampled_from(["ask", "lapse"]), guardians, **of_time)
words = st.one_of(consents, consents, consents, noes, noes, others, answers)
"""Where each kind of word came as often as any other, hardly a consent would ever stand."""

SECOND = timedelta(microseconds=1)
PAST = {"refuse": "refused", "withdraw": "withdrawn"}


class ConsentMachine(RuleBasedStateMachine):
    """``school`` is set by each test, on a database of its own; every example begins with an empty one."""

    school: ClassVar[School]
    met: ClassVar[set[tuple[str, str | None]]]
    numbers: ClassVar[Iterator[int]] = count(1)

    @initialize(said=consents)
    def opens(self, said: Said) -> None:
        self.clock.now, self.pupils, self.run = START, dict[int, Promised](), next(self.numbers)
        self.forms, self.asked = cycle(FORMS), cycle([("play", False), ("play", True), ("letters", True)])
        self.parent = self._add(Parent, name="parent")
        self.signs_up(born=date(2013, 3, 1), country="GB", said=[Said("grant", "mother", method="signed_form")])
        self.signs_up(born=date(2014, 6, 1), country="IE", said=[said])

    @precondition(lambda self: len(self.pupils) < 3)
    @rule(born=births, country=countries, said=st.lists(consents, max_size=2))
    def signs_up(self, born: date | None, country: str | None, said: list[Said]) -> None:
        number = next(self.numbers)
        self._add(Pupil, id=number, name=f"pupil {number}", born=born, country=country)
        joined = of_age(born, country, self.clock.now)
        self.pupils[number] = Promised(f"pupil {number}", born, country, joined_of_age=joined)
        for each in said:
            self._say(number, self.pupils[number], each)

    @rule(which=pupils, field=st.sampled_from(["born", "country"]), born=births, country=countries)
    def is_stored_anew(self, which: int, field: str, born: date | None, country: str | None) -> None:
        number, pupil = self._one(which)
        value = {"born": born, "country": country}[field]
        self._change(number, **{field: value})
        setattr(pupil, field, value)
        pupil.stored(self.clock.now)

    @rule(which=pupils, said=st.lists(words, min_size=1, max_size=3))
    def is_spoken_of(self, which: int, said: list[Said]) -> None:
        for each in said:
            self._say(*self._one(which), each)

    @precondition(lambda self: self._of_age())
    @rule(which=pupils, said=answers)
    def answers_in_person(self, which: int, said: Said) -> None:
        self._say(*self._of_age()[which % len(self._of_age())], said)

    @rule(guardian=guardians, erased=st.booleans())
    def is_a_guardian_no_more(self, guardian: str, erased: bool) -> None:
        """A parent who is a data subject goes also when erased."""
        erased = erased and guardian == "parent"
        if erased:
            self.school.privacy.erase(self.school.engine, self.parent, by="clerk")
        else:
            with Session(self.school.engine) as session:
                self.school.privacy.consent.lapse(session, guardian=self._guardian(guardian))
                session.commit()
        self._lapse(self._known_as(guardian), self.pupils.values())
        self.parent = self._add(Parent, name="parent") if erased else self.parent

    @precondition(lambda self: len(self.pupils) > 1)
    @rule(which=pupils)
    def is_erased(self, which: int) -> None:
        """A row to which notes refer stays, and they do, with nothing in them, until the application deletes them."""
        number, pupil = self._one(which)
        self.school.privacy.erase(self.school.engine, self._load(number), by="clerk")
        if pupil.notes:
            with self.school.privacy.purpose("check"), Session(self.school.engine) as session:
                assert session.get_one(Pupil, number).name is None
            raw_rows(self.school.url, f"DELETE FROM notes WHERE pupil_id = {number}")
            raw_rows(self.school.url, f"DELETE FROM pupils WHERE id = {number}")
        del self.pupils[number]

    @rule(passed=st.sampled_from([timedelta(days=29), timedelta(days=1), timedelta(hours=12)]), noted=st.booleans())
    def time_passes(self, passed: timedelta, noted: bool) -> None:
        """What ended in it is noted, or not yet."""
        self.clock.now += passed
        if noted:
            with Session(self.school.engine) as session:
                self.school.privacy.consent.note_ended(session)
                session.commit()
            for pupil in self.pupils.values():
                for purpose, standing in pupil.words.items():
                    for guardian, how in standing.ended(purpose, self.clock.now):
                        standing.end(how, guardian)

    @rule(moment=st.tuples(st.integers(0, 9), st.booleans()))
    def a_day_comes(self, moment: tuple[int, bool]) -> None:
        """The first moment of a birthday, of a law or of a notice, or the last one before it.

        One argument, since Hypothesis turns to the rule that has the fewest when it knows nothing better.
        """
        (which, early), days = moment, [day for pupil in self.pupils.values() for day in pupil.birthdays()]
        moments = sorted(each for each in {MATERIAL, *days} if each - SECOND > self.clock.now)
        if moments:
            self.clock.now = moments[which % len(moments)] - (SECOND if early else timedelta(0))

    @rule(which=pupils, purpose=st.sampled_from(["play", "letters", "adverts", "lessons"]), renamed=st.booleans())
    def is_written_about(self, which: int, purpose: str, renamed: bool) -> None:
        number, pupil = self._one(which)
        new = next(self.numbers)
        if renamed:
            name = f"pupil {new}"
            if self._written(purpose, pupil, update(Pupil).where(Pupil.id == number).values(name=name)):
                pupil.name = name
        elif self._written(purpose, pupil, insert(Note).values(id=new, pupil_id=number, said=f"note {new}")):
            pupil.notes[new] = f"note {new}"

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
                subject, (purpose, disclosed) = self._load(number), next(self.asked)
                assert pupil.statuses(now) == consent.status(session, subject=subject)
                allowed = consent.allows(session, subject=subject, purpose=purpose, disclosure=disclosed)
                assert pupil.seen_for((purpose,), now, disclosed=disclosed) == allowed
                self.met.add((pupil.stage(now), pupil.status("letters", now)))

    def teardown(self) -> None:
        for table in ("notes", "pupils", "parents", "privkit_consent"):
            raw_rows(self.school.url, f"DELETE FROM {table}")

    # What the rules do it with.

    @property
    def clock(self) -> Clock:
        return self.school.clock  # type: ignore[no-any-return]

    def _one(self, which: int) -> tuple[int, Promised]:
        """The pupil who is meant; there is always one."""
        return list(self.pupils.items())[which % len(self.pupils)]

    def _of_age(self) -> list[tuple[int, Promised]]:
        return [each for each in self.pupils.items() if of_age(each[1].born, each[1].country, self.clock.now)]

    def _guardian(self, name: str) -> Any:
        return self.parent if name == "parent" else f"{name} {self.run}"

    def _known_as(self, name: str) -> str:
        return f"parent {self.parent.id}" if name == "parent" else name

    def _say(self, number: int, pupil: Promised, said: Said) -> None:
        """Record a word, of which the promise is told as well."""
        self.clock.now += said.after
        who = said.guardian and self._known_as(said.guardian)
        standings = [pupil.words[each] for each in said.purposes]
        shown = {"notice": said.notice} if "play" in said.purposes else {}
        if said.word == "lapse":
            self._record(number, said)
            self._lapse(str(who), [pupil])
        elif said.word == "ask":
            self._record(number, said, purposes=said.purposes, **shown)
            for standing in standings:
                standing.asked = True
        elif said.word == "grant":
            given = self._given(said)
            with nullcontext() if self._may_give(pupil, said) else pytest.raises(InvalidValue):
                told = {"method": given.method, "claimed_at": given.claimed, "until": given.until, **shown}
                disclosed = said.purposes if said.to_others else ()
                self._record(number, said, purposes=said.purposes, disclosure=disclosed, **told)
                for standing in standings:
                    standing.give(str(who), given)
        else:
            self._record(number, said, purposes=said.purposes)
            for standing in standings:
                standing.deny(PAST[said.word], who, self.clock.now)

    def _given(self, said: Said) -> Given:
        now, notice = self.clock.now, said.notice if "play" in said.purposes else None
        claimed = None if said.ago is None else now - said.ago
        until = now + timedelta(days=said.days) if said.days else None
        return Given(now, said.method, notice, claimed, until, said.to_others or said.guardian == IN_PERSON)

    def _may_give(self, pupil: Promised, said: Said) -> bool:
        """Whether such a consent is one: a child's own is none, and a guardian's has to be good enough."""
        if said.guardian == IN_PERSON:
            return of_age(pupil.born, pupil.country, self.clock.now)
        return said.method in STRONG or not (said.to_others or "letters" in said.purposes)

    def _record(self, number: int, said: Said, **details: Any) -> None:
        subject = self._load(number)
        guardian = subject if said.guardian == IN_PERSON else said.guardian and self._guardian(said.guardian)
        with Session(self.school.engine) as session:
            getattr(self.school.privacy.consent, said.word)(session, subject=subject, guardian=guardian, **details)
            session.commit()

    def _lapse(self, guardian: str, pupils: Iterable[Promised]) -> None:
        for pupil in pupils:
            for standing in pupil.words.values():
                if standing.all.spoke.get(guardian):
                    standing.end("lapsed", guardian)

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

    def _written(self, purpose: str, pupil: Promised, statement: Any) -> bool:
        """Whether the statement may write, as promised; where it may not, it is refused and writes nothing."""
        allowed = pupil.seen_for((purpose,), self.clock.now)
        with self.school.privacy.purpose(purpose), Session(self.school.engine) as session:
            with nullcontext() if allowed else pytest.raises(ConsentRequired):
                session.execute(statement)
            session.commit()
        return allowed


WALKS = {"sqlite": (15, 20), "postgresql": (6, 16)}
"""How many, and of how many steps."""

MUST_BE_MET = {("child", "given"), ("child", None), ("grown", "lapsed"), ("grown", "given")}
"""Walks that meet nobody of these say little of consent."""


def test_in_any_order_of_events_storage_shows_what_the_documents_promise(database_url: str, tmp_path: Path) -> None:
    school, met = open_school(database_url, tmp_path, Clock()), set[tuple[str, str | None]]()
    machine = type("Machine", (ConsentMachine,), {"school": school, "numbers": count(1), "met": met})
    walks, steps = WALKS[school.engine.dialect.name]
    how: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
    # A walk that fails is shown as it was: to look for the shortest one takes five minutes, and looks like a hang.
    how |= {"phases": [Phase.generate], "max_examples": walks, "stateful_step_count": steps}
    run_state_machine_as_test(machine, settings=settings(**how))
    assert MUST_BE_MET <= met
    school.engine.dispose()
