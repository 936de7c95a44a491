"""`emotag prepare`, `emotag doctor` and `emotag setup`: from a video to a processed clip, on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

# Options that are passed to `prepare`, and those of them that select a teacher.
_OPTIONS = ("audio", "size", "crop", "face", "max_seconds", "face_landmarker", "head", "license", "overwrite")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the three commands to `emotag`'s."""
    _add_prepare(commands)
    _add_doctor(commands)
    setup = commands.add_parser("setup", help="install what pip install cannot (tracking: MediaPipe)")
    setup.add_argument("part", choices=["tracking"], help="tracking: what prepare and doctor need")
    setup.add_argument("--dry-run", action="store_true", help="only say what would be installed")
    setup.add_argument("-y", "--yes", action="store_true", help="do not ask")
    setup.set_defaults(run=_setup)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="make a processed clip from a video")
    prepare.add_argument("videos", nargs="+", metavar="VIDEO", help="a video, several, a folder, or a VHAP export")
    prepare.add_argument(
        "-o", "--output", metavar="DIR",
        help="the clip's folder (default: VIDEO_clip beside it); with several videos, the folder that holds the clips",
    )  # fmt: skip
    prepare.add_argument("--audio", metavar="FILE", help="separate file with its sound (one video only)")
    prepare.add_argument("--size", type=int, default=512, help="pixels of the crop, even (default: %(default)s)")
    prepare.add_argument(
        "--crop", choices=["face", "whole"], default="face", help="a square around the head, or the whole frame"
    )
    prepare.add_argument(
        "--face", type=int, metavar="N", help="which face, counted from the left: 1, 2, ... (default: the largest)"
    )
    prepare.add_argument(
        "--max-seconds", type=float, default=300.0, help="seconds of the video to use at most (default: %(default)g)"
    )
    prepare.add_argument("--face-landmarker", metavar="FILE", help="MediaPipe's face_landmarker.task, for blendshapes")
    prepare.add_argument("--head", metavar="FILE", help="another head asset (default: the open head)")
    prepare.add_argument("--license", help="licence of the clip; written into clip.json")
    teachers = prepare.add_argument_group("teachers (each has an offline default)")
    teachers.add_argument("--speech", metavar="MODEL", help="a speech encoder, such as facebook/wav2vec2-base-960h")
    teachers.add_argument("--action-units", metavar="HOW", help="head, blendshapes or OpenFace's CSV")
    teachers.add_argument("--emotion", metavar="HOW", help="action_units, an image classifier, or DeepFace's CSV")
    teachers.add_argument("--identity", metavar="FILE.onnx", help="an AdaFace or ArcFace network")
    teachers.add_argument("--depth", metavar="MODEL", help="a depth model, such as Depth Anything")
    teachers.add_argument("--normals", metavar="MODEL", help="a normals model, such as Sapiens")
    many = prepare.add_argument_group("many videos")
    many.add_argument("--workers", type=int, default=1, help="parallel processes (default: %(default)s)")
    many.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="only every N-th video, starting with the I-th (from 0)",
    )
    prepare.add_argument("--overwrite", action="store_true", help="replace a clip that was made with other options")
    prepare.add_argument("--json", action="store_true", help="print the result as JSON")
    prepare.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    prepare.set_defaults(run=_prepare, after_stop="the same command goes on where it was")


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser("doctor", help="is this video good enough, and what to record again?")
    doctor.add_argument("video", help="a video or a processed clip")
    doctor.add_argument("--audio", metavar="FILE", help="separate file with its sound")
    doctor.add_argument(
        "--face", type=int, metavar="N", help="which face, counted from the left: 1, 2, ... (default: the largest)"
    )
    doctor.add_argument(
        "--max-seconds", type=float, default=60.0, help="seconds of the video to check at most (default: %(default)g)"
    )
    doctor.add_argument("-o", "--output", metavar="PAGE.html", help="also write an HTML page with images")
    doctor.add_argument("--json", action="store_true", help="print the result as JSON")
    doctor.set_defaults(run=_doctor)


def _shard(text: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/N, such as 0/4, got {text!r}") from None
    return index, count


def _prepare(args: argparse.Namespace) -> int:
    from ..preprocessing.data.teachers import FeatureOptions
    from ..preprocessing.data.vhap import is_vhap_export

    features = {f.name: v for f in fields(FeatureOptions) if (v := getattr(args, f.name)) is not None}
    options = {name: getattr(args, name) for name in _OPTIONS} | {"features": FeatureOptions(**features)}
    if args.json or args.quiet:
        options["progress"] = False
    _hush()
    source = Path(args.videos[0])
    if len(args.videos) > 1 or (source.is_dir() and not is_vhap_export(source)):
        return _prepare_all(args, options)
    return _prepare_one(args, options)


def _prepare_one(args: argparse.Namespace, options: dict) -> int:
    from ..preprocessing.data.prepare import prepare
    from ..preprocessing.data.vhap import import_vhap

    if Path(args.videos[0]).is_dir():
        del options["face"]  # the export follows one person
        clip = import_vhap(args.videos[0], args.output, **options)
    else:
        clip = prepare(args.videos[0], args.output, **options)
    track = clip.track
    facts = {
        "clip": str(clip.path),
        "frames": clip.num_frames,
        "valid_frames": int(track.valid.sum()),
        "error_px": round(float(track.held_out_error[track.valid].median()), 2),
        "warnings": clip.warnings,
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    for warning in clip.warnings:
        print(f"note: {warning}")
    print(
        f"{facts['clip']}: {facts['frames']} frames, {facts['valid_frames']} of them good; "
        f"landmarks left out of the fit are met to {facts['error_px']} px of 512"
    )
    return 0


def _prepare_all(args: argparse.Namespace, options: dict) -> int:
    from ..preprocessing.data.prepare_many import prepare_many

    if args.audio:
        raise ValueError("--audio: expected one video, got several; each takes its own sound.")
    if not args.output:
        raise ValueError("--output: several videos need the folder for their clips; give -o DIR.")
    del options["audio"]
    sources = args.videos[0] if len(args.videos) == 1 else args.videos
    results = prepare_many(sources, args.output, workers=args.workers, shard=args.shard, **options)
    if args.json:
        keys = ("source", "path", "error", "warnings", "seconds")
        rows = [{key: getattr(result, key) for key in keys} for result in results]
        print(json.dumps(rows, indent=2, default=str))
    else:
        for result in results:
            print(f"{result.source}: {result.path if result.ok else result.error}")
    return 0 if all(result.ok for result in results) else 2


def _doctor(args: argparse.Namespace) -> int:
    from ..preprocessing.doctor import examine, render_text, write_page

    _hush()
    report = examine(args.video, audio=args.audio, face=args.face, max_seconds=args.max_seconds)
    if args.output:
        write_page(report, args.output)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(render_text(report, color=sys.stdout.isatty()))
        if args.output:
            print(f"with pictures: {args.output}")
    return 0


def _hush() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a moment of loading needs no bar of its own


def _setup(args: argparse.Namespace) -> int:
    from ..preprocessing.tracking.setup import setup_tracking

    return setup_tracking(dry_run=args.dry_run, yes=args.yes)
