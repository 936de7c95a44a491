"""Frames of a clip in a video file with random access: written once in order, read in any order.

In: arrays, one a frame. Out: `video.mp4` (h264), or a Matroska file of ffv1 (without loss: mattes, depth, normals), and
any frame of it again. There is a key frame every few frames and there are no B-frames, so that any frame takes a few
decoding steps, and is bit-identical whether it was reached by seeking or in order.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from ...constants import MOTION_FPS

_BT709 = 1
_TV_RANGE = 1
_THREADS = 2  # of the encoder; fixed, because x264's bits depend on it
_CACHE = 4  # decoded frames cached by a reader
_KEY_FRAMES = 5  # pictures from one key frame to the next

# crf 10 needs 0.5 MB per second at 512x512 and has a PSNR of 43.4 dB (4:2:0 alone: 45.4 dB); with key frames only it
# would be 1.5 times as large. fastdecode (no deblocking) halves the time to decode.
_X264 = {"crf": "10", "preset": "veryfast", "tune": "fastdecode", "g": str(_KEY_FRAMES), "bf": "0", "sc_threshold": "0"}
_FFV1 = {"level": "3", "g": "1", "slices": "4"}  # every frame by itself: 12 kB for a 512x512 matte


class _Kind(NamedTuple):
    container: str
    codec: str
    pixels: str  # in the file
    array: str  # PyAV's name of the array's format
    dtype: type
    channels: int  # 0: `[H, W]`


KINDS = {
    "colour": _Kind("mp4", "h264", "yuv420p", "rgb24", np.uint8, 3),
    "grey": _Kind("matroska", "ffv1", "gray", "gray", np.uint8, 0),
    "grey16": _Kind("matroska", "ffv1", "gray16le", "gray16le", np.uint16, 0),
    "exact colour": _Kind("matroska", "ffv1", "bgr0", "rgb24", np.uint8, 3),
}

# A decoder that was copied by a fork can be neither used nor freed (freeing waits for threads that do not exist).
_ABANDONED: list = []


class FrameWriter:
    """Writes frames in order; use it as a context manager.

    Args:
        path: the file; an existing one is overwritten. It is complete only after the `with` block has ended without an
            error.
        width, height: pixels, even for `"colour"`.
        kind: `"colour"`: RGB `[H, W, 3]` uint8 in h264; `"exact colour"`: the same, lossless; `"grey"`: `[H, W]` uint8
            without loss; `"grey16"`: `[H, W]` uint16 without loss.
    """

    def __init__(self, path: str | os.PathLike, width: int, height: int, kind: str = "colour"):
        if kind == "colour" and (width % 2 or height % 2):
            raise ValueError(f"width, height: expected even numbers of pixels for h264, got {width}x{height}.")
        self.path, self.width, self.height, self.kind = Path(path), width, height, KINDS[kind]
        self.num_frames = 0
        self._container = None

    def __enter__(self) -> FrameWriter:
        kind = self.kind
        self._container = av.open(os.path.abspath(self.path), "w", format=kind.container)
        codec, options = ("libx264", _X264) if kind.codec == "h264" else (kind.codec, _FFV1)
        self._stream = self._container.add_stream(codec, rate=MOTION_FPS, options=options)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = self.width, self.height, kind.pixels
        context.time_base, context.thread_count = Fraction(1, MOTION_FPS), _THREADS
        if kind.codec == "h264":
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _TV_RANGE
        return self

    def write(self, frame: np.ndarray) -> None:
        """Adds one frame."""
        kind, shape = self.kind, (self.height, self.width)
        shape = (*shape, kind.channels) if kind.channels else shape
        if frame.shape != shape or frame.dtype != kind.dtype:
            raise ValueError(f"frame: expected {np.dtype(kind.dtype)} of {shape}, got {frame.dtype} {frame.shape}.")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind.array)
        if kind.codec == "h264":  # averaging the chroma planes gains 0.5 dB over the default
            picture = picture.reformat(format=kind.pixels, dst_colorspace=_BT709, interpolation="AREA")
        picture.pts, picture.time_base, picture.duration = self.num_frames, Fraction(1, MOTION_FPS), 1
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class FrameReader:
    """Any frame of a file that `FrameWriter` wrote. It can be pickled, forked and shared by threads.

    Args:
        path: the file.
        num_frames, width, height: the values in clip.json; a file that differs raises when it is first read.
        kind: as it was written.

    Raises:
        ValueError: on first access, if the file does not match.
        IndexError: a frame that the clip does not have.
    """

    def __init__(self, path: str | os.PathLike, num_frames: int, width: int, height: int, kind: str = "colour"):
        self.path, self.num_frames, self.width, self.height, self.kind = Path(path), num_frames, width, height, kind
        self._forget()

    def _forget(self) -> None:
        self._container = self._decoder = None
        self._last = -1  # index of the last decoded frame
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("path", "num_frames", "width", "height", "kind")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame `index` (negative ones count from the end), read-only."""
        frame = range(self.num_frames)[index]  # raises IndexError
        if self._process != os.getpid():  # after a fork parent and child would share one position in the file
            _ABANDONED.append((self._decoder, self._container))
            self._forget()
        with self._lock:
            if frame in self._cache:
                self._cache.move_to_end(frame)
            else:
                self._cache[frame] = self._decode(frame)
                if len(self._cache) > _CACHE:
                    self._cache.popitem(last=False)
            return self._cache[frame]

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if self._process != os.getpid():
            _ABANDONED.append((self._decoder, self._container))
        elif self._container is not None:
            self._container.close()
        self._forget()

    def _decode(self, frame: int) -> np.ndarray:
        try:
            if self._container is None:
                self._open()
            if self._decoder is None or not self._last < frame <= self._last + _KEY_FRAMES:
                self._container.seek(round(frame / MOTION_FPS / self._stream.time_base), stream=self._stream)
                self._decoder = self._container.decode(self._stream)
            for picture in self._decoder:
                self._last = round(picture.pts * self._stream.time_base * MOTION_FPS)
                if self._last >= frame:
                    break
        except av.error.FFmpegError as error:
            self._decoder, self._last = None, -1
            raise ValueError(f"{self.path.name}: frame {frame} of {self.path} cannot be decoded ({error}).") from error
        if self._last != frame:
            self._decoder, self._last = None, -1
            raise ValueError(f"{self.path.name}: expected {self.num_frames} frames, but {self.path} lacks {frame}.")
        array = picture.to_ndarray(format=KINDS[self.kind].array)
        array.flags.writeable = False  # it stays in the cache
        return array

    def _open(self) -> None:
        kind = KINDS[self.kind]
        self._container = av.open(os.path.abspath(self.path), format=kind.container)
        streams = self._container.streams.video
        found = f"{streams[0].codec_context.name} {streams[0].width}x{streams[0].height}" if streams else "no picture"
        expected = f"{kind.codec} {self.width}x{self.height}"
        if found != expected:
            self.close()
            raise ValueError(f"{self.path.name}: expected {expected}, got {found} in {self.path}.")
        self._stream = streams[0]
        self._stream.codec_context.thread_count = 1  # parallel reading uses processes


__all__ = ["FrameReader", "FrameWriter"]
