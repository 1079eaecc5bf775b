"""The command line: each verb is one function call of the same name. ``privkit --help`` lists them."""

from privkit.cli.commands import main

__all__ = ["main"]
