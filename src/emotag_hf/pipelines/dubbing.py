"""Dubbing: new speech for a person in an existing video. The face is replaced, everything else stays as filmed.

In: a person's pipeline, the video that its clip was prepared from, a recording. Out: that video, at its own size and
frame rate, speaking the recording (METHOD 6; not in the paper).

Head, body, gaze and blinks are the tracked ones, only expression and jaw come from the speech. Each frame is rendered
twice: with the filmed motion and with the new one. The difference between the frame and the first rendering (grain,
pores, light) is warped along the skin and added to the second one. So the result equals the frame wherever nothing
moved, and there is no seam at the edge of the mask.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..audio.audio_features import num_video_frames
from ..constants import EXPRESSION_NAMES, MOTION_FPS
from ..motion.driving_motion import resample_frames
from ..outputs import FlameMotion, PosedGaussians
from ..pipelines.pipeline_emotag import EmoTaGPipeline
from ..preprocessing.data.clip import ProcessedClip
from ..preprocessing.tracking.masks import box_mean
from ..preprocessing.tracking.setup import sha256
from ..rendering import rasterize
from ..rendering.cameras import Camera
from ..rendering.compositing import to_uint8
from ..rendering.mesh import NEAR, interpolate, rasterize_mesh
from ..rights.provenance import make_provenance
from ..utils.typing import EmotionInput, PathLike, Recording
from ..video.video_reader import VideoClip, read_video
from ..video.video_writer import VideoWriter, check_output
from .talking_head import SpeakOptions, predict, prepare_audio

logger = logging.getLogger(__name__)

REGIONS = ("lower", "face")
MAX_TURNS = 10  # how often a source may be played, forwards or backwards, for one recording
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_SAME_HEAD = 1.0  # millimetres; two fits of one head to one clip differ by less, two persons by more
_FADE = 6  # frames over which the face comes back after frames without a valid track
_BACKWARD_BYTES = 256_000_000  # of frames held at once while a video plays backwards
_CHUNK = 8  # frames posed at once
_UNUSED = 0.05  # a coefficient that stays below is not used by the speech

# Landmarks (MediaPipe's numbers) and distances in metres that define the edge of the replaced face on a neutral head.
_LOWER_LIDS, _FOREHEAD, _EARS, _JAW = (145, 374), 10, (234, 454), (58, 288, 152)
_BELOW_LIDS, _BELOW_HAIR = (0.006, 0.020), (0.002, 0.018)  # from not replaced to replaced
_BEFORE_EARS, _UNDER_JAW = (-0.008, 0.017), (0.050, 0.020)
_GROW = 0.008  # beyond the mesh's outline, for beards and tracking errors

# How the difference between frame and rendering is transferred to the new face.
_CELL = 0.003  # metres; cell size of the smooth part
_SMOOTH = 4  # cells, its radius
_KEEP = 0.7  # weight of the previous frame's smooth part
_DOUBT = 0.08  # colour difference up to which moved skin keeps its difference image
_DOUBT_LIPS = 5.0  # factor by which this is reduced at the lips, whose edges are tracked less exactly
_MOVED = 0.001  # metres of motion from which skin counts as moved
_HIDDEN = 0.005  # metres behind the visible surface, from which skin counts as hidden
_WRONG = 0.3  # colour difference from which it is an edge error rather than light
_ROOM = 0.025  # metres of margin around the filmed face for the new one
_MEASURED = 100  # frames from which the window's size is taken


def dub(
    pipeline: EmoTaGPipeline,
    source_video: PathLike,
    clip: ProcessedClip,
    audio: Recording,
    output: PathLike,
    *,
    sampling_rate: int | None = None,
    emotion: EmotionInput = None,
    intensity: float = 1.0,
    seed: int = 0,
    region: str = "lower",
    track_motion: FlameMotion | None = None,
    progress: Callable[..., Any] | None = None,
    **video_options: Any,
) -> str:
    """Writes a copy of the source video whose face speaks `audio`: same body, head, gaze and blinks. Returns its path.

    If the recording is longer than the clip, the source is played forwards and backwards, at most `MAX_TURNS` times; if
    it is shorter, the video ends with it. Frames without a tracked head keep the filmed face.

    Args:
        pipeline: `EmoTaGPipeline` of an avatar that was adapted to `clip`.
        source_video: the video that `clip` was prepared from.
        clip: the processed clip; its crop is the position of the face in the source.
        audio: the recording to speak, as in `EmoTaGPipeline.__call__`; it becomes the video's sound. If it is silent,
            the jaw is shut and the mouth has the clip's usual expression.
        output: the mp4 to write, marked as AI-generated, with the source's frame rate and size (rounded down to even
            numbers).
        sampling_rate: Hz, needed for a bare array.
        emotion, intensity, seed: as in `EmoTaGPipeline.__call__`; eyelids stay as filmed, so AU45 has no effect.
        region: what is replaced: `"lower"` is jaw, mouth, nose and cheeks up to the lower eyelids; `"face"` also brows
            and forehead, so that emotions show there, too.
        track_motion: motion of the clip's frames at 25 fps, for instance refined by pixels; None takes
            `clip.track.motion`.
        progress: wraps the iterable of frames, such as `tqdm`; by default the pipeline's own bar.
        video_options: for `VideoWriter` (`crf`, `preset`).

    Raises:
        ValueError: the source does not belong to the clip, the avatar to the person, the recording is too long, or an
            argument is invalid.
        FileNotFoundError, PermissionError, VideoWriteError: the source cannot be read or the output not be written.
    """
    options = SpeakOptions(emotion, intensity, seed, MOTION_FPS)
    if region not in REGIONS:
        raise ValueError(f"region: expected one of {', '.join(REGIONS)}, got {region!r}.")
    target = check_output(output)
    model, filmed = pipeline.model, clip.track.motion if track_motion is None else track_motion
    video = _check(model, clip, filmed, source_video)
    if target.exists() and target.samefile(source_video):
        raise ValueError(f"output: {target} is the source video itself; give another name.")
    recording, inputs = prepare_audio(pipeline.processor, audio, sampling_rate)
    count = num_video_frames(len(recording.samples), video.fps, recording.sampling_rate)
    # The number of frames that the source certainly has: the clip's number of frames was rounded.
    order = _turning(max(1, int((clip.num_frames - 0.5) / MOTION_FPS * video.fps + 0.5)), count)
    positions = _clip_positions(clip.num_frames, video.fps, int(order.max()) + 1)[order]
    speech = predict(model, recording, inputs, options).motion
    filmed = _at(filmed, positions / MOTION_FPS, video.fps)
    spoken = with_speech(filmed, _at(speech, np.arange(count) / video.fps, video.fps), region)
    shares = np.interp(positions, np.arange(clip.num_frames), _shares(clip.valid.numpy()))
    face = _NewFace(model, clip, filmed, spoken, region)
    said = {"emotion": options.emotion, "intensity": options.intensity, "seed": int(options.seed)}
    about = make_provenance(model=model.config.avatar_name, source_sha256=clip.info["source"]["sha256"], **said)
    about["digital_source_type"] = _COMPOSITE
    width, height = (size - size % 2 for size in (video.width, video.height))  # h264 needs even sizes
    frames = (progress or pipeline.progress_bar)(_frames_in(video, order), total=count)
    with VideoWriter(target, width, height, video.fps, audio=recording, metadata=about, **video_options) as writer:
        for t, frame in enumerate(frames):
            if shares[t] > 0:
                frame = face(t, frame, float(shares[t]))
            writer.write(frame[:height, :width])
    return os.fspath(target)


def with_speech(filmed: FlameMotion, speech: FlameMotion, region: str = "lower") -> FlameMotion:
    """The filmed motion with the mouth of `speech`: jaw and expression of T frames.

    Brows and eyelids (`region="lower"`) and the tendons of the neck stay as filmed. Directions that the speech does not
    use (such as a crooked mouth) keep their usual value, because they belong to the person's face.
    """
    kept = ("brow", "eye", "neck", "cheekRaiser", "cheekSquint") if region == "lower" else ("neck",)
    own = [i for i, name in enumerate(EXPRESSION_NAMES) if name.startswith(kept)]
    expression, jaw = speech.expression.clone(), speech.jaw_pose.clone()
    unused = expression.abs().amax(0) < _UNUSED
    expression[:, unused] = filmed.expression.median(0).values[unused]
    expression[:, own] = filmed.expression[:, own]
    jaw[:, 1:] += filmed.jaw_pose[:, 1:].median(0).values
    return replace(filmed, expression=expression, jaw_pose=jaw, mouth_code=speech.mouth_code)


def _check(model: Any, clip: ProcessedClip, motion: FlameMotion, path: str | os.PathLike) -> VideoClip:
    """Raises ValueError unless model, motion and video belong to the clip; returns the video."""
    video, source, crop, track = read_video(path), clip.info["source"], clip.crop, clip.track
    size, expected = (video.width, video.height), (crop.source_width, crop.source_height)
    if size != expected or sha256(Path(path)) != source["sha256"]:
        raise ValueError(
            f"source_video: expected {source['name']}, from which the clip was prepared ({expected[0]}x{expected[1]}, "
            f"sha256 {source['sha256'][:12]}...), got another file, {path} ({size[0]}x{size[1]}); prepare that one."
        )
    if len(motion) != clip.num_frames or motion.fps != MOTION_FPS:
        raise ValueError(
            f"track_motion: expected {clip.num_frames} frames at {MOTION_FPS} fps as the clip has, got {len(motion)} "
            f"at {motion.fps:g}."
        )
    if model.head.sha256 != track.head_sha256:
        raise ValueError("pipeline: it has another kind of head than the clip's track; use the avatar of this clip.")
    with torch.no_grad():
        mine, theirs = model.head(shape=torch.stack([model.shape, track.shape.to(model.shape)])).vertices.cpu()
    apart = 1000 * (mine - theirs).norm(dim=1).mean().item()
    if apart > _SAME_HEAD:
        raise ValueError(f"pipeline: its head is {apart:.1f} mm away from the clip's; use the avatar of this clip.")
    return video


def _turning(length: int, count: int) -> np.ndarray:
    """`[count]` indices of frames 0 to `length` - 1, played forwards and backwards without repeating the last frame."""
    period = max(1, 2 * (length - 1))
    if count > MAX_TURNS * length:
        raise ValueError(
            f"audio: expected at most {MAX_TURNS} times the length of the clip ({length} frames of the source), got "
            f"{count} frames; use a shorter recording or a longer clip."
        )
    if count > length:
        logger.info("The recording is longer than the clip (%d and %d frames): it plays forth and back.", count, length)
    phase = np.arange(count) % period
    return np.minimum(phase, period - phase)


def _clip_positions(num_frames: int, fps: float, length: int) -> np.ndarray:
    """Time of each source frame in clip frames, `[length]`.

    A clip frame shows the source frame nearest in time (`video_reader`), so its motion belongs to that frame's time.
    With the nominal time, heads would be off by up to half a source frame.
    """
    shown = np.ceil(np.arange(num_frames) * fps / MOTION_FPS - 0.5 - 1e-6).astype(int)
    shown, first = np.unique(shown, return_index=True)
    return np.interp(np.arange(length), shown, first)


def _at(motion: FlameMotion, times: np.ndarray, fps: float) -> FlameMotion:
    """The motion at other times. Neighbouring frames are close enough to interpolate each angle by itself."""
    fields = {name: value for name, value in vars(motion).items() if isinstance(value, torch.Tensor)}
    moved = {name: resample_frames(value, motion.fps, times) for name, value in fields.items()}  # type: ignore[arg-type]
    return replace(motion, **moved, fps=fps)


def _shares(valid: np.ndarray) -> np.ndarray:
    """`[T]` weight of the new face: 0 where the track is not valid, rising to 1 within some frames."""
    away = np.abs(np.arange(len(valid))[:, None] - np.nonzero(~valid)[0]).min(1, initial=len(valid) + _FADE)
    return np.clip((away - 1) / _FADE, 0, 1)


def _frames_in(video: VideoClip, order: np.ndarray) -> Iterator[np.ndarray]:
    """The source's frames in an order that `_turning` made. Played backwards, a block at a time is decoded and
    kept in memory."""
    held = max(1, _BACKWARD_BYTES // (3 * video.width * video.height))
    turns = np.nonzero(np.diff(np.sign(np.diff(order, prepend=-1))))[0] + 1
    for part in np.split(order, turns):
        if part[0] <= part[-1]:
            yield from islice(video.frames(video.fps), int(part[0]), int(part[-1]) + 1)
            continue
        for piece in np.split(part, range(held, len(part), held)):
            yield from reversed(list(islice(video.frames(video.fps), int(piece[-1]), int(piece[0]) + 1)))


class _NewFace:
    """Replaces the face in a source's frames, in playing order. `filmed` is the motion in them, `spoken` the new one, T
    frames each."""

    def __init__(self, model: Any, clip: ProcessedClip, filmed: FlameMotion, spoken: FlameMotion, region: str) -> None:
        self.model, self.motions = model, [motion.to(model.device) for motion in (filmed, spoken)]
        model.warm_up()
        self.camera, self.plate = _source_camera(clip), _source_plate(clip)
        self.replaced, self.doubt = _vertex_weights(model, region)
        self.members = (self.replaced > 0).numpy()
        # At a larger size than the clip's, Gaussians are enlarged with it: soft instead of with holes.
        self.eps2d = 0.3 * max(1.0, clip.crop.scale[0] ** -2)
        self._chunk = -1
        self._cells: Any = None
        # Pixels per metre, and a window around the face that is large enough for all frames.
        seen = self._vertices(self.motions[0][:: max(1, len(filmed) // _MEASURED)])[:, self.members]
        if seen[..., 2].min() <= NEAR:
            raise ValueError("track_motion: the head is behind the camera; is it the motion of this clip?")
        self.scale = self.camera.K[0, 0].item() / float(np.median(seen[..., 2]))
        self.cell = max(1, round(_CELL * self.scale))
        pixels = _project(seen, self.camera)
        middle = pixels.mean(1)
        reach = [(middle - pixels.min(1)).max(0), (pixels.max(1) - middle).max(0)]
        cells = np.ceil((np.stack(reach) + _ROOM * self.scale) / self.cell).astype(int)
        self.before, self.size = cells[0] * self.cell, cells.sum(0) * self.cell  # x, y

    def _vertices(self, motion: FlameMotion) -> np.ndarray:
        """`[T, V, 3]` in camera space, metres."""
        view = self.camera.viewmat
        with torch.no_grad():
            world = self.model.head(shape=self.model.shape[None], **motion.head_inputs()).vertices.cpu()
        return (world @ view[:3, :3].T + view[:3, 3]).numpy()

    @torch.no_grad()
    def __call__(self, t: int, frame: np.ndarray, share: float) -> np.ndarray:
        """Blends the new face with weight `share` into frame `t` `[H, W, 3]` uint8, and returns that."""
        chunk = t - t % _CHUNK
        if chunk != self._chunk:
            self._chunk, motions = chunk, [motion[chunk : chunk + _CHUNK] for motion in self.motions]
            self._posed = self._same_outside_face(*map(self.model.pose, motions))
            points = list(map(self._vertices, motions))
            self._points = points[0], points[0] + self.replaced.numpy()[:, None] * (points[1] - points[0])
        vertices = [points[t - chunk] for points in self._points]
        left, top = np.round(_project(vertices[0][self.members], self.camera).mean(0)).astype(int) - self.before
        columns, rows = left + np.arange(self.size[0]), top + np.arange(self.size[1])
        inside = [(at >= 0) & (at < size) for at, size in ((rows, len(frame)), (columns, frame.shape[1]))]
        # Where the window reaches beyond the image, its edge is repeated.
        here = np.ix_(rows.clip(0, len(frame) - 1), columns.clip(0, frame.shape[1] - 1))
        source, plate = _planes(frame[here]), _planes(self.plate[here])
        shift = torch.tensor([[0, 0, left], [0, 0, top], [0, 0, 0]])
        camera = Camera(int(self.size[0]), int(self.size[1]), self.camera.K - shift, self.camera.viewmat)
        old, old_alpha = self._draw(self._posed[0], t - chunk, camera, plate)
        new, new_alpha = self._draw(self._posed[1], t - chunk, camera, plate)
        skin = _Skin(vertices, self.model.head, camera, self.replaced, self.doubt)
        picture = new + new_alpha * self._transfer_difference(source - old, old_alpha, skin)
        mask = share * self._mask(skin.replaced, torch.maximum(old_alpha, new_alpha))
        mixed = to_uint8(torch.lerp(source, picture.clamp(0, 1), mask).permute(1, 2, 0))
        frame[np.ix_(rows[inside[0]], columns[inside[1]])] = mixed[np.ix_(*inside)]
        return frame

    def _same_outside_face(self, old: PosedGaussians, new: PosedGaussians) -> tuple[PosedGaussians, PosedGaussians]:
        """Filmed and spoken Gaussians, equal outside the face: correctives and stretched skin would also change its
        surroundings."""
        share = self.replaced.to(new.means)[self.model.head.faces].mean(1)[self.model.gaussians.binding]
        mix = lambda a, b: torch.lerp(a, b, share.reshape(-1, *[1] * (a.dim() - 2)))  # noqa: E731
        quats = mix(old.quats, new.quats * torch.sign((old.quats * new.quats).sum(-1, keepdim=True)))
        per_frame = new.colors.dim() == (4 if new.sh_degree else 3)
        colors = mix(old.colors, new.colors) if per_frame else new.colors
        moved: dict[str, Any] = {"means": mix(old.means, new.means), "scales": mix(old.scales, new.scales)}
        return old, replace(new, quats=F.normalize(quats, dim=-1), colors=colors, **moved)

    def _draw(self, posed: PosedGaussians, i: int, camera: Camera, plate: torch.Tensor) -> list[torch.Tensor]:
        """The person rendered over the background `[3, h, w]`, and the alpha `[1, h, w]`."""
        colors, alphas, _ = rasterize(
            posed.means[i], posed.quats[i], posed.scales[i], posed.opacities, posed.frame_colors(i),
            viewmats=camera.viewmat[None].to(posed.means), Ks=camera.K[None].to(posed.means),
            width=camera.width, height=camera.height, sh_degree=posed.sh_degree or None, eps2d=self.eps2d,
        )  # fmt: skip
        color, alpha = (x[0].cpu().permute(2, 0, 1).contiguous() for x in (colors, alphas))
        return [torch.addcmul(color, 1 - alpha, plate), alpha]

    def _transfer_difference(self, lack: torch.Tensor, alpha: torch.Tensor, skin: _Skin) -> torch.Tensor:
        """The difference between frame and rendering `[3, h, w]`, transferred to the new face: a smooth part, averaged
        over time (light, colour), and the rest, which moves with the skin and is reduced where it is large or moved
        far."""
        known = ((alpha > 0.9) & skin.filmed) / (1 + (lack / _WRONG).square().sum(0))
        cells = F.avg_pool2d(torch.cat([lack * known, known]), self.cell)
        for _ in range(3):
            cells = torch.from_numpy(box_mean(cells.numpy(), _SMOOTH))
        # The window moves with the head, so each cell is averaged over frames.
        self._cells = cells if self._cells is None else torch.lerp(cells, self._cells, _KEEP)
        smooth = self._enlarged(self._cells[:3] / (self._cells[3:] + 1e-3))
        rest = lack - smooth
        size = F.avg_pool2d(rest.abs().mean(0, keepdim=True), 3, 1, 1) * skin.doubt
        there = F.grid_sample(torch.cat([rest, size])[None], skin.grid, "bilinear", "border", align_corners=False)[0]
        doubt = (there[3] / _DOUBT).square() * (skin.moved / (_MOVED * self.scale)).clamp(max=1)
        return smooth + there[:3] * (skin.seen * torch.exp(-doubt))

    def _mask(self, replaced: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """`[1, h, w]` in [0, 1]: soft, dilated beyond the mesh's outline, but 0 where neither rendering shows the
        person."""
        radius = max(1, round(_GROW / _CELL))
        cells = F.avg_pool2d(torch.cat([replaced, (alpha > 0.1).float()]), self.cell)
        cells = F.max_pool2d(cells, 2 * radius + 1, 1, radius)
        cells = torch.from_numpy(box_mean(cells.numpy(), radius - 1))
        return self._enlarged(cells.prod(0, keepdim=True))

    def _enlarged(self, cells: torch.Tensor) -> torch.Tensor:
        return F.interpolate(cells[None], scale_factor=self.cell, mode="bilinear")[0]


class _Skin:
    """Which part of the skin each pixel of a window shows, `[1, h, w]` each.

    In the filmed pose: `filmed`, whether it is skin, and `doubt`, how unreliable it is. Larger value of both poses:
    `replaced`. In the spoken pose: where it was filmed (`grid` for `grid_sample`), whether it was visible there
    (`seen`), how many pixels it `moved`.
    """

    def __init__(self, vertices: Any, head: Any, camera: Camera, replaced: torch.Tensor, doubt: torch.Tensor) -> None:
        faces, size = head.faces.cpu().numpy(), (camera.width, camera.height)
        filmed, spoken = (rasterize_mesh(points, faces, camera.K, *size) for points in vertices)  # type: ignore[arg-type]
        values = np.column_stack([replaced, doubt])
        was = _planes(interpolate(filmed, faces, values))
        now = _planes(interpolate(spoken, faces, np.column_stack([values, _project(vertices[0], camera), vertices[0]])))
        self.filmed, is_skin = (torch.from_numpy(buffers.face_index >= 0)[None] for buffers in (filmed, spoken))
        self.replaced, self.doubt = torch.maximum(was[:1], now[:1]), torch.where(self.filmed, was[1:], 1.0)
        y, x = torch.meshgrid(torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5, indexing="ij")
        here = torch.stack([x, y])
        there = torch.where(is_skin, now[2:4], here)  # outside the mesh nothing moves
        self.moved = (there - here).norm(dim=0, keepdim=True)
        self.grid = (2 * there.permute(1, 2, 0) / torch.tensor(size) - 1)[None]
        depth = torch.from_numpy(filmed.depth)[None, None]
        depth = F.grid_sample(depth, self.grid, "nearest", "border", align_corners=False)[0]
        shows = torch.where(is_skin, now[6:], torch.inf) <= depth + _HIDDEN  # outside the mesh, unless skin was there
        self.seen = F.avg_pool2d(shows.float(), 3, 1, 1)


def _vertex_weights(model: Any, region: str) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of each vertex is replaced, `[V]` in [0, 1], and the factor by which its pixels are less reliable,
    `[V]`."""
    head = model.head
    with torch.no_grad():
        neutral = head(shape=model.shape[None]).vertices
        neutral, marks = neutral[0].cpu(), head.landmarks(neutral)[0].cpu()
    right, left, chin = marks[list(_JAW)]
    down = torch.linalg.cross(left - right, chin - right)
    down = down / down.norm() * -torch.sign(down[1])
    _, y, z = neutral.unbind(-1)
    lids, hair, ears = marks[list(_LOWER_LIDS), 1].mean(), marks[_FOREHEAD, 1], marks[list(_EARS), 2].mean()
    ramp = lambda x, ends: ((x - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)  # noqa: E731
    upper = ramp(lids - y, _BELOW_LIDS) if region == "lower" else ramp(hair - y, _BELOW_HAIR)
    weights = upper * ramp(z - ears, _BEFORE_EARS) * ramp((neutral - chin) @ down, _UNDER_JAW)
    weights = weights.square() * (3 - 2 * weights)
    doubt = torch.ones_like(weights)
    for name in {"mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue", "lips"} & set(head.region_names):
        weights[head.region(name).cpu()], doubt[head.region(name).cpu()] = 1.0, _DOUBT_LIPS
    return weights, doubt


def _planes(picture: np.ndarray) -> torch.Tensor:
    """`[h, w, C]` to `[C, h, w]` float32; bytes to [0, 1]."""
    planes = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    return planes / 255 if picture.dtype == np.uint8 else planes


def _project(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Pixels `[..., 2]` of points in camera space."""
    pixels = points @ camera.K.numpy().T
    return pixels[..., :2] / pixels[..., 2:]


def _source_camera(clip: ProcessedClip) -> Camera:
    """The clip's camera in pixels of the source."""
    crop = clip.crop
    scale, shift = torch.tensor([*crop.scale, 1.0]), torch.tensor([[0, 0, crop.x], [0, 0, crop.y], [0, 0, 0]])
    return Camera(crop.source_width, crop.source_height, clip.camera.K / scale[:, None] + shift, clip.camera.viewmat)


def _source_plate(clip: ProcessedClip) -> np.ndarray:
    """The background `[H, W, 3]` uint8 in pixels of the source; beyond the clip's window its edge is repeated."""
    crop = clip.crop
    x = (np.arange(crop.source_width) + 0.5 - crop.x) / crop.window_width
    y = (np.arange(crop.source_height) + 0.5 - crop.y) / crop.window_height
    grid = torch.from_numpy(np.stack(np.meshgrid(2 * x - 1, 2 * y - 1), -1).astype(np.float32))[None]
    picture = torch.from_numpy(clip.background[0]).permute(2, 0, 1)[None].float()
    plate = F.grid_sample(picture, grid, "bilinear", "border", align_corners=False)[0]
    return plate.round().byte().permute(1, 2, 0).numpy()


__all__ = ["MAX_TURNS", "REGIONS", "dub", "with_speech"]
