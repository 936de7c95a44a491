"""Pretraining data: sound and tracked motion of many people, and batches of windows.

In: processed clips with their persons, and synthetic speech. Out: `MotionClip`s with sound in sync, and batches that
depend on seed, step and index in the batch only: the same for any number of processes, and after resuming.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from ...audio.audio_features import FEATURE_DIM, FRAME_RATE, log_mel_features
from ...constants import GRMN_ACTION_UNITS, MOTION_FPS
from ...models.audio_net import TOKEN_RATE
from ...preprocessing.data.clip import ProcessedClip
from ...preprocessing.features.action_units import grmn_action_units

logger = logging.getLogger(__name__)

AHEAD_S = 0.2  # seconds of sound after a window, for the look-ahead of networks without an ear
WARM_UP = 12  # frames at a window's start without their past context, which are not scored


@dataclass(frozen=True)
class MotionClip:
    """One recording of T frames at 25 fps.

    Attributes:
        name, person: of the clip; batches mix persons, and `leave_out` selects by person.
        sound: `[Tf, C]` speech features; video frame t begins at row `t * rate / 25`.
        face: `[T, 53]` expression and jaw. valid: `[T]` bool.
        units: `[T, 6]` in 0..5; emotion: `[T, 7]` probabilities; identity: `[512]`; all 0 if unknown.
        visemes: `[T]` class, -1 if unknown. closed: `[T]` bool, lips known to be closed.
        real: True for a person; False for synthetic speech, whose `face` comes from a viseme table.
        lag: frames by which the sound was shifted.
    """

    name: str
    person: str
    sound: Tensor
    face: Tensor
    valid: Tensor
    units: Tensor
    emotion: Tensor
    identity: Tensor
    visemes: Tensor
    closed: Tensor
    real: bool = True
    lag: float = 0.0

    def __len__(self) -> int:
        return len(self.face)

    @property
    def rate(self) -> int:
        """Rows of `sound` per second."""
        return _rate(self.sound)


def from_processed(clip: ProcessedClip, person: str, lag: float | None = None) -> MotionClip:
    """Loads a processed clip with its sound shifted into sync.

    Args:
        clip: with sound. person: name of the person.
        lag: frames at 25 fps by which the sound is late; None takes the clip's own offset, if it is reliable.

    Raises:
        ValueError: the clip has no sound.
    """
    features, track = clip.features, clip.track.motion
    sound = features.get("input_features")
    if sound is None:
        raise ValueError(f"clip: {clip.path.name} has no sound; motion is learned from sound and picture.")
    if lag is None:
        offset = clip.audio_offset
        lag = offset.frames if offset is not None and offset.reliable else 0.0
    count = clip.num_frames
    return MotionClip(
        name=clip.path.name,
        person=person,
        sound=shifted(sound.float(), round(lag * _rate(sound) / MOTION_FPS)),
        face=torch.cat([track.expression, track.jaw_pose], -1).float(),
        valid=clip.valid.clone(),
        units=torch.from_numpy(grmn_action_units(features["action_units"].numpy())).float(),
        emotion=features["emotion"].float(),
        identity=features["identity"].float(),
        visemes=torch.full((count,), -1),
        closed=torch.zeros(count, dtype=torch.bool),
        lag=float(lag),
    )


def from_tracked(path: str | os.PathLike, person: str, lag: float = 0.0) -> MotionClip:
    """Loads a file of `conversion_scripts/track_talkers.py` with its sound shifted into sync; see `from_processed`.

    Raises:
        ValueError: the file is none of those.
    """
    names = ("samples", "face", "valid", "action_units", "emotion", "identity")
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            parts = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"folders: expected a tracked clip in {path}, got {error}.") from error
    sound, count = torch.from_numpy(log_mel_features(parts["samples"].astype(np.float32) / 32767)), len(parts["face"])
    missing = count * FRAME_RATE // MOTION_FPS - len(sound)  # sound that ends before the picture continues as silence
    sound = F.pad(sound, (0, 0, 0, max(0, missing)))
    return MotionClip(
        name=Path(path).stem,
        person=person,
        sound=shifted(sound, round(lag * FRAME_RATE / MOTION_FPS)),
        face=torch.from_numpy(parts["face"]),
        valid=torch.from_numpy(parts["valid"]).bool(),
        units=torch.from_numpy(grmn_action_units(parts["action_units"])).float(),
        emotion=torch.from_numpy(parts["emotion"]),
        identity=torch.from_numpy(parts["identity"]),
        visemes=torch.full((count,), -1),
        closed=torch.zeros(count, dtype=torch.bool),
        lag=float(lag),
    )


def load_tracked(
    folder: str | os.PathLike, persons: Mapping[str, str] | None = None, lags: Mapping[str, float] | None = None
) -> list[MotionClip]:
    """Loads a folder of tracked clips (`from_tracked`); with `lags` only those that are listed.

    Raises:
        FileNotFoundError: there is none in the folder.
    """
    paths = sorted(p for p in Path(folder).glob("*.safetensors") if lags is None or p.stem in lags)
    if not paths:
        raise FileNotFoundError(f"folders: expected tracked clips in {folder}, found none.")
    return [from_tracked(p, (persons or {}).get(p.stem, p.stem), (lags or {}).get(p.stem, 0.0)) for p in paths]


def shifted(sound: Tensor, rows: int) -> Tensor:
    """`sound` shifted by `rows` (padded with silence), with the same length."""
    zeros = sound.new_zeros(min(abs(rows), len(sound)), sound.shape[1])
    return torch.cat([sound[rows:], zeros]) if rows > 0 else torch.cat([zeros, sound[: len(sound) - len(zeros)]])


def in_step(clip: MotionClip, lag: float) -> MotionClip:
    """The clip with its sound shifted by `lag` frames in total."""
    rows = round((lag - clip.lag) * clip.rate / MOTION_FPS)
    return replace(clip, sound=shifted(clip.sound, rows), lag=lag) if rows else clip


def played(clip: MotionClip, speed: float) -> MotionClip:
    """The clip at `speed` times the speed: sound (with unchanged pitch) and motion."""
    count = max(1, int(len(clip) / speed))
    near = (torch.arange(count) * speed).long().clamp(max=len(clip) - 1)

    def between(values: Tensor, length: int) -> Tensor:
        return F.interpolate(values.float().t()[None], length, mode="linear", align_corners=False)[0].t()

    rows = {name: getattr(clip, name)[near] for name in ("valid", "units", "emotion", "visemes", "closed")}
    sound = between(clip.sound, count * clip.rate // MOTION_FPS)
    return replace(clip, sound=sound, face=between(clip.face, count), **rows)


def load_clips(
    folders: Sequence[str | os.PathLike],
    persons: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    lags: Mapping[str, float] | None = None,
) -> list[MotionClip]:
    """Loads processed clips as `MotionClip`s, except those of persons to leave out and those without sound.

    Args:
        folders: clips, or folders of clips.
        persons: clip's name -> person; a clip that is not listed is its own person.
        leave_out: persons, or names of clips.
        lags: clip's name -> frames by which its sound is late.

    Raises:
        FileNotFoundError: there is no clip in a folder.
        ValueError: an unknown name in `leave_out`, or no clip is left.
    """
    from ...preprocessing.data.dataset import find_clips

    found, gone = [], set()
    for path in sorted({p for folder in folders for p in find_clips(folder)}):
        person = (persons or {}).get(path.name, path.name)
        if named := {person, path.name} & set(leave_out):
            gone |= named
            continue
        clip = ProcessedClip.open(path)
        if clip.features.get("input_features") is None:
            logger.warning("%s has no sound and is left out.", path.name)
            continue
        found.append(from_processed(clip, person, (lags or {}).get(path.name)))
        clip.close()
    if unknown := set(leave_out) - gone - set((persons or {}).values()):
        raise ValueError(f"leave_out: expected persons or clips of the data, got {', '.join(sorted(unknown))}.")
    if not found:
        raise ValueError("folders: expected at least one clip with sound; none is left.")
    return found


def read_persons(path: str | os.PathLike) -> dict[str, str]:
    """Clip's name -> person, from a JSON file `{"persons": {person: [file or clip, ...]}}`.

    Raises:
        ValueError: the file has another format.
    """
    try:
        persons = json.loads(Path(path).read_text(encoding="utf-8"))["persons"]
        return {Path(file).stem: person for person, files in persons.items() for file in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'persons: expected a JSON file {{"persons": {{person: [clip, ...]}}}} in {path}, got {error!r}.'
        ) from error


def fold_of(person: str, folds: int) -> int:
    """The fold of a person (of `folds`); independent of other people in the data."""
    return int(hashlib.sha256(f"s0{person}".encode()).hexdigest(), 16) % folds


def load_synthetic(path: str | os.PathLike, limit: int | None = None) -> list[MotionClip]:
    """Loads synthetic speech with mouth shapes from a viseme table, written by `conversion_scripts/synthesize_speech`.

    Raises:
        ValueError: the file is none of those.
    """
    try:
        with np.load(path) as data:
            parts = {name: data[name] for name in ("features", "face", "visemes", "closures", "lengths")}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"synthetic: expected a file of synthesize_speech in {path}, got {error}.") from error
    ends = np.cumsum(parts["lengths"])
    per_frame = FRAME_RATE // MOTION_FPS
    made = []
    for number, (end, count) in enumerate(zip(ends[:limit].tolist(), parts["lengths"][:limit].tolist())):
        rows = slice(end - count, end)
        made.append(
            MotionClip(
                name=f"synthetic_{number}",
                person="synthetic",
                sound=torch.from_numpy(parts["features"][(end - count) * per_frame : end * per_frame]),
                face=torch.from_numpy(parts["face"][rows]),
                valid=torch.ones(count, dtype=torch.bool),
                units=torch.zeros(count, len(GRMN_ACTION_UNITS)),
                emotion=torch.zeros(count, 7),
                identity=torch.zeros(512),
                visemes=torch.from_numpy(parts["visemes"][rows]).long(),
                closed=torch.from_numpy(parts["closures"][rows]),
                real=False,
            )
        )
    return made


@dataclass
class MotionBatch:
    """B windows of W frames; attributes as in `MotionClip` with a batch dimension; `sound` `[B, rows, C]` includes
    the look-ahead after the window."""

    sound: Tensor
    face: Tensor
    valid: Tensor
    units: Tensor
    emotion: Tensor
    identity: Tensor
    visemes: Tensor
    closed: Tensor
    real: Tensor


class MotionBatches:
    """Batches of windows of many people.

    Args:
        real: recordings of people, each person weighted by the square root of their seconds. synthetic: synthetic
            speech.
        batch_size: windows windows per step over all processes. window: frames per window.
        synthetic_share: share of synthetic windows, in [0, 1]; they are the last ones of a batch.
        seed: random seed.
        ahead: seconds of sound after a window.
    """

    def __init__(
        self, real: Sequence[MotionClip], synthetic: Sequence[MotionClip], batch_size: int, window: int,
        synthetic_share: float, seed: int, ahead: float = AHEAD_S,
    ):  # fmt: skip
        self.batch_size, self.window, self.seed, self.ahead = batch_size, window, seed, ahead
        self.persons: dict[str, list[MotionClip]] = {}
        for clip in real:
            self.persons.setdefault(clip.person, []).append(clip)
        self.names = sorted(self.persons)
        # With equal weights per person, persons with three seconds would be overfitted; by seconds, one person would
        # dominate.
        self.shares = np.sqrt([sum(len(c) for c in self.persons[name]) for name in self.names])
        self.synthetic = list(synthetic)
        if not self.names and not self.synthetic:
            raise ValueError("clips: expected at least one, real or synthetic; there is none.")
        share = synthetic_share if self.names else 1.0
        self.num_synthetic = round(batch_size * share) if self.synthetic else 0

    def batch(self, step: int, first: int = 0, last: int | None = None) -> MotionBatch:
        """Windows `first` to `last` of step `step`'s batch; each depends on seed, step and its index only."""
        last = self.batch_size if last is None else last
        return _stack([self._window(step, i) for i in range(first, last)])

    def _window(self, step: int, number: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, step, number])
        if number >= self.batch_size - self.num_synthetic:
            clip = self.synthetic[int(rng.integers(len(self.synthetic)))]
        else:
            # Cycles over the persons, so that a batch has different people; persons with more weight come more often.
            draw = np.random.default_rng([self.seed, step]).exponential(size=len(self.names))
            turn = np.argsort(draw / self.shares)
            clips = self.persons[self.names[int(turn[number % len(turn)])]]
            lengths = np.array([len(c) for c in clips], np.float64)
            clip = clips[int(rng.choice(len(clips), p=lengths / lengths.sum()))]
        start = int(rng.integers(0, max(1, len(clip) - self.window // 2)))
        start = 0 if rng.random() < 0.2 else start
        return cut(clip, start, self.window, self.ahead)


def cut(clip: MotionClip, start: int, window: int, ahead_s: float = AHEAD_S) -> dict[str, Tensor]:
    """Frames `start` to `start + window` of a clip as a dict of tensors; frames after its end are not valid."""
    per_frame = clip.rate // MOTION_FPS
    ahead = round(ahead_s * clip.rate)
    inside = slice(start, start + window)
    count = len(clip.face[inside])

    def padded(values: Tensor, length: int, fill: float = 0) -> Tensor:
        out = values.new_full((length, *values.shape[1:]), fill)
        out[: len(values)] = values
        return out

    valid = padded(clip.valid[inside], window)
    if start:
        valid[:WARM_UP] = False
    rows = clip.sound[start * per_frame : (start + window) * per_frame + ahead].float()
    return {
        "sound": padded(rows, window * per_frame + ahead),
        "face": padded(clip.face[inside].float(), window),
        "valid": valid & (torch.arange(window) < count),
        "units": padded(clip.units[inside], window),
        "emotion": padded(clip.emotion[inside], window),
        "identity": clip.identity,
        "visemes": padded(clip.visemes[inside], window, -1),
        "closed": padded(clip.closed[inside], window),
        "real": torch.tensor(clip.real),
    }


def _stack(rows: list[dict[str, Tensor]]) -> MotionBatch:
    return MotionBatch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def _rate(sound: Tensor) -> int:
    return FRAME_RATE if sound.shape[-1] == FEATURE_DIM else TOKEN_RATE  # log-mel, or a speech encoder's


__all__ = [
    "MotionBatch", "MotionBatches", "MotionClip", "cut", "fold_of", "from_processed", "from_tracked", "in_step",
    "load_clips", "load_synthetic", "load_tracked", "played", "read_persons", "shifted",
]  # fmt: skip
