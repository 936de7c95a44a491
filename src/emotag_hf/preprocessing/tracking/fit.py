"""Fits the parametric head to a whole clip (METHOD 2's parameters; METHOD 5 uses them as ground truth).

In: MediaPipe's landmarks in crop pixels, a camera. Out: a `HeadTrack`: one identity; rotation, translation, neck, jaw,
expression, eyelids and gaze of every frame; errors and confidence. Coarse to fine: aligning MediaPipe's 3D
landmarks gives the pose (robust to large yaw and a wide-open mouth), then pose and identity are fitted on keyframes,
then all parameters of every frame. The constant part of the residuals is then subtracted from the landmarks
(`PersonOffsets`), and the frames are solved again with a smaller landmark noise and additional residuals for distances
that change with expression (mouth, brows), finally with weak temporal smoothing.

The focal length is not estimated: in such clips it is ambiguous with distance and identity. It is the camera's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES
from ...models.modeling_head import HeadAsset, ParametricHead
from ...outputs import FlameMotion
from ...rendering.cameras import Camera
from .gaze import fit_gaze
from .head_track import FaceLandmarks, HeadTrack
from .landmark_bias import bias_pixels
from .landmark_groups import DISTANCES, EYE_CORNERS, HELD_OUT, LIP_PAIRS, OVAL, TOUCHING
from .landmark_model import LandmarkModel
from .lids import settle_lids
from .neck import share_with_neck
from .person_offsets import PersonOffsets, View
from .solver import EXPRESSION, EYELIDS, JAW, ROTATION, TRANSLATION, FrameState, LandmarkSolver, Observations, Prior

FOCAL = 4.0  # focal length over the shorter side of the picture; the whole package assumes this long lens
DISTANCE = 1.44  # metres from the camera to the world's origin, the default framing of a portrait

_MAX_CANDIDATES = 1000  # most frames from which keyframes are chosen

_SMOOTHING_ROUNDS = 3  # iterations of temporal smoothing
_JITTER, _JITTER_WEIGHT = 0.035, 150.0  # size of a coefficient's jitter; additional smoothing weight of it

# Expression coefficients that landmarks do not determine; they are kept at 0.
_UNOBSERVED = ("tongueOut", "tongueUp", "nostrilDilate", "nostrilCompress", "neckTighten_L", "neckTighten_R")
# Upper limits of coefficients that may exceed 1.
_UPPER_LIMITS = {
    "mouthPucker": 1.5, "mouthFunnel": 1.4, "browDown_L": 1.5, "browDown_R": 1.5, "mouthUpperUp_L": 1.5,
    "mouthUpperUp_R": 1.5,
}  # fmt: skip
# Coefficients whose prior keeps its relative weight in the second pass, because landmarks determine them weakly: those
# of the lids, whose landmarks have systematic errors (lids.py); movements that are hardly visible from the front, which
# would follow landmark noise; and those that are ambiguous with others (lower lip and jaw, negative frown and smile).
_WEAKLY_OBSERVED = (
    "eyeWide_L", "eyeWide_R", "eyeSquint_L", "eyeSquint_R", "cheekRaiser_L", "cheekRaiser_R", "cheekSquint_L",
    "cheekSquint_R", "cheekPuff_L", "cheekPuff_R", "jawForward", "jawLeft", "jawRight",
    "mouthLowerDown_L", "mouthLowerDown_R", "mouthShrugLower", "mouthClose", "mouthRollLower", "mouthFrown_L",
    "mouthFrown_R",
)  # fmt: skip


@dataclass(frozen=True)
class FitOptions:
    """Options of the fit. Sigmas are standard deviations.

    Args:
        landmark_sigma: landmark noise, in distances between the outer eye corners. Errors of neighbouring landmarks are
            correlated, so this is larger than the noise of a single landmark.
        detail_sigma: the same in the second pass, after the person's constant offsets are subtracted.
        robust: residual, in sigmas, beyond which a landmark counts as an outlier.
        expression_sigma: prior of an expression coefficient; below_sigma: of a coefficient below 0 (or above its upper
            limit, mostly 1), where it has no meaning. detail_expression_sigma, detail_below_sigma: in the second pass.
        jaw_sigma: prior of the jaw's opening; jaw_side_sigma: of its yaw and roll, rad.
        pair_weight: weight of the gap between opposite points of lips and lids, relative to a single landmark.
        contact_weight: additional weight of that gap where the points touch, so that shut lips stay shut.
        distance_weight: weight of the distances `landmark_groups.DISTANCES`, in the second pass.
        smoothness: weight of the temporal smoothing; 0 turns it off.
        num_keyframes: frames on which identity is fitted.
        unbias: corrects the known systematic errors of MediaPipe's landmarks on the package's head, and of its lids;
            False for landmarks from another source.
        chunk: frames per batch; affects memory, not the result.
        failed_error: pixels of a 512-wide picture for a face 256 px high; frames with a larger error are not valid.
    """

    landmark_sigma: float = 0.03
    detail_sigma: float = 0.01
    robust: float = 3.0
    expression_sigma: float = 0.35
    below_sigma: float = 0.06
    detail_expression_sigma: float = 0.5
    detail_below_sigma: float = 0.08
    jaw_sigma: float = 0.25
    jaw_side_sigma: float = 0.03
    pair_weight: float = 12.0
    contact_weight: float = 200.0
    distance_weight: float = 14.0
    smoothness: float = 1.0
    num_keyframes: int = 40
    unbias: bool = True
    chunk: int = 128
    failed_error: float = 8.0


def default_camera(width: int, height: int) -> Camera:
    """The camera for clips whose lens is unknown: focal length four times the shorter side of the picture."""
    return Camera.portrait((width, height), distance=DISTANCE, focal=FOCAL * min(width, height))


def fit_head(
    landmarks: FaceLandmarks,
    camera: Camera | None = None,
    head: ParametricHead | None = None,
    options: FitOptions | None = None,
    shape: Tensor | None = None,
) -> HeadTrack:
    """Fits the head to a clip.

    Args:
        landmarks: T frames in pixels of the picture that `camera` sees.
        camera: constant over the clip; None for `default_camera`.
        head: None for the head that comes with the package.
        options: None for the defaults.
        shape: `[S]` known identity coefficients; None estimates them.

    Returns:
        `HeadTrack` of T frames; frames without a face or with a failed fit copy the nearest valid one.

    Raises:
        ValueError: no frame shows a face, or the camera's size is not that of the landmarks' picture.
    """
    options = options or FitOptions()
    head = (head or ParametricHead.from_asset()).check_expression_names()
    camera = camera or default_camera(landmarks.width, landmarks.height)
    if (camera.width, camera.height) != (landmarks.width, landmarks.height):
        raise ValueError(
            f"camera: expected the size of the landmarks' picture, {landmarks.width}x{landmarks.height}, "
            f"got {camera.width}x{camera.height}."
        )
    if not landmarks.found.any():
        raise ValueError("landmarks: expected a face in at least one frame, there is none.")
    there = torch.from_numpy(np.flatnonzero(landmarks.found))
    points = torch.from_numpy(landmarks.points).float()[there]
    with torch.no_grad():
        fit = _ClipFit(points[:, :468], there, camera, head, options)
        state, shape = fit.run(shape)
        if options.unbias:  # MediaPipe's lids have further systematic errors
            state.eyelids = settle_lids(state.eyelids, fit.errors(state, shape)[1] > 0.5)
        held = fit.held_out_errors(state, shape)
        errors, inliers = fit.errors(state, shape)
        gaze = fit_gaze(points[:, 468:], state.rotation, state.translation, camera, head, shape, state.expression)
        return _to_track(landmarks, there, state, shape, gaze, errors, held, inliers, camera, head, options)


class _ClipFit:
    """The steps of the fit, over the frames of one clip in which a face was found."""

    def __init__(self, points: Tensor, frames: Tensor, camera: Camera, head: ParametricHead, options: FitOptions):
        self.points, self.frames, self.camera, self.head, self.options = points, frames, camera, head, options
        self.model = LandmarkModel.from_head(head)
        # The bias was measured against the landmark positions of the package's head; on other heads they differ.
        self.unbias = options.unbias and head.sha256 == HeadAsset.load().sha256
        held = torch.tensor(HELD_OUT)
        self.kept = torch.tensor([i for i in range(468) if i not in set(HELD_OUT)])
        self.held_model = self.model.select(held)
        self.held = held
        a, b = EYE_CORNERS
        self.face_scale = (points[:, a] - points[:, b]).norm(dim=-1, keepdim=True)  # px, in 3D: independent of yaw
        self.offsets: PersonOffsets | None = None
        self._prepare_solver(options.landmark_sigma, options.expression_sigma, options.below_sigma)
        self.weights = torch.ones(len(points), len(self.kept))
        self.weights[:, torch.isin(self.kept, torch.tensor(OVAL))] = 0.3
        corners = head.v_template[head.faces[head.landmark_faces]]
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.normals = torch.nn.functional.normalize(normals, dim=-1)

    def _prepare_solver(self, sigma: float, expression_sigma: float, below_sigma: float) -> None:
        """Sets up the solver for landmark noise `sigma`; the second pass (smaller noise) adds `DISTANCES`."""
        options, detailed = self.options, sigma < self.options.landmark_sigma
        place = {int(j): i for i, j in enumerate(self.kept)}
        touching = [(a, b, options.pair_weight, options.contact_weight) for a, b in TOUCHING]
        apart = [(a, b, options.distance_weight * weight, 0.0) for (a, b), weight in DISTANCES if detailed]
        rows = [(place[a], place[b], *weights) for a, b, *weights in touching + apart]
        self.pairs = torch.tensor([row[:2] for row in rows])
        self.pair_weight, self.contact_weight = torch.tensor([row[2:] for row in rows]).T
        self.sigma, ratio = sigma, options.landmark_sigma / sigma
        prior = self._prior(expression_sigma, below_sigma)
        for name in _WEAKLY_OBSERVED if detailed else ():
            index = 5 + EXPRESSION_NAMES.index(name)
            prior.sigma[index], prior.sigma_below[index] = options.expression_sigma / ratio, options.below_sigma / ratio
        # The outlier threshold stays the same in pixels.
        self.solver = LandmarkSolver(self.model.select(self.kept), self.camera, prior, options.robust * ratio)
        self.smoothness = options.smoothness * ratio**2

    def _prior(self, expression_sigma: float, below_sigma: float) -> Prior:
        options = self.options
        sigma = torch.full((5 + len(EXPRESSION_NAMES),), expression_sigma)
        below = torch.full_like(sigma, below_sigma)
        upper = torch.full_like(sigma, 1.0)
        sigma[0], below[0], upper[0] = options.jaw_sigma, 0.03, 0.6
        sigma[1:3] = below[1:3] = options.jaw_side_sigma
        sigma[3:5], below[3:5] = 1.0, 0.1
        for name in _UNOBSERVED:
            index = 5 + EXPRESSION_NAMES.index(name)
            sigma[index] = below[index] = 1e-3
        for name, reach in _UPPER_LIMITS.items():
            upper[5 + EXPRESSION_NAMES.index(name)] = reach
        return Prior(sigma, below, upper)

    def run(self, shape: Tensor | None) -> tuple[FrameState, Tensor]:
        options = self.options
        state = self.aligned()
        pose, mouth = slice(0, 6), slice(0, 11)
        if shape is None:
            keys = self._keyframes(state)
            shape = torch.zeros(self.head.num_shape)
            some, seen = state[keys], self.seen(keys, state[keys])
            some = self.solver.solve_frames(some, shape, seen, steps=4, free=pose)
            some = self.solver.solve_frames(some, shape, seen, steps=4, free=mouth)
            for _ in range(3):
                some, shape = self.solver.solve_shared(some, shape, self.seen(keys, some), steps=4)
        for index in self._chunks(len(state)):
            some, seen = state[index], self.seen(index, state[index])
            some = self.solver.solve_frames(some, shape, seen, steps=3, free=pose)
            some = self.solver.solve_frames(some, shape, seen, steps=2, free=mouth)
            state[index] = self.solver.solve_frames(some, shape, self.seen(index, some), steps=6)
        self._estimate_offsets(state, shape)
        self._prepare_solver(options.detail_sigma, options.detail_expression_sigma, options.detail_below_sigma)
        for index in self._chunks(len(state)):
            state[index] = self.solver.solve_frames(state[index], shape, self.seen(index, state[index]), steps=6)
        if options.smoothness > 0 and len(state) > 2:
            for _ in range(_SMOOTHING_ROUNDS):
                target = self._neighbour_mean(state)
                for index in self._chunks(len(state)):
                    smooth = self._smoothness_residuals(state[index], target[index])
                    seen = self.seen(index, state[index])
                    state[index] = self.solver.solve_frames(state[index], shape, seen, steps=2, smooth=smooth)
        return state, shape

    def _estimate_offsets(self, state: FrameState, shape: Tensor) -> None:
        """Estimates the constant part of the landmark residuals over all frames."""
        residuals = [found for _, found in self.residuals(state, shape, self.solver.model, self.kept)]
        self.offsets = PersonOffsets(View(state.rotation, state.translation, self.camera), torch.cat(residuals))

    def aligned(self) -> FrameState:
        """Initial pose: similarity of the neutral head to MediaPipe's 3D landmarks, on its most rigid points."""
        motion = self.model.expression.square().sum((0, 2)).sqrt() + self.model.jaw_weight * 0.05
        rigid = motion.argsort()[:160]
        source = self.model.template.T[rigid]
        target = self.points[:, rigid] * torch.tensor([1.0, -1.0, -1.0])
        rotation, scale, centre = _similarity(source, target)
        focal = self.camera.K[0, 0]
        distance = focal / scale
        turn, shift = self.camera.viewmat[:3, :3], self.camera.viewmat[:3, 3]
        origin = centre - scale[:, None] * (rotation @ source.mean(0))  # head's origin, in pixels, y and z negated
        x = (origin[:, 0] - self.camera.K[0, 2]) / focal * distance
        y = (-origin[:, 1] - self.camera.K[1, 2]) / self.camera.K[1, 1] * distance
        seen = torch.stack([x, y, distance], 1)
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        count, zeros = len(rotation), torch.zeros
        return FrameState(
            turn.T @ flip @ rotation, (seen - shift) @ turn, zeros(count, 3), zeros(count, 2),
            zeros(count, len(EXPRESSION_NAMES)),
        )  # fmt: skip

    def seen(self, index: Tensor, state: FrameState) -> Observations:
        """Observations of the fitted landmarks; those that face away from the camera get less weight."""
        eye = self.camera.position
        normals = self.normals[self.kept] @ state.rotation.transpose(1, 2)
        towards = torch.nn.functional.normalize(eye - state.translation, dim=-1)
        facing = (normals @ towards[..., None])[..., 0]
        visible = 0.05 + 0.95 * ((facing + 0.1) / 0.4).clamp(0, 1)
        points = self.corrected_landmarks(index, state)[:, self.kept]
        if self.offsets is not None:
            points = points - self.offsets.pixels(View(state.rotation, state.translation, self.camera))
        return Observations(
            points,
            self.weights[index] * visible,
            self.face_scale[index] * self.sigma,
            self.pairs,
            self.pair_weight,
            self.contact_weight,
        )

    def corrected_landmarks(self, index: Tensor, state: FrameState) -> Tensor:
        """Landmarks `[T,468,2]` of some frames with MediaPipe's pose-dependent bias subtracted."""
        points = self.points[index][..., :2]
        if not self.unbias:
            return points
        bias = bias_pixels(state.rotation, state.translation, self.camera)
        # Opposite points of the lips get the same correction; otherwise touching lips would intersect.
        upper, lower = torch.tensor(LIP_PAIRS).T
        bias[:, upper] = bias[:, lower] = (bias[:, upper] + bias[:, lower]) / 2
        return points - bias

    def _keyframes(self, state: FrameState) -> Tensor:
        """Frames that differ most in pose and face shape (farthest point sampling)."""
        some = torch.arange(0, len(state), math.ceil(len(state) / _MAX_CANDIDATES))  # limits memory for long clips
        points, rotation = self.points[some], state.rotation[some]
        flat = (points - points.mean(1, keepdim=True)) @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        turned = (flat / self.face_scale[some][..., None]) @ (self.camera.viewmat[:3, :3].T @ rotation)
        features = torch.cat([turned.flatten(1) * 0.3, rotation.flatten(1)], 1)
        chosen = [int((features - features.median(0).values).square().sum(1).argmin())]
        nearest = torch.full((len(features),), math.inf)
        while len(chosen) < min(self.options.num_keyframes, len(features)):
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
            chosen.append(int(nearest.argmax()))
        return some[sorted(set(chosen))]

    def _chunks(self, count: int) -> list[Tensor]:
        return list(torch.arange(count).split(self.options.chunk))

    def _neighbour_mean(self, state: FrameState) -> FrameState:
        """Mean of the previous and next frame; at the ends, at cuts and beside missing frames the frame itself."""
        before, after = torch.arange(len(state)) - 1, torch.arange(len(state)) + 1
        before[0], after[-1] = 0, len(state) - 1
        a, b = state[before], state[after]
        mean = lambda name: (getattr(a, name) + getattr(b, name)) / 2  # noqa: E731
        u, _, v = torch.linalg.svd(a.rotation + b.rotation)
        target = FrameState(u @ v, mean("translation"), mean("jaw"), mean("eyelids"), mean("expression"))
        apart = (a.translation - b.translation).norm(dim=1) > 0.05  # metres in two frames: must be a cut
        apart |= self.frames[after] - self.frames[before] != 2  # a gap or an end
        target[apart] = state[apart]
        return target

    def _smoothness_residuals(self, state: FrameState, target: FrameState) -> tuple[Tensor, Tensor]:
        """Temporal smoothing: differences `[T,61]` from the mean of the neighbours, and their weights."""
        relative = state.rotation @ target.rotation.transpose(1, 2)
        axis = torch.stack([relative[:, 2, 1], relative[:, 0, 2], relative[:, 1, 0]], 1)
        axis = 0.5 * (axis - torch.stack([relative[:, 1, 2], relative[:, 2, 0], relative[:, 0, 1]], 1))
        offset = torch.cat(
            [axis, state.translation - target.translation, state.coefficients() - target.coefficients()], 1
        )
        sigma = torch.full((offset.shape[1],), 0.15)  # standard deviation of the difference from the neighbours' mean
        sigma[ROTATION], sigma[TRANSLATION], sigma[JAW], sigma[EYELIDS] = 0.01, 0.002, 0.05, 0.4
        weight = (self.smoothness / sigma.square()).expand_as(offset).clone()
        # Small differences are landmark noise and are smoothed more; large ones are movements.
        jitter = (1 + (offset[:, EXPRESSION] / _JITTER).square()).pow(-4)
        weight[:, EXPRESSION] *= 1 + _JITTER_WEIGHT * jitter
        return offset, weight

    def residuals(
        self, state: FrameState, shape: Tensor, model: LandmarkModel, index: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch: frame indices; detected minus fitted landmarks `[t,L,2]`, pixels."""
        for part in self._chunks(len(state)):
            some = state[part]
            head = model(shape, some.expression, some.jaw, some.eyelids)
            pixels, _, _ = self.solver.project(some, head.points)
            yield part, self.corrected_landmarks(part, some)[:, index] - pixels.transpose(1, 2)

    def distances(
        self, state: FrameState, shape: Tensor, model: LandmarkModel, index: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch: frame indices; distances `[t,L]` of fitted to detected landmarks, 512-wide pixels."""
        for part, residuals in self.residuals(state, shape, model, index):
            yield part, residuals.norm(dim=-1) * (512.0 / self.camera.width)

    def errors(self, state: FrameState, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Median distance `[T]` on the fitted landmarks, and the share `[T]` of them that are inliers."""
        sigma = self.face_scale * self.options.landmark_sigma * (512.0 / self.camera.width)
        medians, inliers = [], []
        for part, distance in self.distances(state, shape, self.solver.model, self.kept):
            medians.append(distance.median(1).values)
            inliers.append((distance < 2 * sigma[part]).float().mean(1))
        return torch.cat(medians), torch.cat(inliers)

    def held_out_errors(self, state: FrameState, shape: Tensor) -> Tensor:
        chunks = self.distances(state, shape, self.held_model, self.held)
        return torch.cat([distance.median(1).values for _, distance in chunks])


def _similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Umeyama: rotation `[T,3,3]`, scale `[T]`, target centre `[T,3]` that map `source [L,3]` to `target [T,L,3]`."""
    centre = target.mean(1)
    a, b = source - source.mean(0), target - centre[:, None]
    u, s, v = torch.linalg.svd(b.transpose(1, 2) @ a)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.det(u @ v).sign()
    rotation = u @ (sign[..., None] * v)
    return rotation, (s * sign).sum(1) / a.square().sum(), centre


def _to_track(
    landmarks: FaceLandmarks,
    there: Tensor,
    state: FrameState,
    shape: Tensor,
    gaze: Tensor,
    errors: Tensor,
    held: Tensor,
    inliers: Tensor,
    camera: Camera,
    head: ParametricHead,
    options: FitOptions,
) -> HeadTrack:
    """Builds the `HeadTrack` of all frames: marks failed ones as not valid, fills gaps, splits rotation root/neck."""
    size = 512.0 / camera.width
    points = torch.from_numpy(landmarks.points).float()
    eyes = (points[there, EYE_CORNERS[0]] - points[there, EYE_CORNERS[1]]).norm(dim=-1) * size
    relative = errors * 110.0 / eyes.clamp_min(1.0)  # 110 px: eye corner distance of a face 256 px high
    confidence = torch.exp(-(relative / options.failed_error).square()) * inliers
    good = relative < options.failed_error
    valid = torch.zeros(len(landmarks), dtype=torch.bool)
    valid[there] = good
    source = _nearest_good(len(landmarks), there[good] if good.any() else there)
    place = torch.full((len(landmarks),), -1)
    place[there] = torch.arange(len(there))
    index = place[source]
    some = state[index]
    rotation, translation, neck = share_with_neck(some, shape, head, landmarks.fps)
    motion = FlameMotion(
        expression=some.expression,
        jaw_pose=some.jaw,
        eyelids=some.eyelids.clamp(0, 1),
        eyes_pose=gaze[index],
        neck_pose=neck,
        rotation=rotation,
        translation=translation,
        fps=landmarks.fps,
    )
    spread = lambda x: torch.full((len(landmarks),), math.nan).index_copy(0, there, x)  # noqa: E731
    return HeadTrack(
        motion=motion,
        shape=shape,
        camera=camera,
        valid=valid,
        confidence=spread(confidence).nan_to_num(0.0) * valid,
        error=spread(errors),
        held_out_error=spread(held),
        landmarks=points,
        head_sha256=head.sha256,
    )


def _nearest_good(count: int, good: Tensor) -> Tensor:
    """For each of `count` frames the nearest of the sorted `good` ones."""
    frames = torch.arange(count)
    after = torch.searchsorted(good, frames).clamp_max(len(good) - 1)
    before = (after - 1).clamp_min(0)
    nearer = (frames - good[before]).abs() <= (good[after] - frames).abs()
    return torch.where(nearer, good[before], good[after])


__all__ = ["DISTANCE", "FOCAL", "FitOptions", "HELD_OUT", "default_camera", "fit_head"]
