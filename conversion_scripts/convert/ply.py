"""Reads the one kind of PLY that Gaussian splatting writes: binary, little-endian, one element of float32 numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .errors import ConversionError

_HEADER = 1 << 16  # bytes; a header of splats has some 2,000
_LARGEST = 1 << 31  # bytes
_FLOATS = ("float", "float32")


def read_splats(path: str | Path) -> dict[str, np.ndarray]:
    """Every property by name, `[N]` float32.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: another kind of PLY, or one that is cut.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"ply: expected a point_cloud.ply, but there is no file {path}.")
    if path.stat().st_size > _LARGEST:
        raise ConversionError(f"ply: {path.name} has more than {_LARGEST >> 30} GB, which no head has.")
    content = path.read_bytes()
    end = content[:_HEADER].find(b"end_header\n")
    if not content.startswith(b"ply\n") or end < 0:
        raise ConversionError(f"ply: {path.name} does not begin as a PLY file does.")
    lines = content[:end].decode("ascii", "replace").splitlines()[1:]
    lines = [line for line in lines if not line.startswith(("comment", "obj_info"))]
    if not lines or lines[0] != "format binary_little_endian 1.0":
        raise ConversionError(
            f"ply: expected binary_little_endian numbers in {path.name}, got {(lines or ['nothing'])[0]!r}."
        )
    element = re.fullmatch(r"element vertex (\d{1,9})", lines[1]) if len(lines) > 1 else None
    if element is None or any(line.startswith("element") for line in lines[2:]):
        raise ConversionError(f"ply: expected one element, vertex, in {path.name}, got others.")
    names = []
    for line in lines[2:]:
        words = line.split()
        if len(words) != 3 or words[0] != "property" or words[1] not in _FLOATS or words[2] in names:
            raise ConversionError(f"ply: expected float properties in {path.name}, each once, got {line!r}.")
        names.append(words[2])
    body, count = content[end + len(b"end_header\n") :], int(element[1])
    if len(body) != 4 * count * len(names) or not count:
        raise ConversionError(
            f"ply: expected {count} points of {len(names)} numbers in {path.name}, got {len(body):,} bytes of them."
        )
    table = np.frombuffer(body, "<f4").reshape(count, len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}
