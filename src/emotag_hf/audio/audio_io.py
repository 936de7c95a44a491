"""Reads any recording as float32 samples.

In: a path, bytes, an array with its rate or a dict. Out: `AudioClip` (the recording's own rate and channels, for the
output video) or mono float32 at 16 kHz (for the audio front ends, METHOD 3).
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..constants import SAMPLE_RATE

logger = logging.getLogger(__name__)

MIN_SECONDS = 0.04  # one video frame at 25 fps
SILENCE = 1e-5  # -100 dBFS: below the noise of any recording, above the dither of an empty one
MAX_GAP = 600  # seconds of sound that may be missing inside a file; longer gaps are wrong time stamps
MAX_CHANNELS = 8  # of an array; a longer second axis is time

# Only containers that hold sound. Play lists and scripts (hls, concat, ...) are refused: they make the decoder open
# other files and addresses.
_CONTAINERS = "wav,w64,aiff,au,caf,flac,mp3,aac,mov,mp4,m4a,ogg,matroska,webm,avi,mpeg,mpegts,flv,asf,amr,ac3,eac3"
_EXPECTED = "wav, flac, mp3, m4a, ogg or a video with sound"


class AudioError(ValueError):
    """The recording cannot be used; the message says which argument, what was expected and what came."""


@dataclass(frozen=True)
class AudioClip:
    """A recording at its own sampling rate.

    Args:
        samples: `[n, channels]` float32, nominally in [-1, 1], one or two channels.
        sampling_rate: Hz.
    """

    samples: np.ndarray
    sampling_rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.shape[1] not in (1, 2):
            raise AudioError(f"samples: expected an array [n, 1] or [n, 2], got the shape {self.samples.shape}.")

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sampling_rate

    @property
    def silent(self) -> bool:
        """Whether there is no sound in it, not even noise."""
        return max(self.samples.max(initial=0.0), -self.samples.min(initial=0.0)) < SILENCE  # without a copy

    def mono(self, sampling_rate: int = SAMPLE_RATE) -> np.ndarray:
        """`[round(n * sampling_rate / self.sampling_rate)]` float32: the mean of the channels, resampled."""
        mono = self.samples.mean(axis=1)
        if np.abs(mono).max(initial=0.0) < SILENCE:  # two channels in opposite phase cancel each other
            mono = self.samples[:, 0]
        return resample(mono[:, None], self.sampling_rate, sampling_rate)[:, 0]


def read_audio(audio: Any, sampling_rate: int | None = None, target_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Reads sound as mono float32 `[n]` at `target_rate` Hz. See [`load_audio`] for the arguments and errors."""
    return load_audio(audio, sampling_rate).mono(target_rate)


def load_audio(audio: Any, sampling_rate: int | None = None, *, allow_silence: bool = False) -> AudioClip:
    """Reads a recording at its own rate and checks that it is usable: long enough, not silent, finite.

    Args:
        audio: a path, the bytes of a file, an `AudioClip`, an array or tensor (`[n]`, `[n, channels]` or
            `[channels, n]`, floats in [-1, 1] or 8, 16 or 32-bit integers at full scale), or a dict
            `{"array" | "raw", "sampling_rate"}` or `{"bytes" | "path"}`.
        sampling_rate: Hz, the rate of a bare array; ignored for a file, which has its own.
        allow_silence: takes a recording without any sound, too (`AudioClip.silent`).

    Raises:
        AudioError: not decodable, no sound in it, shorter than 40 ms, silent, or not finite.
        FileNotFoundError, PermissionError: the path cannot be read.
    """
    if isinstance(audio, AudioClip):
        clip = audio
    elif isinstance(audio, Mapping):
        inner, own_rate = _unpack_dict(audio)
        rate = sampling_rate if own_rate is None else own_rate
        return load_audio(inner, rate, allow_silence=allow_silence)
    elif isinstance(audio, str | os.PathLike):
        clip = _decode_path(Path(audio))
    elif isinstance(audio, bytes | bytearray | memoryview):
        clip = decode(io.BytesIO(audio), f"{len(audio)} bytes")
    elif hasattr(audio, "get_all_samples"):  # audio decoders of `datasets`
        decoded = audio.get_all_samples()
        clip = _from_array(decoded.data, decoded.sample_rate)
    elif isinstance(audio, np.ndarray) or hasattr(audio, "detach"):
        clip = _from_array(audio, sampling_rate)
    else:
        raise AudioError(
            "audio: expected a path, bytes, an array with its sampling_rate or a dict "
            f'{{"array", "sampling_rate"}}, got {type(audio).__name__}.'
        )
    _check(clip, allow_silence)
    return clip


