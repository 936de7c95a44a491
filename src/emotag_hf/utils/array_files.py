"""Reads an npz from an untrusted source. In: its path. Out: the arrays. Pickled arrays, which could run code, and
arrays that are too large are refused."""

from __future__ import annotations

import os
import zipfile

import numpy as np


def read_npz(path: str | os.PathLike, largest: int) -> dict[str, np.ndarray]:
    """Every array of an npz by name.

    Args:
        largest: bytes that one of them may have, uncompressed.

    Raises:
        ValueError: no npz, a pickled array, or a larger one; the caller adds the file's name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.file_size > largest for member in archive.infolist()):
                raise ValueError("an array is too large")
        with np.load(path, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error


__all__ = ["read_npz"]
