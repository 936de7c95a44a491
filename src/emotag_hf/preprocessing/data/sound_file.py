"""A clip's sound as a flac file: the recorded samples from the first frame to the last.

In: an `AudioClip` at its own rate. Out: `audio.flac`, 16 bits where the samples are 16-bit numbers, else 24, and its
entry in clip.json.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ...audio.audio_io import AudioClip, AudioError, decode

_FULL_SCALE = {16: 1 << 15, 24: 1 << 23}
_BLOCK = 1 << 16  # samples written at a time
_FRAME = 0.04  # seconds; smaller differences in length come from the codec and give no warning


def beginning(audio: AudioClip, seconds: float) -> AudioClip:
    """The first `seconds` of a recording, as a copy, so that the rest can be freed."""
    return AudioClip(audio.samples[: round(seconds * audio.sampling_rate)].copy(), audio.sampling_rate)


def cover(audio: AudioClip, seconds: float, cut: bool = False) -> tuple[AudioClip, list[str]]:
    """The part of `audio` for `seconds` of video, and a warning if much was left out or is missing.

    Args:
        audio: the sound from the first frame on.
        seconds: length of the video.
        cut: whether the video was cut, too; then there is no warning about the rest of the sound.
    """
    samples = audio.samples[: math.ceil(seconds * audio.sampling_rate)]
    differs = audio.duration - seconds
    warnings = []
    if differs > _FRAME and not cut:
        warnings.append("The sound goes on after the last picture; that part is left out.")
    elif differs < -_FRAME:
        warnings.append(f"The sound ends {-differs:.2f} s before the last picture; the rest counts as silence.")
    return AudioClip(samples, audio.sampling_rate), warnings


def read_flac(path: str | os.PathLike, gain: float) -> AudioClip:
    """Reads what `write_flac` wrote, multiplied by the `gain` that it returned."""
    with Path(path).open("rb") as file:
        sound = decode(file, str(path))
    return AudioClip(sound.samples * np.float32(gain), sound.sampling_rate)


def write_flac(path: str | os.PathLike, audio: AudioClip) -> dict[str, Any]:
    """Writes the samples losslessly and returns `sampling_rate`, `channels`, `num_samples`, `bits` and `gain`.

    Decoded mp3 and AAC are not integers and may exceed full scale: they are rounded to 24 bits (-144 dB), and divided
    by `gain` if necessary. Multiplying by `gain` gives the source's samples.

    Raises:
        AudioError: NaN or infinity among the samples.
    """
    peak = float(np.abs(audio.samples).max(initial=0.0))
    if not math.isfinite(peak):
        raise AudioError("audio: expected finite samples, got NaN or infinity; export the recording again.")
    gain = max(1.0, peak)
    in_16 = audio.samples * np.float32(_FULL_SCALE[16])
    bits = 16 if gain == 1.0 and bool((in_16 == np.rint(in_16)).all()) else 24
    channels = audio.samples.shape[1]
    kind = {"format": "s16" if bits == 16 else "s32", "layout": "mono" if channels == 1 else "stereo"}
    with av.open(os.path.abspath(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=audio.sampling_rate, layout=kind["layout"])
        stream.codec_context.format = kind["format"]
        for start in range(0, len(audio.samples), _BLOCK):
            whole = _whole_numbers(audio.samples[start : start + _BLOCK] / gain, bits)
            frame = av.AudioFrame.from_ndarray(whole.reshape(1, -1), **kind)
            frame.sample_rate, frame.pts, frame.time_base = audio.sampling_rate, start, Fraction(1, audio.sampling_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    about = {"sampling_rate": audio.sampling_rate, "channels": channels, "num_samples": len(audio.samples)}
    return about | {"bits": bits, "gain": gain}


def _whole_numbers(samples: np.ndarray, bits: int) -> np.ndarray:
    full = _FULL_SCALE[bits]
    whole = np.minimum(np.rint(samples.astype(np.float64) * full), full - 1)  # +1.0 has no number; one step lower
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << 8  # ffmpeg: the upper 24 of 32 bits


__all__ = ["beginning", "cover", "read_flac", "write_flac"]
