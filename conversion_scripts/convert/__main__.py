"""Converts files of other projects. Usage:

    python conversion_scripts/convert flame FLAME2023.pkl -o flame.safetensors       your own licensed FLAME, as a head
    python conversion_scripts/convert ict ICT-FaceKit/FaceXModel -o ict.safetensors  ICT-FaceKit, or its npz
    python conversion_scripts/convert gnm gnm_head.npz -o gnm.safetensors            GNM Head (untested)
    python conversion_scripts/convert retarget flame.safetensors -o flame_driven.safetensors
    python conversion_scripts/convert compare flame_driven.safetensors speech.wav -o sheet.png
    python conversion_scripts/convert gaussian-avatars point_cloud.ply flame_param.npz --flame flame.safetensors -o DIR
    python conversion_scripts/convert emotag-checkpoint chkpnt.pth -o DIR            an authors' EmoTaG checkpoint

A head that was not retargeted keeps its own expression directions and cannot be driven by the motion network; a
retargeted one can be used in `head_config`. VHAP exports need no script: `emotag prepare EXPORT -o CLIP`. Coefficient
tracks of the Basel Face Model are out of scope. Needs scipy, which the package itself does not.

Exit codes: 0 done, 1 a file that cannot be converted (one sentence says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    flame = commands.add_parser("flame", help="FLAME 2017 to 2023 (pickle) -> head asset")
    flame.add_argument("pickle", help="generic_model.pkl, flame2023.pkl, ...; nothing in it is run")
    flame.add_argument("--license", help="written into the asset, such as CC-BY-4.0 for FLAME 2023 Open")
    flame.set_defaults(run=_flame)
    ict = commands.add_parser("ict", help="ICT-FaceKit (OBJ folder or npz) -> head asset")
    ict.add_argument("source", help="folder with generic_neutral_mesh.obj and the shapes, or an npz")
    ict.set_defaults(run=_ict)
    gnm = commands.add_parser("gnm", help="GNM Head (npz) -> head asset; untried on the real file")
    gnm.add_argument("npz")
    gnm.set_defaults(run=_gnm)
    retarget = commands.add_parser("retarget", help="a head asset that answers to another head's coefficients")
    retarget.add_argument("head", help="the head asset that is to be driven")
    retarget.add_argument("--source", help="whose coefficients (default: the open head's, as the motion network's)")
    retarget.set_defaults(run=_retarget)
    compare = commands.add_parser("compare", help="the open head and another, driven by one recording")
    compare.add_argument("head", help="a retargeted head asset")
    compare.add_argument("audio")
    compare.set_defaults(run=_compare)
    avatars = commands.add_parser("gaussian-avatars", help="point_cloud.ply + flame_param.npz -> model folder")
    avatars.add_argument("ply")
    avatars.add_argument("params")
    avatars.add_argument("--flame", required=True, help="head asset of `convert flame`, not retargeted")
    avatars.set_defaults(run=_avatars)
    checkpoint = commands.add_parser("emotag-checkpoint", help="what an authors' checkpoint has for a model of ours")
    checkpoint.add_argument("pth")
    checkpoint.set_defaults(run=_checkpoint)
    for command in commands.choices.values():
        command.add_argument("-o", "--output", required=True)
    return parser


def _flame(args: argparse.Namespace) -> int:
    from convert.flame import LICENSE, convert_flame

    return _say(convert_flame(args.pickle, args.output, license=args.license or LICENSE), args.output)


def _ict(args: argparse.Namespace) -> int:
    from convert.ict import convert_ict

    return _say(convert_ict(args.source, args.output), args.output)


def _gnm(args: argparse.Namespace) -> int:
    from convert.gnm import convert_gnm

    return _say(convert_gnm(args.npz, args.output), args.output)


def _retarget(args: argparse.Namespace) -> int:
    from convert.drive import drive

    head, retarget = drive(args.head, args.output, source=args.source)
    print(f"{retarget.residual:.2%} of the motion has no counterpart there")
    return _say(head, args.output)


def _compare(args: argparse.Namespace) -> int:
    from convert.compare import compare, speak
    from emotag_hf import ParametricHead

    head = ParametricHead.from_asset(args.head).check_expression_names()
    result = compare(ParametricHead.from_asset(None), head, speak(args.audio), sheet=args.output)
    print(f"lip opening, Pearson's r: {result.meshes:.3f} on the meshes, {result.pictures:.3f} on their pictures")
    print(f"wrote {args.output}: above the open head, below {args.head}")
    return 0


def _avatars(args: argparse.Namespace) -> int:
    from convert.gaussian_avatars import convert_gaussian_avatars

    report = convert_gaussian_avatars(args.ply, args.params, args.flame, args.output)
    head = Path(args.output).with_name(f"{Path(args.output).name}_head.safetensors")
    print(
        f"wrote {args.output} with {report.kept:,} Gaussians and {head}, which has FLAME's numbers and stays with you"
    )
    if report.dropped_teeth:
        print(f"left out {report.dropped_teeth:,} Gaussians on the teeth that VHAP adds to FLAME")
    if report.degree > 2:
        print(f"harmonics of degree {report.degree} were cut to 2")
    return 0


def _checkpoint(args: argparse.Namespace) -> int:
    from convert.emotag_checkpoint import convert_emotag_checkpoint

    report = convert_emotag_checkpoint(args.pth, args.output)
    print(json.dumps(report, indent=1))
    print(f"wrote {args.output}: the Audio Net ({len(report['carried_over'])} tensors); the rest begins untrained")
    return 0


def _say(head, output: str) -> int:
    print(
        f"wrote {output}: {len(head.v_template)} vertices, {head.num_shape} identities, {head.num_expression} "
        f"expressions, sha256 {head.sha256[:12]}, licence {head.license}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
