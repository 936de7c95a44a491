"""From a recording to a talking head: the steps that both pipelines share.

In: a model, a processor, a recording and controls. Out: `TalkingHeadOutput`, whose frames are rendered when they are
read, so that long videos need little memory.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..audio.audio_features import num_video_frames
from ..audio.audio_io import AudioClip, load_audio
from ..audio.loudness import loudness_from_samples
from ..constants import SAMPLE_RATE
from ..export import FORMATS, MOTION_FORMATS, VIEWER_FORMATS, check_frame, render_viewer, save_motion, write_splats
from ..export.files import check_target, pick_format, write_bytes
from ..models.ear import frames_ahead
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..motion.driving_motion import DrivingClip
from ..motion.emotion_direction import EmotionDirection
from ..motion.motion_strengths import MotionStrengths, check_articulation, check_unit_interval
from ..outputs import EmoTaGOutput, FlameMotion
from ..rendering import Camera
from ..rendering.compositing import make_background, to_uint8
from ..rights.provenance import make_provenance
from ..utils.torch_threads import one_torch_thread
from ..utils.typing import PathLike
from ..video.video_writer import VideoWriter

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("np", "pil", "pt", "motion")


@dataclass
class SpeakOptions:
    """Options of speaking; see `EmoTaGPipeline.__call__`. Checked when made: the ValueError names the field.

    `emotion` becomes plain JSON values (None for "auto") for the video's metadata; `direction` is the parsed emotion.
    """

    emotion: Any = None
    intensity: float = 1.0
    seed: int = 0
    fps: float = 25
    size: int | tuple[int, int] = 512
    background: Any = None
    output_type: str = "np"
    head_motion: float | MotionStrengths = 1.0
    pose_from: Any = None
    expression_from: Any = None
    look_ahead: float | str | None = None
    articulation: float = 1.0

    def __post_init__(self) -> None:
        self.intensity = check_unit_interval("intensity", self.intensity)
        self.direction = EmotionDirection(self.emotion, self.intensity)
        self.emotion = self.direction.description
        self.head_motion = MotionStrengths.of(self.head_motion)
        sources = {"pose": self.pose_from, "expression": self.expression_from}
        self.driving = [DrivingClip(s, part, name=f"{part}_from") for part, s in sources.items() if s is not None]
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)) or self.seed < 0:
            raise ValueError(f"seed: expected a whole number of 0 or more, got {self.seed!r}.")
        if isinstance(self.fps, (bool, str)) or not isinstance(self.fps, (int, float)) or not 10 <= self.fps <= 60:
            raise ValueError(f"fps: expected a number from 10 to 60, got {self.fps!r}.")
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: expected one of {', '.join(OUTPUT_TYPES)}; got {self.output_type!r}.")
        if self.look_ahead is not None:
            frames_ahead(self.look_ahead)
        self.articulation = check_articulation(self.articulation)
        width, height = self.width_height
        if self.background is not None:
            # Made here, so that an invalid one raises before any work; from here on it is the finished image.
            self.background = make_background(self.background, width, height)

    @property
    def width_height(self) -> tuple[int, int]:
        """Width and height in pixels, both even, as h264 with 4:2:0 chroma requires."""
        size = self.size
        pair = (size, size) if isinstance(size, (int, np.integer)) and not isinstance(size, bool) else size
        ok = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not ok or any(isinstance(x, bool) or not isinstance(x, (int, np.integer)) for x in pair):
            raise ValueError(f"size: expected pixels as a whole number or (width, height), got {size!r}.")
        if any(x < 64 or x > 4096 or x % 2 for x in pair):
            raise ValueError(
                f"size: expected even numbers from 64 to 4096 pixels (h264 needs even sizes), got {size!r}."
            )
        return int(pair[0]), int(pair[1])


class FrameRenderer:
    """Renders one frame of motion at a time, so that frames of a recording and of a stream are bit-identical.

    Args:
        model: `EmoTaGModel`.
        camera: the camera of every frame.
        background: `[H, W, 3]` in [0, 1].
    """

    def __init__(self, model: EmoTaGModel, camera: Camera, background: torch.Tensor) -> None:
        self._model, self._camera, self._background = model, camera, background
        self._constants: tuple | None = None
        self.seconds: dict[str, float] = {"pose": 0.0, "raster": 0.0}

    @torch.no_grad()
    def prepare(self) -> None:
        """Compiles the kernels and computes what all frames share; otherwise the first frame does it."""
        if self._constants is None:
            self._model.warm_up()
            self._constants = self._model.mouth_basis(), self._model.gaussians.still()

    @torch.no_grad()
    def draw(self, motion: FlameMotion) -> torch.Tensor:
        """Renders one frame of motion: `[H, W, 3]` in [0, 1]."""
        self.prepare()
        began = time.perf_counter()
        with one_torch_thread():
            posed = self._model.pose(motion, *self._constants)  # type: ignore[misc]
            middle = time.perf_counter()
            image = self._model.render(posed, self._camera, self._background).images[0]
        self.seconds["pose"] += middle - began
        self.seconds["raster"] += time.perf_counter() - middle
        return image


def as_output(image: torch.Tensor, output_type: str) -> Any:
    """An image `[H, W, 3]` in [0, 1] as one of `OUTPUT_TYPES`."""
    if output_type == "pt":
        return image.permute(2, 0, 1)
    return Image.fromarray(to_uint8(image)) if output_type == "pil" else image.cpu().numpy()


class LazyFrames(Sequence):
    """T frames, rendered when read: `len(frames)`, `frames[i]`, `frames[a:b]` and iteration.

    An item is float32 `[H, W, 3]` in [0, 1] ("np"), a `PIL.Image` ("pil") or a tensor `[3, H, W]` ("pt").
    Iterating renders each frame once and keeps none.

    Attributes:
        model, motion, camera, background: what the frames are rendered from: `EmoTaGModel`, `FlameMotion` of T frames,
            `Camera`, `[H, W, 3]` in [0, 1].
    """

    def __init__(
        self, model: EmoTaGModel, motion: FlameMotion, camera: Camera, background: torch.Tensor, output_type: str
    ) -> None:
        self.model, self.motion, self.camera, self.background = model, motion, camera, background
        self._output_type = output_type
        self.seconds: dict[str, float] = {"pose": 0.0, "raster": 0.0}

    def __len__(self) -> int:
        return len(self.motion)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [as_output(image, self._output_type) for image in self._render(range(*index.indices(len(self))))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return as_output(next(self._render([index % len(self)])), self._output_type)

    def __iter__(self) -> Iterator:
        return (as_output(image, self._output_type) for image in self._render(range(len(self))))

    def iter_uint8(self) -> Iterator[np.ndarray]:
        """Frames as uint8 `[H, W, 3]`, as a video encoder takes them."""
        for image in self._render(range(len(self))):
            yield to_uint8(image)

    def _render(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        renderer = FrameRenderer(self.model, self.camera, self.background)
        renderer.seconds = self.seconds
        for i in indices:
            yield renderer.draw(self.motion[i : i + 1])


@dataclass
class TalkingHeadOutput:
    """The result of a pipeline: a talking head whose frames are rendered when they are read.

    Args:
        frames: `LazyFrames`; None with `output_type="motion"`.
        audio: the recording, at its own rate; None for an idling face, whose video has no sound track.
        motion: `FlameMotion` of T frames.
        gate: `[T]`, g, strength of the emotion.
        emotion_logits: `[T, 7]`, z_e in the order of `EMOTIONS`.
        fps: frames per second.
        metadata: written into the video to mark it as AI-generated.
    """

    frames: LazyFrames | None
    audio: AudioClip | None
    motion: FlameMotion
    gate: torch.Tensor
    emotion_logits: torch.Tensor
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict)
    progress: Any = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "progress": None}  # a progress bar belongs to one process

    def save(
        self,
        path: PathLike,
        *,
        audio: bool = True,
        progress: Callable[..., Any] | None = None,
        **video_options: Any,
    ) -> str:
        """Writes an mp4 (h264 + AAC, marked as AI-generated); returns its path.

        Args:
            path: the file; an existing file is replaced only when the new one is complete.
            audio: whether the recording is included as sound.
            progress: wraps the iterable of frames, such as `tqdm`.
            video_options: for `VideoWriter` (`crf`, `preset`).

        Raises:
            ValueError: `output_type="motion"` has no frames to save.
            VideoWriteError: the folder does not exist, the disk is full, ...; no partial file is left.
        """
        frames = self._drawn("save")
        progress = progress or self.progress or (lambda frames, total: frames)
        height, width = frames.background.shape[:2]
        writer = VideoWriter(
            path, width, height, self.fps, audio=self.audio if audio else None, metadata=self.metadata, **video_options
        )
        with writer:
            for frame in progress(frames.iter_uint8(), total=len(frames)):
                writer.write(frame)
        return os.fspath(path)

    def export(
        self, path: str | os.PathLike, *, format: str | None = None, frame: int = 0, y_down: bool = False
    ) -> str:
        """Writes the talking head for other programs (docs/exporting.md); returns the path.

        Args:
            path: `.html` for a viewer that plays it in 3D; `.ply`, `.compressed.ply` or `.splat` for the Gaussians of
                one frame; `.json`, `.csv` or `.npz` for the motion with ARKit's names.
            format: one of these without the dot, for a file with another suffix.
            frame: index of the frame whose Gaussians are written.
            y_down: turns the Gaussians for viewers that expect COLMAP's axes, which would show the head upside down.

        Raises:
            ValueError: another suffix; no such frame; with `output_type="motion"`, another format than motion.
            FileNotFoundError, PermissionError, OSError: it cannot be written; no partial file is left.
        """
        kind = pick_format(path, format, FORMATS)
        check_target(path)
        if kind in MOTION_FORMATS:
            return save_motion(self.motion, path, format=kind, metadata=self.metadata)
        if kind in VIEWER_FORMATS:
            return os.fspath(write_bytes(path, [self.viewer_page().encode()]))
        model = self._drawn("export").model
        check_frame(frame, len(self.motion))
        with torch.no_grad():
            posed = model.pose(self.motion[frame : frame + 1])
        return write_splats(posed, path, format=kind, y_down=y_down)

    def viewer_page(self) -> str:
        """The text of the HTML page that `export` writes."""
        frames, seconds = self._drawn("export"), len(self.motion) / self.fps
        return render_viewer(
            frames.model,
            self.motion,
            camera=frames.camera,
            background=frames.background,
            audio=AudioClip(np.zeros((round(seconds * SAMPLE_RATE), 1), np.float32), SAMPLE_RATE)
            if self.audio is None
            else self.audio,
            fps=self.fps,
            metadata=self.metadata,
        )

    def _drawn(self, name: str) -> LazyFrames:
        if self.frames is None:
            raise ValueError(f"{name}: this result holds motion only; ask for output_type 'np', 'pil' or 'pt'.")
        return self.frames


def prepare_audio(
    processor: EmoTaGProcessor, audio: Any, sampling_rate: int | None = None
) -> tuple[AudioClip, dict[str, Any]]:
    """Reads a recording and computes its features. A silent one is taken with a warning: the face idles.

    Args:
        audio: path, bytes, array `[n]` or `[n, channels]`, or `{"array", "sampling_rate"}`.
        sampling_rate: Hz, needed for a bare array.

    Returns:
        the `AudioClip` at its own rate, and `{"input_features" [1, L, F], "samples" [n] at 16 kHz}`.
    """
    clip = load_audio(audio, sampling_rate=sampling_rate, allow_silence=True)
    if clip.silent:
        logger.warning(
            "audio: the recording is silent, so the face idles: it blinks, looks around and breathes with its lips "
            "shut. If there should be speech, check the microphone or the track."
        )
    return clip, hear(processor, clip)


def hear(processor: EmoTaGProcessor, clip: AudioClip) -> dict[str, Any]:
    """The features of a recording, and its samples, as `prepare_audio` gives them."""
    rate = processor.feature_extractor.sampling_rate
    samples = clip.mono(rate)
    if clip.silent:
        samples = np.zeros_like(samples)
    features = processor(audio=samples, sampling_rate=rate, return_tensors="pt")["input_features"]
    # Silence is rows of zeros for `MotionStream`, whatever a speech encoder makes of it.
    return {"input_features": torch.zeros_like(features) if clip.silent else features, "samples": samples}


def predict(model: EmoTaGModel, clip: AudioClip, inputs: dict[str, Any], options: SpeakOptions) -> EmoTaGOutput:
    """Runs the motion network and the generators: `EmoTaGOutput` for the whole recording."""
    num_frames = num_video_frames(len(clip.samples), options.fps, clip.sampling_rate)
    native_times = model.native_times(num_frames, options.fps)
    return model.predict_motion(
        inputs["input_features"].to(model.device),
        num_frames=num_frames,
        fps=options.fps,
        loudness=loudness_from_samples(inputs["samples"], model.config.motion_config.sampling_rate, native_times),
        emotion=options.direction,
        seed=int(options.seed),
        head_motion=options.head_motion,
        driving=options.driving,
        look_ahead=options.look_ahead,
        articulation=options.articulation,
    )


def scene(model: EmoTaGModel, options: SpeakOptions) -> tuple[Camera, torch.Tensor]:
    """The camera, and the background `[H, W, 3]`."""
    width, height = options.width_height
    background = options.background
    if background is None:
        background = make_background(None, width, height, model.config.backdrop)
    return model.camera(width, height), background


def finish(
    model: EmoTaGModel, clip: AudioClip | None, predicted: EmoTaGOutput, options: SpeakOptions, progress: Any = None
) -> TalkingHeadOutput:
    """Makes the output; no frame is rendered yet."""
    frames = None
    if options.output_type != "motion":
        camera, background = scene(model, options)
        frames = LazyFrames(model, predicted.motion, camera, background, options.output_type)
    metadata = make_provenance(
        model=model.config.avatar_name, emotion=options.emotion, intensity=options.intensity, seed=int(options.seed)
    )
    return TalkingHeadOutput(
        frames, clip, predicted.motion, predicted.gate, predicted.emotion_logits, options.fps, metadata, progress
    )
