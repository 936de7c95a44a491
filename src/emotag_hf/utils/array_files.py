"""An npz of arrays from somewhere else. In: its path. Out: the arrays. What could run code or fill the memory is
refused."""

from __future__ import annotations

import os
import zipfile

import numpy as np


def read_npz(path: str | os.PathLike, largest: int) -> dict[str, np.ndarray]:
    """Every array of an npz by name.

    Args:
        largest: bytes that one of them may unpack to.

    Raises:
        ValueError: no npz, a pickled array, one that is larger; the caller says of which file.
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
