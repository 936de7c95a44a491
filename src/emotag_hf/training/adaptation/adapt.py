"""adapt(): makes a person's avatar from a few seconds of video (METHOD 1, second stage).

In: a video or a processed clip, and the consent of the person. Out: an `EmoTaGPipeline` that speaks as that person,
and, if a folder is named, the avatar folder. The checks, the consent and the preparation come first. Checkpoints next
to the folder make an interrupted training resumable.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...avatars.avatar_facts import source_of_clip
from ...avatars.avatar_folder import check_avatar_folder, make_avatar_files, write_avatar
from ...models.modeling_gaussian_prior import GaussianPrior, load_prior
from ...pipelines.pipeline_emotag import EmoTaGPipeline
from ...preprocessing.data.clip import CLIP_JSON, ProcessedClip
from ...preprocessing.data.prepare import prepare
from ...preprocessing.doctor import examine
from ...preprocessing.tracking.photometric import draw
from ...rendering.compositing import to_uint8
from ...rights.consent import Consent
from ...rights.consent_dialogue import resolve_consent
from ...rights.provenance import run_facts
from ...utils.typing import PathLike
from ..checkpoint import load_state, save_state
from ..gaussians.adapt_arguments import AdaptArguments
from ..gaussians.gaussian_trainer import GaussianTrainer, TrainingReport
from ..gaussians.person import make_model
from ..gaussians.scene import TrainingScene
from .personalise import personalise_motion

logger = logging.getLogger(__name__)

_STATE = "state.safetensors"
_SAVE_EVERY, _PREVIEW_EVERY, _USABLE_AFTER = 20.0, 5.0, 15.0  # seconds


class AdaptError(ValueError):
    """The video cannot become an avatar; the message says why, and what to do."""


def adapt(
    source: str | os.PathLike | ProcessedClip,
    output: str | os.PathLike | None = None,
    *,
    quality: str = "fast",
    budget_s: float | None = None,
    consent: None | str | os.PathLike | dict | Consent = None,
    force: bool = False,
    frames: Sequence[int] | None = None,
    arguments: AdaptArguments | None = None,
    prior: str | os.PathLike | GaussianPrior | None = "default",
    base_model: str | os.PathLike | None = None,
    name: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    preview: str | os.PathLike | None = None,
    report_to: str | None = None,
    on_step: Callable[[GaussianTrainer], Any] | None = None,
) -> EmoTaGPipeline:
    """Makes an avatar of the person in a video.

    Args:
        source: a video, a processed clip, or the folder of one.
        output: folder of the avatar; None keeps it in memory. A first version is written after some 15 s of training,
            then refined.
        quality: `"fast"` (under two minutes on two cores) or `"best"`.
        budget_s: seconds to train, instead of a number of steps; 15 give a usable avatar.
        consent: of the person: a file, a dict, a `Consent`; None asks at the terminal.
        force: continues although the doctor's verdict is red.
        frames: frame numbers of the clip to train on; None is all.
        arguments: all parameters of the training; overrides `quality` and `budget_s`.
        prior: a `GaussianPrior`, or its folder or repository; None uses none.
        base_model: the model whose motion network is used; None is the embedded one.
        name: of the avatar; None takes it from the consent.
        overwrite: replaces an existing avatar at `output`.
        resume: continues an interrupted training at `output`; with the same arguments it gives the same weights.
        preview: path of an image of the current avatar, updated every few seconds.
        report_to: "tensorboard" or another tracker of accelerate; logs are written next to `output`.
        on_step: called with the trainer after every step; if it returns True, training ends and the avatar is finished.

    Returns:
        The pipeline; `pipeline.training_report` has the training's report.

    Raises:
        AdaptError: the doctor's verdict is red, or there are too few frames to train on.
        ConsentError, AvatarError, VideoReadError, ClipError, ValueError: see their modules.
    """
    arguments = arguments or AdaptArguments.preset(quality, budget_s=budget_s)
    if output is not None and not resume:
        check_avatar_folder(output, overwrite)
    base = EmoTaGPipeline.from_pretrained(base_model)
    prior = load_prior(prior)
    with _opened(source, output) as clip:
        agreed = resolve_consent(consent, clip.info["source"]["sha256"])
        if not force:
            check_clip(clip)
        chosen = range(len(clip)) if frames is None else frames
        if int(clip.valid[list(chosen)].sum()) < 2:
            raise AdaptError("source: expected at least two frames with a face to train on; record a longer video.")
        trainer = GaussianTrainer(TrainingScene(clip, chosen, base.model.head), arguments, prior)
        folder = _Folder(trainer, base, agreed, clip, name or agreed.person, output, overwrite or resume, prior)
        watch = _Watch(trainer, folder, preview, report_to, on_step)
        if resume:
            watch.resume()
        with watch:
            report = trainer.train(watch)
        pipeline = folder.finish(report, chosen)
        watch.clean_up()
    return pipeline


def check_clip(clip: ProcessedClip) -> None:
    """Runs the doctor. Raises AdaptError with the reasons if the verdict is red."""
    report = examine(clip)
    reasons = [f"{check.finding} {check.advice}".strip() for check in report.checks if check.light == "red"]
    if reasons:
        raise AdaptError(
            "source: this video cannot make a good avatar. " + " ".join(reasons) + " (`--force`, force=True, goes on.)"
        )


class _Folder:
    """Assembles the person's pipeline, in memory or on disk."""

    def __init__(
        self,
        trainer: GaussianTrainer,
        base: Any,
        consent: Consent,
        clip: ProcessedClip,
        name: str,
        output: PathLike | None,
        overwrite: bool,
        prior: Any,
    ) -> None:
        self.trainer, self.base, self.consent, self.clip = trainer, base, consent, clip
        self.name, self.output, self.overwrite, self.prior = name, output, overwrite, prior
        self.written = False

    def write_early(self) -> None:
        """Writes a first avatar, without the second stage."""
        if self.output is not None and not self.written:
            self._put(self._pipeline(), self.trainer.report, None)
            logger.info("a first avatar lies in %s; it is being refined", self.output)

    def finish(self, report: TrainingReport, chosen: Sequence[int]) -> EmoTaGPipeline:
        pipeline = self._pipeline()
        personal = None
        if self.clip.audio is not None:
            frames = [i for i in chosen if i in set(self.trainer.frames)]
            personal = personalise_motion(pipeline.model, self.clip, frames, motion=self.trainer.motion())
        pipeline.training_report = report  # type: ignore[assignment]
        self._put(pipeline, report, personal)
        return pipeline

    def _pipeline(self) -> EmoTaGPipeline:
        model = make_model(self.trainer, self.base.model, self.name)
        return EmoTaGPipeline(model=model, processor=self.base.processor)

    def _put(self, pipeline: EmoTaGPipeline, report: TrainingReport, personal: Any) -> None:
        training = {key: value for key, value in asdict(report).items() if key != "validation"}
        training["arguments"] = asdict(self.trainer.arguments)
        training["validation_psnr_face_box"] = report.validation[-1][1] if report.validation else None
        if personal is not None:
            training["motion"] = {k: v for k, v in asdict(personal).items() if isinstance(v, (bool, int, float, str))}
        training |= run_facts()
        licenses = {} if self.prior is None else {"gaussian_prior": self.prior.config.weights_license}
        facts: dict[str, Any] = {
            "consent": self.consent,
            "source": source_of_clip(self.clip.info, len(self.trainer.frames)),
            "training": training,
            "preview": self.picture(512),
            "background": self.clip.background[0],
            "licenses": licenses,
        }
        if self.output is not None:
            write_avatar(pipeline, self.output, overwrite=self.overwrite or self.written, **facts)
            self.written = True
        else:
            pipeline.set_avatar_files(make_avatar_files(pipeline, **facts))

    def picture(self, size: int) -> np.ndarray:
        """A rendering of the current avatar at rest: `[size, size, 3]` uint8."""
        trainer = self.trainer
        camera = trainer.camera.fit(size)
        middle = torch.tensor(trainer.scene.apart(1))
        with torch.no_grad(), trainer.averaged():
            colors, alpha = draw(trainer.offsets.motion(middle), trainer, trainer.scene.shape, camera)  # type: ignore[arg-type]
        grey = torch.full_like(colors, 0.5)
        return to_uint8((colors + (1 - alpha) * grey).clamp(0, 1))


