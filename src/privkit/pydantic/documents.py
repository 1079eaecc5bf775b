"""Documents for key-value and document stores: JSON in which every personal value is sealed for its data subject.

    {"privkit": 1, "document": "Rider", "subject": "f4c9...", "data": {"id": 7, "email": "AQH0yRMD..."}}

``subject`` is the data subject's key id in hexadecimal. ``data`` is the model as pydantic writes it, by alias, without
computed fields. In place of a personal value stands its envelope in base64url without padding. What is sealed is the
value's JSON, with spaces after it up to a multiple of ``BUCKET`` bytes, so that the length of an envelope tells
nothing about a place, a date or a number. It is bound to the name of the document, to the keys that lead to it (not
to numbers in lists), to the field's id and to the data subject.

    riders = privacy.document(Rider)
    store.set(f"rider:{number}", riders.dumps(rider, subject=key_id))
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from privkit import purposes
from privkit.catalog import Field
from privkit.clock import Clock, instant
from privkit.crypto import SubjectKey, codec_for
from privkit.errors import InvalidValue, SealedError
from privkit.policy import Policy
from privkit.policy.resolve import resolve
from privkit.pydantic.covering import Sealing, sealing
from privkit.pydantic.model import PersonalModel
from privkit.pydantic.opening import Node, Opening, Path
from privkit.pydantic.shape import shape_of

VERSION = 1
BUCKET = 64
"""A sealed value's JSON is as long as a multiple of this: the longest coordinates have 63 bytes."""

M = TypeVar("M", bound=PersonalModel)
_JSON = codec_for(dict)


class DocumentKeys(Protocol):
    """Where the keys of data subjects are. ``subject``: however the application names a data subject there.

    Both methods raise ShreddedError where the key was destroyed, SealedError where there is none, ConsentRequired
    for a child's data without consent to the purpose in force.
    """

    def for_sealing(self, subject: object) -> SubjectKey:
        """Return the key to seal a data subject's values with."""
        ...

    def for_opening(self, subject: object) -> SubjectKey:
        """Return the key to open a data subject's values with."""
        ...


