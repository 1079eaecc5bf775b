"""The ride service of the storage tests, once on SQLite and once on PostgreSQL."""

from tests.sqlalchemy.conftest import clock, service

__all__ = ["clock", "service"]
