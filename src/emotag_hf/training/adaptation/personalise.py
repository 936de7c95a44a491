"""Second stage of the adaptation: adjusts the motion network to one person (METHOD 3 to 5).

In: a model, a processed clip and the training frames. Out: the same model with a changed last layer of the Base (or
AdaIN, with the person's identity embedding), and a report; or the unchanged model, if validation frames get worse. A
few seconds suffice for what is constant in a person (how widely the mouth moves, the lips at rest), not for timing: one
factor on the motion of speech and one constant per coefficient that speech moves, in closed form. AdaIN trained by
gradient reduces squared errors slightly more but loses articulation: after five seconds of 11 clips of unseen people,
the correlation of the lip opening fell from 0.45 to 0.34.

It takes seconds and is deterministic, so it cannot be resumed: call it again.

Differences from the paper: each term of the motion loss is divided by its value before training (radians and
coefficients have no common unit, and guidance would dominate), and part of the windows have no action units, as at
inference from audio alone.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...audio.audio_features import FRAME_RATE
from ...constants import MOTION_FPS
from ...models.audio_net import TOKEN_RATE
from ...models.ear import MAX_AHEAD, PER_FRAME
from ...models.lip_closures import parting
from ...models.modeling_emotag import EmoTaGModel
from ...models.modeling_motion import GatedResidualMotionNetwork
from ...outputs import FlameMotion, GRMNOutput
from ...preprocessing.data.clip import ProcessedClip
from ...preprocessing.features.action_units import grmn_action_units
from ..pretraining.lip_space import LipSpace
from ..pretraining.motion_losses import KL_WEIGHT, SCORE_WEIGHT, SPOKEN, motion_loss, semantic_guidance

logger = logging.getLogger(__name__)

MIN_FRAMES = 12  # half a second, three frames of it for validation
_MIN_VALIDATION = 3
_DECODER = ("base_hidden", "base_motion", "emotion_encoder", "emotion_decoder", "gate")
_FRAMES = 50  # frames of a clip at which the shrinkage towards the base is one half
_LEAST_GAIN, _MOST_GAIN, _ROUNDS = 0.6, 1.8, 4
_MOST_APART = 3.0  # mm by which a constant may open the lips
TRAINABLE = {  # modules of GatedResidualMotionNetwork that affect expression and jaw
    "affine": ("base_motion",),
    "adain": ("id_net",),
    "decoder": ("id_net", *_DECODER),
    "all": ("id_net", *_DECODER, "audio_net", "expr_net"),
}
ERRORS = ("expression", "jaw", "audio_only_expression", "audio_only_jaw")
_TINY = 1e-6  # squared coefficients or radians: a thousandth of either is below the tracker's precision


@dataclass(frozen=True)
class PersonaliseOptions:
    """Options of the second stage.

    Args:
        trainable: "affine", a factor and constants in the Base's last layer, in closed form (all following options are
            ignored); "adain", the ID Net (the paper's choice); "decoder", the Expert Motion Decoder as well; "all", the
            Audio Net and the Expr Net too.
        steps: maximum; the learning rate decays to a tenth over them (METHOD 5).
        learning_rate: of AdamW.
        window, batch_size: frames of a contiguous window, and windows of a step.
        without_units: share of the windows without action units, in [0, 1].
        kl_weight, score_weight: weights of semantic guidance; the motion loss starts at 2.
        start_weight: weight of the squared distance of the weights from their initial values.
        ema: decay of the averaged weights, which are the result, in [0, 1].
        validation: share of the frames for validation, the last ones, in [0, 0.5]; at least three frames.
        check_every: steps between validations.
        patience: validations without an improvement after which training ends.
        seed: of the windows.

    Raises:
        ValueError: naming the option that is out of range.
    """

    trainable: str = "affine"
    steps: int = 400
    learning_rate: float = 2e-3
    window: int = 32
    batch_size: int = 8
    without_units: float = 0.25
    kl_weight: float = KL_WEIGHT
    score_weight: float = SCORE_WEIGHT
    start_weight: float = 3e-3
    ema: float = 0.995
    validation: float = 0.25
    check_every: int = 10
    patience: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trainable not in TRAINABLE:
            raise ValueError(f"trainable: expected one of {', '.join(TRAINABLE)}, got {self.trainable!r}.")
        for name in ("steps", "window", "batch_size", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}.")
        for name in ("learning_rate", "kl_weight", "score_weight", "start_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}.")
        for name, most in (("without_units", 1), ("ema", 1), ("validation", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected a number from 0 to {most}, got {getattr(self, name)}.")


@dataclass(frozen=True)
class PersonaliseReport:
    """Report of the second stage.

    Attributes:
        status: "personalised"; "rolled back": no step improved, the weights are unchanged; "skipped": too few frames,
            nothing was tried.
        reason: the reason in one sentence.
        identity_set: whether the model has the clip's identity embedding now.
        trainable: the option `trainable`.
        trained_frames, validation_frames: numbers of training and validation frames (with face and sound).
        steps, best_step: number of steps, and the step whose weights were kept; 0 for none.
        sound_offset: frames at 25 fps by which the sound was shifted to fit the lips; positive: it was late.
        before, after: mean squared errors on the validation frames, of the model as it came and as it is now:
            `expression` and `jaw` (rad^2) with the clip's action units, `audio_only_expression` and `audio_only_jaw`
            without any. Empty if nothing was tried.
        seconds: how long it took.
    """

    status: str
    reason: str
    identity_set: bool = False
    trainable: str = "affine"
    trained_frames: int = 0
    validation_frames: int = 0
    steps: int = 0
    best_step: int = 0
    sound_offset: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def personalise_motion(
    model: EmoTaGModel,
    clip: ProcessedClip,
    frames: Sequence[int],
    options: PersonaliseOptions | None = None,
    *,
    motion: FlameMotion | None = None,
    progress: Callable[..., Any] | None = None,
) -> PersonaliseReport:
    """Adjusts a model so that the motion predicted from a clip's sound is closer to the tracked motion.

    Sets `model.identity_embedding` and the parameters that `options.trainable` names; all other parameters stay
    bit-identical. Of track, action units and emotion only the rows of `frames` are read; of the sound only up to the
    last of them and the network's look-ahead after it. The clip's identity embedding and sound offset are used as they
    are; in an `evaluation.split.SplitClip` they depend on training frames only.

    The last frames are used for validation. Weights are kept only if neither expression nor jaw gets worse there, with
    and without the clip's action units.

    Deterministic on one machine with the same number of threads. torch's global random generator is not used.

    Args:
        model: a model with the head that the clip was tracked with. Changed in place, at the end.
        clip: with sound.
        frames: frame numbers to train on, in any order. Frames without face or sound are left out.
        options: `PersonaliseOptions()` if None.
        motion: motion of all frames of the clip instead of the track's, such as the motion refined by pixels.
        progress: wraps the iterable of steps, such as `tqdm`: called as `progress(steps, total=n)`.

    Returns:
        `PersonaliseReport`.

    Raises:
        ValueError: a motion of another length; the clip has no sound, or speech features or a head of another kind than
            the model; a frame that is not in the clip; a model that is not float32.
    """
    options = options or PersonaliseOptions()
    began = time.perf_counter()
    _check(model, clip, motion)
    rate = TOKEN_RATE if model.config.motion_config.frontend == "transformers" else FRAME_RATE
    per_frame, offset = rate // MOTION_FPS, clip.audio_offset
    sound_offset = offset.frames if offset is not None and offset.reliable else 0.0
    shift = round(sound_offset * per_frame)
    usable = _usable_frames(clip, frames, per_frame, shift)
    facts = {"trainable": options.trainable, "sound_offset": sound_offset}
    if len(usable) < MIN_FRAMES:
        reason = f"{len(usable)} frames with a face and sound are too few to learn from, at least {MIN_FRAMES} are."
        logger.warning("Motion is not personalised: %s", reason)
        return PersonaliseReport("skipped", reason, **facts)

    aside = max(_MIN_VALIDATION, round(len(usable) * options.validation))
    lesson = _Lesson(model, clip, clip.track.motion if motion is None else motion, usable, per_frame, shift, aside)
    result = _solve(model, lesson) if options.trainable == "affine" else _fit(model, lesson, options, progress)
    with torch.no_grad():
        if result.identity_set:
            model.identity_embedding.copy_(lesson.identity[0])
        for name, value in result.weights.items():
            model.motion.get_parameter(name).copy_(value)
    judge = result.judge
    status = "personalised" if judge.best_step else "rolled back"
    logger.info("Motion is %s: %s", status, judge.verdict())
    return PersonaliseReport(
        status,
        judge.verdict(),
        result.identity_set,
        **facts,
        trained_frames=len(lesson.train),
        validation_frames=len(lesson.validation),
        steps=result.steps,
        best_step=judge.best_step,
        before=dict(zip(ERRORS, judge.before)),
        after=dict(zip(ERRORS, judge.kept)),
        seconds=time.perf_counter() - began,
    )


# --- what is learned from -----------------------------------------------------------------------------------------


def _check(model: EmoTaGModel, clip: ProcessedClip, motion: FlameMotion | None) -> None:
    config = model.config.motion_config
    if model.motion.base_motion.weight.dtype != torch.float32:
        raise ValueError(f"model: expected float32 weights, got {model.motion.base_motion.weight.dtype}; use .float().")
    if config.fps != MOTION_FPS:
        raise ValueError(f"model: expected a motion network at {MOTION_FPS} fps as clips are, got {config.fps}.")
    if clip.track.head_sha256 != model.head.sha256:
        raise ValueError(
            "clip: expected a track of the model's own head, got one of another, whose expressions mean something "
            "else; prepare the video with the model's head."
        )
    if motion is not None and len(motion) != clip.num_frames:
        raise ValueError(f"motion: expected one of the clip's {clip.num_frames} frames, got {len(motion)}.")
    features = clip.features.get("input_features")
    if features is None:
        raise ValueError("clip: expected one with sound, but it has none; motion is learned from sound and picture.")
    if features.shape[-1] != config.audio_feature_dim:
        raise ValueError(
            f"clip: expected speech features of {config.audio_feature_dim} channels as the model reads, got "
            f"{features.shape[-1]}; prepare the video with the model's speech features."
        )


def _usable_frames(clip: ProcessedClip, frames: Sequence[int], per_frame: int, shift: int) -> list[int]:
    """The frames with a face and with sound, sorted."""
    wrong = [i for i in frames if int(i) != i or not 0 <= i < clip.num_frames]
    if wrong:
        raise ValueError(f"frames: expected indices from 0 to {clip.num_frames - 1}, got {wrong[0]}.")
    heard = range(-shift, len(clip.features["input_features"]) - shift)
    return [i for i in sorted({int(i) for i in frames}) if i * per_frame in heard and bool(clip.valid[i])]


class _Lesson:
    """One clip as the network's input; rows of frames that must not be read are 0.

    Attributes: `sound` `[1, Tf, C]`, moved by `shift`; `units` `[T, 6]`; `expression` `[T, 50]`; `jaw` `[T, 3]`;
    `emotion` `[T, 7]`; `identity` `[1, 512]`; `train` and `validation`, indices of frames; `learnable` `[T]` bool.
    """

    def __init__(
        self, model, clip: ProcessedClip, motion: FlameMotion, usable: list[int], per_frame: int, shift: int, aside: int
    ):
        device = model.motion.base_motion.weight.device
        count = usable[-1] + 1
        features = clip.features
        rows = torch.tensor(usable)

        def only_usable(values: Tensor) -> Tensor:
            kept = torch.zeros(count, values.shape[1])
            kept[rows] = values[rows].float()
            return kept.to(device)

        sound = features["input_features"]
        end = count * per_frame
        sound = sound[max(0, shift) : max(0, shift + end - per_frame + 1 + _look_ahead(model.motion))].float()
        sound = torch.cat([sound.new_zeros(max(0, -shift), sound.shape[1]), sound])
        missing = max(0, end - len(sound))  # silence, which does not affect the frames
        self.sound = torch.cat([sound, sound.new_zeros(missing, sound.shape[1])])[None].to(device)
        self.units = only_usable(torch.from_numpy(grmn_action_units(features["action_units"].numpy())))
        self.emotion = only_usable(features["emotion"])
        self.expression, self.jaw = only_usable(motion.expression), only_usable(motion.jaw_pose)
        self.identity = features["identity"].float()[None].to(device)
        self.train, self.validation = rows[:-aside].to(device), rows[-aside:].to(device)
        self.learnable = torch.zeros(count, dtype=torch.bool, device=device)
        self.learnable[self.train] = True


def _look_ahead(network: GatedResidualMotionNetwork) -> int:
    """Number of feature rows after its own first one that a video frame depends on; may be negative."""
    if network.config.frontend == "whisper_blocks":
        return PER_FRAME * (1 + MAX_AHEAD)
    return network.audio_net.first + network.audio_net.window - 1


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass
class _Result:
    weights: dict[str, Tensor]  # of the parameters that changed, by name
    identity_set: bool
    steps: int
    judge: _Judge


class _Judge:
    """Compares validation errors with those before; keeps the best weights that make nothing worse."""

    def __init__(self, before: list[float]):
        self.before = self.kept = before
        self.best, self.best_step = self._score(before), 0
        self.nearest: list[float] | None = None  # the errors nearest to acceptance, for the report

    def accepts(self, errors: list[float], step: int) -> bool:
        """Whether these are the best so far. For step 0 (only the identity is set), equal errors are accepted."""
        score = self._score(errors)
        if step and not math.isnan(score) and (self.nearest is None or score < self._score(self.nearest)):
            self.nearest = errors
        harmless = all(new <= old for new, old in zip(errors, self.before))  # False for NaN
        if not harmless or not (score < self.best or (step == 0 and score == self.best)):
            return False
        self.kept, self.best, self.best_step = errors, score, step
        return True

    def verdict(self) -> str:
        """One sentence about the accepted step, or about the one nearest to acceptance."""
        compare = lambda errors: ", ".join(  # noqa: E731
            f"{name.replace('_', ' ')} {old:.3g} to {new:.3g}" for name, old, new in zip(ERRORS, self.before, errors)
        )
        if self.best_step:
            return f"mean squared errors on frames kept aside: {compare(self.kept)}."
        if self.nearest is None:
            return "no step gave finite errors; look for NaN in the clip's track and features."
        return f"no step made frames kept aside better without harm; the nearest had {compare(self.nearest)}."

    def _score(self, errors: list[float]) -> float:
        return sum(new / max(old, _TINY) for new, old in zip(errors, self.before)) / len(errors)


class _Listener:
    """A motion network on one clip; the audio feature is cached if the Audio Net is not trained."""

    def __init__(self, network: GatedResidualMotionNetwork, sound: Tensor, trains_audio: bool):
        self.network, self.sound = network, sound
        with torch.no_grad():
            self.audio = None if trains_audio else network.audio_net(sound)

    def __call__(self, index: Tensor, units: Tensor, identity: Tensor) -> GRMNOutput:
        """Motion at the frames `index` `[B, W]` with action units `[B, W, 6]` of a person `[1, 512]`."""
        audio = self.network.audio_net(self.sound) if self.audio is None else self.audio
        return self.network._decode(audio[0, index], 0, units, identity.expand(len(index), -1), None, None)

    @torch.no_grad()
    def errors(self, lesson: _Lesson, frames: Tensor, identity: Tensor) -> list[float]:
        """Mean squared errors at `frames` `[n]` in the order of `ERRORS`."""
        units = lesson.units[frames][None]
        found = []
        for given in (units, torch.zeros_like(units)):
            out = self(frames[None], given, identity)
            found.append((out.expression[0] - lesson.expression[frames]).square().mean().item())
            found.append((out.jaw_pose[0] - lesson.jaw[frames]).square().mean().item())
        return found


@torch.no_grad()
def _solve(model: EmoTaGModel, lesson: _Lesson) -> _Result:
    """One factor on the motion of speech, so that the spread of the lip opening matches the person's; then
    constants."""
    network = copy.deepcopy(model.motion).eval()
    listener, layer, lips = _Listener(network, lesson.sound, False), network.base_motion, LipSpace(model.head)
    identity, train = model.identity_embedding[None], lesson.train
    judge = _Judge(listener.errors(lesson, lesson.validation, identity))
    units, believed = lesson.units[train][None], len(train) / (len(train) + _FRAMES)
    true = torch.cat([lesson.expression[train], lesson.jaw[train]], -1)

    def heard(given: Tensor) -> Tensor:
        out = listener(train[None], given, identity)
        return torch.cat([out.expression[0], out.jaw_pose[0]], -1)

    def spread(face: Tensor) -> Tensor:
        count = lesson.expression.shape[1]
        return lips.opening(lips.points(face[:, :count], face[:, count:])).clamp_min(0).std()

    none, rows = torch.zeros_like(units), [*SPOKEN, *range(lesson.expression.shape[1], true.shape[1])]
    apart_by = parting(true.shape[1])
    start, constants, total = layer.bias[: true.shape[1]].clone(), torch.zeros_like(true[0]), 1.0
    # Brows and lids that the clip held up or down are a mood, not a person's rest; speaking generates them anyway.
    learned = torch.zeros_like(constants)
    learned[rows] = believed
    for _ in range(_ROUNDS):  # iterated, because at lip contact the two depend on each other
        constants += learned * (true - (heard(units) + heard(none)) / 2).mean(0)
        count = lesson.expression.shape[1]
        apart = float(lips.opening(lips.points(constants[:count], constants[count:])))
        if abs(apart) > _MOST_APART:  # else a wrongly detected p would close a wide-open mouth
            constants[apart_by] *= _MOST_APART / abs(apart)
        layer.bias[: true.shape[1]] = start + constants
        width = spread(heard(none))
        gain = float(spread(true) / width) ** believed if width > 0 else 1.0
        gain = min(max(total * gain, _LEAST_GAIN), _MOST_GAIN) / total
        layer.weight[rows] *= gain
        start[rows] *= gain
        total *= gain
    layer.bias[: true.shape[1]] = start + constants
    judge.accepts(listener.errors(lesson, lesson.validation, identity), 1)
    weights = {f"base_motion.{n}": p.detach().clone() for n, p in layer.named_parameters()} if judge.best_step else {}
    return _Result(weights, False, 1, judge)


def _fit(model: EmoTaGModel, lesson: _Lesson, options: PersonaliseOptions, progress: Callable | None) -> _Result:
    """Trains a copy; the caller takes over the accepted weights."""
    network = copy.deepcopy(model.motion).eval().requires_grad_(False)  # no dropout
    averaged = copy.deepcopy(network)
    names = [
        f"{part}.{name}"
        for part in TRAINABLE[options.trainable]
        for name, _ in network.get_submodule(part).named_parameters()
    ]
    parameters, means = ([n.get_parameter(name) for name in names] for n in (network, averaged))
    start = [p.clone() for p in parameters]
    student, candidate = (_Listener(n, lesson.sound, options.trainable == "all") for n in (network, averaged))
    scales = [max(error, _TINY) ** 0.5 for error in candidate.errors(lesson, lesson.train, lesson.identity)[:2]]
    judge = _Judge(candidate.errors(lesson, lesson.validation, model.identity_embedding[None]))
    identity_set = judge.accepts(candidate.errors(lesson, lesson.validation, lesson.identity), 0)
    weights: dict[str, Tensor] = {}
    for p in parameters:
        p.requires_grad_(True)
    # Weight decay towards the initial weights instead of AdamW's towards 0.
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(options.seed)
    steps, step, misses = range(1, options.steps + 1), 0, 0
    for step in steps if progress is None else progress(steps, total=options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * 0.1 ** (step / options.steps)
        with torch.enable_grad():
            moved = sum((p - s).square().sum() for p, s in zip(parameters, start))
            loss = _loss(student, lesson, options, scales, generator) + options.start_weight * moved
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # A warm-up of the decay, because training has only a few hundred steps.
        decay = min(options.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, p in zip(means, parameters):
                mean.lerp_(p, 1 - decay)
        if step % options.check_every and step != options.steps:
            continue
        if judge.accepts(candidate.errors(lesson, lesson.validation, lesson.identity), step):
            weights, misses, identity_set = {n: m.clone() for n, m in zip(names, means)}, 0, True
        else:
            misses += 1
            if misses >= options.patience:
                break
    return _Result(weights, identity_set, step, judge)


def _loss(
    student: _Listener, lesson: _Lesson, options: PersonaliseOptions, scales: list[float], generator: torch.Generator
) -> Tensor:
    """Motion loss and semantic guidance on a batch of windows that lie anywhere over the training frames."""
    count, train = len(lesson.learnable), lesson.train
    anchors = train[torch.randint(len(train), (options.batch_size,), generator=generator).to(train.device)]
    first = anchors - torch.randint(options.window, (options.batch_size,), generator=generator).to(train.device)
    index = first[:, None] + torch.arange(options.window, device=train.device)
    inside = (index >= 0) & (index < count)
    index = index.clamp(0, count - 1)
    valid = inside & lesson.learnable[index]
    seen = torch.rand(options.batch_size, 1, 1, generator=generator) >= options.without_units
    out = student(index, lesson.units[index] * seen.to(train.device), lesson.identity)
    face, jaw = scales
    motion = motion_loss(
        out.expression / face, out.jaw_pose / jaw, lesson.expression[index] / face, lesson.jaw[index] / jaw, valid
    )
    guidance = semantic_guidance(out.emotion_logits, out.gate, lesson.emotion[index], valid)
    return motion + options.kl_weight * guidance["kl"] + options.score_weight * guidance["score"]


__all__ = ["MIN_FRAMES", "PersonaliseOptions", "PersonaliseReport", "personalise_motion"]
