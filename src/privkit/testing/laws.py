"""The laws of the conformance kit, each a sentence that must be true of every personal field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    and_,
    create_engine,
    insert,
    inspect,
    literal,
    null,
    select,
    type_coerce,
    update,
)
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import flag_modified

from privkit import purposes
from privkit.catalog import Field
from privkit.crypto import codec_for, parse
from privkit.errors import ConformanceError, InvalidValue, NotProtectedError, PurposeError, SealedError
from privkit.location import nearby
from privkit.markers import Equality, Nearby
from privkit.privacy import Privacy
from privkit.purpose_block import PurposeBlock
from privkit.sqlalchemy.types import Guarded

_TELLING = 6
"""How many bytes of a value must stand somewhere else in its row before that is no coincidence."""


class Trial:
    """One field of one new row, in a transaction that will be rolled back."""

    def __init__(
        self,
        privacy: Privacy,
        engine: Engine,
        connection: Connection,
        cls: type,
        make: Callable[[], Any],
        name: str,
    ) -> None:
        self.privacy, self.engine, self.connection, self.make = privacy, engine, connection, make
        self.mapper: Mapper[Any] = inspect(cls)
        self.cls, self.name, self.column = cls, name, self.mapper.columns[name]
        assert isinstance(self.column.type, Guarded)
        self.kind, self.field = self.column.type, self.column.type.field
        self.session = Session(connection)
        self.identity, self.value = self.add()

    @property
    def attribute(self) -> Any:
        """The field as an attribute of its class."""
        return getattr(self.cls, self.name)

    def new(self) -> tuple[Any, Any]:
        """Make an object; return it with its value of the field. Raises ConformanceError where there is none."""
        made = self.make()
        value = inspect(made).dict.get(self.name)
        if value is None:
            raise ConformanceError(
                f"The factory leaves {self.name} empty, so nothing is shown about it.",
                "",
                f"Give it a value: {self.cls.__name__}({self.name}=...).",
            )
        return made, value

    def add(self) -> tuple[tuple[Any, ...], Any]:
        """Store a new object under every purpose. Returns its identity and its value of the field."""
        made, value = self.new()
        with self.collecting():
            self.session.add(made)
            self.session.flush()
            identity = tuple(self.mapper.primary_key_from_instance(made))
            self.session.expunge_all()
        return identity, value

    def collecting(self) -> PurposeBlock:
        """Every purpose that needs any field at all, as in a form that collects them."""
        named = {term.purpose for rule in self.privacy.guard.rules.values() for term in rule.terms}
        return self.privacy.purpose(*sorted(each.name for each in named if not each.prohibited))

    def permitted(self) -> Iterator[str]:
        """The purposes that are not prohibited."""
        policy = self.privacy.policy
        return (name for name in policy.purposes if not policy.purpose(name).prohibited)

    def needing(self) -> list[str]:
        """The purposes that need the field, and see its values one by one."""
        policy = self.privacy.policy
        needing = (name for name in self.permitted() if name in self.field.purposes)
        return [name for name in needing if policy.purpose(name).minimum_group is None]

    def exact(self) -> str | None:
        """A purpose that may see the value itself."""
        for name in self.needing():
            with self.privacy.purpose(name) as scope:
                access = scope.access(self.field.id)
            if access is not None and access.exact:
                return name
        return None

    def at(self, identity: tuple[Any, ...] | None = None) -> ColumnElement[bool]:
        """The row in the field's own table, by its primary key."""
        keys = zip(self.column.table.primary_key, identity or self.identity, strict=True)
        return and_(*(column == value for column, value in keys))

    def stored(self, identity: tuple[Any, ...] | None = None) -> bytes | None:
        """What stands in the field's column."""
        with purposes.internally():
            found = self.connection.execute(select(type_coerce(self.column, LargeBinary)).where(self.at(identity)))
            value = found.scalar_one()
        return None if value is None else _bytes(value)

    def reads(self) -> Iterator[Any]:
        """The field as each way to read it gives it: an object, the ORM's column, and the table's."""
        loaded: Any = self.session.get_one(self.cls, self.identity)
        yield getattr(loaded, self.name)
        self.session.expunge_all()
        yield self.session.execute(select(self.attribute).where(self._entity())).scalar_one()
        yield self.connection.execute(select(self.column).where(self.at())).scalar_one()

    def _entity(self) -> ColumnElement[bool]:
        keys = zip(self.mapper.primary_key, self.identity, strict=True)
        attributes = ((self.mapper.get_property_by_column(column), value) for column, value in keys)
        return and_(*(getattr(self.cls, each.key) == value for each, value in attributes))

    def change(self, value: Any) -> None:
        """Set the field on the stored object, under every purpose."""
        with self.collecting():
            loaded: Any = self.session.get_one(self.cls, self.identity)
            setattr(loaded, self.name, value)
            flag_modified(loaded, self.name)  # the factory may give the same value each time
            self.session.flush()
            self.session.expunge_all()


