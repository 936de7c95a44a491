"""Optimises Gaussians, together with the tracked motion, on the frames of one person (METHOD 2 and 5).

In: a `TrainingScene`, `AdaptArguments`, optionally a `GaussianPrior`. Out: Gaussians, an expression code and
corrections of the motion; `person.make_model` turns them into an `EmoTaGModel`. Each step uses one frame: small images
first, then full-size crops, half of them on the face. All state is in `state_dict`, so an interrupted training resumes
exactly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.gaussian_correctives import ExpressionCode, code_features
from ...models.modeling_gaussians import RiggedGaussians, triangle_frames
from ...outputs import FlameMotion
from ...preprocessing.tracking.motion_offsets import MotionOffsets
from ...preprocessing.tracking.photometric import RefineOptions, draw_vertices, refine_photometric, shrunk
from ...rendering.cameras import Camera
from ...rendering.spherical_harmonics import SH_C0
from ...utils.torch_threads import one_torch_thread
from .adapt_arguments import AdaptArguments
from .densify import DensifyOptions, DensifyStrategy
from .expression_basis import fit_expression_code
from .initialise import InitOptions, initialise_gaussians
from .losses import DEPTH_WEIGHT, NORMALS_WEIGHT, alpha_loss, geometry_loss, normals_from_depth
from .moving_parts import moving_parts, neighbours
from .scene import TrainingScene
from .ssim import SsimTarget, l1_and_ssim

logger = logging.getLogger(__name__)

# Initial learning rates; colours are spherical-harmonics coefficients.
RATES = {
    "means": 0.01, "log_scales": 0.01, "quats": 0.005, "opacity_logits": 0.03, "colors": 0.003 / SH_C0,
    "corrective_means": 0.01, "corrective_colors": 0.003 / SH_C0,
}  # fmt: skip
_COARSE = 128  # image size of the first steps, pixels
_FALL_FROM, _FALL_TO = 0.3, 0.1  # learning rates decay to a tenth from this share of the training on
_GROWTH = 0.7  # a Gaussian may grow by exp of this without penalty
_COLOR_SCALE, _PLACE_SCALE = 0.3, 3.0  # relative scale of colour and position correctives
_PAIRS = 2000  # of neighbours per step, for the smoothness of correctives
_CROP_SCATTER = 25.0  # pixels of full size around the face's middle
_CHECK_FROM, _CHECK_EVERY = 0.5, 0.1  # share of the training before the first validation, and between validations
_CHECKED_FRAMES, _CHECK_STEPS = 4, 8  # validation frames, and steps of tracking by pixels on each
_LEAST_VALIDATION = 3  # frames
_TRIAL_FRAMES = 8  # of the cross-check whether optimising the tracked motion helps
_GAIN = 0.02  # dB that count as an improvement


@dataclass
class TrainingReport:
    """Report of a training.

    Args:
        steps: number of steps. seconds: of training. stopped: why it ended.
        refined: whether the tracked motion was refined by pixels.
        validation: PSNR of the face's box over the training, `[(share, dB), ...]`, on the validation frames.
    """

    steps: int = 0
    seconds: float = 0.0
    stopped: str = ""
    refined: bool = False
    validation: list[tuple[float, float]] = field(default_factory=list)


class GaussianTrainer:
    """Optimises one person's Gaussians. Call `train`, then `make_model`.

    Attributes:
        head, gaussians, expression_code: the current model of the person, under the names that `tracking.photometric`
            reads. The expression code is a few numbers a frame that drive the correctives (`gaussian_correctives`).
        offsets: corrections of the tracked motion, a row a frame.
        step: steps taken; progress: share of the training that is done; psnr: running mean over training pictures, dB.
    """

    def __init__(self, scene: TrainingScene, arguments: AdaptArguments | None = None, prior=None):
        self.scene, self.arguments = scene, arguments or AdaptArguments()
        args = self.arguments
        self.head, self.camera = scene.head, scene.camera
        self.validation, self.frames = _split(scene, args)
        self.prior = prior
        features = code_features(scene.motion)[self.frames]
        self.expression_code: ExpressionCode = fit_expression_code(features, self.head, args.num_correctives)
        options = InitOptions(args.num_surface, args.num_beside, seed=args.seed)
        num_codes = len(self.expression_code.low)
        self.gaussians: RiggedGaussians = initialise_gaussians(scene, num_codes, options, prior)
        self.offsets = MotionOffsets(scene.motion, self.head, scene.shape)
        self.generator = torch.Generator().manual_seed(args.seed)
        self._start = {name: p.detach().clone() for name, p in self.gaussians.named_parameters()}
        self._moving = moving_parts(self.head, self.gaussians)
        self._neighbours = neighbours(self.head, scene.shape, self.gaussians, self._moving)
        groups = [
            {"params": [p], "lr": RATES[name] * args.rate, "base": RATES[name] * args.rate, "name": name}
            for name, p in self.gaussians.named_parameters()
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)
        self._average: dict[str, Tensor] = {}
        self._strategy = self._make_strategy() if args.densify else None
        self._backgrounds: dict[int, Tensor] = {}  # by height
        self._order: list[int] = []
        self._error, self._seen = 0.0, 0
        self.step, self.progress, self.seconds = 0, 0.0, 0.0
        self.refining: bool | None = None if args.refine else False  # None: before the cross-check
        self.report = TrainingReport()

    @torch.no_grad()
    def motion(self) -> FlameMotion:
        """The tracked motion of all frames, with the training frames (`frames`) as refined by pixels."""
        return self.offsets.motion(torch.arange(len(self.scene.motion)))

    # --- the loop ---------------------------------------------------------------------------------------------------

    def train(self, after_step: Callable[[GaussianTrainer], Any] | None = None) -> TrainingReport:
        """Trains to the end, from the current step.

        Args:
            after_step: called with the trainer after every step; returning True stops the training (the state can be
                saved).
        """
        began, before = time.perf_counter(), self.seconds
        with one_torch_thread():
            while self.progress < 1:
                self.take_step()
                self.seconds = before + time.perf_counter() - began
                self.progress = self._progress()
                if after_step is not None and after_step(self):
                    self.report.stopped = "asked to stop"
                    break
                if self._has_saturated():
                    self.report.stopped = "no gain on the validation frames"
                    break
            else:
                self.report.stopped = "done"
        self.report.steps, self.report.seconds, self.report.refined = self.step, self.seconds, bool(self.refining)
        return self.report

    def take_step(self) -> float:
        """One step on one frame; returns its mean absolute colour error."""
        args = self.arguments
        if self.refining is None and self.progress >= args.coarse_until:
            self._cross_check()
        frame = self._next_frame()
        fall = 1.0 if self.progress < _FALL_FROM else _FALL_TO ** ((self.progress - _FALL_FROM) / (1 - _FALL_FROM))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * fall
        refine = bool(self.refining) and self.progress >= args.coarse_until
        row = self.offsets.row(frame)
        with torch.set_grad_enabled(refine):
            motion = self.offsets.motion(torch.tensor([frame]), row[None])
            vertices = self.head(shape=self.scene.shape[None], **motion.head_inputs()).vertices[0]
            code = self.expression_code(motion)[0]
        camera, window = self._view(frame)
        picture, target, alpha, depth, meta = self._draw(vertices, code, frame, camera, window)
        weight = self._window(self.scene.weight(frame, camera, args.face_weight), window)
        # With the weight that is added below: (1 - w) L1 + w (1 - SSIM).
        photometric = l1_and_ssim(picture, SsimTarget(target), 1 - args.ssim_weight, -args.ssim_weight, weight)
        matte = self._window(self.scene.alpha(frame, camera), window)
        loss = photometric + args.ssim_weight + args.alpha_weight * alpha_loss(alpha, matte) + self._regularisers()
        if depth is not None:
            loss = loss + args.geometry_weight * self._geometry(depth, alpha, frame, camera, window)
        if refine:
            loss = loss + args.offset_prior * row.square().sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._keep_still()
        self.optimizer.step()
        if refine:
            self.offsets.update(frame, row.grad, args.offset_rate * fall)
        self._after(meta)
        return self._remember(picture, target)

    def _progress(self) -> float:
        budget = self.arguments.budget_s
        return self.step / self.arguments.steps if budget is None else self.seconds / budget

    def _next_frame(self) -> int:
        if not self._order:
            order = torch.randperm(len(self.frames), generator=self.generator)
            self._order = [self.frames[i] for i in order]
        return self._order.pop()

    def _view(self, frame: int) -> tuple[Camera, tuple[int, int, int] | None]:
        """The camera of a step, and the crop `(left, top, side)` of its image."""
        args = self.arguments
        if self.progress < args.coarse_until:
            return self._sized(_COARSE), None
        if self.progress < args.crops_from:
            return self._sized(args.crop), None
        camera = self._sized(args.size)
        room = torch.tensor([camera.width - args.crop, camera.height - args.crop])
        if (room <= 0).any():
            return camera, None
        u = torch.rand(3, generator=self.generator)
        corner = u[:2] * room
        points = self.scene.track.landmarks[frame, :468, :2] * (camera.width / self.camera.width)
        if u[2] < 0.5 and torch.isfinite(points).all():
            scatter = _CROP_SCATTER * torch.randn(2, generator=self.generator)
            corner = points.mean(0) + scatter - args.crop / 2
        left, top = torch.minimum(corner.clamp_min(0), room.float()).long().tolist()
        return camera, (left, top, args.crop)

    def _sized(self, size: int) -> Camera:
        scale = min(1.0, size / min(self.camera.width, self.camera.height))
        return self.camera.resize((round(self.camera.width * scale), round(self.camera.height * scale)))

    def _draw(self, vertices, code, frame, camera, window):
        """Renders: image, target, alpha, depth (None unless the loss needs it) and `rasterize`'s meta data."""
        background = self._background(camera)
        mode = "RGB+ED" if self.arguments.geometry_weight and torch.is_grad_enabled() else "RGB"
        absgrad = self._strategy is not None
        drawn, alpha, meta = draw_vertices(
            vertices, code, self, _cropped(camera, window), absgrad=absgrad, render_mode=mode
        )
        depth = drawn[..., 3] if mode == "RGB+ED" else None
        picture = drawn[..., :3] + (1 - alpha) * self._window(background, window)
        return picture, self._window(self.scene.picture(frame, camera), window), alpha, depth, meta

    def _geometry(self, depth: Tensor, alpha: Tensor, frame: int, camera: Camera, window) -> Tensor:
        """L_Geo against the tracked head's mesh, on visible skin that the Gaussians cover (METHOD 5)."""
        teacher = [self._window(plane, window) for plane in self.scene.geometry(frame, camera)]
        mask = teacher[2] & (alpha.detach()[..., 0] > 0.5)
        normals = normals_from_depth(depth, _cropped(camera, window).K)
        terms = geometry_loss(depth, normals, teacher[0], teacher[1], mask)
        return DEPTH_WEIGHT * terms["depth"] + NORMALS_WEIGHT * terms["normals"]

    def _background(self, camera: Camera) -> Tensor:
        if camera.height not in self._backgrounds:
            self._backgrounds[camera.height] = shrunk(self.scene.background, camera.width, camera.height)
        return self._backgrounds[camera.height]

    @staticmethod
    def _window(picture: Tensor, window) -> Tensor:
        if window is None:
            return picture
        left, top, side = window
        return picture[top : top + side, left : left + side].contiguous()

    # --- what holds the Gaussians back ------------------------------------------------------------------------------

    def _regularisers(self) -> Tensor:
        args, g = self.arguments, self.gaussians
        start = self._start
        d_means = g.corrective_means - start["corrective_means"]
        d_colors = g.corrective_colors - start["corrective_colors"]
        pull = _PLACE_SCALE * d_means.square().sum(-1).mean() + _COLOR_SCALE * d_colors.square().sum(-1).mean()
        grown = (g.log_scales - start["log_scales"] - _GROWTH).clamp_min(0).square().mean()
        away = (g.means - start["means"]).square().mean()
        total = args.corrective_weight * pull + args.size_weight * grown + args.place_weight * away
        if args.smooth_weight and len(self._neighbours):
            rows = torch.randint(len(self._neighbours), (_PAIRS,), generator=self.generator)
            columns = torch.randint(1, self._neighbours.shape[1], (_PAIRS,), generator=self.generator)
            a, b = self._neighbours[rows, 0], self._neighbours[rows, columns]
            uneven = _COLOR_SCALE * (d_colors[a] - d_colors[b]).square().sum(-1).mean()
            uneven = uneven + _PLACE_SCALE * (d_means[a] - d_means[b]).square().sum(-1).mean()
            total = total + args.smooth_weight * uneven
        return total

    def _keep_still(self) -> None:
        """Correctives of hair, clothes and ears get no gradient, because expressions do not move them."""
        for parameter in (self.gaussians.corrective_means, self.gaussians.corrective_colors):
            if parameter.grad is not None:
                parameter.grad *= self._moving

    def _after(self, meta: dict) -> None:
        """Densification, weight averages, counting."""
        self.step += 1
        args = self.arguments
        if self._strategy is not None and args.coarse_until <= self.progress < args.crops_from:
            self._strategy.before_backward(meta)
            self._densified(self._strategy.after_backward(self.step, self.gaussians, self.optimizer, meta))
        if args.ema and self.progress >= _CHECK_FROM:
            now = {name: p.detach() for name, p in self.gaussians.named_parameters()}
            if not self._average:
                self._average = {name: p.clone() for name, p in now.items()}
            torch._foreach_lerp_([*self._average.values()], [*now.values()], 1 - args.ema)

    def _densified(self, report) -> None:
        if report is None:
            return
        for values in (self._start, self._average):
            for name, value in values.items():
                values[name] = value[report.order]
        self._moving = self._moving[report.order]
        self._neighbours = neighbours(self.head, self.scene.shape, self.gaussians, self._moving)

    def _make_strategy(self) -> DensifyStrategy:
        args = self.arguments
        middle = (round(args.steps * args.coarse_until), round(args.steps * args.crops_from))
        every = max(25, (middle[1] - middle[0]) // 8)
        options = DensifyOptions(
            start_step=middle[0], stop_step=middle[1], every=every, seed=args.seed,
            max_gaussians=2 * self.gaussians.num_gaussians,
        )  # fmt: skip
        with torch.no_grad():
            sizes = triangle_frames(self.head(shape=self.scene.shape[None]).vertices[0], self.head.faces)[2][:, 0]
        protected = torch.zeros(self.gaussians.num_gaussians, dtype=torch.bool)
        protected[-self.gaussians.config.num_mouth_gaussians :] = True
        return DensifyStrategy(options, sizes, protected)

    def _remember(self, picture: Tensor, target: Tensor) -> float:
        with torch.no_grad():
            square = (picture - target).square().mean().item()
        self._seen += 1
        keep = min(1 - 1 / self._seen, 0.98)
        self._error = keep * self._error + (1 - keep) * square
        return square**0.5

    @property
    def psnr(self) -> float:
        """Running mean over training images, dB."""
        return -10 * float(np.log10(max(self._error, 1e-10)))

    # --- looking at frames that are not trained on ------------------------------------------------------------------

    def check(self) -> float:
        """PSNR of the face box on the validation frames, dB, each tracked by pixels for a few steps."""
        camera = self._sized(self.arguments.crop)
        options = RefineOptions(steps=_CHECK_STEPS, size=self.arguments.crop, face_weight=self.arguments.face_weight)
        background = self.scene.background
        with self.averaged():
            found = refine_photometric(
                self.scene.track, self, self.scene.frame, self.validation, background, options
            ).track.motion
            squares = []
            for frame in self.validation:
                motion = found[frame : frame + 1]
                with torch.no_grad():
                    vertices = self.head(shape=self.scene.shape[None], **motion.head_inputs()).vertices[0]
                    code = self.expression_code(motion)[0]
                    picture, target, *_ = self._draw(vertices, code, frame, camera, None)
                height, width = picture.shape[:2]
                box = slice(height // 4, height * 7 // 8), slice(width // 4, width * 3 // 4)
                squares.append((picture - target)[box].square().mean().item())
        return -10 * float(np.log10(max(np.mean(squares), 1e-10)))

    def _has_saturated(self) -> bool:
        """Early stopping: validates from time to time; True when the validation frames no longer improve."""
        if not self.validation or self.progress < _CHECK_FROM or self.progress >= 1:
            return False
        last = self.report.validation[-1][0] if self.report.validation else -1.0
        if self.progress - last < _CHECK_EVERY:
            return False
        self.report.validation.append((self.progress, self.check()))
        values = [value for _, value in self.report.validation]
        patience = self.arguments.patience
        return len(values) > patience and max(values[-patience:]) < max(values[:-patience]) + _GAIN

    def _cross_check(self) -> None:
        """Cross-check: whether refining the motion by pixels helps on held-out frames; tries both, briefly."""
        if not self.validation:
            self.refining = True
            return
        self.refining = False
        state, result = self.state_dict(), {}
        for refining in (True, False):
            self.load_state_dict(state)
            self.refining, self.progress = refining, self.arguments.coarse_until
            # Few frames, each several times, because the motion of a frame needs several steps to change.
            some = self.frames[:: max(1, len(self.frames) // _TRIAL_FRAMES)][:_TRIAL_FRAMES]
            self._order = some * -(-self.arguments.trial_steps // len(some))
            for _ in range(self.arguments.trial_steps):
                self.take_step()
            result[refining] = self.check()
        self.load_state_dict(state)
        self.refining = result[True] >= result[False]
        logger.info("refining the track: %.2f dB with, %.2f dB without", result[True], result[False])

    # --- what comes out ---------------------------------------------------------------------------------------------

    def averaged(self) -> _Averaged:
        """A context in which the Gaussians have their averaged weights."""
        return _Averaged(self.gaussians, self._average)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes: parameters, binding, optimiser, offsets, averages, random state, data order."""
        optimizer = [
            {key: value.clone() for key, value in self.optimizer.state.get(group["params"][0], {}).items()}
            for group in self.optimizer.param_groups
        ]
        return {
            "gaussians": {name: value.clone() for name, value in self.gaussians.state_dict().items()},
            "num_mouth_gaussians": self.gaussians.config.num_mouth_gaussians,
            "optimizer": optimizer,
            "offsets": {name: value.clone() for name, value in self.offsets.state_dict().items()},
            "start": {name: value.clone() for name, value in self._start.items()},
            "average": {name: value.clone() for name, value in self._average.items()},
            "moving": self._moving.clone(),
            "neighbours": self._neighbours.clone(),
            "strategy": None if self._strategy is None else self._strategy.state_dict(),
            "generator": self.generator.get_state(),
            "order": list(self._order),
            "step": self.step,
            "progress": self.progress,
            "seconds": self.seconds,
            "refining": self.refining,
            "error": [self._error, self._seen],
            "validation": [list(pair) for pair in self.report.validation],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of `state_dict`; the scene and the arguments must be the same."""
        gaussians = state["gaussians"]
        count = len(gaussians["means"])
        if count != self.gaussians.num_gaussians:
            self.gaussians.resize(torch.zeros(count, dtype=torch.int64), self.optimizer)
        self.gaussians.config.num_mouth_gaussians = state["num_mouth_gaussians"]
        self.gaussians.load_state_dict(gaussians)
        for group, saved in zip(self.optimizer.param_groups, state["optimizer"]):
            self.optimizer.state[group["params"][0]] = {key: value.clone() for key, value in saved.items()}
        self.offsets.load_state_dict(state["offsets"])
        self._start = {name: value.clone() for name, value in state["start"].items()}
        self._average = {name: value.clone() for name, value in state["average"].items()}
        self._moving, self._neighbours = state["moving"].clone(), state["neighbours"].clone()
        if self._strategy is not None:
            self._strategy.load_state_dict(state["strategy"])
        self.generator.set_state(state["generator"])
        self._order = list(state["order"])
        self.step, self.progress, self.seconds = state["step"], state["progress"], state["seconds"]
        self.refining = state["refining"]
        self._error, self._seen = state["error"]
        self.report.validation = [tuple(pair) for pair in state["validation"]]


class _Averaged:
    """A context in which the Gaussians have averaged weights."""

    def __init__(self, gaussians: RiggedGaussians, average: dict[str, Tensor]):
        self._parameters = dict(gaussians.named_parameters()) if average else {}
        self._average = average

    def __enter__(self) -> None:
        self._kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._put(self._average)

    def __exit__(self, *_) -> None:
        self._put(self._kept)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])


def _cropped(camera: Camera, window: tuple[int, int, int] | None) -> Camera:
    """The camera of the crop `(left, top, side)` of another camera's image."""
    if window is None:
        return camera
    left, top, side = window
    K = camera.K.clone()
    K[0, 2] -= left
    K[1, 2] -= top
    return Camera(side, side, K, camera.viewmat)


def _split(scene: TrainingScene, args: AdaptArguments) -> tuple[list[int], list[int]]:
    """Validation frames (spread over the last ones) and training frames."""
    count = round(len(scene.train) * args.validation_share)
    kept = len(scene.train) - count
    if count < _LEAST_VALIDATION:  # clips under three seconds need every frame for training
        count, kept = 0, len(scene.train)
    slice_ = scene.train[kept:]
    picks = (
        np.unique(np.linspace(0, len(slice_) - 1, min(_CHECKED_FRAMES, len(slice_))).round().astype(int))
        if count
        else []
    )
    validation = [slice_[i] for i in picks]
    frames = scene.train[:kept]
    scene.train = frames
    if len(frames) > args.max_frames:
        frames = sorted(scene.apart(args.max_frames))
    return validation, frames


__all__ = ["RATES", "GaussianTrainer", "TrainingReport"]