class _Watch:
    """Side tasks of the training: checkpoints, previews, logs."""

    def __init__(
        self, trainer: GaussianTrainer, folder: _Folder, preview: Any, report_to: str | None, on_step: Any
    ) -> None:
        self.trainer, self.folder, self.on_step = trainer, folder, on_step
        self.preview = None if preview is None else Path(preview)
        self.place = None if folder.output is None else Path(f"{os.fspath(folder.output)}.training")
        self.report_to = report_to
        self.accelerator: Any = None
        self._saved = self._shown = time.monotonic()

    def __enter__(self) -> _Watch:
        if self.place is not None:
            self.place.mkdir(parents=True, exist_ok=True)
        if self.report_to is not None:
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=True, log_with=self.report_to, project_dir=str(self.place or "."))
            self.accelerator.init_trackers("adapt", config=_plain(asdict(self.trainer.arguments)))
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and self.place is not None and self.trainer.step:
            save_state(self.place / _STATE, self.trainer.state_dict())  # after Ctrl-C `resume` continues from here
        if self.accelerator is not None:
            self.accelerator.end_training()

    def __call__(self, trainer: GaussianTrainer) -> bool:
        now = time.monotonic()
        if self.place is not None and now - self._saved > _SAVE_EVERY:
            save_state(self.place / _STATE, trainer.state_dict())
            self._saved = now
        if trainer.seconds > _USABLE_AFTER and not self.folder.written:
            self.folder.write_early()
        if self.preview is not None and now - self._shown > _PREVIEW_EVERY:
            self._show()
            self._shown = now
        if self.accelerator is not None and trainer.step % 20 == 0:
            self.accelerator.log({"psnr": trainer.psnr, "progress": trainer.progress}, step=trainer.step)
        return bool(self.on_step(trainer)) if self.on_step is not None else False

    def resume(self) -> None:
        state = None if self.place is None else self.place / _STATE
        if state is not None and state.is_file():
            self.trainer.load_state_dict(load_state(state))
            logger.info("going on at step %d", self.trainer.step)

    def clean_up(self) -> None:
        if self.place is not None and self.report_to is None:
            shutil.rmtree(self.place, ignore_errors=True)

    def _show(self) -> None:
        from PIL import Image

        fresh = self.preview.with_name(f".{self.preview.name}.new")
        Image.fromarray(self.folder.picture(256)).save(fresh, format="PNG")
        os.replace(fresh, self.preview)  # type: ignore[arg-type]


@contextmanager
def _opened(source: PathLike | ProcessedClip, output: PathLike | None) -> Iterator[ProcessedClip]:
    """The clip of `source`; a video is prepared next to the avatar, or in a temporary folder."""
    if not isinstance(source, (str, os.PathLike)):
        yield source
        return
    path = Path(source)
    if path.is_dir() and (path / CLIP_JSON).is_file():
        yield ProcessedClip.open(path)
        return
    if output is not None:
        yield prepare(path, f"{os.fspath(output)}.clip")
        return
    with tempfile.TemporaryDirectory(prefix="emotag_") as folder:
        clip = prepare(path, Path(folder) / "clip")
        yield clip
        clip.close()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in values.items()}


__all__ = ["AdaptError", "adapt", "check_clip"]
