"""`emotag pretrain`: pretrains a motion network on processed clips of many people, synthetic speech, or both (METHOD
5).

Every field of `PretrainArguments` is an option. On many processes: `torchrun --nproc-per-node 2 -m emotag_hf.cli
pretrain ...`, or `accelerate launch`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..training.pretraining.pretrain_arguments import PretrainArguments
from .fields import add_fields, given_fields


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds the command to `emotag`'s."""
    pretrain = commands.add_parser("pretrain", help="pretrain the motion network on clips of many people")
    pretrain.add_argument(
        "dataset",
        nargs="*",
        metavar="DIR",
        help="processed clips, or folders of them; or one RECIPE.toml, which says everything (docs/pretraining.md)",
    )
    pretrain.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for weights, config, report and checkpoint"
    )
    pretrain.add_argument(
        "--persons",
        metavar="FILE.json",
        help="JSON file of the persons in the clips (default: each clip its own person)",
    )
    pretrain.add_argument(
        "--leave-out", default="", metavar="A,B", help="persons or clips to leave out of the training"
    )
    pretrain.add_argument(
        "--validation", default="", metavar="A,B", help="persons to judge by; it ends when they gain no more"
    )
    pretrain.add_argument("--synthetic", metavar="FILE.npz", help="speech of conversion_scripts/synthesize_speech")
    pretrain.add_argument("--lags", metavar="FILE.json", help="JSON file: clip -> frames by which its sound is late")
    pretrain.add_argument(
        "--start", metavar="DIR", help="a pretraining to begin with, or none (default: emotag-base-open)"
    )
    pretrain.add_argument("--audio-model", metavar="MODEL", help="the speech encoder that the clips were prepared with")
    pretrain.add_argument("--resume", action="store_true", help="continue an interrupted pretraining")
    add_fields(pretrain.add_argument_group("numbers of the training"), PretrainArguments)
    pretrain.add_argument("--json", action="store_true", help="print the result as JSON")
    pretrain.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no last line")
    pretrain.set_defaults(run=_pretrain, after_stop="the same command with --resume goes on where it was")


def _pretrain(args: argparse.Namespace) -> int:
    if args.dataset and args.dataset[0].endswith(".toml"):
        return _follow(args)
    arguments = PretrainArguments(**given_fields(args, PretrainArguments))
    output = Path(args.output)
    if not args.dataset and not args.synthetic:
        raise ValueError("dataset: expected folders of processed clips, --synthetic or both, got neither.")
    if not args.resume and (output / "state.safetensors").exists():
        raise ValueError(f"output: {output} holds a pretraining already; go on with it by --resume, or name another.")
    from tqdm.auto import tqdm

    from ..training.pretraining.hearing import heard_clips
    from ..training.pretraining.motion_data import load_clips, load_synthetic, read_persons
    from ..training.pretraining.pretrain import Pretrainer

    lags = json.loads(Path(args.lags).read_text(encoding="utf-8")) if args.lags else None
    persons = read_persons(args.persons) if args.persons else None
    names = lambda text: tuple(name.strip() for name in text.split(",") if name.strip())  # noqa: E731
    clips = load_clips(args.dataset, persons, names(args.leave_out), lags) if args.dataset else []
    judges = names(args.validation)
    if unknown := set(judges) - {clip.person for clip in clips}:
        raise ValueError(f"validation: expected persons of the data, got {', '.join(sorted(unknown))}.")
    network = _start(args, clips)
    taught = [clip for clip in clips if clip.person not in judges]
    others = [clip for clip in clips if clip.person in judges]
    synthetic = load_synthetic(args.synthetic) if args.synthetic else []
    hidden = True if args.quiet or args.json or int(os.environ.get("RANK", "0")) else None
    if network.config.frontend == "whisper_blocks":  # which hears longer than the rest learns: once is enough
        ear = network.audio_net.ear
        hearing = lambda clips: tqdm(clips, desc="hearing", disable=hidden)  # noqa: E731
        taught, synthetic = heard_clips(hearing(taught), ear, augmented=1), heard_clips(hearing(synthetic), ear)
        others = heard_clips(others, ear, ("full",), augmented=0)
    trainer = Pretrainer(taught, synthetic, others, arguments, network=network)
    bar = lambda steps: tqdm(steps, desc=output.name, disable=hidden, initial=steps.start, total=steps.stop)  # noqa: E731
    report = trainer.run(output, args.resume, bar)
    if not trainer.accelerator.is_main_process:
        return 0
    if args.json:
        print(json.dumps(report, indent=2))
    elif not args.quiet:
        last = report["history"][-1] if report["history"] else {}
        heard = (
            f", lips r {last['validation_opening']:.2f} on people kept aside" if "validation_opening" in last else ""
        )
        print(
            f"{output}: {report['steps']} steps in {report['seconds']:.0f} s on {len(report['persons'])} people{heard}"
        )
    return 0


def _follow(args: argparse.Namespace) -> int:
    """`emotag pretrain RECIPE.toml -o DIR`: the other options are in the recipe."""
    given = [name for name in ("persons", "leave_out", "validation", "synthetic", "lags", "start", "audio_model")
             if getattr(args, name)]  # fmt: skip
    given += list(given_fields(args, PretrainArguments))
    if given or len(args.dataset) > 1:
        which = ", ".join(given) or "another data set"
        raise ValueError(f"dataset: a recipe says everything; expected -o alone beside it, got {which}.")
    from ..training.pretraining.follow_recipe import follow
    from ..training.pretraining.recipe import read_recipe

    report = follow(read_recipe(args.dataset[0]), Path(args.output), show=not (args.quiet or args.json))
    if args.json:
        print(json.dumps(report, indent=2))
    elif not args.quiet:
        for ahead, found in report["unheard_people"].items():
            mean = found["mean"]
            scores = ", ".join(f"{name} {mean[name]:.2f}" for name in ("opening", "width", "jaw"))
            print(f"{args.output}: r on people it has not heard, look-ahead {ahead}: {scores}")
    return 0


def _start(args: argparse.Namespace, clips: list):
    """The network to begin with."""
    import torch

    from ..models.configuration_emotag import EmoTaGMotionConfig
    from ..models.modeling_motion import GatedResidualMotionNetwork

    if args.audio_model:
        size = clips[0].sound.shape[-1] if clips else 0
        config = EmoTaGMotionConfig(frontend="transformers", audio_model=args.audio_model, audio_feature_dim=size)
        return GatedResidualMotionNetwork(config)
    if args.start == "none":
        torch.manual_seed(args.seed or 0)
        return GatedResidualMotionNetwork(EmoTaGMotionConfig())
    from ..training.pretraining.pretrain import load_motion

    return load_motion(args.start or None)


__all__ = ["add_commands"]
