"""Adapters to other libraries, one a file; each is imported by who uses it and needs that library installed."""