class StreamResampler:
    """Band-limited, zero-phase resampling of a stream: the same samples for any chunk sizes, 2 ms late.

    Args:
        source_rate, target_rate: Hz.
        channels: 1 or 2.
        block: samples that are processed at once; None for 10 ms.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int = 1, block: int | None = None):
        self.source_rate, self.target_rate = source_rate, target_rate
        self._layout = "mono" if channels == 1 else "stereo"
        self._block = block or max(1, source_rate // 100)
        self._waiting = np.zeros((0, channels), np.float32)
        self._taken = self._given = 0
        same = source_rate == target_rate
        self._resampler = None if same else av.AudioResampler(format="flt", layout=self._layout, rate=target_rate)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next `[n, channels]` float32 samples; returns the `[m, channels]` that are complete now."""
        if self._resampler is None:
            return samples
        self._waiting = np.concatenate([self._waiting, samples]) if len(self._waiting) else samples
        whole = len(self._waiting) - len(self._waiting) % self._block
        now, self._waiting = self._waiting[:whole], self._waiting[whole:].copy()
        return self._run(now)

    def finish(self) -> np.ndarray:
        """Ends the stream and returns the rest; `round(n * target_rate / source_rate)` samples in all."""
        if self._resampler is None:
            return self._waiting
        before = self._given
        rest = np.concatenate([self._run(self._waiting), self._unpack(self._resampler.resample(None))])
        missing = max(0, round(self._taken * self.target_rate / self.source_rate) - before)
        rest = rest[:missing]
        return np.pad(rest, ((0, missing - len(rest)), (0, 0)))

    def _run(self, samples: np.ndarray) -> np.ndarray:
        frames: list[av.AudioFrame] = []
        for start in range(0, len(samples), self._block):
            packed = np.ascontiguousarray(samples[start : start + self._block], dtype=np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
            frame.sample_rate, frame.pts = self.source_rate, self._taken
            self._taken += frame.samples
            frames += self._resampler.resample(frame)
        return self._unpack(frames)

    def _unpack(self, frames: list[av.AudioFrame]) -> np.ndarray:
        pieces = bytearray()
        for frame in frames:
            pieces += frame.to_ndarray().tobytes()
        out = np.frombuffer(pieces, np.float32).reshape(-1, self._waiting.shape[1])
        self._given += len(out)
        return out


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Band-limited resampling: `[n, channels]` float32 -> `[round(n * target / source), channels]`, in phase."""
    if source_rate == target_rate:
        return samples
    # Larger blocks than in a stream: faster, with the same samples.
    stream = StreamResampler(source_rate, target_rate, samples.shape[1], block=source_rate)
    return np.concatenate([stream.push(samples), stream.finish()])


def decode(source: io.IOBase, name: str, stop: float = math.inf) -> AudioClip:
    """Decodes the first audio stream of an open file; does not check the content.

    `name` is used in messages. For a video, time 0 is its first frame; `stop` is the end in seconds.
    """
    try:
        # Tags in another encoding than UTF-8 are common, and no reason to refuse a recording.
        container = av.open(source, mode="r", metadata_errors="replace", options={"format_whitelist": _CONTAINERS})
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise AudioError(f"audio: expected {_EXPECTED}, but {name} is not a recording of these kinds.") from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"audio: expected a recording, but {name} has no audio stream.")
        return _decode_stream(container, name, stop)


def _decode_stream(container: av.container.InputContainer, name: str, stop: float) -> AudioClip:
    stream = container.streams.audio[0]
    rate, resampler, channels, wrong, late, start = stream.rate, None, 0, 0, 0, None
    broken: list[av.Packet] = []
    pieces = bytearray()  # grows in place, so that long sound is in memory once
    for frame, after in pairwise(chain(_decoded(container, stream, broken), [None])):
        if resampler is None:
            channels, rate = min(frame.layout.nb_channels, 2), frame.sample_rate
            late = round((frame.time or 0.0) * rate) - round(_picture_start(container, frame.time or 0.0) * rate)
            layout = "mono" if channels == 1 else "stereo"
            resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)  # scales every bit depth
            start = frame.time
        elif frame.time is not None and start is not None:
            missing = round((frame.time - start) * rate) - len(pieces) // (4 * channels)
            if missing / rate > 0.05 and (after is None or after.time is None or after.time <= frame.time):
                wrong += 1  # a time stamp that jumps ahead is used only if the next one continues from it
            elif 0.05 < missing / rate < MAX_GAP:  # filled with silence, to keep the rest in sync
                pieces += bytes(4 * channels * missing)
        for out in resampler.resample(frame):
            pieces += out.to_ndarray().tobytes()
        if len(pieces) / (4 * channels) + late >= stop * rate:
            break
    for out in resampler.resample(None) if resampler else ():
        pieces += out.to_ndarray().tobytes()
    if broken and not pieces:
        raise AudioError(f"audio: expected {_EXPECTED}, but no sound in {name} could be decoded.")
    if broken:
        logger.warning("audio: %d damaged packets of %s are silence now.", len(broken), name)
    if wrong:
        logger.warning("audio: %d time stamps of %s jump ahead alone and are not followed.", wrong, name)
    samples = np.frombuffer(pieces, dtype=np.float32).reshape(-1, max(channels, 1))
    if "mp4" in container.format.name and stream.duration:  # its duration excludes the last block's padding
        padding = len(samples) - round(float(stream.duration * stream.time_base) * rate)
        samples = samples[: len(samples) - padding] if 0 < padding <= 4096 else samples  # else the header is wrong
    if late:  # of a video: its sound begins later or earlier than its frames
        samples = np.pad(samples, ((late, 0), (0, 0))) if late > 0 else samples[-late:]
    return AudioClip(samples[: round(min(stop * rate, len(samples)))], rate)


def _decoded(
    container: av.container.InputContainer, stream: av.AudioStream, broken: list[av.Packet]
) -> Iterator[av.AudioFrame]:
    """The frames of a stream; packets that cannot be decoded go into `broken`."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # only the damaged packet is lost, as in players
            broken.append(packet)
            continue
        yield from frames


def _picture_start(container: av.container.InputContainer, default: float) -> float:
    """Seconds at which the first video stream starts; `default` without one (cover art is none)."""
    for video in container.streams.video:
        if video.start_time is not None and not video.disposition & av.stream.Disposition.attached_pic:
            return float(video.start_time * video.time_base)
    return default


def _decode_path(path: Path) -> AudioClip:
    if path.is_dir():
        raise AudioError(f"audio: expected a recording, but {path} is a folder.")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise AudioError(f"audio: expected a recording, but {path} is empty (0 bytes).")
            return decode(file, str(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"audio: expected a recording, but there is no file {path}.") from error
    except PermissionError as error:
        raise PermissionError(f"audio: expected a recording, but reading {path} is not permitted.") from error


def _unpack_dict(audio: Mapping) -> tuple[Any, int | None]:
    for key in ("array", "raw"):
        if audio.get(key) is not None:
            array = np.asarray(audio[key]) if isinstance(audio[key], list) else audio[key]
            return array, audio.get("sampling_rate")
    for key in ("bytes", "path"):
        if audio.get(key) is not None:
            return audio[key], None
    raise AudioError(f'audio: expected a dict with "array" and "sampling_rate", got the keys {sorted(audio)}.')


def _from_array(audio: Any, sampling_rate: int | None) -> AudioClip:
    if sampling_rate is None:
        raise AudioError("audio: an array comes with its sampling_rate, got none; pass sampling_rate=... in Hz.")
    if not 1000 <= sampling_rate <= 768_000 or sampling_rate != int(sampling_rate):
        raise AudioError(f"sampling_rate: expected a whole number from 1000 to 768000 Hz, got {sampling_rate}.")
    samples = to_float(audio.detach().cpu().numpy() if hasattr(audio, "detach") else audio)
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.ndim != 2 or not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise AudioError(
            f"audio: expected an array [n], [n, channels] or [channels, n] with at most {MAX_CHANNELS} channels, "
            f"got the shape {tuple(audio.shape)}."
        )
    if samples.shape[1] > 2:
        samples = samples.mean(axis=1, keepdims=True)
    return AudioClip(samples, int(sampling_rate))


def to_float(samples: np.ndarray) -> np.ndarray:
    """Integers at full scale and floats to float32 in [-1, 1]."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype in (np.int8, np.int16, np.int32):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind != "f":
        raise AudioError(f"audio: expected floats or 8, 16 or 32-bit integers, got an array of {samples.dtype}.")
    samples = samples.astype(np.float32)
    peak = np.abs(samples).max(initial=0.0)
    if np.isfinite(peak) and peak > 16:  # recordings overshoot 1 a little; 16 times is another unit
        raise AudioError(f"audio: expected floats in [-1, 1], got a peak of {peak:g}; divide 16-bit values by 32768.")
    return samples


def _check(clip: AudioClip, allow_silence: bool) -> None:
    samples = clip.samples
    if len(samples) == 0:
        raise AudioError("audio: expected a recording, but it has no samples.")
    if clip.duration < MIN_SECONDS:
        raise AudioError(
            f"audio: expected at least {MIN_SECONDS * 1000:.0f} ms of sound, got {clip.duration * 1000:.1f} ms."
        )
    if not np.isfinite(max(samples.max(), -samples.min())):  # without a copy; NaN goes through both
        raise AudioError("audio: expected finite samples, got NaN or infinity; export the recording again.")
    if clip.silent and not allow_silence:
        raise AudioError("audio: expected speech, but the recording is silent; check the microphone or the track.")


__all__ = ["AudioClip", "AudioError", "StreamResampler", "load_audio", "read_audio", "resample", "to_float"]
