"""`emotag adapt`, `emotag dub` and `emotag evaluate`: making, using and evaluating avatars.

Every field of `AdaptArguments` is an option of `adapt` and `evaluate`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..training.gaussians.adapt_arguments import QUALITIES, AdaptArguments
from .fields import add_fields, given_fields

_MODES = ("oracle", "driven", "audio-only")
_NO_FLAG = ("budget_s",)  # has a flag with another name
_SCORES = {  # metric -> how it is printed
    "psnr_face_box": "face box {:.2f} dB",
    "psnr_mouth": "mouth {:.2f}",
    "psnr_eyes": "eyes {:.2f}",
    "flicker": "flicker {:.2f}",
    "lip_r": "lip r {:.2f}",
}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the three commands to `emotag`'s."""
    _add_adapt(commands)
    _add_dub(commands)
    _add_evaluate(commands)


def _add_adapt(commands: argparse._SubParsersAction) -> None:
    adapt = commands.add_parser("adapt", help="make an avatar of the person in a video")
    adapt.add_argument("source", metavar="VIDEO|CLIP", help="a video or a processed clip")
    adapt.add_argument(
        "-o", "--output", metavar="DIR", help="the avatar's folder (default: VIDEO_avatar, next to the video)"
    )
    adapt.add_argument("--consent-file", metavar="FILE", help="the person's consent (default: asks; docs/consent.md)")
    adapt.add_argument("--name", help="name of the avatar (default: the person's name in the consent)")
    adapt.add_argument("--force", action="store_true", help="continue although the doctor's verdict is red")
    adapt.add_argument("--resume", action="store_true", help="continue an interrupted training")
    adapt.add_argument("--overwrite", action="store_true", help="replace an existing avatar")
    adapt.add_argument(
        "--preview", metavar="FILE.png", help="an image of the current avatar, updated every few seconds"
    )
    adapt.add_argument(
        "--report-to", metavar="TRACKER", help="tensorboard or trackio; logs are written next to the avatar"
    )
    _add_training(adapt)
    adapt.add_argument("--json", action="store_true", help="print the result as JSON")
    adapt.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")
    adapt.set_defaults(run=_adapt, after_stop="the same command with --resume goes on where it was")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="adapt to the first part of a clip and score the later frames")
    evaluate.add_argument("source", metavar="CLIP|VIDEO", help="a processed clip or a video")
    evaluate.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the videos and metrics.json")
    evaluate.add_argument(
        "--mode", action="append", choices=_MODES,
        help="what moves the avatar (docs/method.md); repeat it for several modes with one training (default: oracle)",
    )  # fmt: skip
    evaluate.add_argument(
        "--train-fraction", type=float, default=0.5, help="share of the frames to train on (default: %(default)s)"
    )
    evaluate.add_argument("--train-clip", metavar="CLIP", help="train on another clip of the same person instead")
    evaluate.add_argument(
        "--test-frames", type=_frames, metavar="A:B", help="test frames A to B - 1 (default: all later ones)"
    )
    evaluate.add_argument(
        "--blocks", action="store_true", help="alternating blocks of 15 frames: a diagnostic, not a result"
    )
    evaluate.add_argument(
        "--track-steps", type=int, metavar="N",
        help="steps of the oracle's tracking by pixels per frame; 0: landmarks only (default: 80)",
    )  # fmt: skip
    evaluate.add_argument(
        "--true-background", action="store_true", help="paste the true background around the person: a diagnostic"
    )
    evaluate.add_argument(
        "--action-units",
        action="store_true",
        help="also measure the error of action units, by tracking the rendered video",
    )
    evaluate.add_argument("--truth", action="store_true", help="also write the true test frames")
    evaluate.add_argument("--sheet", action="store_true", help="also write a contact sheet of true and rendered frames")
    _add_training(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print metrics.json")
    evaluate.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    evaluate.set_defaults(run=_evaluate, after_stop="no numbers were written")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quality", choices=QUALITIES, default="fast", help="(default: %(default)s)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="seconds to train; 15 give a usable avatar")
    parser.add_argument(
        "--base-model",
        metavar="MODEL",
        help="folder or name of the model whose motion network is used (default: the embedded one)",
    )
    parser.add_argument("--prior", default="default", metavar="DIR", help="a Gaussian prior, or none")
    group = parser.add_argument_group("numbers of the training (defaults are those of quality fast)")
    add_fields(group, AdaptArguments, _NO_FLAG)


