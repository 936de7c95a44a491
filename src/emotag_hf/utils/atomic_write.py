"""Files that are whole or not there. In: a path. Out: the path once it can be written to, or another name to write
under that becomes it; or one sentence about why not."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_place(path: str | os.PathLike) -> Path:
    """Checks, before any work, that a file can be written at `path`, and returns it.

    Raises:
        ValueError: the name of a folder.
        FileNotFoundError, PermissionError: its folder does not exist or is closed.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path: expected a file name, but {path} is a folder.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a folder that exists, but there is no {path.parent}; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"path: writing into {path.parent} is not permitted.")
    return path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Another name beside `path` to write under, which becomes `path` when all went well; else nothing stays of it.

    Raises: as `check_place`; OSError: the disk is full, ...; an older file is then still there.
    """
    path = check_place(path)
    partial = path.with_name(f".emotag-{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


__all__ = ["check_place", "whole_file"]
