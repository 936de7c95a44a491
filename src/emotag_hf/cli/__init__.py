"""The `emotag` command; each module of this folder adds the commands that its name tells."""

from .emotag import main

__all__ = ["main"]
