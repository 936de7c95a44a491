"""Reads any video as upright RGB frames at a constant frame rate, with its sound.

In: a path. Out: `VideoClip`, whose frames are decoded one at a time, so that memory does not grow with the length.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, UnidentifiedImageError

from ..audio.audio_io import AudioClip, decode

logger = logging.getLogger(__name__)

# Containers that hold video. Play lists and scripts (hls, concat, ...) are refused: they make the decoder open other
# files and addresses.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,gif,nut,mxf,dv,ivf,rm,wtv,h264,hevc,m4v,"
    "yuv4mpegpipe,mjpeg,apng"
)
_BT709 = 1  # the matrix of H.273, and swscale's number for it
_UNSPECIFIED = 2
_PQ = 16  # the transfer curve of HDR10
_PAUSE = 0.25  # seconds without a new frame from which a warning is given
_DAMAGE = (av.error.FFmpegError, EOFError)


class VideoReadError(ValueError):
    """The video cannot be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class VideoClip:
    """A video file. Frames and sound are read when they are requested.

    Args:
        path: where it is.
        width, height: size of the returned frames: upright, with square pixels.
        fps: frames per second of the file, on average.
        duration: seconds of video according to the container.
        num_frames: frames in the file according to the container; `frames(fps)` gives `round(duration * fps)`.
        has_audio: whether there is a sound track.
        is_variable: whether the distance between frames varies.
        rotation: degrees (0, 90, 180, 270) by which the stored frames are rotated counter-clockwise to be upright.
        metadata: the container's tags.
        warnings: problems of the file, one sentence each; reading the frames may add some.
        flips: how the stored frames are made upright: swap rows and columns, flip up-down, flip left-right.
    """

    path: Path
    width: int
    height: int
    fps: float
    duration: float
    num_frames: int
    has_audio: bool = False
    is_variable: bool = False
    rotation: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list, compare=False)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @cached_property
    def audio(self) -> AudioClip | None:
        """The whole sound, from the first frame on; None without a sound track. See `sound`."""
        return self.sound()

    def sound(self, stop: float = math.inf) -> AudioClip | None:
        """The unmodified sound from the first frame on, up to `stop` seconds; None without a sound track.

        An hour of stereo is 1.4 GB. Raises AudioError if the sound track cannot be decoded.
        """
        if not self.has_audio:
            return None
        with self.path.open("rb") as file:
            return decode(file, str(self.path), stop)

    def frames(self, fps: float | None = None, stop: float | None = None) -> Iterator[np.ndarray]:
        """Upright RGB frames `[height, width, 3]` uint8, one at a time.

        Args:
            fps: frames per second to resample to: frame k is the stored frame nearest in time to k/fps seconds after
                the first one, so that frames stay in sync with the sound at variable frame rates. None gives every
                stored frame.
            stop: seconds after the first frame at which to end.

        Damaged packets are skipped, as players do, and the frame before them is repeated. If the file is cut off, the
        frames end there. Both are added to `warnings`, with the time in seconds.
        """
        if fps is not None and not 0 < fps <= 1000:
            raise ValueError(f"fps: expected frames per second from above 0 to 1000, got {fps}.")
        if stop is not None and not stop > 0:
            raise ValueError(f"stop: expected a positive number of seconds, got {stop}.")
        return self._frames(fps, math.inf if stop is None else stop)

    def _frames(self, fps: float | None, stop: float) -> Iterator[np.ndarray]:
        upright = _Upright(self)
        pictures = self._pictures()
        try:
            if fps is None:
                for time, picture in pictures:
                    if time >= stop:
                        return
                    yield upright(picture)
            else:
                for picture, times in _resampled(pictures, fps, 1 / self.fps, stop):
                    frame = upright(picture)
                    for _ in range(times - 1):
                        yield frame.copy()  # so that a caller who modifies one frame does not modify the next
                    yield frame
        finally:
            pictures.close()

    def _pictures(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Every stored frame with its time in seconds after the first one."""
        with _open(self.path) as container:
            stream = _picture_stream(container, self.path)
            clock = _Clock(stream, self.fps, self.duration)
            damaged, since, pauses, pause, last = 0, 0.0, 0, 0.0, 0.0
            for packet in chain(_packets(container, stream), [None]):
                try:
                    pictures = [] if packet is None else packet.decode()
                except _DAMAGE:  # only the damaged frame is lost, as in players
                    since = since if damaged else clock.seconds(packet.pts, packet.time_base, last)
                    damaged += 1
                    continue
                decided = [pair for picture in pictures for pair in clock(picture)]
                for time, picture in clock.rest() if packet is None else decided:
                    if picture.is_corrupt:
                        since = since if damaged else time
                        damaged += 1
                    if time - last > max(_PAUSE, 2.5 / self.fps):
                        pause = pause if pauses else last
                        pauses += 1
                    last = time
                    yield time, picture
            if clock.wrong:
                first, count = clock.wrong[0], len(clock.wrong)
                self._warn(f"time stamps jump ahead alone and are not followed, first at {first:.1f} s ({count} such)")
            if damaged:
                self._warn(f"the file is damaged from {since:.1f} s on: {damaged} of its frames are missing or spoilt")
            if pauses:
                self._warn(f"the picture stands still for lack of frames, first at {pause:.1f} s ({pauses} such gaps)")
            promised, end = _own_duration(stream) or 0.0, last + 1 / self.fps
            if promised - end > _PAUSE:
                self._warn(f"the file breaks off: its header promises {promised:.1f} s, its frames end at {end:.1f} s")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            logger.warning("%s: %s.", self.path, text)


class _Clock:
    """Time of each frame after the first one. Missing, backward and impossible time stamps are replaced at the average
    rate.

    So are those that jump ahead if the next one does not: a frame that jumps is held until the next one is read.
    `wrong` has the times at which that happened.
    """

    def __init__(self, stream: av.VideoStream, fps: float, duration: float):
        self._step, self._end, self._last = 1 / fps, duration + 1.0, None
        self._waiting: tuple[float, av.VideoFrame] | None = None
        self.wrong: list[float] = []
        # Also time 0 of `audio_io.decode`, so that the sound stays in sync if the first frames are damaged.
        self._start = None if stream.start_time is None else float(stream.start_time * stream.time_base)

    def seconds(self, stamp: int | None, base: Fraction | None, default: float = 0.0) -> float:
        """A time stamp in seconds after the first frame; `default` without one."""
        return default if stamp is None or base is None else float(stamp * base) - (self._start or 0.0)

    def __call__(self, picture: av.VideoFrame) -> list[tuple[float, av.VideoFrame]]:
        """The frames whose time is known now, in order: none, this one, or the held one and this one."""
        if self._start is None:
            self._start = self.seconds(picture.pts, picture.time_base)
        stamp = self.seconds(picture.pts, picture.time_base, math.nan)
        decided = self.rest(stamp)
        if stamp > (self._last or 0.0) + 1.5 * self._step:
            self._waiting = stamp, picture
            return decided
        return [*decided, (self._decide(stamp), picture)]

    def rest(self, following: float = math.inf) -> list[tuple[float, av.VideoFrame]]:
        """The held frame, if there is one; `following` is the time stamp after it, in seconds."""
        if self._waiting is None:
            return []
        (stamp, picture), self._waiting = self._waiting, None
        if following <= stamp:
            self.wrong.append(self._last or 0.0)
            stamp = math.nan
        return [(self._decide(stamp), picture)]

    def _decide(self, stamp: float) -> float:
        if self._last is None:
            time = stamp if 0 <= stamp <= self._end else 0.0
        else:
            time = stamp if self._last < stamp <= max(self._end, self._last + 1.0) else self._last + self._step
        self._last = time
        return time


class _Upright:
    """Converts decoded frames to upright RGB. One per reader, because threads cannot share swscale's state."""

    def __init__(self, clip: VideoClip):
        self._transposed, self._up_down, self._left_right = clip.flips
        self._size = (clip.height, clip.width) if self._transposed else (clip.width, clip.height)
        self._convert = VideoReformatter().reformat

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        # Without a tag, high definition means BT.709 and the rest BT.601: what players assume.
        guessed = _BT709 if picture.colorspace == _UNSPECIFIED and min(picture.width, picture.height) >= 720 else None
        rgb = self._convert(picture, *self._size, "rgb24", src_colorspace=guessed, interpolation="BICUBIC")
        frame = rgb.to_ndarray()
        if self._transposed:
            frame = frame.swapaxes(0, 1)
        return np.ascontiguousarray(frame[:: -1 if self._up_down else 1, :: -1 if self._left_right else 1])


def _resampled(
    pictures: Iterator[tuple[float, av.VideoFrame]], fps: float, step: float, stop: float
) -> Iterator[tuple[av.VideoFrame, int]]:
    """For each stored frame, for how many consecutive k it is nearest to k/fps seconds; ties go to the earlier frame.

    The last frame counts for its own duration (`step` seconds if it has none).
    """
    k, limit = 0, math.inf if stop == math.inf else math.ceil(stop * fps - 1e-6)
    picture, time = None, 0.0
    for next_time, next_picture in pictures:
        if picture is not None:
            end = min(math.floor((time + next_time) / 2 * fps + 1e-6) + 1, limit)
            if end > k:
                yield picture, end - k
                k = end
            if k >= limit:
                return
        picture, time = next_picture, next_time
    if picture is not None:
        own = float(picture.duration * picture.time_base) if picture.duration and picture.time_base else step
        end = min(max(round((time + own) * fps), 1), limit)
        if end > k:
            yield picture, end - k


def read_video(path: str | os.PathLike) -> VideoClip:
    """Reads the properties of a video, and decodes its first two frames as a check.

    Raises:
        FileNotFoundError, PermissionError: the path cannot be read.
        VideoReadError: a folder, an empty file, no frames (or only cover art), or a single frame.
    """
    path = Path(path)
    if path.is_dir():
        raise VideoReadError(f"path: expected a video, but {path} is a folder.")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise VideoReadError(f"path: expected a video, but {path} is empty (0 bytes).")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"path: expected a video, but there is no file {path}.") from error
    except PermissionError as error:
        raise PermissionError(f"path: expected a video, but reading {path} is not permitted.") from error
    with _open(path) as container:
        stream = _picture_stream(container, path)
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        is_variable = _is_variable(stream)
        first = _first_picture(container, stream, path)
        duration = _own_duration(stream) or _rest_of_duration(container, stream, fps)
        transposed, up_down, left_right = flips = _flips(first)
        shape, warnings = _pixel_shape(stream)
        # Non-square pixels are stretched, never shrunk, so that no detail is lost.
        width, height = round(first.width * max(shape, 1.0)), round(first.height / min(shape, 1.0))
        if first.color_trc == _PQ:
            warnings.append("the video is HDR (PQ) and its colours come out pale; record in standard range")
        return VideoClip(
            path=path,
            width=height if transposed else width,
            height=width if transposed else height,
            fps=fps,
            duration=duration,
            num_frames=stream.frames or max(round(duration * fps), 1),
            has_audio=bool(container.streams.audio),
            is_variable=is_variable,
            rotation=(90 if up_down else 270) if transposed else 180 * (up_down and left_right),
            metadata=dict(container.metadata),
            warnings=warnings,
            flips=flips,
        )


