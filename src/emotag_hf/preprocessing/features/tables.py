"""Reads CSV tables of other programs and resamples them to a clip's frames. In: a file with one row a frame. Out:
columns, `[T, n]`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def read_columns(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file, by their names without blanks around them; values that are not numbers become NaN.

    Raises:
        ValueError: not a text file, no header, no rows, or a row of another length.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"path: expected a CSV file, but {path} is not text ({error}).") from error
    if len(rows) < 2:
        raise ValueError(f"path: expected CSV with a header and one row a frame, got {len(rows)} rows in {path}.")
    names = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise ValueError(
                f"path: expected {len(names)} values in every row as in the header, got {len(row)} in row {number} of "
                f"{path}; the file may be cut off."
            )
    values = np.array([[_number(cell) for cell in row] for row in rows[1:]])
    return {name: values[:, i] for i, name in enumerate(names)}


def pick(columns: dict[str, np.ndarray], names: Sequence[str], path: str | Path, program: str) -> np.ndarray:
    """`[rows, len(names)]` of the named columns. Raises ValueError if one is not there."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(
            f"path: expected {program} with the columns {', '.join(names)}, but {path} lacks {', '.join(missing)}."
        )
    return np.stack([columns[name] for name in names], 1)


def to_frames(
    values: np.ndarray, times: np.ndarray, usable: np.ndarray, num_frames: int, fps: float, path: str | Path
) -> np.ndarray:
    """Rows `[rows, n]` at `times` (seconds, from the clip's first picture) to `[num_frames, n]` float32 at k / fps.

    Linear between usable rows; before the first and after the last of them their values hold.

    Raises:
        ValueError: no usable row, times that do not grow, or a table that is much shorter or longer than the clip.
    """
    if not usable.any():
        raise ValueError(f"path: expected a face in at least one row of {path}, but all rows are marked as failed.")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(
            f"path: expected growing times in seconds in {path}, one row a frame of one face; "
            "analyse the clip as one video that shows one face."
        )
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / fps
    length, clip = float(times[-1]) + step, num_frames / fps
    if abs(length - clip) > 0.5 + 0.05 * clip:
        raise ValueError(
            f"path: expected a table of this clip's {clip:.2f} s, but {path} covers {length:.2f} s; "
            "is it of another video?"
        )
    wanted = np.arange(num_frames) / fps
    columns = [np.interp(wanted, times[usable], column) for column in values[usable].T]
    return np.stack(columns, 1).astype(np.float32)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


__all__ = ["pick", "read_columns", "to_frames"]
