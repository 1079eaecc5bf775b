"""``privacy_options``: what env.py gives to ``context.configure`` so that autogenerate knows protected models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.operations.ops import MigrationScript, ModifyTableOps
from alembic.runtime.migration import MigrationContext
from sqlalchemy.types import TypeEngine

from privkit.crypto.search import INDEX_SIZE
from privkit.errors import NotProtectedError
from privkit.integrations.alembic import rewriting
from privkit.privacy import Privacy
from privkit.sqlalchemy import Guard
from privkit.sqlalchemy.envelope_check import check_name, check_texts, checked_column, is_wanted
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.types import Guarded, Point, guarded_columns

OPTION = "privkit"
"""The name under which Alembic keeps the guard beside its own options."""


def privacy_options(
    privacy: Privacy,
    *,
    include_object: Callable[..., bool] | None = None,
    render_item: Callable[..., Any] | None = None,
    compare_type: bool | Callable[..., bool | None] = True,
    compare_server_default: bool | Callable[..., bool | None] = False,
    process_revision_directives: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Return options for Alembic's ``context.configure``. Hooks of your own go in here, and are asked too.

    Columns are compared and written as what they are stored as; the CHECKs of sealed columns are kept up; nothing of
    privkit's own is ever proposed to be dropped; each migration has its own transaction, as the directives that work
    outside one need. Autogenerate raises NotProtectedError for models that ``privacy`` does not know.
    """

    def including(item: Any, name: str | None, kind: str, reflected: bool, compared: Any) -> bool:
        if _is_kept(item, name or "", kind, reflected, compared):
            return False
        return include_object is None or include_object(item, name, kind, reflected, compared)

    def rendering(kind: str, item: Any, context: AutogenContext) -> Any:
        found = render_item(kind, item, context) if render_item is not None else False
        return _rendered(kind, item, context) if found is False else found

    def comparing(context: MigrationContext, stored: Any, declared: Any, stored_type: Any, declared_type: Any) -> Any:
        found = None
        if callable(compare_type):
            found = compare_type(context, stored, declared, stored_type, declared_type)
        if found is None and isinstance(declared_type, Guarded | SearchIndex | Point):
            return context.impl.compare_type(stored, sa.Column(declared.name, storage_type(declared_type)))
        return found

    def comparing_default(context: MigrationContext, stored: Any, declared: Any, *defaults: Any) -> bool | None:
        if is_wanted(declared):
            return False  # the directives set it
        found = compare_server_default
        return found(context, stored, declared, *defaults) if callable(found) else None

    def processing(context: MigrationContext, revision: Any, scripts: list[MigrationScript]) -> None:
        rewriting.rewrite(context, scripts)
        if process_revision_directives is not None:
            process_revision_directives(context, revision, scripts)

    return {
        OPTION: privacy.guard,
        "include_object": including,
        "render_item": rendering,
        "compare_type": comparing if compare_type else False,
        "compare_server_default": comparing_default if compare_server_default else False,
        "process_revision_directives": processing,
        "transaction_per_migration": True,
    }


def storage_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that a column of one of privkit's types has in the database."""
    if isinstance(kind, Guarded):
        return sa.LargeBinary() if kind.sealed else storage_type(kind.plain)
    if isinstance(kind, SearchIndex):
        return sa.LargeBinary(INDEX_SIZE)
    return sa.LargeBinary() if isinstance(kind, Point) else kind


def _is_kept(item: Any, name: str, kind: str, reflected: bool, compared: Any) -> bool:
    """Whether Alembic is to leave something alone: privkit's CHECKs, and what it would drop of privkit's own."""
    if kind == "check_constraint":
        return name.startswith("privkit_")
    if not reflected or compared is not None:
        return False
    if kind in ("index", "unique_constraint"):
        return any(column.name == KEY_COLUMN for column in item.columns)
    return kind in ("table", "column") and name.startswith("privkit_")


def _rendered(kind: str, item: Any, context: AutogenContext) -> Any:
    if kind == "type" and isinstance(item, Guarded | SearchIndex | Point):
        return _repr_type(storage_type(item), context)
    if kind == "check" and (found := checked_column(item)):
        column, dialect = found
        if not is_wanted(item.table.columns[column]):
            return None
        prefix, operations = context.opts["sqlalchemy_module_prefix"], context.opts["alembic_module_prefix"]
        text, name = check_texts(column)[dialect], str(item.name)
        return f"{prefix}CheckConstraint({text!r}, name={operations}f({name!r})).ddl_if(dialect={dialect!r})"
    return False


@comparators.dispatch_for("table")
def compare_checks(
    context: AutogenContext,
    changes: ModifyTableOps,
    schema: str | None,
    name: str,
    stored: sa.Table | None,
    declared: sa.Table | None,
) -> None:
    """Propose the CHECKs that the sealed columns of a table have not; Alembic calls it for each table.

    Raises NotProtectedError where nobody has said yet what is sealed.
    """
    if declared is None:
        return
    for kind in guarded_columns(declared).values():
        _require_decided(context.opts.get(OPTION), kind)
    sealed = [column for column in declared.columns if is_wanted(column)]
    if stored is None or context.inspector.dialect.name not in check_texts(""):
        return
    found = {each["name"]: each for each in context.inspector.get_check_constraints(name, schema)}
    for column in sealed:
        if column.name in stored.columns:
            check = found.get(check_name(name, column.name))
            changes.ops.extend(rewriting.check_steps(column, stored, check, context.inspector.dialect.name))


def _require_decided(guard: Guard | None, kind: Guarded) -> None:
    if guard is None:
        raise NotProtectedError(
            f"{kind.field} is personal data, and env.py does not say under which policy.",
            "Whether it is sealed, and so the type of its column, would be a guess.",
            "context.configure(..., **privacy_options(privacy)), from privkit.integrations.alembic.",
            field=kind.field.id,
        )
    guard.keep_up()
    guard.rule(kind.field)
