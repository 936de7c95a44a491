"""Atomic writes: a file is complete or not there. In: a path. Out: the checked path, or a temporary name to write
under, which is renamed to the path at the end; or an error in one sentence."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_writable(path: str | os.PathLike) -> Path:
    """Checks, before any work, that a file can be written at `path`, and returns it.

    Raises:
        ValueError: the name of a folder.
        FileNotFoundError, PermissionError: its folder does not exist or is not writable.
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
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary name next to `path`. It is renamed to `path` at the end of the block, or deleted after an
    error.

    Raises: as `check_writable`; OSError: the disk is full, ...; an older file is kept then.
    """
    path = check_writable(path)
    partial = path.with_name(f".emotag-{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


__all__ = ["atomic_write", "check_writable"]
