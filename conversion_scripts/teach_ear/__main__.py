r"""Teaches an ear: the speech encoder that `frontend="whisper_blocks"` hears through.

    python conversion_scripts/teach_ear distil WHISPER SPEECH ... -o distilled.safetensors
    python conversion_scripts/track_talkers.py VIDEOS ... -o TALKERS
    python conversion_scripts/teach_ear tune distilled.safetensors TALKERS --clips clips.json -o tuned.safetensors \
        --ear ear-base.safetensors
    python conversion_scripts/teach_ear lags tuned.safetensors TALKERS --persons persons.json -o clips.json

WHISPER is the folder of openai/whisper-base (MIT); SPEECH are recordings or folders of them, without pictures.
`clips.json` lists the clips that teach: `{"name": {"person": "ann", "lag": 1.5, "weight": 1.0}}`, lag in frames at 25
fps by which the sound is late; `"validation": true` keeps a clip for judging. `tuned.safetensors` has the head with
which the Audio Net of a recipe begins, too. The ear's own file, `--ear`, is in 8 bits; a distilled one hears already.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from teach_ear.distil import distil, read_recordings
from teach_ear.lags import find_lags
from teach_ear.tune import TaughtEar, TuneOptions, read_clips, tune
from teach_ear.whisper import Whisper

from emotag_hf.models.ear import Ear
from emotag_hf.models.ear_asset import save_ear
from emotag_hf.training.pretraining.motion_data import read_persons

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("distil", help="from Whisper to a local ear")
    first.add_argument("whisper")
    first.add_argument("speech", nargs="+", type=Path)
    first.add_argument("--blocks", type=int, default=2)
    first.add_argument("--steps", type=int, default=420)
    first.set_defaults(run=_distil)
    second = commands.add_parser("tune", help="from a local ear to one that hears lips")
    second.add_argument("start", type=Path)
    second.add_argument("talkers", type=Path)
    second.add_argument("--clips", type=Path, required=True)
    for item in fields(TuneOptions):
        kind = type(item.default)
        second.add_argument(f"--{item.name.replace('_', '-')}", type=kind, default=item.default, help="(%(default)s)")
    second.set_defaults(run=_tune)
    third = commands.add_parser("lags", help="by how much the sound of each clip is late, by an ear of other people")
    third.add_argument("tuned", type=Path)
    third.add_argument("talkers", type=Path)
    third.add_argument("--persons", type=Path, help='JSON: {"persons": {person: [clip, ...]}}')
    third.set_defaults(run=_lags)
    for command in (first, second):
        command.add_argument("--ear", type=Path, help="also write the ear's own file")
        command.add_argument("--license", default="apache-2.0", help="of that file (default: %(default)s)")
    for command in (first, second, third):
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run(args)


def _distil(args: argparse.Namespace) -> None:
    inside = lambda p: sorted(q for q in p.rglob("*") if q.suffix.lower() in SOUNDS)  # noqa: E731
    paths = [path for given in args.speech for path in (inside(given) if given.is_dir() else [given])]
    torch.manual_seed(0)
    whisper = Whisper(args.whisper, args.blocks)
    recordings = read_recordings(paths, whisper)
    print(f"{len(recordings)} recordings, {sum(len(f) for f, _ in recordings) / 6000:.0f} minutes", flush=True)
    ear = distil(whisper, recordings, args.steps, args.output)
    if args.ear:
        save_ear(ear, args.ear, {"license": args.license})


def _lags(args: argparse.Namespace) -> None:
    persons = read_persons(args.persons) if args.persons else {}
    names = {path.stem: 0.0 for path in args.talkers.glob("*.safetensors")}
    weights = load_file(args.tuned)
    net = TaughtEar(_ear_of(weights, "ear.blocks."))
    net.load_state_dict(weights)
    found, left_out = find_lags(net.eval(), read_clips(args.talkers, persons, names, {}))
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    args.output.with_name("left_out.json").write_text(json.dumps(left_out, indent=1) + "\n")
    print(f"{len(found)} clips, {len(left_out)} left out: {args.output.with_name('left_out.json')}")


def _ear_of(weights: dict, prefix: str) -> Ear:
    """An ear with as many blocks as a state dict has."""
    return Ear(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)))


def _tune(args: argparse.Namespace) -> None:
    weights = load_file(args.start)
    ear = _ear_of(weights, "blocks.")
    ear.load_state_dict(weights)
    listed = json.loads(args.clips.read_text())
    of = lambda key, default: {name: facts.get(key, default) for name, facts in listed.items()}  # noqa: E731
    clips = read_clips(args.talkers, of("person", ""), of("lag", 0.0), of("weight", 1.0))
    judged = [clip for clip in clips if listed[clip.name].get("validation")]
    taught = [clip for clip in clips if not listed[clip.name].get("validation")]
    print(f"{len(taught)} clips, {sum(map(len, taught)) / 1500:.0f} minutes; {len(judged)} to judge by", flush=True)
    options = TuneOptions(**{item.name: getattr(args, item.name) for item in fields(TuneOptions)})
    found = tune(ear, taught, judged, options, args.output)
    if args.ear:
        save_ear(found.ear, args.ear, {"license": args.license, "clips": ",".join(sorted(c.name for c in taught))})


if __name__ == "__main__":
    main()
