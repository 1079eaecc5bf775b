"""What the documents promise about children, told in plain Python that shares nothing with the library.

It knows no SQL and keeps one fold over the words of guardians: what stands is changed by each word as it is said.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

PLACEHOLDERS = {date(1970, 1, 1), date(1900, 1, 1)}
AGES: dict[str, list[tuple[date, int]]] = {
    "GB": [(date.min, 13)],
    "UK": [(date.min, 13)],
    "NO": [(date.min, 16)],  # uncertain: the stricter of 13 and 16
    "EU": [(date.min, 16)],
    "ES": [(date.min, 14), (date(2027, 6, 1), 16)],
    "IE": [(date.min, 16), (date(2026, 9, 1), 13)],
}
ANYWHERE = [(date.min, 16), (date(2026, 9, 1), 14), (date(2027, 6, 1), 16)]
"""The strictest of GB, ES and IE, where the school is offered."""

ALLOWED, NEVER = {"check", "lessons"}, {"adverts"}
VALID = timedelta(days=120)
MATERIAL = datetime(2026, 3, 1, tzinfo=UTC)
IN_PERSON, CLICK = "in person", "a click"
STRONG = {"signed_form", CLICK}
"""Ways to verify a guardian well enough, and how a pupil answers in person: nobody has to be verified for that."""


def birthday(born: date, age: int) -> date:
    """The day on which an age is reached, 1 March where a leap day is missing."""
    try:
        return born.replace(year=born.year + age)
    except ValueError:
        return date(born.year + age, 3, 1)


def of_age(born: date | None, country: str | None, now: datetime) -> bool:
    """Whether somebody is no child, where the day begins last, and no day to come makes one of them again."""
    if born is None or born in PLACEHOLDERS:
        return False
    today, ages = (now - timedelta(hours=12)).date(), AGES.get((country or "").upper(), ANYWHERE)
    holding = [age for begins, age in ages if begins <= today][-1]
    later = [(begins, age) for begins, age in ages if begins > today]
    return birthday(born, holding) <= today and all(birthday(born, age) <= begins for begins, age in later)


@dataclass(frozen=True)
class Given:
    """A consent as it was said."""

    at: datetime
    method: str
    notice: str | None
    claimed: datetime | None
    until: datetime | None
    to_others: bool = False

    def fault(self, purpose: str, now: datetime, *, disclosed: bool = False) -> str | None:
        """Why it does not count."""
        ends = [self.until] if self.until else []
        if purpose == "play":
            ends.append((self.claimed or self.at) + VALID)
        if any(end <= now for end in ends):
            return "expired"
        if purpose == "play" and now >= MATERIAL and self.notice != "v2":
            return "superseded"
        if (disclosed or purpose == "letters") and self.method not in STRONG:
            return "unverified"
        return "undisclosed" if disclosed and not self.to_others else None


@dataclass
class Fold:
    """What words amount to, one after the other. A guardian of None stands for all."""

    consents: dict[str, Given] = field(default_factory=dict)
    noes: list[tuple[str | None, str, datetime]] = field(default_factory=list)
    spoke: dict[str, bool] = field(default_factory=dict)
    last: str | None = None

    def give(self, guardian: str, said: Given) -> None:
        """A consent ends the guardian's own earlier noes and those for all, unless it is of their time or before."""

        def overcome(who: str | None, at: datetime) -> bool:
            return who in (guardian, None) and said.at != at and (said.claimed is None or said.claimed > at)

        self.noes = [each for each in self.noes if not overcome(each[0], each[2])]
        self._said("given", guardian)
        self.consents[guardian] = said

    def deny(self, word: str, guardian: str | None, at: datetime) -> None:
        """A no takes the guardian's own consent away; without a guardian, all of them."""
        self.noes.append((guardian, word, at))
        self._said(word, guardian)

    def end(self, word: str, guardian: str) -> None:
        """Time ended a consent, or a guardian is one no more, whose no is gone too."""
        if word == "lapsed":
            self.noes = [each for each in self.noes if each[0] != guardian]
        self._said(word, guardian)

    def _said(self, word: str, guardian: str | None) -> None:
        if guardian is None:
            self.consents.clear()
        else:
            self.consents.pop(guardian, None)
            self.spoke[guardian] = word != "lapsed"
        self.last = word

    def status(self, purpose: str, now: datetime, *, unheard: str | None, disclosed: bool) -> str | None:
        """The one word for all of it, where the yes of one of them, ``unheard``, counts for nothing."""
        if self.noes:
            return self.noes[-1][1]
        heard = [said for who, said in self.consents.items() if who != unheard]
        faults = [said.fault(purpose, now, disclosed=disclosed) for said in heard]
        if faults:
            return "given" if None in faults else faults[-1]
        return "lapsed" if self.last == "given" else self.last


