"""privkit keeps a service's promises about personal data, in its storage layer.

Annotate pydantic and SQLAlchemy models, write a policy, protect the engine: from then on every statement
obeys. Start with ``Privacy``.
"""

from privkit.consent.age import consent_age_reached_on
from privkit.crypto import FileKeyring, Keyring
from privkit.errors import PrivkitError
from privkit.location import GeoPoint
from privkit.markers import (
    Adopting,
    AdvancedAlchemy,
    AgeBand,
    AtLeastAge,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    FernetTokens,
    Generalise,
    InCountry,
    Initials,
    Is,
    Latest,
    Location,
    Month,
    Nearby,
    NotPersonal,
    Personal,
    Plain,
    Pseudonymise,
    Quarter,
    SqlalchemyUtils,
    StandIn,
    Suppress,
    TruncatedIp,
    Year,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.privacy import Privacy
from privkit.purposes import carry
from privkit.sqlalchemy.outside import LedgerDatabase, LedgerFile
from privkit.sqlalchemy.stores import DirectoryStore, FileStore

__all__ = [
    "Adopting",
    "AdvancedAlchemy",
    "AgeBand",
    "AtLeastAge",
    "BirthDate",
    "Cell",
    "Delete",
    "DirectoryStore",
    "Equality",
    "Exact",
    "FernetTokens",
    "FileKeyring",
    "FileStore",
    "Generalise",
    "GeoPoint",
    "InCountry",
    "Initials",
    "Is",
    "Keyring",
    "Latest",
    "LedgerDatabase",
    "LedgerFile",
    "Location",
    "Month",
    "Nearby",
    "NotPersonal",
    "Personal",
    "Plain",
    "Privacy",
    "PrivkitError",
    "Pseudonymise",
    "Quarter",
    "SqlalchemyUtils",
    "StandIn",
    "Suppress",
    "TruncatedIp",
    "Year",
    "carry",
    "child_protection",
    "consent_age_reached_on",
    "data_subject",
    "events",
    "expire_row",
    "not_personal",
    "owned_by",
]
