"""METHOD 7's protocol: adapt to the first part of a clip, render the later frames, and score the written videos.

In: a processed clip or a video. Out: a folder with `oracle.mp4`, `driven.mp4`, `audio_only.mp4` (the test frames alone,
over a background plate of the training frames) and `metrics.json`; `Evaluation`s. The test frames do not influence the
weights: `split` hides them, and a test corrupts them and compares the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..models.modeling_emotag import EmoTaGModel
from ..models.modeling_gaussian_prior import GaussianPrior, load_prior
from ..models.processing_emotag import EmoTaGProcessor
from ..outputs import FlameMotion
from ..preprocessing.data.clip import ProcessedClip
from ..preprocessing.tracking.landmarks import load_mediapipe
from ..preprocessing.tracking.photometric import RefineOptions
from ..training.adaptation.personalise import personalise_motion
from ..training.gaussians.adapt_arguments import AdaptArguments
from ..training.gaussians.gaussian_trainer import GaussianTrainer
from ..training.gaussians.person import make_model
from ..training.gaussians.scene import TrainingScene
from ..utils.asset_paths import model_path
from ..video.video_reader import read_video
from .report import MODES, Evaluation, comparison_sheet, write_metrics
from .split import SplitClip, split_frames
from .trial import Trial

logger = logging.getLogger(__name__)

FORMAT = "emotag-evaluations"
METRICS, TRUTH, SHEET = "metrics.json", "truth.mp4", "sheet.png"
_SHARED = ("clip", "train_clip", "train_frames", "test_frames", "version")  # the same in every mode's Evaluation
_SHARES = 1000  # steps of a training's bar
_OWN = ("weights", "seconds", "scores", "intervals")

Source = ProcessedClip | str | os.PathLike


def evaluate(clip: Source, output: str | os.PathLike, *, mode: str = "oracle", **options: Any) -> Evaluation:
    """Adapts to the first part of a clip and scores the avatar on the rest, in one mode; see [`evaluate_modes`]."""
    return evaluate_modes(clip, output, (mode,), **options)[0]


def evaluate_modes(
    clip: Source,
    output: str | os.PathLike,
    modes: Sequence[str] = MODES,
    *,
    train_fraction: float = 0.5,
    train_clip: Source | None = None,
    test_frames: Iterable[int] | None = None,
    blocks: bool = False,
    quality: str = "fast",
    arguments: AdaptArguments | None = None,
    base_model: EmoTaGModel | str | os.PathLike | None = None,
    prior: str | os.PathLike | GaussianPrior | None = "default",
    model: EmoTaGModel | None = None,
    refine: RefineOptions | None = None,
    true_background: bool = False,
    action_units: bool = False,
    truth: bool = False,
    sheet: bool = False,
    progress: bool | None = None,
) -> list[Evaluation]:
    """Adapts once to the first part of a clip and scores the avatar on the later frames, in each of `modes`.

    The modes (METHOD 7): `"oracle"`: pose and expression are tracked on the test frames' pixels; `"driven"`: that pose,
    with expression and jaw predicted by the motion network from the test frames' sound and action units;
    `"audio-only"`: the sound alone, with the neutral pose of the training frames.

    Args:
        clip: a processed clip, its folder, or a video, which is prepared in a folder of `output`.
        output: a folder, created if it does not exist. Files of an earlier evaluation in it are deleted.
        modes: one or more of them.
        train_fraction: share of the frames to train on, the first ones.
        train_clip: trains on another clip of the same person instead, on all of it.
        test_frames: frame numbers of `clip` to test on; None is all frames later than the training frames.
        blocks: trains and tests on alternating blocks of 15 frames: a diagnostic, not a result.
        quality: `"fast"` or `"best"`, if no arguments are given.
        arguments: parameters of the adaptation.
        base_model: its motion network is used, a model or its folder; None is the embedded one.
        prior: the Gaussian prior as `adapt` takes it. For a valid result, neither it nor `base_model` may have seen the
            person.
        model: a model that was trained on exactly these training frames, used instead of adapting.
        refine: options of the oracle's tracking; with `steps=0` pose and expression come from landmarks alone.
        true_background: pastes the true background around the person: a diagnostic, recorded in metrics.json.
        action_units: also measures the action units' error (AUE), by tracking the rendered face.
        truth: also writes the true test frames, truth.mp4. sheet: also writes a contact sheet of true and rendered
            frames, sheet.png (with several modes `<mode>_sheet.png`). Both contain real frames.
        progress: shows or hides bars; None shows them on a terminal.

    Returns:
        `Evaluation`s in the order of `modes`; `read_metrics` reads them from metrics.json again.

    Raises:
        ValueError: an unknown mode; an impossible split; a mode that needs sound and a clip without; two clips of the
            same video; `output` is a file.
        FileNotFoundError: the clip, video or model does not exist.
        ImportError: `action_units` is True, and MediaPipe is not installed.
    """
    modes, output = _checked_modes(modes), _checked_output(output)
    arguments = arguments or AdaptArguments.preset(quality)
    clip = _opened(clip, output, progress)
    other = None if train_clip is None else _opened(train_clip, output, progress)
    _check_clips(clip, other, modes)
    if action_units:
        load_mediapipe()  # raises ImportError before the work
    split = split_frames(
        len(clip),
        fraction=train_fraction,
        test_frames=test_frames,
        blocks=blocks,
        train_count=None if other is None else len(other),
    )
    base, processor = _loaded(base_model)
    output.mkdir(parents=True, exist_ok=True)  # only now, so that an invalid call leaves nothing
    training, stages = SplitClip(other or clip, split.train, base.head), _Stages(progress)
    weights: dict[str, str] = {}
    personal = None
    with stages("tracking the training frames"):
        training.track, training.background  # noqa: B018 - computed now, so that its time does not count as training
    if model is None:
        weights["base_motion"] = weights_sha256(base.motion)
        model, refined, seen = _trained(training, base, arguments, prior, weights, stages)
        if set(modes) - {"oracle"} and training.audio is not None:
            with stages("personalising the motion"):
                personal = personalise_motion(model, training, seen, motion=refined)  # type: ignore[arg-type]
    weights["avatar"] = weights_sha256(model.gaussians, model.expression_code, shape=model.shape)
    weights["motion"] = weights_sha256(model.motion, identity_embedding=model.identity_embedding)
    refine = refine or RefineOptions()
    trial = Trial(model, processor, clip, split.test, training, true_background, refine)
    with stages("tracking the test frames"):
        trial.track  # noqa: B018
    _clear(output)
    about = {
        "clip": clip.path.name,
        "train_clip": None if other is None else _other_name(other, clip),
        "train_frames": list(split.train),
        "test_frames": list(split.test),
        "weights": weights,
    }
    found = [_tested(trial, mode, output, about, stages, action_units) for mode in modes]
    if truth:
        trial.write_truth(output / TRUTH)
    if sheet:
        for mode in modes:
            name = SHEET if len(modes) == 1 else f"{_stem(mode)}_{SHEET}"
            written = read_video(output / f"{_stem(mode)}.mp4").frames()
            comparison_sheet(written, trial.truth(), output / name, difference=True, first=split.test[0])
    extra = {"true_background": true_background, "blocks": blocks, "arguments": asdict(arguments)}
    extra["refine"] = asdict(refine)
    extra["personalised"] = None if personal is None else {"status": personal.status, "reason": personal.reason}
    _write(output / METRICS, found, extra)
    return found


def read_metrics(path: str | os.PathLike) -> list[Evaluation]:
    """Reads the evaluations in a metrics.json.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is not one of this package's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a metrics.json, but there is no file {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"no format {FORMAT!r}")
        shared = {name: content[name] for name in _SHARED}
        return [Evaluation(mode=m, **shared, **{n: content[m][n] for n in _OWN}) for m in MODES if m in content]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path: expected the metrics.json of an evaluation, but {path} is none ({error}).") from error