def _open(path: Path) -> av.container.InputContainer:
    try:
        # Tags in an encoding other than UTF-8 are common, and no reason to refuse a video.
        return av.open(os.path.abspath(path), metadata_errors="replace", options={"format_whitelist": _CONTAINERS})
    except (*_DAMAGE, ValueError) as error:
        try:
            with Image.open(path) as picture:
                kind = picture.format
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            raise VideoReadError(
                f"path: expected a video, but {path} holds no picture that can be decoded; if it is a video, it is cut "
                "off or damaged: copy or export it again."
            ) from error
        raise VideoReadError(single_photo(f"{path} is a picture ({kind})")) from error


def single_photo(what: str) -> str:
    """The message that refuses a still image; `what` describes it."""
    return (
        f"path: expected a video of a person who speaks, but {what}; a single photo is not supported, because the "
        "shape of a head and how its face moves show only over several frames."
    )


def _picture_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first video stream that is not cover art."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    has = "only a cover picture" if container.streams.video else "no picture"
    raise VideoReadError(f"path: expected a video, but {path} holds {has}.")


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets up to the end or to damage of the container; the last one flushes the decoder."""
    try:
        yield from container.demux(stream)
    except _DAMAGE:
        flush = av.Packet()
        flush.stream = stream
        yield flush


def _first_picture(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> av.VideoFrame:
    """The first frame, if there is a second one."""
    first = None
    for packet in _packets(container, stream):
        try:
            pictures = packet.decode()
        except _DAMAGE:
            continue
        for picture in pictures:
            if first is not None:
                return first
            first = picture
    if first is None:
        raise VideoReadError(f"path: expected a video, but {path} holds no picture that can be decoded.")
    raise VideoReadError(single_photo(f"{path} holds a single picture"))


def _own_duration(stream: av.VideoStream) -> float | None:
    """Duration of the video stream as in the container; None if it only has one for video and sound together."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    parts = stream.metadata.get("DURATION", "").split(":")  # Matroska, "00:00:05.040000000", its zero is the file's
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds - float((stream.start_time or 0) * stream.time_base)


