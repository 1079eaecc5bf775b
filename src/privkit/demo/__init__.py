"""A ride service on a SQLite file, from the first annotation to the audit: ``python -m privkit.demo``."""
