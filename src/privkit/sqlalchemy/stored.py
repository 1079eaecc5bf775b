"""What a column's declared type stores, where the annotation says more than the type does.

A pydantic model stands in a ``JSON`` column and a ``SecretStr`` in a ``String`` one, unsealed too; a ``list`` or
scalar of a ``JSON`` column is sealed as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import GenericAlias
from typing import Any

from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import JSON, TypeDecorator, TypeEngine

from privkit import catalog
from privkit.catalog import Field
from privkit.crypto import Codec, codec_for
from privkit.crypto.codec import is_document, is_json, is_secret
from privkit.errors import InvalidValue, MappingError, PrivkitError, SealedError


def codec_of(field: Field) -> Codec:
    """Return the codec of a field. Raises MappingError, which names the field, for a type that cannot be sealed."""
    try:
        return codec_for(field.python_type)
    except MappingError as error:
        raise MappingError(f"{field}: {error.what}", error.why, error.fix, **error.data, field=field.id) from None


def fitted(field: Field, kind: TypeEngine[Any]) -> tuple[Field, TypeEngine[Any]]:
    """Return the field with the Python type that its column holds, and the column's type without privkit."""
    declared = field.python_type
    if declared is None:
        return catalog.with_type(field, _python_type(field, kind)), kind
    if is_document(declared) or is_secret(declared):
        return field, kind if isinstance(kind, TypeDecorator) else Written(field, kind)
    if field.many:
        return catalog.with_type(field, GenericAlias(list, (declared,))), kind
    if isinstance(kind, JSON) and is_json(declared):
        return catalog.with_type(field, dict), kind
    return field, kind


def _python_type(field: Field, kind: TypeEngine[Any]) -> Any:
    """A field annotated from outside has the type of its column."""
    try:
        return dict if isinstance(kind, JSON) else kind.python_type
    except NotImplementedError:
        raise MappingError(
            f"{field} has a column type that names no Python type.", "", "Map it with a standard type.", field=field.id
        ) from None


class Written(TypeDecorator[Any]):
    """A pydantic model as a JSON column stores it, or a secret as a text or binary column does."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, field: Field, plain: TypeEngine[Any]) -> None:
        super().__init__()
        self.field, self.plain, self.codec = field, plain, codec_of(field)
        self.impl = _without_null(plain)  # type: ignore[assignment]

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        data = self._checked(self.codec.encode, value)
        if isinstance(self.plain, JSON):
            return json.loads(data)
        return data if isinstance(self.plain, LargeBinary) else data.decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        text = json.dumps(value) if isinstance(self.plain, JSON) else value
        return self._checked(self.codec.decode, text.encode() if isinstance(text, str) else bytes(text))

    def _checked(self, code: Callable[[Any], Any], value: Any) -> Any:
        try:
            return code(value)
        except SealedError:
            refusal: PrivkitError = InvalidValue(
                f"A stored value of {self.field} is no {self.field.python_type.__name__}.",
                "It was stored before the class changed, or by other code.",
                "Give the class's new fields defaults, or migrate the stored values.",
                field=self.field.id,
            )
        except PrivkitError as error:
            refusal = type(error)(f"{self.field}: {error.what}", error.why, error.fix, **error.data)
        raise refusal  # out here, so that the original error, which may hold the value, is not chained


def _without_null(plain: TypeEngine[Any]) -> TypeEngine[Any]:
    """No model is NULL in SQL, not JSON's null."""
    kind = plain.copy()
    if isinstance(kind, JSON):
        kind.none_as_null = True
    return kind
