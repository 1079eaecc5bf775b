"""Where a keyring can be kept: a file, the environment, behind AWS KMS, behind a PKCS#11 token. One file each.

boto3 and python-pkcs11 are imported on first use, so that nobody needs them who does not use them.
"""

from privkit.crypto.providers.environment import EnvironmentKeyring
from privkit.crypto.providers.file import FileKeyring
from privkit.crypto.providers.kms import KmsKeyring
from privkit.crypto.providers.pkcs11 import Pkcs11Keyring

__all__ = ["EnvironmentKeyring", "FileKeyring", "KmsKeyring", "Pkcs11Keyring"]
