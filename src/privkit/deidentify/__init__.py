"""What a value becomes when it may no longer be seen whole: a coarser value, a keyed token, or nothing."""

from privkit.deidentify.marks import precision_of, refuse_reduced
from privkit.deidentify.order import coarser, finest, in_words
from privkit.deidentify.precision import Reduced, reduce
from privkit.deidentify.pseudonyms import token
from privkit.deidentify.stand_ins import stand_in
from privkit.deidentify.techniques import (
    changed,
    label,
    leaves_residue,
    needs_subject,
    residue,
    restore,
    secret_name,
)

__all__ = [
    "Reduced",
    "changed",
    "coarser",
    "finest",
    "in_words",
    "label",
    "leaves_residue",
    "needs_subject",
    "precision_of",
    "reduce",
    "refuse_reduced",
    "residue",
    "restore",
    "secret_name",
    "stand_in",
    "token",
]
