"""The words of the guardians' pages: English, and whatever other languages an application brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privkit.consent.asked import AskedPurpose
from privkit.errors import InvalidValue
from privkit.policy import Policy

ENGLISH: Mapping[str, str] = {
    "error": "There is a problem",
    "questions": "Questions? Write to {controller}: {contact}",
    "review_title": "May {controller} use your child's data?",
    "review_lead": "You are asked as a parent or guardian. Nothing is agreed until you press a button below. What you "
    "agree to, you can withdraw at any time.",
    "until": "This page can be answered once, until {time}.",
    "notice_title": "What {controller} tells you",
    "version": "Version {version} of this text",
    "choose_title": "Your choice",
    "choose": "Tick what you agree to. What you leave empty is refused. Either answer is fine.",
    "data": "Data about your child",
    "no_data": "none",
    "kept": "Kept",
    "recipients": "Given to",
    "yes": "Yes, my child's data may be used for this",
    "yes_disclosure": "Yes, it may be given to others for this",
    "both": "This cannot be done without giving data to others. It needs both ticks.",
    "too_weak": "You cannot agree to this on this page: it takes a stronger check of who you are. It is refused.",
    "give": "I agree to what is ticked",
    "refuse": "I refuse everything",
    "none_ticked": "Nothing is ticked. Tick what you agree to, or press “I refuse everything”. Nothing was recorded.",
    "half_ticked": "“{purpose}” has one tick of two. Tick both, or none. Nothing was recorded.",
    "done_title": "Your answer is recorded",
    "you_agreed": "You agreed to",
    "you_refused": "You did not agree to",
    "change": "You can withdraw at any time. You need no reason.",
    "withdraw_link": "Withdraw your consent",
    "keep_address": "Keep the address of this page, for example as a bookmark: it leads back here.",
    "withdraw_title": "Withdraw your consent",
    "withdraw_lead": "Your child's data is no longer used for what you withdraw, from the moment you press a button.",
    "withdraw_what": "What do you withdraw?",
    "withdraw_some": "Withdraw what is ticked",
    "withdraw_all": "Withdraw everything",
    "nothing_ticked": "Nothing is ticked. Tick what you withdraw, or press “Withdraw everything”.",
    "nothing_given": "There is nothing to withdraw: you have not agreed to anything, or have withdrawn it already.",
    "unknown_title": "This address does not lead anywhere",
    "unknown": "It may have been cut off. Open the link in your message again, or copy all of it. If that does not "
    "help, ask for a new message. Nothing was recorded.",
    "used_title": "This was answered already",
    "used": "This page can be answered once. If it was not you who answered, tell us at once.",
    "used_link": "See what was answered, and withdraw it",
    "expired_title": "This link has expired",
    "expired": "Nothing was recorded, and nothing is agreed. If you still want to answer, ask for a new message.",
    "gone_title": "There is nothing left to decide",
    "gone": "The data that this link was about has been erased. You need to do nothing.",
    "of_age_title": "Your child decides now",
    "of_age": "Your child is old enough to decide alone. Nothing was recorded. You need to do nothing.",
    "superseded_title": "The text has changed",
    "superseded": "There is a newer text, and consent to the old one would not count. Nothing was recorded. Ask for a "
    "new message.",
    "malformed_title": "This form could not be read",
    "malformed": "Open the link in your message again, and answer there. Nothing was recorded.",
    "failed_title": "Something went wrong on our side",
    "failed": "Nothing was recorded. Please try again later.",
}
"""Every text of the pages. ``{controller}`` and ``{contact}`` are the policy's."""

_FILLED = ("controller", "contact", "time", "version", "purpose")

CATEGORIES: Mapping[str, str] = {
    "category.user.name": "name",
    "category.user.contact.email": "email address",
    "category.user.contact.phone_number": "telephone number",
    "category.user.demographic.date_of_birth": "date of birth",
    "category.user.location.precise": "exact location",
    "category.user.location.imprecise": "approximate location",
    "category.user.device.ip_address": "IP address",
}


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language, with the names of who asks."""

    locale: str
    texts: Mapping[str, str]
    controller: str
    contact: str

    def __call__(self, key: str, **values: str) -> str:
        """Return a text."""
        return self.texts[key].format(controller=self.controller, contact=self.contact, **values)

    def purpose(self, name: str, description: str) -> str:
        """Return what a purpose is called: as the texts say, or the policy."""
        return self.texts.get(f"purpose.{name}", description)

    def category(self, key: str) -> str:
        """Return what a category is called."""
        plain = key.removeprefix("user.").replace(".", ", ").replace("_", " ")
        return self.texts.get(f"category.{key}", plain)

    def recipient(self, name: str) -> str:
        """Return what a recipient is called."""
        return self.texts.get(f"recipient.{name}", name.replace("_", " "))

    def keep(self, purpose: AskedPurpose) -> str:
        """Return how long data is kept for a purpose."""
        return self.texts.get(f"keep.{purpose.name}", purpose.period)


class Dictionary:
    """The languages of the pages, with English among them."""

    def __init__(self, policy: Policy, texts: Mapping[str, Mapping[str, str]], default: str) -> None:
        controller = {key: _text(policy.controller.get(key, "")) for key in ("name", "contact")}
        known = {"en": {**ENGLISH, **CATEGORIES}}
        for locale, given in texts.items():
            known[locale] = {**(known["en"] if _language(locale) == "en" else {}), **given}
            _check(locale, known[locale])
        self._words = {
            locale: Words(locale, each, controller["name"], controller["contact"]) for locale, each in known.items()
        }
        self._default = self._closest(default) or self._words["en"]

    def of(self, locale: str | None) -> Words:
        """Return the words of a locale, of its language, or the default ones."""
        return self._closest(locale) or self._default

    def _closest(self, locale: str | None) -> Words | None:
        return self._words.get(locale or "") or self._words.get(_language(locale or ""))


def _language(locale: str) -> str:
    return locale.partition("-")[0].partition("_")[0].lower()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _check(locale: str, texts: Mapping[str, str]) -> None:
    missing, broken = sorted(set(ENGLISH) - set(texts)), sorted(key for key in texts if not _fills(texts[key]))
    if missing or broken:
        raise InvalidValue(
            f"The guardians' pages lack texts in {locale!r}, or cannot fill them: {', '.join(missing + broken)}.",
            "A page half in another language asks for consent to what is half understood.",
            "Give each key of privkit.integrations.guardian_words.ENGLISH, with the names in braces that it has there.",
            missing=missing,
            broken=broken,
        )


def _fills(text: str) -> bool:
    try:
        text.format(**dict.fromkeys(_FILLED, ""))
    except (LookupError, ValueError, AttributeError):
        return False
    return True
