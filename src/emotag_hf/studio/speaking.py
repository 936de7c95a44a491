"""Makes a video from a recording, with previews while it is rendered (METHOD 6), and its curves of gate and emotion.

In: a pipeline, a recording, an emotion. Out: `Spoken`s; the last one has the video.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..audio.audio_io import AudioClip
from ..constants import EMOTIONS
from ..pipelines.pipeline_emotag import EmoTaGPipeline
from ..pipelines.talking_head import TalkingHeadOutput
from ..video.video_writer import VideoWriter
from .settings import Settings
from .uploads import UploadError
from .visitors import Job

FROM_VOICE = "from the voice"
GATE = "gate"
_EVERY = 0.4  # seconds between two previews
_CHUNK = 0.1  # seconds of sound per chunk of the stream
_POINTS = 240  # points of a curve
_SHOWN = 0.05  # emotions that stay below are not plotted


@dataclass
class Spoken:
    """Progress of a video.

    Args:
        done, total: frames.
        picture: the newest preview, `[H, W, 3]` uint8; None if there is no new one.
        video: the finished file, at the end.
        curve: the result of `curve_points`, at the end.
    """

    done: int
    total: int
    picture: np.ndarray | None = None
    video: Path | None = None
    curve: dict[str, list] | None = None


def speak(
    pipe: EmoTaGPipeline,
    clip: AudioClip,
    output: Path,
    job: Job,
    settings: Settings,
    *,
    emotion: Any = None,
    intensity: float = 1.0,
    seed: int = 0,
) -> Iterator[Spoken]:
    """Makes the video at `output`, frame by frame from the stream.

    Raises:
        Stopped: the visitor stopped it; no file is left.
        ValueError: an invalid argument, as in `EmoTaGPipeline.__call__`.
    """
    controls = {"emotion": emotion, "intensity": intensity, "seed": int(seed), "size": settings.size}
    result = pipe(clip, **controls)  # motion only; checks the arguments
    total, shown = len(result.frames), 0.0
    yield Spoken(0, total)
    with (
        VideoWriter(
            output, settings.size, settings.size, result.fps, audio=result.audio, metadata=result.metadata
        ) as writer,
        closing(_frames(pipe, clip, result, controls)) as frames,
    ):
        for done, frame in enumerate(frames, 1):
            job.check()
            writer.write(frame)
            if time.monotonic() - shown > _EVERY:
                yield Spoken(done, total, _small(frame, settings.preview_size))
                shown = time.monotonic()
    yield Spoken(total, total, None, output, curve_points(result))


def _frames(pipe: EmoTaGPipeline, clip: AudioClip, result: TalkingHeadOutput, controls: dict) -> Iterator[np.ndarray]:
    """The frames of a stream, with the look-ahead of a recording."""
    if pipe.processor.feature_extractor.frontend == "transformers":  # speech encoders need the whole recording
        yield from result.frames
        return
    samples = clip.mono(clip.sampling_rate)  # without the check for channels that cancel each other
    step = max(1, round(_CHUNK * clip.sampling_rate))
    chunks = (samples[start : start + step] for start in range(0, len(samples), step))
    with pipe.stream(chunks, sampling_rate=clip.sampling_rate, look_ahead="full", **controls) as stream:
        for frame in stream:
            yield frame.image


def _small(frame: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray((np.asarray(frame) * 255 + 0.5).astype(np.uint8))
    picture.thumbnail((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def emotion_of(choice: str) -> str | None:
    """The `emotion=` argument for a choice of `FROM_VOICE` and `EMOTIONS`."""
    return None if choice == FROM_VOICE else choice


def keyframes_of(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Keyframes for `emotion=` from a table of second, emotion, intensity, in any order. Rows without an emotion are
    ignored.

    Raises:
        UploadError: naming the row, what was expected there and what came.
    """
    keyframes = []
    for number, row in enumerate(rows, 1):
        cells = ["" if cell is None else str(cell).strip() for cell in row]
        second, emotion, intensity = (cells + ["", "", ""])[:3]
        if not emotion:  # a deleted number in a table is 0, a deleted word is empty
            continue
        name = "auto" if emotion.lower() == FROM_VOICE else emotion.lower()
        if name not in (*EMOTIONS, "auto"):
            raise UploadError(f"Row {number}: expected one of {', '.join(EMOTIONS)}, or auto; got {emotion[:40]!r}.")
        keyframes.append(
            {
                "time": _number(second, number, "a second from 0 on", 0, math.inf),
                "emotion": name,
                "intensity": _number(intensity or "1", number, "an intensity from 0 to 1", 0, 1),
            }
        )
    if not keyframes:
        raise UploadError("Fill in at least one row of the table: a second, an emotion, an intensity.")
    return sorted(keyframes, key=lambda keyframe: keyframe["time"])


def _number(text: str, row: int, expected: str, low: float, high: float) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)):
        raise UploadError(f"Row {row}: expected {expected}, got {text[:40]!r}.")
    return value


def curve_points(result: TalkingHeadOutput) -> dict[str, list]:
    """The data of the plot under a video: columns "second", "value" (0 to 1) and "curve", which is the gate or one of
    the visible emotions. A curve has at most 240 points."""
    gate = result.gate.float().cpu().numpy()
    shares = result.emotion_logits.float().softmax(-1).cpu().numpy()
    picked = np.unique(np.linspace(0, len(gate) - 1, min(len(gate), _POINTS)).round().astype(int))
    curves = {GATE: gate} | {name: shares[:, i] for i, name in enumerate(EMOTIONS) if shares[:, i].max() > _SHOWN}
    points: dict[str, list] = {"second": [], "value": [], "curve": []}
    for name, values in curves.items():
        points["second"] += [round(float(i) / result.fps, 3) for i in picked]
        points["value"] += [round(float(values[i]), 4) for i in picked]
        points["curve"] += [name] * len(picked)
    return points


__all__ = ["FROM_VOICE", "GATE", "Spoken", "curve_points", "emotion_of", "keyframes_of", "speak"]
