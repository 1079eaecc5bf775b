"""What a value becomes when it may no longer be seen whole: a coarser value, a keyed token, or nothing."""

from privkit.deidentify.precision import reduce
from privkit.deidentify.pseudonyms import token
from privkit.deidentify.techniques import label, leaves_residue, residue

__all__ = ["label", "leaves_residue", "reduce", "residue", "token"]
