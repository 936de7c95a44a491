"""Writes frames one at a time as h264 + AAC in an mp4.

In: RGB frames, an `AudioClip`, metadata. Out: a file, written atomically.
"""

from __future__ import annotations

import os
import queue
import secrets
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..audio.audio_io import AudioClip, resample
from ..rights.provenance import append_xmp, container_tags
from ..utils.atomic_write import check_writable

_BT709 = 1  # primaries, transfer and matrix share this number in H.273
_TV_RANGE = 1
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # what every AAC decoder plays
_ENCODER_THREADS = 2  # fixed, because x264's output depends on it
_QUEUE = 8  # frames in flight between the renderer and the encoder


class VideoWriteError(OSError):
    """The video could not be written; no partial file is left."""


def check_output(path: str | os.PathLike) -> Path:
    """Checks, before any work, that an mp4 can be written at `path`, and returns it.

    Raises:
        ValueError: not an .mp4 name, or the name of a folder.
        FileNotFoundError, PermissionError: its folder does not exist or is not writable.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"path: expected a name that ends in .mp4, got {path.name!r}.")
    return check_writable(path)


class VideoWriter:
    """Writes an mp4 (h264 yuv420p BT.709, AAC) frame by frame; use it as a context manager.

    The file is written under a temporary name next to `path` and renamed when it is complete: after any error, also in
    the caller's code, no partial file is left and an older file is kept. Encoding runs in a thread.

    Args:
        path: the file; ends in .mp4, its folder exists.
        width, height: even numbers of pixels (yuv420p halves the chroma planes).
        fps: frames per second.
        audio: the whole sound, starting at the first frame; None for a silent video.
        metadata: JSON values kept in the file's comment tag; those of `make_provenance` also mark it as AI-generated
            in words and in XMP.
        crf: x264's quality, 0 (lossless) .. 51; 18 is visually lossless.
        preset: x264's speed.

    Raises:
        ValueError, FileNotFoundError, PermissionError: see [`check_output`]; an invalid size or fps.
        VideoWriteError: the disk is full or failed.

    Example:

    ```python
    >>> with VideoWriter("out.mp4", 512, 512, 25, audio=load_audio("speech.wav")) as writer:
    ...     for frame in frames:
    ...         writer.write(frame)
    ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        fps: float,
        audio: AudioClip | None = None,
        metadata: dict[str, Any] | None = None,
        crf: float = 18,
        preset: str = "veryfast",
    ):
        self.path = check_output(path)
        for name, value in (("width", width), ("height", height)):
            if value != int(value) or value < 2 or value % 2:
                raise ValueError(f"{name}: expected an even number of pixels, at least 2, got {value}.")
        if not 1 <= fps <= 240:
            raise ValueError(f"fps: expected 1 to 240 frames per second, got {fps}.")
        self.width, self.height, self.fps = int(width), int(height), Fraction(fps).limit_denominator(1001)
        self.num_frames = 0
        self._metadata = metadata or {}
        self._x264 = {"crf": str(crf), "preset": preset}
        self._audio = _for_aac(audio) if audio is not None else None
        self._audio_position = 0
        self._partial = self.path.with_name(f".emotag-{secrets.token_hex(4)}.partial.mp4")
        self._container = None
        self._thread = None
        self._queue: queue.Queue = queue.Queue(_QUEUE)
        self._error: BaseException | None = None

    def __enter__(self) -> VideoWriter:
        try:
            self._open()
        except BaseException as error:
            self._discard()
            raise self._explained(error) from error
        self._thread = threading.Thread(target=self._encode_all, name="VideoWriter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._queue.put(None)
            self._thread.join()
            if error is None:
                self._finish()
        except BaseException as failure:
            self._discard()
            raise self._explained(failure) from failure
        if error is not None:
            self._discard()

    def write(self, frame: Any) -> None:
        """Adds one RGB frame `[height, width, 3]`, uint8 or float in [0, 1], array or tensor. It is copied."""
        if self._thread is None:
            raise RuntimeError("VideoWriter.write: use the writer as a context manager (with VideoWriter(...) as w).")
        if self._error is not None:
            raise self._explained(self._error) from self._error
        picture = av.VideoFrame.from_ndarray(self._to_uint8(frame), format="rgb24")
        picture.pts, picture.time_base, picture.duration = self.num_frames, 1 / self.fps, 1
        self.num_frames += 1
        self._queue.put(picture)

    def _to_uint8(self, frame: Any) -> np.ndarray:
        frame = frame.detach().cpu().numpy() if hasattr(frame, "detach") else np.asarray(frame)
        if frame.shape != (self.height, self.width, 3):
            raise ValueError(f"frame: expected the shape ({self.height}, {self.width}, 3), got {frame.shape}.")
        if frame.dtype == np.uint8:
            return np.ascontiguousarray(frame)
        if frame.dtype.kind != "f":
            raise ValueError(f"frame: expected uint8 or floats in [0, 1], got {frame.dtype}.")
        low, high = frame.min(), frame.max()
        if not (low > -1e-3 and high < 1 + 1e-3):  # also true for NaN
            raise ValueError(f"frame: expected finite colours in [0, 1], got values from {low:g} to {high:g}.")
        return (frame.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def _open(self) -> None:
        self._container = av.open(os.path.abspath(self._partial), "w", format="mp4", options={"movflags": "+faststart"})
        if self._metadata:
            self._container.metadata.update(container_tags(self._metadata))
        self._video = self._container.add_stream("libx264", rate=self.fps, options=self._x264)
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.time_base = 1 / self.fps
        context.thread_count, context.thread_type = _ENCODER_THREADS, "FRAME"
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _TV_RANGE
        if self._audio is not None:
            rate, channels = self._audio.sampling_rate, self._audio.samples.shape[1]
            self._sound = self._container.add_stream("aac", rate=rate, layout="mono" if channels == 1 else "stereo")
            self._sound.bit_rate = channels * min(96_000, 4 * rate)

    def _encode_all(self) -> None:
        """The encoder's thread: encodes frames until it gets None; after an error it only empties the queue."""
        while (picture := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._encode(picture)
                except BaseException as error:  # raised again in the caller's thread
                    self._error = error

    def _encode(self, picture: av.VideoFrame) -> None:
        yuv = picture.reformat(format="yuv420p", dst_colorspace=_BT709)
        yuv.pts, yuv.time_base, yuv.duration = picture.pts, picture.time_base, picture.duration
        self._container.mux(self._video.encode(yuv))
        self._encode_audio(until=(picture.pts + 1) / self.fps)

    def _encode_audio(self, until: Fraction | None) -> None:
        """Encodes sound up to `until` seconds, so that both streams are interleaved in the file."""
        if self._audio is None:
            return
        samples, rate = self._audio.samples, self._audio.sampling_rate
        end = len(samples) if until is None else min(int(until * rate), len(samples))
        for start in range(self._audio_position, end, rate):  # at most a second at a time
            piece = np.ascontiguousarray(samples[start : min(start + rate, end)]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=self._sound.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            self._container.mux(self._sound.encode(frame))
        self._audio_position = max(end, self._audio_position)

    def _finish(self) -> None:
        if self._error is not None:
            raise self._error
        if self.num_frames == 0:
            raise ValueError("frames: expected at least one, none was written.")
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._encode_audio(until=None)
            self._container.mux(self._sound.encode(None))
        self._container.close()
        self._container = None
        if self._metadata.get("ai_generated"):
            append_xmp(self._partial, self._metadata)
        os.replace(self._partial, self.path)

    def _discard(self) -> None:
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError):  # closing writes to the file, which has failed already
                self._container.close()
            self._container = None
        self._partial.unlink(missing_ok=True)

    def _explained(self, error: BaseException) -> BaseException:
        """A failed write as VideoWriteError of one sentence; any other error unchanged."""
        if not isinstance(error, OSError | av.error.FFmpegError) or isinstance(error, VideoWriteError):
            return error
        reason = getattr(error, "strerror", None) or str(error)
        return VideoWriteError(f"path: {self.path} could not be written ({reason}); nothing was left behind.")


def _for_aac(audio: AudioClip) -> AudioClip:
    """The clip at a sampling rate that AAC supports."""
    if audio.sampling_rate in _AAC_RATES:
        return audio
    rate = min((r for r in _AAC_RATES if r >= audio.sampling_rate), default=_AAC_RATES[-1])
    return AudioClip(resample(audio.samples, audio.sampling_rate, rate), rate)


__all__ = ["VideoWriteError", "VideoWriter", "check_output"]
