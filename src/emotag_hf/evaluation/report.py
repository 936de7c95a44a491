"""Reports of evaluations: training and test frames, weights and scores (METHOD 7 and 8).

In: `Scores` and the facts of a run; frames. Out: `metrics.json`, a Markdown table beside the published numbers, and a
contact sheet. Files are written atomically.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..rights.provenance import package_version
from ..utils.atomic_write import atomic_write

MODES = ("oracle", "driven", "audio-only")  # METHOD 7
FORMAT = "emotag-evaluation"

# Scores of the published result videos. The first four rows are METHOD 8, over whole videos, which may include training
# frames; the last two are `score_videos` on the second halves of five of the scenes. All use head pose, neck, eyes and
# action units tracked in the test frames, and the true background.
PUBLISHED: dict[str, dict[str, float]] = {
    "EmoTaG, 5 emotional scenes": {"psnr": 36.99, "psnr_face_box": 34.94, "ssim": 0.966, "flicker": 1.02},
    "InsTaG, 5 emotional scenes": {"psnr": 30.43, "psnr_face_box": 26.44, "ssim": 0.928, "flicker": 1.45},
    "EmoTaG, 3 neutral scenes": {"psnr": 33.29, "psnr_face_box": 31.48, "ssim": 0.940, "flicker": 1.71},
    "InsTaG, 3 neutral scenes": {"psnr": 27.16, "psnr_face_box": 25.34, "ssim": 0.842, "flicker": 2.89},
    "EmoTaG, second halves of 5 scenes": {
        "psnr": 36.78, "psnr_face_box": 34.65, "psnr_mouth": 27.92, "psnr_eyes": 30.56, "ssim": 0.957, "flicker": 1.19,
        "lmd_mouth": 1.20, "lip_r": 0.95,
    },
    "InsTaG, second halves of 5 scenes": {
        "psnr": 28.88, "psnr_face_box": 25.06, "psnr_mouth": 17.56, "psnr_eyes": 22.65, "ssim": 0.900, "flicker": 1.88,
        "lmd_mouth": 4.01, "lip_r": 0.49,
    },
}  # fmt: skip

_COLUMNS = {  # name of the metric -> heading and decimals
    "psnr": ("PSNR", 2),
    "psnr_face_box": ("face box", 2),
    "psnr_mouth": ("mouth", 2),
    "psnr_eyes": ("eyes", 2),
    "ssim": ("SSIM", 3),
    "flicker": ("flicker", 2),
    "lmd_mouth": ("LMD", 2),
    "aue_upper": ("AUE upper", 2),
    "aue_lower": ("AUE lower", 2),
    "lip_r": ("lip r", 2),
}
_SPLITS = {"later": "later frames", "mixed": "frames in between (diagnostic)", "other clip": "another clip"}
_BAND = 8  # images side by side on a sheet
_CAPTION = 14  # pixels for a line of text
_GAIN = 4  # amplification of differences


@dataclass(frozen=True)
class Evaluation:
    """One scored video and how it was made: the content of `metrics.json`.

    Args:
        mode: `"oracle"`, `"driven"` or `"audio-only"`.
        clip: name of the clip that was tested on.
        train_frames, test_frames: indices into `train_clip` and `clip`.
        weights: `"motion"`, `"prior"`, `"avatar"` -> sha256 of the file that was used.
        seconds: stage -> wall seconds.
        scores: `Scores.summary()`.
        intervals: name -> (low, high), `Scores.intervals()`.
        train_clip: name of the clip that was trained on; None is `clip` itself.
        version: of this package.

    Raises:
        ValueError: an unknown mode; no frames, or frames in both training and test; no weights, or an invalid hash.
    """

    mode: str
    clip: str
    train_frames: list[int]
    test_frames: list[int]
    weights: dict[str, str]
    seconds: dict[str, float]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    train_clip: str | None = None
    version: str = field(default_factory=package_version)

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}.")
        for name in ("train_frames", "test_frames"):
            indices = [int(index) for index in getattr(self, name)]
            if not indices or min(indices) < 0 or len(set(indices)) < len(indices):
                raise ValueError(f"{name}: expected one or more different frame numbers from 0 on, got {indices[:9]}.")
            object.__setattr__(self, name, indices)
        shared = set(self.train_frames) & set(self.test_frames)
        if self.train_clip in (None, self.clip) and shared:
            raise ValueError(
                f"test_frames: expected frames that were not trained on, got {len(shared)} that were, the first is "
                f"{min(shared)}; they must not be scored."
            )
        if not self.weights:
            raise ValueError("weights: expected the sha256 of at least one file, got none.")
        for name, digest in self.weights.items():
            if not re.fullmatch("[0-9a-f]{64}", str(digest)):
                raise ValueError(f"weights: expected the sha256 of {name} as 64 hexadecimal digits, got {digest!r}.")
        object.__setattr__(self, "intervals", {name: tuple(pair) for name, pair in self.intervals.items()})

    @property
    def split(self) -> str:
        """`"later"`: all test frames are later than all training frames, as METHOD 7 requires; `"mixed"`: they are not,
        a diagnostic only; `"other clip"`: trained on another clip."""
        if self.train_clip not in (None, self.clip):
            return "other clip"
        return "later" if min(self.test_frames) > max(self.train_frames) else "mixed"

    def to_json(self) -> str:
        """JSON text, one line per key. Raises ValueError for numbers that are not finite."""
        return _json({"format": FORMAT, "split": self.split} | asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Reads the text of `to_json`. Raises ValueError for anything else."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"text: expected the JSON of an evaluation, got none ({error}).") from error
        known = {item.name for item in fields(cls)}
        if not isinstance(content, dict) or content.get("format") != FORMAT or known - content.keys():
            raise ValueError(f"text: expected JSON of format {FORMAT!r} with {', '.join(sorted(known))}.")
        return cls(**{name: content[name] for name in known})


def write_metrics(path: str | os.PathLike, payload: Evaluation | Mapping[str, Any]) -> Path:
    """Writes an evaluation, or any JSON object, atomically; returns the path.

    Raises:
        ValueError: `path` is a folder; a number that is not finite. FileNotFoundError: its folder does not exist.
    """
    text = payload.to_json() if isinstance(payload, Evaluation) else _json(payload)
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_table(path: str | os.PathLike, evaluations: Sequence[Evaluation]) -> Path:
    """Writes [`markdown_table`] and returns the path. Raises as `write_metrics` does."""
    with atomic_write(path) as partial:
        partial.write_text(markdown_table(evaluations), encoding="utf-8")
    return Path(path)


def markdown_table(evaluations: Sequence[Evaluation]) -> str:
    """A Markdown table of evaluations, their means and published scores, with a line on how to read it.

    Means are over evaluations of one mode and one kind of split, with equal weights. 95 % confidence intervals are in
    brackets.
    """
    columns = {n: c for n, c in _COLUMNS.items() if any(n in row for row in _all_scores(evaluations))}
    lines = [
        "| clip | mode | frames | " + " | ".join(heading for heading, _ in columns.values()) + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault((one.mode, one.split), []).append(one)
        frames = f"{len(one.test_frames)}, {_SPLITS[one.split]}"
        lines.append(_row((one.clip, one.mode, frames), one.scores, one.intervals, columns))
    for (mode, split), members in groups.items():
        if len(members) > 1:
            lines.append(_row((f"**mean of {len(members)}**", mode, _SPLITS[split]), _mean(members), {}, columns))
    for name, scores in PUBLISHED.items():
        lines.append(_row((name, "published", ""), scores, {}, columns))
    return "\n".join(lines) + (
        "\n\nPSNR, face box, mouth and eyes in dB; flicker of 0 to 255 and LMD in pixels at 512: less is better. "
        "In brackets: 95 % of resampled blocks of 15 frames, which says nothing of other persons. Published: the "
        "authors' own videos, with the true background and torso in them, possibly on training frames.\n"
    )


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    captions: Sequence[str] = (),
    width: int = 192,
) -> Path:
    """Writes rows of images, one above the other, as a PNG; wraps after eight columns.

    Args:
        rows: the same number of RGB frames `[H, W, 3]` uint8 in each, all of one size.
        path: where to; ends in .png.
        captions: one per column, or none.
        width: pixels of one image on the sheet.

    Raises:
        ValueError: no rows, rows or images that do not match, another suffix; see `write_metrics` for the path.
    """
    shapes = {frame.shape for row in rows for frame in row}
    dtypes = {frame.dtype.name for row in rows for frame in row}
    lengths = {len(row) for row in rows}
    if len(shapes) != 1 or dtypes != {"uint8"} or len(lengths) != 1 or (captions and len(captions) not in lengths):
        raise ValueError(
            f"rows: expected equally many uint8 pictures of one size in every row and captions for all or none, got "
            f"{len(rows)} rows of {sorted(lengths)}, {sorted(dtypes)} {sorted(shapes)}, {len(captions)} captions."
        )
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path: expected a name that ends in .png, got {Path(path).name!r}.")
    count, (full_height, full_width, _) = lengths.pop(), shapes.pop()
    height, top = max(round(full_height * width / full_width), 1), _CAPTION if captions else 0
    band = top + height * len(rows)
    sheet = Image.new("RGB", (width * min(count, _BAND), band * -(-count // _BAND)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(count):
        x, y = column % _BAND * width, column // _BAND * band
        if captions:
            draw.text((x + 3, y + 1), captions[column], fill="black")
        for number, row in enumerate(rows):
            picture = Image.fromarray(row[column]).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x, y + top + number * height))
    with atomic_write(path) as partial:
        sheet.save(partial, "PNG")
    return Path(path)


def comparison_sheet(
    predicted: Iterable[np.ndarray],
    truth: Iterable[np.ndarray],
    path: str | os.PathLike,
    *,
    every: int = 10,
    difference: bool = False,
    first: int = 0,
) -> Path:
    """Writes every tenth frame as a `contact_sheet`: the truth above, the prediction below.

    Args:
        predicted, truth: RGB frames `[H, W, 3]` uint8 of one size, in sync; read once.
        path: where to; ends in .png.
        every: every how many frames one is shown.
        difference: whether to add a third row with four times the difference, grey where it is 0.
        first: number of the first frame, for the captions.

    Raises:
        ValueError: no frames, frames of two sizes, `every` below 1.
    """
    if every < 1:
        raise ValueError(f"every: expected a number of frames from 1 on, got {every}.")
    rows: list[list[np.ndarray]] = [[], [], []]
    captions = []
    for index, (picture, true) in enumerate(itertools.islice(zip(predicted, truth), 0, None, every)):
        rows[0].append(true.copy())  # copied, because a generator may reuse the array
        rows[1].append(picture.copy())
        if difference and picture.shape == true.shape:
            error = _GAIN * np.subtract(picture, true, dtype=np.int16) + 128
            rows[2].append(np.clip(error, 0, 255).astype(np.uint8))
        captions.append(f"frame {first + index * every}")
    return contact_sheet(rows if difference else rows[:2], path, captions)


def _all_scores(evaluations: Sequence[Evaluation]) -> list[Mapping[str, float]]:
    return [*(one.scores for one in evaluations), *PUBLISHED.values()]


def _row(start: Sequence[str], scores: Mapping, intervals: Mapping, columns: Mapping[str, tuple[str, int]]) -> str:
    cells = [text.replace("|", "\\|") for text in start]
    for name, (_, digits) in columns.items():
        cell = f"{scores[name]:.{digits}f}" if name in scores else ""
        if cell and name in intervals:
            low, high = intervals[name]
            cell += f" [{low:.{digits}f}, {high:.{digits}f}]"
        cells.append(cell)
    return "| " + " | ".join(cells) + " |"


def _mean(members: Sequence[Evaluation]) -> dict[str, float]:
    """Means of the metrics that all of them have."""
    shared = set.intersection(*(set(one.scores) for one in members))
    return {name: sum(one.scores[name] for one in members) / len(members) for name in shared}


def _json(content: Mapping[str, Any]) -> str:
    """One line for each key, so that long lists of frames stay readable."""
    for key, value in content.items():
        if bad := _not_finite(value):
            raise ValueError(f"payload: expected finite numbers, got {bad[0]} in {key!r}; leave out what has no value.")
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _not_finite(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [bad for item in value for bad in _not_finite(item)]
    return [value] if isinstance(value, float) and not math.isfinite(value) else []


__all__ = [
    "MODES",
    "PUBLISHED",
    "Evaluation",
    "comparison_sheet",
    "contact_sheet",
    "markdown_table",
    "write_metrics",
    "write_table",
]
