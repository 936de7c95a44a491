"""`emotag export`: a talking head for other programs. In: a recording or none. Out: splats, a page in 3D, or motion."""

from __future__ import annotations

import argparse
import json

from ..constants import EMOTIONS

_OPTIONS = ("emotion", "intensity", "seed", "size", "background")  # of the pipeline, as they are


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to `emotag`'s."""
    export = commands.add_parser("export", help="splats, a 3D page or motion for other programs")
    export.add_argument(
        "audio", nargs="?", help="the recording to speak (default: none, the avatar at rest; splats only)"
    )
    export.add_argument("--sample", action="store_true", help="speak the synthetic sample that comes with the package")
    export.add_argument(
        "-o", "--output", required=True, metavar="OUT",
        help=".html: a page that plays it in 3D; .ply, .compressed.ply, .splat: the Gaussians of one frame; .json, "
        ".csv, .npz: the motion with ARKit's names (docs/exporting.md)",
    )  # fmt: skip
    export.add_argument("--format", metavar="KIND", help="one of these without the dot, for a file with another suffix")
    export.add_argument(
        "--frame", type=int, default=0, help="frame whose Gaussians are written, at 25 fps (default: %(default)s)"
    )
    export.add_argument(
        "--y-down", action="store_true", help="turn the Gaussians for viewers that show them upside down"
    )
    export.add_argument("--model", metavar="DIR", help="folder or Hub name of an avatar (default: the embedded one)")
    export.add_argument("--emotion", metavar="NAME|JSON|FILE.json", help=f"{', '.join(EMOTIONS)}; as in emotag speak")
    export.add_argument(
        "--intensity", type=float, default=1.0, help="strength of the emotion, 0 to 1 (default: %(default)s)"
    )
    export.add_argument(
        "--seed", type=int, default=0, help="random seed of head motion, blinks and gaze (default: %(default)s)"
    )
    export.add_argument(
        "--size", type=int, default=512, help="size of the page's view in pixels (default: %(default)s)"
    )
    export.add_argument(
        "--background", metavar="COLOUR|FILE", help="background of the page (default: the avatar's own)"
    )
    export.add_argument("--json", action="store_true", help="print the result as JSON")
    export.add_argument("-q", "--quiet", action="store_true", help="no last line")
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    # The quick checks come first, before the model is loaded.
    from ..audio.audio_io import load_audio
    from ..export import FORMATS, pick_format
    from ..export.files import check_target
    from ..export.splats import SPLAT_FORMATS
    from ..pipelines.output_files import save_splats
    from ..pipelines.talking_head import SpeakOptions
    from ..utils.asset_paths import sample_path

    kind = pick_format(args.output, args.format, FORMATS)
    path = check_target(args.output)
    if args.audio and args.sample:
        raise ValueError("audio: expected a recording or --sample, got both; leave one out.")
    at_rest = not (args.audio or args.sample)
    if at_rest and kind not in SPLAT_FORMATS:
        raise ValueError(f"audio: expected a recording (or --sample) for {kind}; only splats show the avatar at rest.")
    if at_rest and args.frame != 0:
        raise ValueError(f"frame: the avatar at rest has frame 0 alone, got {args.frame}; give a recording.")
    options = {name: getattr(args, name) for name in _OPTIONS}
    clip = None if at_rest else load_audio(sample_path() if args.sample else args.audio, allow_silence=True)
    if clip is not None:
        SpeakOptions(**options).direction.check_end(clip.duration)

    from transformers.utils.logging import disable_progress_bar

    from ..pipelines.pipeline_emotag import EmoTaGPipeline

    disable_progress_bar()  # a second of loading needs no bar of its own
    pipeline = EmoTaGPipeline.from_pretrained(args.model)
    if clip is None:
        save_splats(_at_rest(pipeline.model), path, format=kind, y_down=args.y_down)
        frames = 1
    else:
        output = pipeline(clip, **options)
        output.export(path, format=kind, frame=args.frame, y_down=args.y_down)
        frames = 1 if kind in SPLAT_FORMATS else len(output.motion)
    facts = {"path": str(path), "format": kind, "frames": frames, "bytes": path.stat().st_size}
    if args.json:
        print(json.dumps(facts, indent=2))
    elif not args.quiet:
        print(f"{path}: {frames} frame{'s' if frames > 1 else ''}, {facts['bytes'] / 1e6:.1f} MB")
    return 0


def _at_rest(model):
    """The Gaussians of the avatar with a motionless, neutral face."""
    import torch

    from ..outputs import FlameMotion

    with torch.no_grad():
        return model.pose(model.on_rest_pose(FlameMotion.zeros(1)))
