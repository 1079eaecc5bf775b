"""Alembic: autogenerate that is stable for protected models, and a directive for each step of sealing a live column.

In env.py, with ``context`` and the models' ``Base`` as ever:

    from privkit.integrations.alembic import privacy_options
    from rides.models import privacy

    context.configure(connection=connection, target_metadata=Base.metadata, **privacy_options(privacy))

Generated files name storage types only: they hold no key, and can be read and run where no key is. Importing this
package gives Alembic the directives ``op.add_sealed_column`` and so on; ``directives`` describes each.
"""

from privkit.integrations.alembic.directives import (
    add_envelope_check,
    add_key_column,
    add_sealed_column,
    add_search_index,
    close_sealed_column,
    create_privkit_tables,
    drop_envelope_check,
    drop_key_column,
    drop_plain_column,
    drop_privkit_tables,
    drop_sealed_column,
    drop_search_index,
    open_sealed_column,
    validate_envelope_check,
)
from privkit.integrations.alembic.options import privacy_options

__all__ = [
    "add_envelope_check",
    "add_key_column",
    "add_sealed_column",
    "add_search_index",
    "close_sealed_column",
    "create_privkit_tables",
    "drop_envelope_check",
    "drop_key_column",
    "drop_plain_column",
    "drop_privkit_tables",
    "drop_sealed_column",
    "drop_search_index",
    "open_sealed_column",
    "privacy_options",
    "validate_envelope_check",
]
