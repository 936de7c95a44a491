"""The `emotag` command. In: the command line. Out: an exit code, or an error message of one sentence.

Exit codes: 0 success, 1 internal error (with traceback), 2 user error (one sentence), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys

import shtab

from .avatar import add_commands as add_avatar_commands
from .clips import add_commands as add_clip_commands
from .export import add_commands as add_export_command
from .idle import add_commands as add_idle_command
from .info import add_commands as add_info_command
from .pretrain import add_commands as add_pretrain_command
from .share import add_commands as add_share_command
from .speak import add_commands as add_speak_commands

_USER_ERRORS = (ValueError, OSError, ImportError)  # wrong input, files and disks, a missing extra


class _Parser(argparse.ArgumentParser):
    """argparse with a one-sentence error instead of the usage text."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `emotag`."""
    parser = _Parser(prog="emotag", description="Speech in, talking head out.")
    parser.set_defaults(after_stop="nothing was left behind")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_speak_commands(commands)
    add_idle_command(commands)
    add_info_command(commands)
    add_clip_commands(commands)
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
