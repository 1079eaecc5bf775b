"""privkit keeps a service's promises about personal data, in its storage layer.

Annotate pydantic and SQLAlchemy models, write a policy, protect the engine: from then on every statement
obeys. Start with ``Privacy``.
"""

from privkit.crypto import FileKeyring, Keyring
from privkit.errors import PrivkitError
from privkit.location import GeoPoint
from privkit.markers import (
    AgeBand,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    Generalise,
    Latest,
    Location,
    Nearby,
    NotPersonal,
    Personal,
    Pseudonymise,
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

__all__ = [
    "AgeBand",
    "BirthDate",
    "Cell",
    "Delete",
    "Equality",
    "Exact",
    "FileKeyring",
    "Generalise",
    "GeoPoint",
    "Keyring",
    "Latest",
    "Location",
    "Nearby",
    "NotPersonal",
    "Personal",
    "Privacy",
    "PrivkitError",
    "Pseudonymise",
    "Suppress",
    "Year",
    "child_protection",
    "data_subject",
    "events",
    "expire_row",
    "not_personal",
    "owned_by",
]
