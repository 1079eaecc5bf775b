"""Keys, envelopes and search hashes: value in, value out, no storage.

``aead`` is the one cipher, ``envelope`` the bytes on disk, ``keys`` a data subject's key and its cache, ``keyring``
the master generations that wrap it, ``codec`` the bytes of a Python value, ``search`` the keyed index hashes.
"""

from privkit.crypto.codec import Codec, codec_for
from privkit.crypto.envelope import DESTROYED, HEADER_SIZE, OVERHEAD, as_bytes, parse
from privkit.crypto.keyring import FileKeyring, Keyring
from privkit.crypto.keys import KeyCache, SubjectKey
from privkit.crypto.search import NORMALISERS, index_hash

__all__ = [
    "DESTROYED",
    "HEADER_SIZE",
    "NORMALISERS",
    "OVERHEAD",
    "Codec",
    "FileKeyring",
    "KeyCache",
    "Keyring",
    "SubjectKey",
    "as_bytes",
    "codec_for",
    "index_hash",
    "parse",
]
