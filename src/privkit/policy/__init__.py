"""The organisation's rules: one YAML file and the rule packs that it extends, read once, checked whole.

    policy = load("policies/rides.yaml")
    rules = resolve(policy, [catalog.read(Rider), catalog.read(Trip)])
    rules["riders.email"].terms

``load`` raises one PolicyError that lists every mistake of the file and its packs; ``resolve`` raises one
that lists every mistake of the models.
"""

from privkit.policy.ages import OUTCOMES, USES, AgeRule, ChildRule, codes_of, places_of
from privkit.policy.document import load
from privkit.policy.notices import ConsentTerms, Notice
from privkit.policy.packs import Pack, pack_names, packs_folder, read_packs
from privkit.policy.problems import Problem
from privkit.policy.resolve import FieldRule, Term, resolve
from privkit.policy.rules import (
    Category,
    Duty,
    Keep,
    Policy,
    Purpose,
    Recipient,
    VerificationMethod,
)

__all__ = [
    "OUTCOMES",
    "USES",
    "AgeRule",
    "Category",
    "ChildRule",
    "ConsentTerms",
    "Duty",
    "FieldRule",
    "Keep",
    "Notice",
    "Pack",
    "Policy",
    "Problem",
    "Purpose",
    "Recipient",
    "Term",
    "VerificationMethod",
    "codes_of",
    "load",
    "pack_names",
    "packs_folder",
    "places_of",
    "read_packs",
    "resolve",
]
