"""Keys, envelopes and search hashes: value in, value out, no storage.

``aead`` is the one cipher, ``envelope`` the bytes on disk, ``keys`` a data subject's key and its cache, ``keyring``
the master generations that wrap it and ``providers`` where they are kept, ``codec`` the bytes of a Python value,
``search`` the keyed index hashes.
"""

from privkit.crypto.codec import Codec, codec_for
from privkit.crypto.envelope import DESTROYED, HEADER_SIZE, OVERHEAD, as_bytes, parse
from privkit.crypto.keyring import Keyring
from privkit.crypto.keys import Epoch, KeyCache, SubjectKey
from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers import EnvironmentKeyring, FileKeyring, KmsKeyring, Pkcs11Keyring
from privkit.crypto.search import NORMALISERS, index_hash

__all__ = [
    "DESTROYED",
    "HEADER_SIZE",
    "NORMALISERS",
    "OVERHEAD",
    "Codec",
    "EnvironmentKeyring",
    "Epoch",
    "FileKeyring",
    "KeyCache",
    "Keyring",
    "KmsKeyring",
    "MasterKeyring",
    "Pkcs11Keyring",
    "SubjectKey",
    "as_bytes",
    "codec_for",
    "index_hash",
    "parse",
]
