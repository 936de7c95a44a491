"""Builds the open head. Usage:

    python conversion_scripts/build_open_head --ict ict_facekit_f16.npz --mediapipe mediapipe_canonical_468.npz \
        -o src/emotag_hf/assets/open_head.safetensors

In come ICT-FaceKit light (MIT; arrays neutral, identity, expression, expression_names, faces with -1 for triangles) and
MediaPipe's canonical face (Apache-2.0; array vertices), out comes the head asset that `emotag_hf.ParametricHead` reads
(METHOD 2). Our mesh is fitted to the source: no vertex of it is copied. Takes about a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import directions
import eyes
import landmarks
import lids
import mouth
import numpy as np
import regions
import rig
import skin as skin_module
import source as source_module
from parts import Part, join
from safetensors.numpy import save

IDENTITIES = 60
VERSION = "1"
PROVENANCE = (
    "Own mesh and own topology; form, identity and expression statistics fitted to ICT-FaceKit light (MIT, copyright "
    "2020 USC Institute for Creative Technologies); eyes, teeth, gums, tongue, inner lids and bust are procedural; "
    "landmark numbering after MediaPipe's canonical face (Apache-2.0)."
)
SIDES = {"left_eye": "right_eye"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ict", type=Path, required=True, help="ICT-FaceKit light as npz")
    parser.add_argument("--mediapipe", type=Path, required=True, help="MediaPipe's canonical face as npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--density", type=float, default=1.02, help="scales all edge lengths; smaller is finer")
    args = parser.parse_args(arguments)
    names = _expression_names()
    source = source_module.load(args.ict)
    skin = skin_module.build(source, source_module.half_sheet(source), args.density)
    lid_left, lid_right = lids.closing(skin, source.eye_centre)
    head, pieces = _assemble(source, skin)
    body = directions.Body(head.points, skin, pieces, source.eye_centre)
    shape, kept = directions.identity(source, body, IDENTITIES)
    rigged, opened, turn = _rig(source, body)
    tensors = {
        "v_template": (head.points - source.eye_centre * [0, 1, 1]).astype(np.float32),
        "faces": head.faces.astype(np.int32),
        "uv": head.uv.astype(np.float32),
        "shape_basis": shape.astype(np.float16),
        "expression_basis": directions.expression(source, body, names, opened, turn).astype(np.float16),
        "eyelid_basis": _eyelids(head, pieces, lid_left, lid_right).astype(np.float16),
        **_lid_tensors(skin),
        **rigged,
        **_landmarks(skin, head, np.load(args.mediapipe)["vertices"]),
        "region_masks": np.stack(list(head.regions.values())).astype(np.uint8),
    }
    _write(args.output, tensors, list(head.regions), names, source.jaw_hinge()[0])
    print(
        f"wrote {args.output}: {len(head.points)} vertices, {len(head.faces)} faces, identity variance kept {kept:.4f}"
    )
    return 0


def _expression_names() -> tuple[str, ...]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
    from emotag_hf.constants import EXPRESSION_NAMES

    return EXPRESSION_NAMES


def _assemble(source, skin) -> tuple[Part, dict[str, np.ndarray]]:
    skin.part.regions = regions.skin_regions(source, skin)
    left = eyes.eyeball(source.eye_centre, "left")
    gum = {upper: mouth.gums(upper) for upper in (True, False)}
    parts = {
        "skin": skin.part,
        "left_eye": left,
        "right_eye": left.mirrored(SIDES),
        "teeth_upper": mouth.teeth(True),
        "teeth_lower": mouth.teeth(False),
        "gums_upper": gum[True],
        "gums_lower": gum[False],
        "tongue": mouth.tongue(),
    }
    head, index = join(list(parts.values()))
    return head, dict(zip(parts, index, strict=True))


def _eyelids(head: Part, pieces: dict[str, np.ndarray], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros((*head.points.shape, 2))
    out[pieces["skin"], :, 0], out[pieces["skin"], :, 1] = left, right
    return out


def _lid_tensors(skin) -> dict[str, np.ndarray]:
    vertices, rims, spread = lids.follow(skin)
    return {
        "lid_vertices": vertices.astype(np.int32),
        "lid_rims": rims.astype(np.int32),
        "lid_spread": spread.astype(np.float32),
    }


def _rig(source, body) -> tuple:
    """Rig tensors, and two functions of the jaw's angle: what it does, and how it turns an offset."""
    weights = rig.weights(source, body)
    correctives = rig.jaw_correctives(source, body, weights)
    tensors = {
        "lbs_weights": weights.astype(np.float32),
        "joint_regressor": rig.regressor(body, rig.joints(source, body)).astype(np.float32),
        "pose_basis": correctives.astype(np.float16),
        "pose_rows": np.array(rig.JAW_SIN_ROWS, np.int32),
    }
    return tensors, partial(rig.opened, source, body, weights, correctives), partial(rig.blended_turn, skinning=weights)


def _landmarks(skin, head: Part, canonical: np.ndarray) -> dict[str, np.ndarray]:
    faces, bary = landmarks.embed(skin, skin.part.regions, canonical)  # the skin is the first part: same face indices
    return {"landmark_faces": faces.astype(np.int32), "landmark_bary": bary.astype(np.float32)}


def _write(
    path: Path, tensors: dict[str, np.ndarray], region_names: list[str], names: tuple[str, ...], jaw_angle: float
) -> None:
    metadata = {
        "format": "emotag-head",
        "version": VERSION,
        "license": "Apache-2.0",
        "provenance": PROVENANCE,
        "units": "metres, y up, looking along +z, the person's left at +x, origin between the eyeballs' centres; "
        "shape coefficients in standard deviations, expression coefficients in [0, 1]; mouthClose at the jaw's angle / "
        f"{jaw_angle:.3f} rad shuts the lips of an open jaw",
        "expression_names": json.dumps(names),
        "region_names": json.dumps(region_names),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_bytes(_sorted_header(save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)))
    beside.replace(path)


def _sorted_header(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes them in a random one, and builds should agree."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


if __name__ == "__main__":
    raise SystemExit(main())