@dataclass(frozen=True, slots=True)
class Law:
    """``says``: what must be true. ``holds`` raises where it is not, and returns why where it does not apply."""

    name: str
    says: str
    holds: Callable[[Trial], str | None]


def _sealed(trial: Trial) -> str | None:
    if not trial.kind.sealed:
        return "not sealed by decision"
    envelope = trial.stored() or b""
    try:
        parse(envelope)
    except SealedError:
        raise ConformanceError("The column holds something else than an envelope.") from None
    forms = _forms(trial.field, trial.value)
    for column in _open_columns(trial.mapper):
        with purposes.internally():
            where = and_(*(key == value for key, value in zip(column.table.primary_key, trial.identity, strict=True)))
            other = trial.connection.execute(select(column).where(where)).scalar_one()
        if any(form in _bytes(other) for form in forms):
            raise ConformanceError(f"The value stands in the clear in {column.table.name}.{column.name}.")
    return None


def _comes_back(trial: Trial) -> str | None:
    for name in trial.needing():
        with trial.privacy.purpose(name) as scope:
            _require_same(trial, scope, trial.value)
    return None


def _require_same(trial: Trial, scope: purposes.Scope, value: Any) -> None:
    access = scope.access(trial.field.id)
    if access is None:
        raise ConformanceError(f"The purpose {scope} does not see the field that it needs.")
    expected = trial.privacy.guard.reduced(access.precision, value, trial.stored())
    for got in trial.reads():
        if _kind(got) is not _kind(expected) or not (got == expected or (got != got and expected != expected)):
            raise ConformanceError(f"What is read for {scope} is not what was written.")


def _refused_for_others(trial: Trial) -> str | None:
    others = [name for name in trial.permitted() if name not in trial.field.purposes]
    for name in others:
        with trial.privacy.purpose(name):
            _require_refusals(trial)
    return None if others else "every purpose needs it"


def _refused_without(trial: Trial) -> str | None:
    _require_refusals(trial)
    return None


def _require_refusals(trial: Trial) -> None:
    def attribute() -> None:
        found = trial.session.get(trial.cls, trial.identity)
        if found is None:
            raise PurposeError("The row is not shown at all.")
        getattr(found, trial.name)

    forms: dict[str, Callable[[], Any]] = {
        "select(Model.field)": lambda: trial.session.execute(select(trial.attribute)).all(),
        "select(table.c.field)": lambda: trial.connection.execute(select(trial.column)).all(),
        "the attribute of a loaded object": attribute,
    }
    for form, read in forms.items():
        _require_error(PurposeError, read, f"{form} is not refused.")
    trial.session.expunge_all()


def _refused_unprotected(trial: Trial) -> str | None:
    bare = create_engine(trial.engine.url, pool=trial.engine.pool.recreate())
    try:
        with trial.collecting(), bare.connect() as connection:
            keys = {column.key: None for column in trial.column.table.primary_key}
            row = insert(trial.column.table).values({**keys, trial.column.key: trial.value})
            _require_error(NotProtectedError, lambda: connection.execute(row), "It can be written.")
            if not inspect(connection).has_table(trial.column.table.name, schema=trial.column.table.schema):
                return None  # a database in memory is another one for each engine
            query = select(trial.column)
            _require_error(NotProtectedError, lambda: connection.execute(query).all(), "It can be read.")
    finally:
        bare.dispose()
    return None


