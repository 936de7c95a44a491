"""Format by suffix, and atomic writes of exported files. In: a path and bytes. Out: the file, or an error of one
sentence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..utils.atomic_write import atomic_write, check_writable


def pick_format(path: str | os.PathLike, format: str | None, formats: Sequence[str]) -> str:
    """One of `formats`: `format`, or that of the path's suffix. Raises ValueError."""
    if format is None:
        name = Path(path).name.lower()
        matching = [kind for kind in formats if name.endswith(f".{kind}")]
        if not matching:
            raise ValueError(f"path: expected a name that ends in .{', .'.join(formats)}; got {Path(path).name!r}.")
        return max(matching, key=len)  # every compressed.ply ends in .ply
    if format not in formats:
        raise ValueError(f"format: expected one of {', '.join(formats)}; got {format!r}.")
    return format


def check_target(path: str | os.PathLike) -> Path:
    """Checks, before any work, that a file can be written at `path`, and returns it.

    Raises:
        ValueError: a folder, or a link.
        FileNotFoundError, PermissionError: its folder does not exist or is not writable.
    """
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"path: expected a file name, but {path} is a link; delete it or choose another name.")
    return check_writable(path)


def write_bytes(path: str | os.PathLike, pieces: Sequence[bytes]) -> Path:
    """Writes bytes atomically; returns the path.

    Raises: as `check_target`; OSError: the disk is full, ...; an older file is kept then.
    """
    path = check_target(path)
    try:
        with atomic_write(path) as partial, partial.open("xb") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise OSError(f"path: {path} could not be written ({error.strerror}); nothing was left behind.") from error
    return path


__all__ = ["check_target", "pick_format", "write_bytes"]
