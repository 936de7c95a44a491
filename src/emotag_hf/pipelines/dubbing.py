"""New speech for a person in a video that exists: the face is replaced, everything else stays as it was filmed.

In: a person's pipeline, the video that its clip was prepared from, a recording. Out: that video at its own size and
rate, speaking the recording; or, for other uses, a talking head with its alpha (METHOD 6; neither is in the paper).

Head, body, gaze and blinks are the tracked ones, only expression and jaw come from the speech. Each frame is drawn
twice: with the motion that was filmed and with the new one. What the first drawing lacks against the frame (grain,
pores, light) is carried along the skin to the second one, so the replaced face is the frame itself wherever nothing
moved, and no seam shows at the rim of the mask.
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
MAX_TURNS = 10  # how often a source may be played, forth or back, for one recording
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_SAME_HEAD = 1.0  # millimetres; two fits of one head to one clip differ by less, two persons by more
_FADE = 6  # frames over which the face comes back after frames without a valid track
_BACKWARD_BYTES = 256_000_000  # of frames held at once while a video plays backwards
_CHUNK = 8  # frames posed at once
_UNUSED = 0.05  # an expression that stays below is not the speech's

# Landmarks (MediaPipe's numbers) and distances in metres that say where the replaced face ends on a neutral head.
_LOWER_LIDS, _FOREHEAD, _EARS, _JAW = (145, 374), 10, (234, 454), (58, 288, 152)
_BELOW_LIDS, _BELOW_HAIR = (0.006, 0.020), (0.002, 0.018)  # from nothing to everything
_BEFORE_EARS, _UNDER_JAW = (-0.008, 0.017), (0.050, 0.020)
_GROW = 0.008  # beyond the mesh's outline, which no beard or wrong millimetre may look over

# How what the drawing lacks is carried to the new face.
_CELL = 0.003  # metres of a cell of the smooth part
_SMOOTH = 4  # cells, its radius
_KEEP = 0.7  # share of the last frame's smooth part
_DOUBT = 0.08  # colour by which skin may differ and still be believed where it moves
_DOUBT_LIPS = 5.0  # how many times less lips are believed, whose edges never lie quite where they are tracked
_MOVED = 0.001  # metres from which skin counts as moved
_HIDDEN = 0.005  # metres behind what was seen, from which skin was not seen
_WRONG = 0.3  # colour of a lack that is rather a wrong edge than light
_ROOM = 0.025  # metres around the filmed face for the spoken one
_MEASURED = 100  # frames that tell the window's size


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
    """Writes the source video anew with a face that speaks `audio`: same body, head, gaze and blinks; returns its path.

    A recording that is longer than the clip lets the source play forth and back, at most `MAX_TURNS` times; a shorter
    one ends the video. Frames in which the head was not found keep the face that was filmed.

    Args:
        pipeline: `EmoTaGPipeline` of an avatar that was adapted to `clip`.
        source_video: the video that `clip` was prepared from.
        clip: the processed clip; its crop says where the face lies in the source.
        audio: what to say, as in `EmoTaGPipeline.__call__`; it becomes the video's sound.
        output: the mp4 to write, with the source's rate and size (but for an odd column or row); marked as generated.
        sampling_rate: Hz, needed for a bare array.
        emotion, intensity, seed: as in `EmoTaGPipeline.__call__`; lids stay as they were filmed, so AU45 does nothing.
        region: what is replaced: `"lower"` is jaw, mouth, nose and cheeks up to the lower lids; `"face"` also brows and
            forehead, so that an emotion shows there, too.
        track_motion: motion of the clip's frames at 25 fps, if better than `clip.track.motion` (refined by pixels).
        progress: wraps the iterable of frames, such as `tqdm`; by default the pipeline's own bar.
        video_options: for `VideoWriter` (`crf`, `preset`).

    Raises:
        ValueError: the source is not the clip's, the avatar is another person's, the recording is too long, or an
            argument cannot be.
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
    # So many frames the source has for certain: the clip's number of frames was rounded.
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
    """What was filmed with the mouth of `speech`: jaw and expression of T frames.

    Brows and lids (`region="lower"`) and the tendons of the neck stay as they were filmed. What the speech does not use
    at all (a mouth that stands askew) stays as it mostly is, or it would be another face.
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
    """`[count]` indices of frames 0 to `length` - 1, played forth and back without showing the last one twice."""
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
    """Where the source's frames lie among the clip's, `[length]` in clip frames.

    A clip frame shows the source frame nearest in time (`video_reader`), and that is where its motion belongs: taken as
    of its nominal time, heads would be off by half a source frame of motion.
    """
    shown = np.ceil(np.arange(num_frames) * fps / MOTION_FPS - 0.5 - 1e-6).astype(int)
    shown, first = np.unique(shown, return_index=True)
    return np.interp(np.arange(length), shown, first)


def _at(motion: FlameMotion, times: np.ndarray, fps: float) -> FlameMotion:
    """The motion at other times. Neighbours are so near that angles may be interpolated one by one."""
    fields = {name: value for name, value in vars(motion).items() if isinstance(value, torch.Tensor)}
    moved = {name: resample_frames(value, motion.fps, times) for name, value in fields.items()}  # type: ignore[arg-type]
    return replace(motion, **moved, fps=fps)


def _shares(valid: np.ndarray) -> np.ndarray:
    """`[T]` how much of the new face shows: 0 where the track is not valid, rising to 1 within some frames."""
    away = np.abs(np.arange(len(valid))[:, None] - np.nonzero(~valid)[0]).min(1, initial=len(valid) + _FADE)
    return np.clip((away - 1) / _FADE, 0, 1)


def _frames_in(video: VideoClip, order: np.ndarray) -> Iterator[np.ndarray]:
    """The source's frames in an order that `_turning` made. Backwards a stretch at a time is decoded and held."""
    held = max(1, _BACKWARD_BYTES // (3 * video.width * video.height))
    turns = np.nonzero(np.diff(np.sign(np.diff(order, prepend=-1))))[0] + 1
    for part in np.split(order, turns):
        if part[0] <= part[-1]:
            yield from islice(video.frames(video.fps), int(part[0]), int(part[-1]) + 1)
            continue
        for piece in np.split(part, range(held, len(part), held)):
            yield from reversed(list(islice(video.frames(video.fps), int(piece[-1]), int(piece[0]) + 1)))


class _NewFace:
    """Replaces the face in a source's frames, in the order in which they are shown: `filmed` is the motion that they
    show, `spoken` the one that they shall show, T frames each."""

    def __init__(self, model: Any, clip: ProcessedClip, filmed: FlameMotion, spoken: FlameMotion, region: str) -> None:
        self.model, self.motions = model, [motion.to(model.device) for motion in (filmed, spoken)]
        model.warm_up()
        self.camera, self.plate = _source_camera(clip), _source_plate(clip)
        self.replaced, self.doubt = _vertex_weights(model, region)
        self.members = (self.replaced > 0).numpy()
        # A picture larger than the clip's is drawn as soft as the clip was, instead of with holes.
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
        """Paints the new face, as much of it as `share` says, into frame `t` `[H, W, 3]` uint8, and returns that."""
        chunk = t - t % _CHUNK
        if chunk != self._chunk:
            self._chunk, motions = chunk, [motion[chunk : chunk + _CHUNK] for motion in self.motions]
            self._posed, points = self._eased(*map(self.model.pose, motions)), list(map(self._vertices, motions))
            self._points = points[0], points[0] + self.replaced.numpy()[:, None] * (points[1] - points[0])
        vertices = [points[t - chunk] for points in self._points]
        left, top = np.round(_project(vertices[0][self.members], self.camera).mean(0)).astype(int) - self.before
        columns, rows = left + np.arange(self.size[0]), top + np.arange(self.size[1])
        inside = [(at >= 0) & (at < size) for at, size in ((rows, len(frame)), (columns, frame.shape[1]))]
        # Where the window reaches beyond the picture, its edge goes on.
        here = np.ix_(rows.clip(0, len(frame) - 1), columns.clip(0, frame.shape[1] - 1))
        source, plate = _planes(frame[here]), _planes(self.plate[here])
        shift = torch.tensor([[0, 0, left], [0, 0, top], [0, 0, 0]])
        camera = Camera(int(self.size[0]), int(self.size[1]), self.camera.K - shift, self.camera.viewmat)
        old, old_alpha = self._draw(self._posed[0], t - chunk, camera, plate)
        new, new_alpha = self._draw(self._posed[1], t - chunk, camera, plate)
        skin = _Skin(vertices, self.model.head, camera, self.replaced, self.doubt)
        picture = new + new_alpha * self._lack(source - old, old_alpha, skin)
        mask = share * self._mask(skin.replaced, torch.maximum(old_alpha, new_alpha))
        mixed = to_uint8(torch.lerp(source, picture.clamp(0, 1), mask).permute(1, 2, 0))
        frame[np.ix_(rows[inside[0]], columns[inside[1]])] = mixed[np.ix_(*inside)]
        return frame

    def _eased(self, old: PosedGaussians, new: PosedGaussians) -> tuple[PosedGaussians, PosedGaussians]:
        """Filmed and spoken Gaussians, the same outside the face: correctives know no border, and skin is stretched."""
        share = self.replaced.to(new.means)[self.model.head.faces].mean(1)[self.model.gaussians.binding]
        mix = lambda a, b: torch.lerp(a, b, share.reshape(-1, *[1] * (a.dim() - 2)))  # noqa: E731
        quats = mix(old.quats, new.quats * torch.sign((old.quats * new.quats).sum(-1, keepdim=True)))
        per_frame = new.colors.dim() == (4 if new.sh_degree else 3)
        colors = mix(old.colors, new.colors) if per_frame else new.colors
        moved: dict[str, Any] = {"means": mix(old.means, new.means), "scales": mix(old.scales, new.scales)}
        return old, replace(new, quats=F.normalize(quats, dim=-1), colors=colors, **moved)

    def _draw(self, posed: PosedGaussians, i: int, camera: Camera, plate: torch.Tensor) -> list[torch.Tensor]:
        """The person over the plate `[3, h, w]`, and the alpha `[1, h, w]`."""
        colors, alphas, _ = rasterize(
            posed.means[i], posed.quats[i], posed.scales[i], posed.opacities, posed.frame_colors(i),
            viewmats=camera.viewmat[None].to(posed.means), Ks=camera.K[None].to(posed.means),
            width=camera.width, height=camera.height, sh_degree=posed.sh_degree or None, eps2d=self.eps2d,
        )  # fmt: skip
        color, alpha = (x[0].cpu().permute(2, 0, 1).contiguous() for x in (colors, alphas))
        return [torch.addcmul(color, 1 - alpha, plate), alpha]

    def _lack(self, lack: torch.Tensor, alpha: torch.Tensor, skin: _Skin) -> torch.Tensor:
        """What the drawing of the filmed face lacks `[3, h, w]`, as the new one has it: a smooth part, steadied over
        time (light, colour), and the rest, which moves with the skin; the more of it and the further, the less."""
        known = ((alpha > 0.9) & skin.filmed) / (1 + (lack / _WRONG).square().sum(0))
        cells = F.avg_pool2d(torch.cat([lack * known, known]), self.cell)
        for _ in range(3):
            cells = torch.from_numpy(box_mean(cells.numpy(), _SMOOTH))
        # The window moves with the head, so frames are averaged cell by cell.
        self._cells = cells if self._cells is None else torch.lerp(cells, self._cells, _KEEP)
        smooth = self._enlarged(self._cells[:3] / (self._cells[3:] + 1e-3))
        rest = lack - smooth
        size = F.avg_pool2d(rest.abs().mean(0, keepdim=True), 3, 1, 1) * skin.doubt
        there = F.grid_sample(torch.cat([rest, size])[None], skin.grid, "bilinear", "border", align_corners=False)[0]
        doubt = (there[3] / _DOUBT).square() * (skin.moved / (_MOVED * self.scale)).clamp(max=1)
        return smooth + there[:3] * (skin.seen * torch.exp(-doubt))

    def _mask(self, replaced: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """`[1, h, w]` in [0, 1]: soft, grown beyond the mesh's outline, but not where neither drawing has anybody."""
        radius = max(1, round(_GROW / _CELL))
        cells = F.avg_pool2d(torch.cat([replaced, (alpha > 0.1).float()]), self.cell)
        cells = F.max_pool2d(cells, 2 * radius + 1, 1, radius)
        cells = torch.from_numpy(box_mean(cells.numpy(), radius - 1))
        return self._enlarged(cells.prod(0, keepdim=True))

    def _enlarged(self, cells: torch.Tensor) -> torch.Tensor:
        return F.interpolate(cells[None], scale_factor=self.cell, mode="bilinear")[0]


class _Skin:
    """Which skin the pixels of a window show, `[1, h, w]` each.

    In the filmed pose: `filmed`, whether any, and its `doubt`. In the larger of both poses: `replaced`. In the spoken
    pose: where it was filmed (`grid` for `grid_sample`), whether it shows there (`seen`), how many pixels it `moved`.
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
        there = torch.where(is_skin, now[2:4], here)  # beside the mesh nothing moves
        self.moved = (there - here).norm(dim=0, keepdim=True)
        self.grid = (2 * there.permute(1, 2, 0) / torch.tensor(size) - 1)[None]
        depth = torch.from_numpy(filmed.depth)[None, None]
        depth = F.grid_sample(depth, self.grid, "nearest", "border", align_corners=False)[0]
        shows = torch.where(is_skin, now[6:], torch.inf) <= depth + _HIDDEN  # beside the mesh, unless skin was there
        self.seen = F.avg_pool2d(shows.float(), 3, 1, 1)


def _vertex_weights(model: Any, region: str) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of each vertex is replaced, `[V]` in [0, 1], and how many times less its pixels are believed, `[V]`."""
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
    """The background `[H, W, 3]` uint8 in pixels of the source; beyond the clip's window its edge goes on."""
    crop = clip.crop
    x = (np.arange(crop.source_width) + 0.5 - crop.x) / crop.window_width
    y = (np.arange(crop.source_height) + 0.5 - crop.y) / crop.window_height
    grid = torch.from_numpy(np.stack(np.meshgrid(2 * x - 1, 2 * y - 1), -1).astype(np.float32))[None]
    picture = torch.from_numpy(clip.background[0]).permute(2, 0, 1)[None].float()
    plate = F.grid_sample(picture, grid, "bilinear", "border", align_corners=False)[0]
    return plate.round().byte().permute(1, 2, 0).numpy()


__all__ = ["MAX_TURNS", "REGIONS", "dub", "with_speech"]
