"""`emotag speak` and `emotag demo`. In: a recording. Out: a video, and one line of result."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..constants import EMOTIONS

LOOK = ("emotion", "intensity", "seed", "fps", "size", "background", "head_motion")  # of the pipeline, as they are


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the commands to `emotag`'s."""
    speak = commands.add_parser("speak", help="make a video of a head that speaks a recording")
    _add_arguments(speak)
    speak.set_defaults(run=_speak)
    demo = commands.add_parser("demo", help="a first video: the embedded person speaks the embedded sample")
    demo.add_argument("-o", "--output", default="demo.mp4", metavar="OUT.mp4", help="(default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="print the result as JSON")
    demo.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")
    demo.set_defaults(run=_demo)


def _add_arguments(speak: argparse.ArgumentParser) -> None:
    sound = speak.add_mutually_exclusive_group(required=True)
    sound.add_argument("audio", nargs="?", help="wav, flac, mp3, m4a, ogg or a video with sound")
    sound.add_argument("--sample", action="store_true", help="speak the synthetic sample that comes with the package")
    add_look(speak, "what the voice says")
    speak.add_argument(
        "--look-ahead", type=_look_ahead, metavar="SECONDS|full",
        help="sound after a frame that may influence it, as in a stream (default: full, about a second)",
    )  # fmt: skip
    speak.add_argument(
        "--articulation", type=float, default=1.0,
        help="how far the mouth moves in speech, 0.5 (a mumble) to 1.5 (a stage) (default: %(default)s)",
    )  # fmt: skip
    speak.add_argument(
        "--pose-from", metavar="CLIP", help="a processed clip whose head motion replaces the generated one"
    )
    speak.add_argument(
        "--expression-from", metavar="CLIP", help="a processed clip whose eyelids and brows replace the generated ones"
    )


def add_look(command: argparse.ArgumentParser, no_emotion: str) -> None:
    """Adds the video to write, how the person looks in it, and what is printed; `emotag idle` has these, too."""
    command.add_argument("-o", "--output", required=True, metavar="OUT.mp4", help="the video to write")
    command.add_argument("--model", metavar="DIR", help="folder or Hub name of an avatar (default: the embedded one)")
    command.add_argument(
        "--emotion", metavar="NAME|JSON|FILE.json",
        help=f"{', '.join(EMOTIONS)}; or JSON, such as '{{\"happy\": 0.7}}', or a file of keyframes (docs/emotion.md; "
        f"default: {no_emotion})",
    )  # fmt: skip
    command.add_argument(
        "--intensity", type=float, default=1.0, help="strength of the emotion, 0 to 1 (default: %(default)s)"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="random seed of head motion, blinks and gaze (default: %(default)s)"
    )
    command.add_argument("--fps", type=float, default=25, help="frames per second, 10 to 60 (default: %(default)s)")
    command.add_argument(
        "--size", type=int, default=512, help="width and height in pixels, even (default: %(default)s)"
    )
    command.add_argument(
        "--background", metavar="COLOUR|FILE", help="'#rrggbb', a name or a picture (default: its own)"
    )
    command.add_argument(
        "--head-motion", type=float, default=1.0, help="strength of what is generated, 0 to 2 (default: %(default)s)"
    )
    command.add_argument(
        "--json", action="store_true", help="for programs: no progress, facts of the video as the last line"
    )
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")


def _look_ahead(text: str) -> float | str:
    """Seconds, or "full"; anything else is refused by `SpeakOptions`."""
    try:
        return float(text)
    except ValueError:
        return text


def _speak(args: argparse.Namespace) -> None:
    # The quick checks come first, before the model is loaded.
    from ..audio.audio_io import load_audio
    from ..pipelines.talking_head import SpeakOptions
    from ..utils.asset_paths import sample_path
    from ..video.video_writer import check_output

    output = check_output(args.output)
    clip = load_audio(sample_path() if args.sample else args.audio, allow_silence=True)
    options = {name: getattr(args, name) for name in (*LOOK, "look_ahead", "articulation")}
    options |= {name: _driving(getattr(args, name)) for name in ("pose_from", "expression_from")}
    SpeakOptions(**options).direction.check_end(clip.duration)
    write_video(args, output, clip.duration, lambda pipe: pipe(clip, **options))


def write_video(args: argparse.Namespace, output: Path, duration: float, make: Callable[[Any], Any]) -> None:
    """Loads the model, writes the video that `make(pipe)` gives, `duration` seconds long, and says so."""
    from transformers.utils.logging import disable_progress_bar

    from ..pipelines.pipeline_emotag import EmoTaGPipeline

    disable_progress_bar()  # a second of loading needs no bar of its own
    pipe = EmoTaGPipeline.from_pretrained(args.model)
    hidden = True if args.quiet or args.json else None  # None: shown on a terminal, not in a log
    pipe.set_progress_bar_config(disable=hidden, unit="frame", desc=output.name)
    pipe.model.warm_up()  # once per machine; not part of how fast a video is made
    began = time.perf_counter()
    make(pipe).save(output)
    seconds = time.perf_counter() - began
    if args.json:
        facts = {"video": str(output), "seconds_of_video": round(duration, 3), "seconds": round(seconds, 3)}
        print(json.dumps(facts, indent=2))
    elif not args.quiet:
        print(_last_line(output, duration, seconds))


def _demo(args: argparse.Namespace) -> None:
    speak = argparse.ArgumentParser()
    _add_arguments(speak)
    words = ["--sample", "-o", args.output, "--emotion", "happy", "--intensity", "0.6"]
    words += [flag for flag, given in (("--json", args.json), ("-q", args.quiet)) if given]
    _speak(speak.parse_args(words))


def _driving(folder: str | None):
    """A driving clip, opened."""
    if folder is None:
        return None
    from ..preprocessing.data.clip import ProcessedClip

    return ProcessedClip.open(folder)


def _last_line(output: Path, duration: float, seconds: float) -> str:
    return f"{output}: {duration:.1f} s of video in {seconds:.1f} s ({duration / seconds:.1f}x real time)"
