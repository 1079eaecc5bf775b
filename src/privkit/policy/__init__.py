"""The organisation's rules: one YAML file and the rule packs that it extends, read once, checked whole.

    policy = load("policies/rides.yaml")
    rules = resolve(policy, [catalog.read(Rider), catalog.read(Trip)])
    rules["riders.email"].terms

``load`` raises one PolicyError that lists every mistake of the file and its packs; ``resolve`` raises one
that lists every mistake of the models.
"""

from privkit.policy.document import load
from privkit.policy.packs import pack_names, packs_folder
from privkit.policy.problems import Problem
from privkit.policy.resolve import FieldRule, Term, resolve
from privkit.policy.rules import (
    AgeRule,
    Category,
    Duty,
    Keep,
    Policy,
    Purpose,
    Recipient,
    VerificationMethod,
)

__all__ = [
    "AgeRule",
    "Category",
    "Duty",
    "FieldRule",
    "Keep",
    "Policy",
    "Problem",
    "Purpose",
    "Recipient",
    "Term",
    "VerificationMethod",
    "load",
    "pack_names",
    "packs_folder",
    "resolve",
]
