"""`emotag push`: an avatar's folder to the Hub.

In: a folder, and a name on the Hub. Out: the repository's address, and one line of result.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to `emotag`'s."""
    push = commands.add_parser("push", help="upload an avatar to the Hub, privately unless --public is given")
    push.add_argument("folder", metavar="DIR", help="the avatar's folder")
    push.add_argument("repo_id", metavar="USER/NAME", help="where to; created if it does not exist")
    push.add_argument("--public", action="store_true", help="let everybody see it (default: a private repository)")
    push.add_argument("--token", help="token with write permission (default: HF_TOKEN, or of `hf auth login`)")
    push.add_argument("--message", metavar="TEXT", help="message of the commit")
    push.add_argument(
        "--remote-code", action="store_true", help="also upload a file for users of trust_remote_code=True"
    )
    push.add_argument("--json", action="store_true", help="print the result as JSON")
    push.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")
    push.set_defaults(run=_push, after_stop="the repository holds what it held before, or all of it")


def _push(args: argparse.Namespace) -> int:
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from ..pipelines.push_avatar import push_avatar

    disable_progress_bar()  # a moment of loading needs no bar of its own
    if args.quiet or args.json:
        disable_progress_bars()
    pushed = push_avatar(
        args.folder,
        args.repo_id,
        private=not args.public,
        token=args.token,
        commit_message=args.message,
        remote_code=args.remote_code,
        progress=not (args.quiet or args.json),
    )
    if args.json:
        print(json.dumps(asdict(pushed), indent=2))
    elif not args.quiet:
        size = sum(pushed.files.values()) / 1e6
        who = "private" if pushed.private else "public"
        done = f"{len(pushed.files)} files, {size:.1f} MB" if pushed.changed else "nothing had changed"
        print(f"{pushed.url} ({who}): {done}; emotag speak speech.wav --model {pushed.repo_id} -o out.mp4")
    return 0
