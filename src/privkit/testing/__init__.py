"""What a user tests an integration with: ``from privkit.testing import conformance``."""

from privkit.testing import conformance

__all__ = ["conformance"]