class Document(Generic[M]):
    """Seals and opens documents of one model. Thread safe.

    Raises MappingError where a field of the model, or of one in it, has no decision, and PolicyError where the policy
    does not know a name in its markers, or an event that a purpose counts from is not mapped (``@events``, on the
    model of the field or on the document's).
    """

    def __init__(
        self, model: type[M], policy: Policy, keys: DocumentKeys, clock: Clock, name: str | None = None
    ) -> None:
        self._model, self._policy, self._keys, self._clock = model, policy, keys, clock
        self._name = name or model.__name__
        shape = shape_of(model)
        self._holders = shape.holders
        resolve(policy, shape.models.values())

    def dumps(self, instance: M, *, subject: object) -> bytes:
        """Return ``instance`` as JSON text in UTF-8, sealed for ``subject``.

        A document is stored as a whole, so the purposes in force have to need every personal field of it. Raises
        PurposeError where they do not, or for a value that was read at a lower precision; InvalidValue for what would
        not come back as it is; and what ``DocumentKeys`` raises.
        """
        if type(instance) is not self._model:
            raise InvalidValue(f"A document of {self._model.__name__} was given a {type(instance).__name__}.")
        dump = Sealing(purposes.current())
        token = sealing.set(dump)
        try:
            # not the instance's own method: one that adds keys would read what is not covered
            written = PersonalModel.model_dump(instance, mode="json", by_alias=True, round_trip=True)
        finally:
            sealing.reset(token)
        key = self._keys.for_sealing(subject)
        data = self._sealed(written, (), dump, key)
        self._require_same(instance, data, key)
        head = {"privkit": VERSION, "document": self._name, "subject": key.id.hex()}
        return _JSON.encode({**head, "data": data})

    def loads(self, data: bytes | str, *, subject: object) -> M:
        """Return the model with what the purpose in force needs, at its precision; what has expired is left out.

        Raises PurposeError for a required field that is not needed or has expired; SealedError for what is damaged,
        was moved, or is another data subject's; InvalidValue where the document does not fit the model; and what
        ``DocumentKeys`` raises.
        """
        key = self._keys.for_opening(subject)
        tree = self._data(data, key)
        try:
            return self._read(tree, key)
        except RecursionError:
            places = "it is nested too deep"
        except ValidationError as error:
            lines = error.errors(include_url=False, include_input=False)
            places = ", ".join(".".join(map(str, line["loc"])) or "the whole" for line in lines)
        raise InvalidValue(
            f"A document of {self._name} does not fit {self._model.__name__}: {places}.",
            "It was written by other code, or for the model as it was before.",
            "Let the model read both: with a default, or AliasChoices for a new name.",
        )

    def _sealed(self, tree: Any, path: Path, dump: Sealing, key: SubjectKey) -> Any:
        """Put the envelope in place of every mark."""
        if isinstance(tree, dict):
            return {name: self._sealed(each, (*path, name), dump, key) for name, each in tree.items()}
        if isinstance(tree, list):
            return [self._sealed(each, path, dump, key) for each in tree]
        held = dump.held(tree) if isinstance(tree, str) else None
        if held is None:
            return tree
        field, written = held
        plaintext = _JSON.encode(written)
        padded = plaintext.ljust(-(-len(plaintext) // BUCKET) * BUCKET)
        return _as_text(key.value_key(self._id(path, field.id)).seal(padded))

    def _open(self, key: SubjectKey, field: Field, path: Path, value: Any) -> Any:
        try:
            envelope = _as_bytes(value)
            return _JSON.decode(self._plaintext(key, field, path, envelope))
        except SealedError as error:
            refusal = type(error)(f"{field}: {error.what}", error.why, error.fix, field=field.id)
        raise refusal  # out here, so that no frame is chained that holds the value

    def _plaintext(self, key: SubjectKey, field: Field, path: Path, envelope: bytes) -> bytes:
        former = field.marker.formerly
        for field_id in (field.id, *((former,) if isinstance(former, str) else former)):
            try:
                return key.value_key(self._id(path, field_id)).open(envelope)
            except SealedError as error:
                refusal = error
        raise refusal

    def _id(self, path: Path, field_id: str) -> str:
        """What a value is bound to; no field of a table has such an id."""
        return json.dumps(["document", self._name, path, field_id], separators=(",", ":"))

    def _read(self, tree: Any, key: SubjectKey) -> M:
        opening = Opening(
            self._policy,
            self._holders,
            lambda field, path, value: self._open(key, field, path, value),
            instant(self._clock),
        )
        return self._model.model_validate(Node(tree, opening, (), False), strict=False)

    def _require_same(self, instance: M, data: Any, key: SubjectKey) -> None:
        """JSON knows fewer types than Python, and code of the model's own may lose data: read what is to be stored."""
        with purposes.internally():
            try:
                same = self._read(data, key) == instance
            except (ValidationError, SealedError):
                same = False
        if not same:
            raise InvalidValue(
                f"A {self._model.__name__} does not come back from its own document as it is.",
                "What is stored must come back.",
                "Give its fields JSON types, one alias for reading and writing, and no exclude.",
            )

    def _data(self, data: bytes | str, key: SubjectKey) -> dict[str, Any]:
        """Return the model's part of a document for the data subject. Raises SealedError for anything else."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None  # told below: the original error holds the text
        if not isinstance(found, dict) or not isinstance(found.get("data"), dict) or "privkit" not in found:
            what, why = "is no document that privkit wrote", "It was cut off, or written by other code."
        elif found["privkit"] != VERSION:
            what, why = f"is not of version {VERSION}", "It was written by another release."
        elif found.get("document") != self._name:
            what, why = "is of another kind", f"This is no {self._name}: it was moved, or the model was renamed."
        elif found.get("subject") != key.id.hex():
            what, why = "belongs to another data subject", "It was moved, or asked for with the wrong subject."
        else:
            return dict(found["data"])
        fix = 'Look where it comes from; after renaming a model keep its name: privacy.document(Model, name="...").'
        raise SealedError(f"A stored {self._name} {what}.", why, fix)


def _as_text(envelope: bytes) -> str:
    return urlsafe_b64encode(envelope).rstrip(b"=").decode("ascii")


def _as_bytes(value: Any) -> bytes:
    """Read base64url. Only the one spelling that ``_as_text`` writes: bits that mean nothing are damage too."""
    try:
        envelope = urlsafe_b64decode(f"{value}{'=' * (-len(value) % 4)}") if isinstance(value, str) else b""
    except ValueError:
        envelope = b""
    if not envelope or _as_text(envelope) != value:
        raise SealedError("A value is not sealed.", "It was written outside privkit, or damaged.")
    return envelope