def _frames(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected A:B, such as 125:250, got {text!r}") from None
    return range(first, last)


def _arguments(args: argparse.Namespace) -> AdaptArguments:
    """The preset with the options given on the command line."""
    return AdaptArguments.preset(args.quality, budget_s=args.budget, **given_fields(args, AdaptArguments, _NO_FLAG))


def _prior(args: argparse.Namespace) -> str | None:
    return None if args.prior == "none" else args.prior


def _adapt(args: argparse.Namespace) -> int:
    arguments = _arguments(args)  # checked before any work
    source = Path(args.source)
    if not source.exists():
        raise FileNotFoundError(f"source: expected a video or a processed clip, but there is no {source}.")
    output = Path(args.output) if args.output else source.with_name(f"{source.stem.removesuffix('_clip')}_avatar")
    from ..training.adaptation.adapt import adapt

    _hush()
    with _bar(output.name, args.quiet or args.json) as on_step:
        pipeline = adapt(
            source,
            output,
            consent=args.consent_file,
            force=args.force,
            arguments=arguments,
            prior=_prior(args),
            base_model=args.base_model,
            name=args.name,
            overwrite=args.overwrite,
            resume=args.resume,
            preview=args.preview,
            report_to=args.report_to,
            on_step=on_step,
        )
    report = pipeline.training_report
    facts = {
        "avatar": str(output),
        "gaussians": pipeline.model.gaussians.num_gaussians,
        "steps": report.steps,
        "seconds": round(report.seconds, 1),
        "stopped": report.stopped,
        "refined": report.refined,
        "validation_psnr_face_box": round(report.validation[-1][1], 2) if report.validation else None,
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    elif not args.quiet:
        print(_last_line(facts))
    return 0


def _add_dub(commands: argparse._SubParsersAction) -> None:
    dub = commands.add_parser("dub", help="new speech for the person in a video, with their avatar")
    dub.add_argument("video", help="the video from which the avatar was made")
    dub.add_argument("audio", help="the recording to speak")
    dub.add_argument("-o", "--output", required=True, metavar="OUT.mp4", help="the video to write")
    dub.add_argument("--model", required=True, metavar="DIR", help="folder of the person's avatar")
    dub.add_argument("--clip", metavar="DIR", help="the processed clip of the video (default: prepares it)")
    dub.add_argument("--emotion", metavar="NAME|JSON|FILE.json", help="as in emotag speak")
    dub.add_argument(
        "--intensity", type=float, default=1.0, help="strength of the emotion, 0 to 1 (default: %(default)s)"
    )
    dub.add_argument("--json", action="store_true", help="for programs: no progress, the video's path as JSON")
    dub.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")
    dub.set_defaults(run=_dub)


def _dub(args: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from tqdm.auto import tqdm

    from ..pipelines.dubbing import dub
    from ..pipelines.pipeline_emotag import EmoTaGPipeline
    from ..preprocessing.data.clip import ProcessedClip
    from ..preprocessing.data.prepare import prepare

    _hush()
    pipeline = EmoTaGPipeline.from_pretrained(args.model)
    with TemporaryDirectory(prefix="emotag_") as folder:
        clip = ProcessedClip.open(args.clip) if args.clip else prepare(args.video, Path(folder) / "clip")
        options = {
            "emotion": args.emotion,
            "intensity": args.intensity,
            "progress": None if args.quiet or args.json else tqdm,
        }
        path = dub(pipeline, args.video, clip, args.audio, args.output, **options)
        clip.close()
    if args.json:
        print(json.dumps({"video": str(path)}))
    elif not args.quiet:
        print(path)
    return 0


def _last_line(facts: dict[str, Any]) -> str:
    seen = facts["validation_psnr_face_box"]
    kept = "" if seen is None else f", {seen} dB in the face's box of frames kept aside"
    work = f"{facts['gaussians']} Gaussians after {facts['steps']} steps in {facts['seconds']} s"
    return f"{facts['avatar']}: {work}{kept}; emotag speak speech.wav --model {facts['avatar']} -o out.mp4"


@contextmanager
def _bar(name: str, hidden: bool) -> Iterator[Callable[[Any], None]]:
    """A progress bar with the PSNR on training images. It appears at the first step, because before that the person may
    be asked for consent."""
    from tqdm.auto import tqdm

    shares = 1000
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    bars = []

    def on_step(trainer: Any) -> None:
        done = round(min(trainer.progress, 1.0) * shares)
        if not bars:  # so that a resumed training does not distort the estimated time
            bars.append(tqdm(None, name, shares, initial=done, disable=True if hidden else None, bar_format=form))
        bars[0].set_postfix_str(f"{trainer.psnr:.1f} dB", refresh=False)
        bars[0].update(done - bars[0].n)

    try:
        yield on_step
    finally:
        for bar in bars:
            bar.close()


def _evaluate(args: argparse.Namespace) -> int:
    arguments = _arguments(args)
    if not Path(args.source).exists():
        raise FileNotFoundError(f"source: expected a processed clip or a video, but there is no {args.source}.")
    from ..evaluation.protocol import METRICS, evaluate_modes
    from ..preprocessing.tracking.photometric import RefineOptions

    _hush()
    found = evaluate_modes(
        args.source,
        args.output,
        args.mode or _MODES[:1],
        train_fraction=args.train_fraction,
        train_clip=args.train_clip,
        test_frames=args.test_frames,
        blocks=args.blocks,
        arguments=arguments,
        base_model=args.base_model,
        prior=_prior(args),
        refine=None if args.track_steps is None else RefineOptions(steps=args.track_steps),
        true_background=args.true_background,
        action_units=args.action_units,
        truth=args.truth,
        sheet=args.sheet,
        progress=False if args.quiet or args.json else None,
    )
    metrics = Path(args.output) / METRICS
    if args.json:
        print(metrics.read_text(encoding="utf-8"), end="")
        return 0
    for one in found:
        scores = ", ".join(form.format(one.scores[name]) for name, form in _SCORES.items() if name in one.scores)
        scores += ", with the true background pasted in" if args.true_background else ""
        kind = {"later": "later frames", "mixed": "frames in between (a diagnostic)", "other clip": "frames"}[one.split]
        print(f"{one.mode}: {len(one.test_frames)} {kind}: {scores}")
    print(f"more in {metrics}")
    return 0


def _hush() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a moment of loading needs no bar of its own