def weights_sha256(*modules: torch.nn.Module | None, **tensors: torch.Tensor) -> str:
    """The SHA-256 of the safetensors file that holds the parameters and buffers of some modules, and some tensors."""
    named = dict(tensors)
    for number, module in enumerate(modules):
        if module is not None:
            named |= {f"{number}.{name}": tensor for name, tensor in module.state_dict().items()}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    return hashlib.sha256(save(plain)).hexdigest()


def _trained(
    training: SplitClip,
    base: EmoTaGModel,
    arguments: AdaptArguments,
    prior: str | os.PathLike | GaussianPrior | None,
    weights: dict[str, str],
    stages: _Stages,
) -> tuple[EmoTaGModel, FlameMotion, list[int]]:
    """Trains the person's Gaussians (METHOD 5, first stage); returns the model, and the motion and frames it was
    trained with."""
    prior = load_prior(prior)
    if prior is not None:
        weights["prior"] = weights_sha256(prior)
    with stages("training", _SHARES) as bar:
        trainer = GaussianTrainer(TrainingScene(training, training.train_frames, base.head), arguments, prior)  # type: ignore[arg-type]
        trainer.train(lambda now: bar.at(now.progress, f"{now.psnr:.1f} dB"))
        return make_model(trainer, base, training.path.name), trainer.motion(), list(trainer.frames)


