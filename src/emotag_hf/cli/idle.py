"""`emotag idle`. In: seconds. Out: a video of a face that waits, and one line of result."""

from __future__ import annotations

import argparse

from .speak import LOOK, add_look, write_video


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to `emotag`'s."""
    idle = commands.add_parser("idle", help="make a video of a head that waits and listens, lips shut, as a loop")
    idle.add_argument(
        "--seconds", type=float, default=10.0, help="length of the video, 1 to 600 (default: %(default)s)"
    )
    idle.add_argument(
        "--loop", action=argparse.BooleanOptionalAction, default=True,
        help="the end meets the beginning, so that the video can be repeated (default: it does)",
    )  # fmt: skip
    add_look(idle, "calm")
    idle.set_defaults(run=_idle)


def _idle(args: argparse.Namespace) -> None:
    # The quick checks come first, before the model is loaded.
    from ..pipelines.idling import check_idle, idle_options
    from ..video.video_writer import check_output

    output = check_output(args.output)
    options = {name: getattr(args, name) for name in LOOK}
    count = check_idle(args.seconds, args.loop, idle_options(**options))
    write_video(args, output, count / args.fps, lambda pipe: pipe.idle(args.seconds, loop=args.loop, **options))