def _moved(trial: Trial) -> str | None:
    if not trial.kind.sealed:
        return "not sealed by decision"
    other, _ = trial.add()
    envelope, foreign = trial.stored() or b"", trial.stored(other) or b""
    if parse(envelope).key_id == parse(foreign).key_id:
        raise ConformanceError("The factory gave two rows of one data subject; make a new data subject each time.")
    with purposes.internally():
        moved = {trial.column.key: literal(foreign, LargeBinary)}
        trial.connection.execute(update(trial.column.table).where(trial.at()).values(moved))
    read = select(trial.column).where(trial.at())
    for name in trial.needing():
        with trial.privacy.purpose(name):
            message = "The value of another data subject is read from this row."
            _require_error(SealedError, lambda: trial.connection.execute(read).all(), message)
    return None


def _stays_null(trial: Trial) -> str | None:
    if not trial.column.nullable:
        return "NOT NULL"
    with trial.collecting():
        nothing = {trial.column.key: null() if trial.kind.should_evaluate_none else None}
        trial.connection.execute(update(trial.column.table).where(trial.at()).values(nothing))
    if trial.stored() is not None:
        raise ConformanceError("NULL was stored as a value.")
    for name in trial.needing():
        with trial.privacy.purpose(name):
            if any(got is not None for got in trial.reads()):
                raise ConformanceError("NULL is read as a value.")
    return None


def _changes(trial: Trial) -> str | None:
    before = trial.stored()
    _, value = trial.new()
    trial.change(value)
    if trial.kind.sealed and trial.stored() == before:
        raise ConformanceError("The stored bytes did not change with the value.")
    for name in trial.needing():
        with trial.privacy.purpose(name) as scope:
            _require_same(trial, scope, value)
    return None


def _found(trial: Trial) -> str | None:
    search, purpose = trial.field.marker.search, trial.exact()
    if search is None or purpose is None:
        return "it declares no search" if search is None else "no purpose may see it exactly, nor search by it"
    with trial.privacy.purpose(purpose):
        if isinstance(search, Equality):
            query = select(*trial.column.table.primary_key).where(trial.column == trial.value)
            keys = {tuple(row) for row in trial.connection.execute(query)}
        else:
            assert isinstance(search, Nearby)
            near = nearby(trial.session, select(trial.cls), trial.attribute, trial.value, metres=10)
            keys = {tuple(trial.mapper.primary_key_from_instance(each)) for each in near}
    if trial.identity not in keys:
        raise ConformanceError("The search does not find the row by its own value.")
    return None


LAWS = (
    Law("sealed", "A sealed value is stored as an envelope, and stands nowhere else in its row.", _sealed),
    Law("comes_back", "A purpose that needs it reads what was written, with its type.", _comes_back),
    Law("changes", "A changed value is stored and read as the first one was.", _changes),
    Law("refused_for_others", "A purpose that does not need it reads none of it.", _refused_for_others),
    Law("refused_without", "Without a purpose nothing of it is read.", _refused_without),
    Law("refused_unprotected", "An engine that nobody protected neither writes nor reads it.", _refused_unprotected),
    Law("moved", "The envelope of another data subject does not open in its place.", _moved),
    Law("stays_null", "NULL is stored as NULL and read as None.", _stays_null),
    Law("found", "Its search finds the row by its value.", _found),
)


def _require_error(kind: type[Exception], act: Callable[[], Any], otherwise: str) -> None:
    try:
        act()
    except kind:
        return
    raise ConformanceError(otherwise)


def _open_columns(mapper: Mapper[Any]) -> list[Any]:
    """The columns of a row in which no sealed value may stand: all but those that are personal and not sealed."""
    columns = {column for table in mapper.tables for column in table.columns}
    return [each for each in columns if not isinstance(each.type, Guarded)]


def _forms(field: Field, value: Any) -> list[bytes]:
    """What a value would look like where it stood in the clear: as text, and as the bytes that are sealed."""
    found = {_bytes(each) for each in _leaves(value)}
    with suppress(InvalidValue):  # another law says so
        found.add(codec_for(field.python_type).encode(value))
    return [each for each in found if len(each) >= _TELLING]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


def _kind(value: Any) -> type:
    """The type of a value; SQLAlchemy's tracked containers are the ones that they track."""
    return next((kind for kind in (dict, list) if isinstance(value, kind)), type(value))