@dataclass
class Standing:
    """What was said about one pupil and one purpose, by everybody, and what is heard once the pupil has come of age."""

    asked: bool = False
    all: Fold = field(default_factory=Fold)
    own: Fold = field(default_factory=Fold)

    def give(self, guardian: str, said: Given) -> None:
        """A consent."""
        for fold in self._heard_of(guardian):
            fold.give(guardian, said)

    def deny(self, word: str, guardian: str | None, at: datetime) -> None:
        """A no."""
        for fold in self._heard_of(guardian):
            fold.deny(word, guardian, at)

    def end(self, word: str, guardian: str) -> None:
        """What time ended, or a guardian who is one no more."""
        for fold in self._heard_of(guardian):
            fold.end(word, guardian)

    def _heard_of(self, guardian: str | None) -> list[Fold]:
        """Of age the own words are heard, and those for all."""
        return [self.all, self.own] if guardian in (IN_PERSON, None) else [self.all]

    @property
    def spoken(self) -> bool:
        """Whether there is any word."""
        return self.asked or self.all.last is not None

    def ended(self, purpose: str, now: datetime) -> list[tuple[str, str]]:
        """Those whose consents time has ended, and how."""
        faults = [(who, said.fault(purpose, now)) for who, said in self.all.consents.items()]
        return [(who, fault) for who, fault in faults if fault in ("expired", "superseded")]

    def status(self, purpose: str, now: datetime, *, in_person: bool, disclosed: bool = False) -> str | None:
        """The one word for it. ``in_person``: the pupil decides; else guardians do, and a no of the pupil's counts."""
        fold, unheard = (self.own, None) if in_person else (self.all, IN_PERSON)
        found = fold.status(purpose, now, unheard=unheard, disclosed=disclosed)
        return found or ("lapsed" if self.all.last else "asked" if self.asked else None)


@dataclass
class Promised:
    """One pupil: what is stored, and what may be seen of it."""

    name: str
    born: date | None
    country: str | None
    notes: dict[int, str] = field(default_factory=dict)
    joined_of_age: bool = False
    words: dict[str, Standing] = field(default_factory=lambda: {"play": Standing(), "letters": Standing()})

    def seen_for(self, purposes: tuple[str, ...], now: datetime, *, disclosed: bool = False) -> bool:
        """Whether all of these purposes may use the row now."""
        if of_age(self.born, self.country, now):  # letters rest on consent, which is the pupil's own to give by then
            frozen = self.words["letters"].spoken and self.status("letters", now) != "given"
            return not (frozen and self.grew_up(now) and "letters" in purposes)
        return not NEVER.intersection(purposes) and all(
            self.status(each, now, disclosed=disclosed) == "given" for each in {*purposes} - ALLOWED
        )

    def status(self, purpose: str, now: datetime, *, disclosed: bool = False) -> str | None:
        """What consent to a purpose amounts to."""
        words, resting = self.words[purpose], purpose == "letters" and self.grew_up(now)
        answered = IN_PERSON in words.all.spoke and of_age(self.born, self.country, now)
        return words.status(purpose, now, in_person=resting or answered, disclosed=disclosed)

    def stored(self, now: datetime) -> None:
        """A row of somebody who is of age tells no birthday, and stays so until it is a child's."""
        self.joined_of_age = self.joined_of_age and of_age(self.born, self.country, now)

    def grew_up(self, now: datetime) -> bool:
        """Whether this was a child here, and is of age."""
        return of_age(self.born, self.country, now) and not self.joined_of_age

    def stage(self, now: datetime) -> str:
        """Whether this is a ``child``, has ``grown`` up here or joined as an ``adult``."""
        return "grown" if self.grew_up(now) else "adult" if self.joined_of_age else "child"

    def statuses(self, now: datetime) -> dict[str, str]:
        """What ``status`` of the consent ledger says."""
        found = {name: self.status(name, now) for name in self.words}
        return {name: each for name, each in found.items() if each is not None}

    def birthdays(self) -> list[datetime]:
        """When it may change whether this is a child: the first instant of each such day, at UTC-12."""
        ages = AGES.get((self.country or "").upper(), ANYWHERE)
        days = [begins for begins, _ in ages if begins > date.min]
        days += [birthday(self.born, age) for _, age in ages] if self.born else []
        return sorted(datetime.combine(day, time(12), UTC) for day in days)
