"""The stages of making a processed clip, one after the other, each resumable.

In: a `Source` (a video, or frames of another tool) and `PrepareOptions`. Out: the folder that `data.clip` reads. The
source is read twice, one frame at a time: first for the landmarks, which determine the crop, then for the cropped
frames. Frames are not kept in memory.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from ...audio.audio_io import AudioClip, AudioError
from ...constants import MOTION_FPS, SAMPLE_RATE
from ...models.modeling_head import ParametricHead
from ...video.cropping import FrameCrop
from ..tracking.head_track import FaceLandmarks, HeadTrack
from ..tracking.setup import find_face_landmarker, sha256
from .clip import (
    AUDIO,
    BACKGROUND,
    DEPTH,
    FEATURES,
    MATTES,
    NORMALS,
    TRACK,
    VIDEO,
    ClipError,
    ProcessedClip,
    geometry_size,
    load_tensors,
)  # fmt: skip
from .frame_files import FrameReader, FrameWriter
from .framing import choose_crop
from .sound_file import cover, read_flac, write_flac
from .teachers import SOURCE_MESH, FeatureOptions, make_features, write_depth, write_normals
from .writer import LANDMARKS, ClipWriter

logger = logging.getLogger(__name__)

FEATURE_UNITS = (
    "action_units 0..5 in the order of ACTION_UNITS; emotion: probabilities in the order of EMOTIONS; emotion_score "
    "1 - p(neutral); identity: unit length; blendshapes 0..1; input_features: the front end named in clip.json"
)
TRACKER_VERSION = 2  # increase it when tracking changes: existing clips are then made again
MIN_FRAMES = 25  # with a face and a fit: one second


class Source(Protocol):
    """The source of frames and sound. `num_frames` is an estimate for the progress bar; `warnings` may grow while
    frames are read."""

    name: str
    width: int
    height: int
    num_frames: int
    cut: bool  # whether the source is longer than the part that is used; may become true in `frames`
    warnings: list[str]

    def about(self) -> dict[str, Any]:
        """JSON values for clip.json that identify the source, at least `name` and `sha256`."""

    def frames(self) -> Iterator[np.ndarray]:
        """Upright RGB frames `[height, width, 3]` uint8 at 25 fps; the same in every pass."""

    def mattes(self) -> Iterator[np.ndarray] | None:
        """A matte `[height, width]` uint8 for each of `frames`; None if they are to be computed."""

    def sound(self) -> AudioClip | None:
        """The sound from the first frame on."""

    def save_extra(self, writer: ClipWriter) -> None:
        """Writes further files of the source that the clip keeps."""


@dataclass(frozen=True)
class PrepareOptions:
    """Options of preparing; see [`prepare`] for the arguments."""

    size: int = 512
    crop: str = "face"
    face: int | None = None
    face_landmarker: str | None = None
    features: FeatureOptions = field(default_factory=FeatureOptions)
    license: str | None = None

    def __post_init__(self):
        if self.face is not None and (self.face != int(self.face) or self.face < 1):
            raise ValueError(f"face: expected a whole number from 1 on, counted from the left, got {self.face}.")
        if self.size != int(self.size) or not 64 <= self.size <= 4096 or self.size % 2:
            raise ValueError(f"size: expected an even number of pixels from 64 to 4096, got {self.size}.")
        if self.crop not in ("face", "whole"):
            raise ValueError(f"crop: expected 'face' or 'whole', got {self.crop!r}.")


def check_max_seconds(max_seconds: float) -> None:
    """Raises ValueError for an invalid length."""
    if not 1 <= max_seconds < math.inf:
        raise ValueError(f"max_seconds: expected a number of seconds from 1 on, got {max_seconds}.")


def make_clip(
    source: Source,
    options: PrepareOptions,
    output: str | os.PathLike,
    head: ParametricHead,
    *,
    overwrite: bool = False,
    progress: bool | None = None,
) -> ProcessedClip:
    """Makes the clip of `source` in the folder `output`, or continues an earlier attempt."""
    about = source.about()
    request = {
        "source": {"sha256": about["sha256"], "audio": about.get("audio"), "span": about.get("span")},
        "size": options.size,
        "crop": options.crop,
        "face": options.face,
        "face_landmarker": _landmarker(options),
        "head_sha256": head.sha256,
        "tracker": TRACKER_VERSION,
        "features": options.features.request(),
        "license": options.license,
    }
    writer = ClipWriter(output, request, overwrite)
    clip = writer.existing()
    if clip is not None:
        logger.info("%s: is there already, made from the same source with the same options.", writer.target)
        return clip
    with writer:
        return _Maker(source, options, head, writer, about, progress).run()


def _landmarker(options: PrepareOptions) -> str | None:
    """The sha256 of the blendshape model if the options require one. A model that is only found by default is used, but
    installing it later does not outdate finished clips."""
    model = find_face_landmarker(options.face_landmarker)
    needed = options.features.action_units == "blendshapes"
    if model is None and needed:
        raise ClipError(
            "features: action_units='blendshapes' needs MediaPipe's face_landmarker.task; run `emotag setup tracking`, "
            "give face_landmarker=..., or leave action_units at 'head'."
        )
    return sha256(Path(model)) if model is not None and (needed or options.face_landmarker) else None


class _Maker:
    """Makes one clip. Each stage stores its files and its JSON values in the writer, also for the next run."""

    def __init__(
        self,
        source: Source,
        options: PrepareOptions,
        head: ParametricHead,
        writer: ClipWriter,
        about: dict[str, Any],
        progress: bool | None,
    ):
        self.source, self.options, self.head, self.writer, self.about = source, options, head, writer, about
        self.progress = progress

    def run(self) -> ProcessedClip:
        stages = {
            "landmarks": self.landmarks,
            "track": self.track,
            "pictures": self.pictures,
            "sound": self.sound,
            "features": self.features,
            "geometry": self.geometry,
        }
        for name, stage in stages.items():
            if not self.writer.done(name):
                logger.info("%s: %s.", self.source.name, name)
                with self.bar(name):
                    stage()
        warnings = [sentence for name in stages for sentence in self.writer.info(name)["warnings"]]
        track, features = self.writer.info("track"), self.writer.info("features")
        return self.writer.publish(
            {
                "source": self.about | {"width": self.source.width, "height": self.source.height},
                "num_frames": self.num_frames,
                "fps": MOTION_FPS,
                "crop": track["crop"],
                "camera": track["camera"],
                "audio": self.writer.info("sound")["audio"],
                "audio_offset": features["audio_offset"],
                "track": track["quality"],
                "feature_sources": features["sources"] | self.writer.info("geometry")["sources"],
                "warnings": warnings,
                "license": self.options.license,
                "versions": _versions(),
            }
        )

    def landmarks(self) -> None:
        from ..tracking.landmarks import face_warnings, track_landmarks

        source = self.source
        found = track_landmarks(
            self.long_enough(self.counted(source.frames())),
            source.width,
            source.height,
            fps=MOTION_FPS,
            face=self.options.face,
            face_landmarker=self.options.face_landmarker,
        )
        count, there = len(found), int(found.found.sum())
        if there < MIN_FRAMES:
            raise ClipError(
                f"source: expected a face in at least {MIN_FRAMES} frames (one second), found one in {there} of the "
                f"{count} of {source.name}; is the person in the picture, upright and lit?"
            )
        # The reader and the tracker log their warnings themselves.
        warnings = [_sentence(text) for text in (*source.warnings, *face_warnings(found, self.options.face))]
        if there < count:
            gone = f"No face in {count - there} of {count} frames, first at {_first_gap(found):.1f} s."
            warnings += self.said([gone])
        _save_landmarks(found, self.writer)
        self.writer.finish("landmarks", {"num_frames": count, "cut": source.cut, "warnings": warnings})

    @property
    def num_frames(self) -> int:
        return self.writer.info("landmarks")["num_frames"]

    def track(self) -> None:
        from ..tracking.fit import default_camera, fit_head

        found = _load_landmarks(self.writer)
        crop, warnings = choose_crop(found, self.options.size, self.options.crop)
        found.points = crop.to_crop(found.points)
        found.width, found.height = crop.width, crop.height
        camera = default_camera(crop.width, crop.height)
        track = fit_head(found, camera, self.head)
        usable = int(track.valid.sum())
        if usable < MIN_FRAMES:
            raise ClipError(
                f"source: the head could be fitted to {usable} of {self.num_frames} frames of {self.source.name}, "
                f"expected at least {MIN_FRAMES}; is it a real face, seen from the front for a while?"
            )
        tensors, metadata = track.to_tensors()
        save_file(tensors, self.writer.path(TRACK), metadata)
        failed = int((torch.from_numpy(found.found) & ~track.valid).sum())
        if failed:
            warnings.append(f"The fit failed in {failed} of {self.num_frames} frames; they are marked as not valid.")
        info = {
            "crop": crop.to_dict(),
            "camera": {"K": camera.K.tolist(), "viewmat": camera.viewmat.tolist()},
            "quality": {
                "head_sha256": track.head_sha256,
                "valid_frames": usable,
                "error_px_at_512": _median(track.error),
                "held_out_error_px_at_512": _median(track.held_out_error),
            },
            "warnings": self.said(warnings),
        }
        self.writer.finish("track", info, files=(TRACK,))

    def pictures(self) -> None:
        from ..tracking.masks import BackgroundPlate, PersonMatte

        crop = FrameCrop(**self.writer.info("track")["crop"])
        size = (crop.width, crop.height)
        given, plate = self.source.mattes(), BackgroundPlate()
        frames = self.counted(self.source.frames())
        with (
            PersonMatte() as person,
            FrameWriter(self.writer.path(VIDEO), *size) as video,
            FrameWriter(self.writer.path(MATTES), *size, "grey") as mattes,
        ):
            for frame in frames:
                frame = crop.apply(frame)
                matte = person.matte(frame) if given is None else _cut_matte(next(given), crop)
                plate.add(frame, matte)
                video.write(frame)
                mattes.write(matte)
        if video.num_frames != self.num_frames:
            raise ClipError(
                f"source: {self.source.name} had {self.num_frames} frames when it was read first and now has "
                f"{video.num_frames}; was it changed meanwhile? Prepare it again."
            )
        picture, known = plate.picture()
        plate_file = self.writer.path(BACKGROUND)
        Image.fromarray(np.dstack([picture, np.where(known, np.uint8(255), np.uint8(0))])).save(plate_file)
        self.source.save_extra(self.writer)
        self.writer.finish("pictures", {"warnings": []}, files=(VIDEO, MATTES, BACKGROUND))

    def sound(self) -> None:
        about, files = None, ()
        self.writer.path(AUDIO).unlink(missing_ok=True)
        try:
            audio = self.source.sound()
            if audio is None:
                warnings = ["There is no sound: the clip can train how the face looks, not how it speaks."]
            else:
                # Kept from the first pass: after a restart the source does not have them.
                cut = self.writer.info("landmarks")["cut"]
                audio, warnings = cover(audio, self.num_frames / MOTION_FPS, cut)
                if not audio.samples.any():
                    warnings.append("The sound is silent; is it the right track?")
                about, files = write_flac(self.writer.path(AUDIO), audio), (AUDIO,)
        except AudioError as error:
            warnings = [f"The sound cannot be used and is left out ({str(error).rstrip('.')})."]
        self.writer.finish("sound", {"audio": about, "warnings": self.said(warnings)}, files=files)

    def features(self) -> None:
        track = HeadTrack.from_tensors(*load_tensors(self.writer.path(TRACK)))
        found = _load_landmarks(self.writer)
        samples = self.sound_at_16_khz()
        frames = self.frames()
        tensors, sources = make_features(
            self.options.features, track, self.head, frames, samples, found.blendshapes, found.blendshape_names
        )
        frames.close()
        about = {"format": "emotag-features", "units": FEATURE_UNITS}
        if "blendshapes" in tensors:
            about["blendshape_names"] = json.dumps(found.blendshape_names)
        save_file(tensors, self.writer.path(FEATURES), about)
        info = {"sources": sources, "audio_offset": self.offset(track, samples), "warnings": []}
        self.writer.finish("features", info, files=(FEATURES,))

    def geometry(self) -> None:
        """Depth and normals, if a teacher other than the fitted head is used."""
        choices, sources, files = self.options.features, {"depth": SOURCE_MESH, "normals": SOURCE_MESH}, []
        track = HeadTrack.from_tensors(*load_tensors(self.writer.path(TRACK)))
        size = geometry_size(FrameCrop(**self.writer.info("track")["crop"]))
        for name, file, model_id, write in (
            ("depth", DEPTH, choices.depth, write_depth),
            ("normals", NORMALS, choices.normals, write_normals),
        ):
            if model_id is not None:
                frames = self.frames()
                in_order = self.counted(frames[i] for i in range(len(frames)))
                sources[name] = write(self.writer.path(file), model_id, track, self.head, in_order, size)
                frames.close()
                files.append(file)
        self.writer.finish("geometry", {"sources": sources, "warnings": []}, files=tuple(files))

    def long_enough(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Passes the frames on; raises ClipError at the end if there were too few for a clip."""
        count = 0
        for frame in frames:
            yield frame
            count += 1
        if count < MIN_FRAMES:
            raise ClipError(
                f"source: expected at least {MIN_FRAMES} frames (one second), but {self.source.name} has {count}; "
                "it is too short."
            )

    def frames(self) -> FrameReader:
        crop = FrameCrop(**self.writer.info("track")["crop"])
        return FrameReader(self.writer.path(VIDEO), self.num_frames, crop.width, crop.height)

    def offset(self, track: HeadTrack, samples: np.ndarray | None) -> dict[str, Any] | None:
        """The delay of the sound, as JSON; stored, never applied."""
        if samples is None or not samples.any():
            return None
        from ..features.av_offset import estimate_av_offset

        found = estimate_av_offset(track, self.head, samples)
        return asdict(found)

    def sound_at_16_khz(self) -> np.ndarray | None:
        about = self.writer.info("sound")["audio"]
        return None if about is None else read_flac(self.writer.path(AUDIO), about["gain"]).mono(SAMPLE_RATE)

    def said(self, sentences: list[str]) -> list[str]:
        """Logs the warnings and returns them."""
        for sentence in sentences:
            logger.warning("%s: %s", self.source.name, sentence)
        return sentences

    @contextmanager
    def bar(self, stage: str) -> Iterator[None]:
        """A progress bar for a stage; stages that go through frames count them on it."""
        from tqdm.auto import tqdm

        total = self.num_frames if self.writer.done("landmarks") else self.source.num_frames
        disable = None if self.progress is None else not self.progress  # None: only on a terminal
        with tqdm(None, f"{self.source.name}: {stage}", total, False, unit="frame", disable=disable) as self._bar:
            yield

    def counted(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            self._bar.update()


def _save_landmarks(found: FaceLandmarks, writer: ClipWriter) -> None:
    tensors = {"points": found.points, "found": found.found, "num_faces": found.num_faces}
    if found.blendshapes is not None:
        tensors["blendshapes"] = found.blendshapes
    about = {"width": found.width, "height": found.height, "blendshape_names": list(found.blendshape_names)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
    save_file(tensors, writer.path(LANDMARKS), {"about": json.dumps(about)})


def _load_landmarks(writer: ClipWriter) -> FaceLandmarks:
    tensors, metadata = load_tensors(writer.path(LANDMARKS))
    about = json.loads(metadata["about"])
    about["blendshape_names"] = tuple(about["blendshape_names"])
    return FaceLandmarks(**{name: tensor.numpy() for name, tensor in tensors.items()}, fps=MOTION_FPS, **about)


def _cut_matte(matte: np.ndarray, crop: FrameCrop) -> np.ndarray:
    return np.ascontiguousarray(crop.apply(np.repeat(matte[..., None], 3, axis=2))[..., 0])


def _first_gap(found: FaceLandmarks) -> float:
    return float(np.flatnonzero(~found.found)[0]) / MOTION_FPS


def _median(values: torch.Tensor) -> float | None:
    median = float(values.nanmedian())
    return None if math.isnan(median) else round(median, 3)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _versions() -> dict[str, str]:
    """Versions of the packages on which a clip's contents depend."""
    found = {}
    for package in ("emotag_hf", "mediapipe", "torch", "av"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


__all__ = ["MIN_FRAMES", "TRACKER_VERSION", "PrepareOptions", "Source", "check_max_seconds", "make_clip"]
