"""The `emotag` command. In: words on the command line. Out: a video, a clip or facts, and what happened in a line.

Exit codes: 0 done, 1 a fault of ours (with its traceback), 2 something the user can put right (one sentence), 130 ^C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import shtab

from .cli_avatar import add_commands as add_avatar_commands
from .cli_clips import add_commands
from .cli_export import add_commands as add_export_command
from .cli_pretrain import add_commands as add_pretrain_command
from .cli_share import add_commands as add_share_command
from .constants import EMOTIONS

_OPTIONS = ("emotion", "intensity", "seed", "fps", "size", "background", "head_motion")  # of `speak`, as they are
_USER_ERRORS = (ValueError, OSError, ImportError)  # wrong input, files and disks, a missing extra


class _Parser(argparse.ArgumentParser):
    """argparse with one sentence instead of a page of usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `emotag`."""
    parser = _Parser(prog="emotag", description="Speech in, talking head out.")
    parser.set_defaults(after_stop="nothing was left behind")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    speak = commands.add_parser("speak", help="make a video of a head that speaks a recording")
    sound = speak.add_mutually_exclusive_group(required=True)
    sound.add_argument("audio", nargs="?", help="wav, flac, mp3, m4a, ogg or a video with sound")
    sound.add_argument("--sample", action="store_true", help="speak the synthetic sample that comes with the package")
    speak.add_argument("-o", "--output", required=True, metavar="OUT.mp4", help="the video to write")
    speak.add_argument("--model", metavar="DIR", help="folder or Hub name of an avatar (default: the embedded one)")
    speak.add_argument(
        "--emotion", metavar="NAME|JSON|FILE.json",
        help=f"{', '.join(EMOTIONS)}; or JSON, such as '{{\"happy\": 0.7}}', or a file of keyframes (docs/emotion.md; "
        "default: what the voice says)",
    )  # fmt: skip
    speak.add_argument("--intensity", type=float, default=1.0, help="how much of it, 0 to 1 (default: %(default)s)")
    speak.add_argument("--seed", type=int, default=0, help="of head motion, blinks and gaze (default: %(default)s)")
    speak.add_argument("--fps", type=float, default=25, help="frames per second, 10 to 60 (default: %(default)s)")
    speak.add_argument("--size", type=int, default=512, help="width and height in pixels, even (default: %(default)s)")
    speak.add_argument("--background", metavar="COLOUR|FILE", help="'#rrggbb', a name or a picture (default: its own)")
    speak.add_argument(
        "--head-motion", type=float, default=1.0, help="strength of what is generated, 0 to 2 (default: %(default)s)"
    )
    speak.add_argument("--pose-from", metavar="CLIP", help="a processed clip whose head motion is taken instead")
    speak.add_argument("--expression-from", metavar="CLIP", help="a processed clip whose lids and brows are taken")
    speak.add_argument(
        "--json", action="store_true", help="for programs: no progress, facts of the video as the last line"
    )
    speak.add_argument("-q", "--quiet", action="store_true", help="no progress, no last line")
    speak.set_defaults(run=_speak)

    demo = commands.add_parser("demo", help="a first video: the embedded person speaks the embedded sample")
    demo.add_argument("-o", "--output", default="demo.mp4", metavar="OUT.mp4", help="(default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="for programs")
    demo.add_argument("-q", "--quiet", action="store_true", help="no progress, no last line")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="versions, back ends, licences of what is loaded")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(run=_info)
    add_commands(commands)
    add_avatar_commands(commands)
    add_pretrain_command(commands)
    add_export_command(commands)
    add_share_command(commands)
    completion = commands.add_parser("completion", help="completion of these commands for a shell")
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help='then: eval "$(emotag completion bash)"')
    completion.set_defaults(run=lambda args: print(shtab.complete(build_parser(), args.shell)))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except _USER_ERRORS as error:
        if args.debug:
            raise
        print(f"emotag: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"emotag: stopped; {args.after_stop}.", file=sys.stderr)
        return 130


def _speak(args: argparse.Namespace) -> None:
    # The quick checks come first: loading the model for a file that is not there would waste the user's time.
    from .audio_io import load_audio
    from .hub_paths import sample_path
    from .talking_head import SpeakOptions
    from .video_io import check_output

    output = check_output(args.output)
    clip = load_audio(sample_path() if args.sample else args.audio)
    options = {name: getattr(args, name) for name in _OPTIONS}
    options |= {name: _driving(getattr(args, name)) for name in ("pose_from", "expression_from")}
    SpeakOptions(**options).direction.check_end(clip.duration)

    from transformers.utils.logging import disable_progress_bar

    from .pipeline_emotag import EmoTaGPipeline

    disable_progress_bar()  # a second of loading needs no bar of its own
    pipe = EmoTaGPipeline.from_pretrained(args.model)
    hidden = True if args.quiet or args.json else None  # None: shown on a terminal, not in a log
    pipe.set_progress_bar_config(disable=hidden, unit="frame", desc=output.name)
    pipe.model.warm_up()  # once per machine; not part of how fast a video is made
    began = time.perf_counter()
    pipe(clip, **options).save(output)
    seconds = time.perf_counter() - began
    if args.json:
        facts = {"video": str(output), "seconds_of_video": round(clip.duration, 3), "seconds": round(seconds, 3)}
        print(json.dumps(facts, indent=2))
    elif not args.quiet:
        print(_last_line(output, clip.duration, seconds))


def _demo(args: argparse.Namespace) -> None:
    words = ["speak", "--sample", "-o", args.output, "--emotion", "happy", "--intensity", "0.6"]
    words += [flag for flag, given in (("--json", args.json), ("-q", args.quiet)) if given]
    _speak(build_parser().parse_args(words))


def _driving(folder: str | None):
    """A driving clip, opened."""
    if folder is None:
        return None
    from .data.clip import ProcessedClip

    return ProcessedClip.open(folder)


def _last_line(output: Path, duration: float, seconds: float) -> str:
    return f"{output}: {duration:.1f} s of video in {seconds:.1f} s ({duration / seconds:.1f}x real time)"


def _info(args: argparse.Namespace) -> None:
    facts = collect_info()
    if args.json:
        print(json.dumps(facts, indent=2))
        return
    for title, rows in facts.items():
        print(f"{title}:")
        for name, value in rows.items():
            print(f"  {name:<18} {value}")


def collect_info() -> dict[str, dict[str, str]]:
    """`{"versions", "backends", "licences"}`, each a dict of short texts. Loads torch and no model."""
    return {"versions": _versions(), "backends": _backends(), "licences": _licences()}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from .provenance import package_version

    found = {
        "emotag_hf": package_version(),
        "python": f"{platform.python_version()} on {platform.platform(terse=True)}",
    }
    for name in (
        "torch",
        "transformers",
        "diffusers",
        "numba",
        "numpy",
        "av",
        "gsplat",
        "mediapipe",
        "smplx",
        "gradio",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _backends() -> dict[str, str]:
    import os

    import torch

    from .rendering import available_backends

    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    backends = available_backends()
    return {
        "cpu": f"{os.cpu_count()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": cuda or "no",
        "numba rasteriser": "yes" if "numba" in backends else "no",
        "gsplat rasteriser": "yes" if "gsplat" in backends else "no (needs CUDA and the extra [gpu])",
        "torch rasteriser": "yes (slow, for checking)",
    }


def _licences() -> dict[str, str]:
    from .constants import CONFIG_NAME, DEFAULT_MODEL, DEFAULT_PRIOR, OPEN_HEAD, OPEN_MODEL
    from .hub_paths import ASSETS

    found = {"emotag_hf": "Apache-2.0"}
    head = ASSETS / OPEN_HEAD
    if head.is_file():
        from safetensors import safe_open

        with safe_open(head, framework="np") as file:
            found[OPEN_HEAD] = (file.metadata() or {}).get("license", "not stated")
    for name in (DEFAULT_MODEL, OPEN_MODEL, DEFAULT_PRIOR):
        config = ASSETS / name / CONFIG_NAME
        if config.is_file():
            found[name] = json.loads(config.read_text(encoding="utf-8")).get("weights_license", "not stated")
    return found


if __name__ == "__main__":
    sys.exit(main())
