"""The `emotag` command; each module of this folder adds some commands."""

from .emotag import main

__all__ = ["main"]