def _tested(
    trial: Trial, mode: str, output: Path, about: dict[str, Any], stages: _Stages, action_units: bool
) -> Evaluation:
    """Renders, writes and scores one mode's video."""
    path, shared = output / f"{_stem(mode)}.mp4", {k: v for k, v in stages.seconds.items() if ": " not in k}
    with stages(f"{mode}: motion", len(trial.test)) as bar:
        motion = trial.motion(mode, bar.over)
    with stages(f"{mode}: video", len(trial.test)) as bar:
        trial.write(motion, path, mode, bar.over)
    with stages(f"{mode}: scores"):
        scores = trial.score(path, action_units)
    summary = scores.summary() | {"true_background": trial.true_background}
    own = {what: stages.seconds[f"{mode}: {what}"] for what in ("motion", "video", "scores")}
    return Evaluation(mode=mode, seconds=shared | own, scores=summary, intervals=scores.intervals(), **about)


def _write(path: Path, found: list[Evaluation], extra: dict[str, Any]) -> None:
    """Common values once, then those of each mode."""
    first = asdict(found[0])
    content = {"format": FORMAT, "split": found[0].split} | {name: first[name] for name in _SHARED} | extra
    for one in found:
        content[one.mode] = {"video": f"{_stem(one.mode)}.mp4"} | {name: asdict(one)[name] for name in _OWN}
    write_metrics(path, content)


class _Stages:
    """Measures the seconds of each stage, and shows it on a terminal."""

    def __init__(self, progress: bool | None):
        self.seconds: dict[str, float] = {}
        self._disable = None if progress is None else not progress  # None: only on a terminal

    @contextmanager
    def __call__(self, name: str, total: int | None = None) -> Iterator[_Bar]:
        from tqdm.auto import tqdm

        logger.info("%s.", name)
        began = time.perf_counter()
        with tqdm(None, name, total, False, disable=self._disable) as bar:
            yield _Bar(bar)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class _Bar:
    """A progress bar that is set to a share, or counts an iterable."""

    def __init__(self, bar: Any):
        self._bar = bar

    def at(self, share: float, note: str) -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(round(min(share, 1.0) * self._bar.total) - self._bar.n)

    def over(self, items: Iterable) -> Iterator:
        for item in items:
            yield item
            self._bar.update()


def _checked_modes(modes: Sequence[str]) -> tuple[str, ...]:
    given = (modes,) if isinstance(modes, str) else tuple(modes)
    if not given or len(set(given)) < len(given) or set(given) - set(MODES):
        raise ValueError(f"modes: expected one or more different ones of {', '.join(MODES)}, got {given}.")
    return given


def _checked_output(output: str | os.PathLike) -> Path:
    path = Path(output)
    if path.exists() and not path.is_dir():
        raise ValueError(f"output: expected a folder or nothing, but {path} is a file; choose another name.")
    return path


def _opened(source: Source, output: Path, progress: bool | None) -> ProcessedClip:
    if isinstance(source, ProcessedClip):
        return source
    path = Path(source)
    if path.is_dir():
        return ProcessedClip.open(path)
    from ..preprocessing.data.prepare import prepare

    return prepare(path, output / f"{path.stem}_clip", progress=progress)


def _check_clips(clip: ProcessedClip, other: ProcessedClip | None, modes: Sequence[str]) -> None:
    if other is not None and other.info["source"]["sha256"] == clip.info["source"]["sha256"]:
        raise ValueError("train_clip: expected another video than the clip's, got the same; leave it out.")
    if set(modes) - {"oracle"} and clip.audio is None:
        raise ValueError("modes: driven and audio-only need sound, and the clip has none; choose oracle.")


def _loaded(base_model: EmoTaGModel | str | os.PathLike | None) -> tuple[EmoTaGModel, EmoTaGProcessor]:
    if isinstance(base_model, EmoTaGModel):
        frontend = base_model.config.motion_config.frontend
        if frontend == "transformers":
            raise ValueError(f"base_model: expected its folder, since it hears through {frontend!r}, got the model.")
        return base_model, EmoTaGProcessor()
    folder = model_path(base_model)
    return EmoTaGModel.from_pretrained(folder), EmoTaGProcessor.from_pretrained(folder)


def _other_name(other: ProcessedClip, clip: ProcessedClip) -> str:
    same = other.path.name == clip.path.name
    return f"{other.path.absolute().parent.name}/{other.path.name}" if same else other.path.name


def _stem(mode: str) -> str:
    return mode.replace("-", "_")


def _clear(output: Path) -> None:
    """Deletes the files of an earlier evaluation."""
    stems = [_stem(mode) for mode in MODES]
    for name in (METRICS, TRUTH, SHEET, *(f"{s}.mp4" for s in stems), *(f"{s}_{SHEET}" for s in stems)):
        (output / name).unlink(missing_ok=True)


__all__ = ["METRICS", "evaluate", "evaluate_modes", "read_metrics", "weights_sha256"]
