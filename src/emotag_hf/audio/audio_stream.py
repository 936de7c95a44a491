"""A stream of sound: chunks in, mono float32 at the front ends' rate out, in pieces of any size.

In: arrays of any length at one rate. Out: samples, bit-identical to those of `AudioClip.mono` for the whole recording;
a few milliseconds late if they are resampled.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..constants import SAMPLE_RATE
from .audio_io import MAX_CHANNELS, SILENCE, AudioError, StreamResampler, to_float


class AudioStream:
    """A queue of samples; `push` and `clear` may be called from another thread than `take`.

    Args:
        sampling_rate: Hz, of every chunk.
        target_rate: Hz, of what `take` gives.
    """

    def __init__(self, sampling_rate: int, target_rate: int = SAMPLE_RATE):
        whole = isinstance(sampling_rate, (int, np.integer)) and not isinstance(sampling_rate, bool)
        if not whole or not 1000 <= sampling_rate <= 768_000:
            raise AudioError(f"sampling_rate: expected a whole number from 1000 to 768000 Hz, got {sampling_rate!r}.")
        self.sampling_rate, self.target_rate = int(sampling_rate), target_rate
        self._resampler = StreamResampler(self.sampling_rate, target_rate)
        self._queue = np.zeros(0, np.float32)
        self._lock = threading.Lock()
        self._chunks = self._pushed = self._dropped = 0
        self._channels: int | None = None
        self._owed = 0.0  # fraction of a sample of silence, carried over to the next call
        self.finished = False

    @property
    def num_samples(self) -> float:
        """Number of samples at `sampling_rate` that were pushed and not dropped."""
        return self._pushed - self._dropped * self.sampling_rate / self.target_rate

    def push(self, chunk: Any) -> None:
        """Adds the next `[n]` or `[n, channels]` samples: floats in [-1, 1], or integers at full scale; n may be 0.

        Raises:
            AudioError: not an array, another shape or number of channels, NaN, two channels that cancel each other, or
                the stream has ended.
        """
        if self.finished:
            raise AudioError("chunks: this stream has ended; start a new one.")
        self._chunks += 1
        self._add(self._mono(chunk))

    def push_silence(self, seconds: float) -> None:
        """Adds silence; a fraction of a sample is carried over to the next call."""
        if self.finished:
            raise AudioError("chunks: this stream has ended; start a new one.")
        self._owed += seconds * self.sampling_rate
        self._add(np.zeros(int(self._owed), np.float32))
        self._owed -= int(self._owed)

    def take(self, count: int) -> np.ndarray:
        """Removes and returns up to `count` queued samples."""
        with self._lock:
            taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    def clear(self) -> None:
        """Drops the queued samples."""
        with self._lock:
            self._dropped += len(self._queue)
            self._queue = self._queue[:0]

    def finish(self) -> None:
        """Ends the sound; `take` still returns queued samples."""
        if not self.finished:
            self.finished = True
            with self._lock:
                self._queue = np.concatenate([self._queue, self._resampler.finish()[:, 0]])

    def _add(self, samples: np.ndarray) -> None:
        with self._lock:
            self._pushed += len(samples)
            self._queue = np.concatenate([self._queue, self._resampler.push(samples[:, None])[:, 0]])

    def _mono(self, chunk: Any) -> np.ndarray:
        name = f"chunks: chunk {self._chunks}"
        if hasattr(chunk, "detach"):
            chunk = chunk.detach().cpu().numpy()
        if not isinstance(chunk, np.ndarray):
            kind = type(chunk).__name__
            hint = "; numpy.frombuffer(chunk, numpy.int16) reads raw 16-bit sound" if kind == "bytes" else ""
            raise AudioError(f"{name}: expected an array or tensor of samples, or None for silence, got {kind}{hint}.")
        if chunk.ndim not in (1, 2) or (chunk.ndim == 2 and not 1 <= chunk.shape[1] <= MAX_CHANNELS):
            raise AudioError(
                f"{name}: expected samples [n] or [n, channels] with at most {MAX_CHANNELS} channels, got the shape "
                f"{chunk.shape}; transpose [channels, n] first."
            )
        channels = 1 if chunk.ndim == 1 else chunk.shape[1]
        if self._channels not in (None, channels):
            raise AudioError(f"{name}: expected {self._channels} channels like the chunks before, got {channels}.")
        self._channels = channels
        try:
            samples = to_float(chunk)
        except AudioError as error:
            raise AudioError(f"{name}: {str(error).removeprefix('audio: ')}") from None
        if not np.isfinite(samples).all():
            raise AudioError(f"{name}: expected finite samples, got NaN or infinity.")
        if samples.ndim == 1:
            return samples
        mono = samples.mean(axis=1)
        peaks = (np.abs(x).max(initial=0.0) for x in (mono, samples))
        if next(peaks) < SILENCE and next(peaks) > 0.01:
            raise AudioError(f"{name}: expected channels to be mixed, but these cancel each other; pass one of them.")
        return mono


__all__ = ["AudioStream"]
