"""The command ``penstock``: its arguments, what they do, and the tables that are read and written."""

from penstock.cli.entry import main

__all__ = ["main"]