def _rest_of_duration(container: av.container.InputContainer, stream: av.VideoStream, fps: float) -> float:
    """Duration of the video stream if the container does not give it: the container's duration, or the file's last time
    stamp."""
    if container.duration:
        return container.duration / av.time_base
    start, last = stream.start_time or 0, 0
    for packet in _packets(container, stream):
        last = max(last, packet.pts or 0)
    return float((last - start) * stream.time_base) + 1 / fps


def _is_variable(stream: av.VideoStream) -> bool:
    """Whether the frame rate varies, from the container's index if it lists every frame."""
    times = np.array([entry.timestamp for entry in stream.index_entries], dtype=np.int64)
    if stream.frames and len(times) == stream.frames > 1:
        steps = np.diff(times)
        return bool(steps.max() - steps.min() > max(2.0, 0.1 * np.median(steps)))
    base, average = stream.base_rate, stream.average_rate
    return bool(base and average and abs(base / average - 1) > 0.01)


def _flips(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """From the display matrix: swap rows and columns, then flip up-down, then left-right."""
    for side in picture.side_data:
        if side.type.name == "DISPLAYMATRIX":
            # (x, y) goes to (a x + c y, b x + d y); other angles than multiples of 90 degrees do not occur on cameras
            # and are rounded.
            a, b, _, c, d = np.frombuffer(bytes(side)[:20], np.int32).tolist()
            if abs(b) > abs(a):
                return True, b < 0, c < 0
            return False, d < 0, a < 0
    return False, False, False


def _pixel_shape(stream: av.VideoStream) -> tuple[float, list[str]]:
    """Width of a pixel over its height, and a warning about it."""
    shape = float(stream.sample_aspect_ratio or 1)
    if 0.25 <= shape <= 4:
        return shape, []
    return 1.0, [f"the header's pixel shape ({stream.sample_aspect_ratio}) cannot be; pixels are taken as square"]


__all__ = ["VideoClip", "VideoReadError", "read_video", "single_photo"]
