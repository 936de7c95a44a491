"""Many clips: as a `datasets.Dataset` with one row per clip, which can be pushed and restored; and frame by frame for
training.

In: a folder of processed clips. Out: rows with a clip's files, unchanged, and columns to filter by; or `ClipFrames`, a
torch data set whose memory does not grow with the clips.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...constants import ACTION_UNITS, EMOTIONS
from ...utils.import_utils import require_package
from .clip import AUDIO, BACKGROUND, CLIP_JSON, FILES, MATTES, VIDEO, ClipError, ProcessedClip, parse_clip_json
from .writer import ClipWriter

if TYPE_CHECKING:
    from datasets import Dataset

_OPEN_CLIPS = 8  # that `ClipFrames` keeps open; each holds two decoders and its track
_MEDIA = (VIDEO, MATTES, AUDIO, BACKGROUND)
_NAME = re.compile(r"[\w-][\w .+@=-]{0,199}")  # of a folder that `restore` makes: it cannot leave its parent folder


def find_clips(folder: str | os.PathLike) -> list[Path]:
    """The processed clips in a folder, sorted by name; the folder itself if it is one. Unfinished clips are ignored.

    Raises:
        FileNotFoundError: there is no such folder, or no clip in it.
    """
    folder = Path(folder)
    if (folder / CLIP_JSON).is_file():
        return [folder]
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    clips = [path for path in there if (path / CLIP_JSON).is_file() and path.suffix != ".partial"]
    if not clips:
        raise FileNotFoundError(f"folder: expected a folder of processed clips, but {folder} holds none.")
    return clips


def clips_dataset(folder: str | os.PathLike) -> Dataset:
    """A folder of clips as a data set, one row per clip, sorted by name.

    Columns: `name`, `num_frames`, `fps`, `width`, `height`, `license`; `action_units` `[T, 14]`, `emotion` `[T, 7]`,
    `emotion_score` `[T]`, `identity` `[512]`, `valid` `[T]`; `clip_json`; and each file of the clip, its name with `_`
    for the dot. Video, mattes, sound and background are `{"path", "bytes"}`, not decoded here; the Hub shows them. The
    bytes are copied to the cache of `datasets`, so that `push_to_hub`, `to_parquet` and `save_to_disk` include them and
    the folder is no longer needed. [`restore`] turns rows into folders again.

    Raises:
        ImportError: `datasets` is not installed. ClipError: a clip is incomplete.
    """
    datasets = require_package("datasets", extra="train")
    paths = find_clips(folder)
    for path in paths:
        ProcessedClip.open(path)  # all of them, before anything is written to the cache
    stamps = [f"{path.absolute()} {(path / CLIP_JSON).stat().st_mtime_ns}" for path in paths]
    rows = datasets.Dataset.from_generator(
        _rows,
        features=datasets.Features(_columns(datasets)),
        gen_kwargs={"paths": [str(path) for path in paths]},
        fingerprint=hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:32],  # else an old cache is used
        writer_batch_size=1,
    )
    # Only now, because encoding a row of sound, even one that is a path, asks for torchcodec.
    for name, kind in {VIDEO: "Video", MATTES: "Video", AUDIO: "Audio", BACKGROUND: "Image"}.items():
        rows = rows.cast_column(_column(name), getattr(datasets, kind)(decode=False))
    return rows


def _columns(datasets: Any) -> dict[str, Any]:
    value, sequence = datasets.Value, datasets.List
    plain = {"name": "string", "num_frames": "int32", "fps": "float32", "width": "int32", "height": "int32"}
    columns = {name: value(kind) for name, kind in plain.items()} | {"license": value("string")}
    columns |= {
        "action_units": sequence(sequence(value("float32"), length=len(ACTION_UNITS))),
        "emotion": sequence(sequence(value("float32"), length=len(EMOTIONS))),
        "emotion_score": sequence(value("float32")),
        "identity": sequence(value("float32")),
        "valid": sequence(value("bool")),
        "clip_json": value("string"),
    }
    media = {"bytes": value("binary"), "path": value("string")}
    return columns | {_column(name): media if name in _MEDIA else value("large_binary") for name in FILES}


def _rows(paths: list[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield _row(ProcessedClip.open(path))


def _column(name: str) -> str:
    return name.replace(".", "_")


def _row(clip: ProcessedClip) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": clip.path.name,
        "num_frames": len(clip),
        "fps": clip.fps,
        "width": clip.crop.width,
        "height": clip.crop.height,
        "license": clip.info["license"],
        "clip_json": (clip.path / CLIP_JSON).read_text(encoding="utf-8"),
        "valid": clip.valid.numpy(),
    }
    row |= {name: clip.features[name].numpy() for name in ("action_units", "emotion", "emotion_score", "identity")}
    for name in FILES:
        content = (clip.path / name).read_bytes() if name in clip.info["files"] else None
        row[_column(name)] = {"bytes": content, "path": name} if content and name in _MEDIA else content
    return row


def restore(rows: Iterable[dict[str, Any]], folder: str | os.PathLike, overwrite: bool = False) -> list[ProcessedClip]:
    """Turns rows of [`clips_dataset`] into folders of clips again, with identical files.

    Args:
        rows: a data set (also a streamed one), or some of its rows.
        folder: where the clips are written, each under its `name`; a clip that exists and is equal is kept.
        overwrite: replace clips of that name that differ.

    Raises:
        ClipError: a row is not a clip, its name is not a plain folder name, or another clip of that name exists.
    """
    return [_restore(row, Path(folder), overwrite) for row in rows]


def _restore(row: dict[str, Any], folder: Path, overwrite: bool) -> ProcessedClip:
    missing = [name for name in ("name", "clip_json", *map(_column, FILES)) if name not in row]
    if missing:
        raise ClipError(f"rows: expected those of clips_dataset, got one without {', '.join(missing)}.")
    name = str(row["name"])
    if not _NAME.fullmatch(name) or name.endswith((".", " ", ".partial")):
        raise ClipError(f"rows: expected a plain folder name, got {name!r}.")
    info = parse_clip_json(row["clip_json"], f"the row {name!r}")
    writer = ClipWriter(folder / name, info.get("request") or {}, overwrite)
    clip = writer.existing()
    if clip is not None:
        return clip
    with writer:
        for file_name in info["files"].keys() & set(FILES):
            cell, size = row[_column(file_name)], info["files"][file_name]
            content = cell["bytes"] if isinstance(cell, dict) else cell
            if content is None or len(content) != size:  # a path instead of bytes is not opened
                found = None if content is None else len(content)
                raise ClipError(f"rows: {name}: expected {size} bytes of {file_name}, got {found}.")
            writer.path(file_name).write_bytes(content)
        return writer.publish({k: v for k, v in info.items() if k not in ("format", "format_version", "files")})


class ClipFrames(torch.utils.data.Dataset):
    """The frames of clips, one by one, for a `DataLoader`; see [`ProcessedClip.__getitem__`] for what a frame holds.

    Args:
        clips: a folder of clips, or clips and paths.
        frames: for each clip the frames to take, such as one side of `ProcessedClip.split`; None takes all.
        valid_only: leaves out frames whose track is not valid.

    Each item also has `clip`, its clip's number in `paths`. At most 8 clips are open at a time.
    """

    def __init__(
        self,
        clips: str | os.PathLike | Sequence[ProcessedClip | str | os.PathLike],
        frames: Sequence[Iterable[int]] | None = None,
        valid_only: bool = True,
    ):
        given = find_clips(clips) if isinstance(clips, str | os.PathLike) else clips
        self.paths = [clip.path if isinstance(clip, ProcessedClip) else Path(clip) for clip in given]
        if frames is not None and len(frames) != len(self.paths):
            raise ValueError(f"frames: expected one entry for each of {len(self.paths)} clips, got {len(frames)}.")
        self._open: OrderedDict[int, ProcessedClip] = OrderedDict()
        places = []
        for number in range(len(self.paths)):
            clip = self._clip(number)
            chosen = np.arange(len(clip)) if frames is None else np.array([range(len(clip))[i] for i in frames[number]])
            chosen = chosen[clip.valid.numpy()[chosen]] if valid_only and len(chosen) else chosen
            places.append(np.stack([np.full(len(chosen), number), chosen], 1).astype(np.int32))
        self.places = np.concatenate(places) if places else np.zeros((0, 2), np.int32)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, frame = (int(n) for n in self.places[index])
        return self._clip(number)[frame] | {"clip": torch.tensor(number)}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[index] for index in range(len(self)))

    def _clip(self, number: int) -> ProcessedClip:
        if number not in self._open:
            self._open[number] = ProcessedClip.open(self.paths[number])
            if len(self._open) > _OPEN_CLIPS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]


__all__ = ["ClipFrames", "clips_dataset", "find_clips", "restore"]
