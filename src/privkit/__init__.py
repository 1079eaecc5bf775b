"""privkit keeps a service's promises about personal data, in its storage layer.

Annotate pydantic and SQLAlchemy models, write a policy, protect the engine: from then on every statement
obeys. Start with ``Privacy``.
"""

from privkit.crypto import FileKeyring, Keyring
from privkit.errors import PrivkitError
from privkit.location import GeoPoint
from privkit.markers import (
    Adopting,
    AdvancedAlchemy,
    AgeBand,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    FernetTokens,
    Generalise,
    Latest,
    Location,
    Nearby,
    NotPersonal,
    Personal,
    Plain,
    Pseudonymise,
    SqlalchemyUtils,
    Suppress,
    Year,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.privacy import Privacy
from privkit.sqlalchemy.outside import LedgerDatabase, LedgerFile

__all__ = [
    "Adopting",
    "AdvancedAlchemy",
    "AgeBand",
    "BirthDate",
    "Cell",
    "Delete",
    "Equality",
    "Exact",
    "FernetTokens",
    "FileKeyring",
    "Generalise",
    "GeoPoint",
    "Keyring",
    "Latest",
    "LedgerDatabase",
    "LedgerFile",
    "Location",
    "Nearby",
    "NotPersonal",
    "Personal",
    "Plain",
    "Privacy",
    "PrivkitError",
    "Pseudonymise",
    "SqlalchemyUtils",
    "Suppress",
    "Year",
    "child_protection",
    "data_subject",
    "events",
    "expire_row",
    "not_personal",
    "owned_by",
]
