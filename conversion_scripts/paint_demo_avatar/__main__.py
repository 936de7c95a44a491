"""Makes the demo person procedurally: Gaussians with painted colours on the open head.

    python conversion_scripts/paint_demo_avatar -o src/emotag_hf/assets/emotag-base-open --motion runs/open

Writes a whole model folder (config, weights, processor). `--motion` takes the motion network from a training's
folder (`emotag pretrain`); without it the network in an existing folder is kept. Same seed, same file.
"""

from __future__ import annotations

import argparse
import os

import body
import eyes
import hair
import numpy as np
import torch
from canvas import Canvas, smoothstep
from light import LightField, to_srgb
from person import BACKDROP, CAMERA, IDENTITY, NAME
from skin import skin_albedo, skin_gloss
from surface import Strokes, bind, discs

from emotag_hf import EmoTaGConfig, EmoTaGModel, EmoTaGPipeline, EmoTaGProcessor, ParametricHead
from emotag_hf.models.modeling_motion import GatedResidualMotionNetwork
from emotag_hf.models.processing_emotag import EmoTaGFeatureExtractor
from emotag_hf.training.pretraining.pretrain import load_motion

EYE = np.array([0.0, 0.0, 1.8])  # where the highlights are seen from
FACE, SCALP, NECK, CLOTH = 0.0018, 0.0055, 0.0033, 0.0056  # metres between strokes


def paint(canvas: Canvas) -> Strokes:
    """All strokes of the person, lit and shadowed."""
    strands = hair.grow(canvas, 0.0042)
    joints = (strands.points[:, 1:] + strands.points[:, :-1]) / 2
    occluders = joints[:, 2:].reshape(-1, 3)
    parts = [paint_skin(canvas, occluders), paint_eyes(canvas), paint_mouth(canvas), paint_clothes(canvas, occluders)]
    # A strand is lit as open as the air above its root is.
    normal = np.repeat(strands.normal, joints.shape[1], 0)
    field = LightField(
        canvas.vertices, canvas.faces, joints.reshape(-1, 3), normal, occluders[::3], count=160, offset=0.004
    )
    strokes = hair.paint(strands, field.directions, field.radiance, field.openness() ** 0.8)
    strokes.color = to_srgb(strokes.color)
    counts = dict(zip(("skin", "eyes", "mouth", "clothes", "hair"), map(len, [*parts, strokes])))
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return Strokes.cat([*parts, strokes])


def paint_skin(canvas: Canvas, occluders: np.ndarray) -> Strokes:
    """Face, ears, neck and scalp, with brows and lashes."""
    inside = canvas.mask("mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue", "left_eye", "right_eye")
    which = canvas.faces_in(~inside)
    center = canvas.vertices[canvas.faces[which]].mean(1)
    which = which[body.collar_height(canvas, center) > -0.012]
    center = canvas.vertices[canvas.faces[which]].mean(1)
    spacing = np.where(center[:, 1] < canvas.landmarks[152][1] - 0.012, NECK, FACE)
    spacing = np.where(hair.hairline(canvas, center) > 0.6, SCALP, spacing)
    spacing = np.where(canvas.normals[canvas.faces[which]].mean(1)[:, 2] < -0.45, SCALP, spacing)  # never seen closely
    fine = canvas.soft_mask("lips", "lids", "ears", rounds=2)[canvas.faces[which]].mean(1)
    spacing = spacing * (1 - 0.35 * smoothstep(0.1, 0.6, fine))
    samples, local = canvas.cover(which, spacing)
    albedo = skin_albedo(canvas, samples)
    covered = hair.hairline(canvas, samples.position) * (1 - hair.on_ear(canvas, samples))
    albedo += (hair.ROOT_COLOR * 1.1 - albedo) * (0.92 * smoothstep(0.15, 0.75, covered))[:, None]
    field = LightField(canvas.vertices, canvas.faces, samples.position, samples.normal, occluders)
    color = albedo * field.diffuse(wrap=(0.30, 0.14, 0.09))
    view = EYE - samples.position
    view /= np.linalg.norm(view, axis=-1, keepdims=True)
    oil, wet = skin_gloss(canvas, samples)
    bare = (1 - smoothstep(0.1, 0.6, covered))[:, None]
    color += bare * (oil[:, None] * 9 * field.specular(view, 14) + wet[:, None] * 6 * field.specular(view, 70))
    grazing = (1 - np.clip((view * samples.normal).sum(-1), 0, 1)) ** 4
    color += bare * (0.05 * grazing * field.openness())[:, None] * np.array([1.0, 0.95, 0.9])
    strokes = [discs(samples, local, to_srgb(color))]
    face_only = eyes.Anchors(canvas, canvas.faces_in(canvas.mask("face", "lids", "brows")))
    for side in (0, 1):
        for loose in (eyes.brows(canvas, face_only, side), eyes.lashes(canvas, side)):
            loose.color = to_srgb(loose.color * 0.9)
            strokes.append(loose)
    return Strokes.cat(strokes)


def paint_eyes(canvas: Canvas) -> Strokes:
    """Eyeballs with the shadow of the eyelids and highlights."""
    parts = []
    for side in (0, 1):
        samples, local, albedo = eyes.eyeball(canvas, side)
        field = LightField(canvas.vertices, canvas.faces, samples.position, samples.normal, offset=0.003)
        color = albedo * (0.25 * field.diffuse() + 0.75 * field.diffuse(wrap=(0.5, 0.5, 0.5)))
        parts.append(discs(samples, local, to_srgb(color), size=0.7))
        parts.append(eyes.highlights(canvas, samples, side))
    return Strokes.cat(parts)


def paint_mouth(canvas: Canvas) -> Strokes:
    """Teeth, tongue and cavity, lit as they are when the mouth is open: it is only seen then."""
    opened = canvas.posed(jaw_pose=[0.24, 0, 0])
    inner = canvas.faces[canvas.faces_in(canvas.mask("mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue"))]
    front = canvas.vertices[canvas.mask("teeth_upper")][:, 2].max()
    parts = []
    for samples, local, albedo in body.mouth(canvas):
        corners = opened[canvas.faces[samples.face]]
        at = np.einsum("nk,nkd->nd", samples.bary, corners)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
        # The lips' own shadow would make the first teeth black for every mouth; depth darkens them instead.
        field = LightField(opened, inner, at, normal, count=200)
        depth = np.exp(-np.clip(front - samples.position[:, 2], 0, None) / 0.024)[:, None]
        color = albedo * depth * (0.8 * field.diffuse(wrap=(0.35, 0.3, 0.3)) + 0.16)
        view = EYE - at
        color += 0.10 * depth * field.specular(view / np.linalg.norm(view, axis=-1, keepdims=True), 40)
        parts.append(discs(samples, local, to_srgb(color), size=0.7, mouth=True))
    return Strokes.cat(parts)


def paint_clothes(canvas: Canvas, occluders: np.ndarray) -> Strokes:
    samples, local, albedo = body.clothes(canvas, CLOTH)
    field = LightField(
        canvas.vertices, canvas.faces, samples.position, samples.normal, occluders, count=200, offset=0.004
    )
    return discs(samples, local, to_srgb(albedo * field.diffuse(wrap=(0.15, 0.15, 0.15))), size=0.72)


def build(motion: GatedResidualMotionNetwork, seed: int, license: str) -> EmoTaGModel:
    head = ParametricHead.from_asset(None)
    shape = np.zeros(head.num_shape)
    shape[list(IDENTITY)] = list(IDENTITY.values())
    canvas = Canvas(head, shape, seed)
    strokes = paint(canvas)
    parameters = bind(strokes, canvas.vertices, canvas.faces)
    config = EmoTaGConfig(
        head_config={"num_shape": head.num_shape, "sha256": head.sha256},
        gaussians_config={"num_gaussians": len(strokes), "num_mouth_gaussians": int(strokes.mouth.sum())},
        motion_config=motion.config.to_dict(),
        camera=CAMERA,
        backdrop=BACKDROP,
        avatar_name=NAME,
        weights_license=license,
    )
    model = EmoTaGModel(config)
    model.motion.load_state_dict(motion.state_dict())
    model.motion.emotion_decoder.use_prototypes_()  # of which training shrinks the unused ones
    model.shape.copy_(torch.from_numpy(shape))
    model.gaussians.load_state_dict(parameters)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="model folder to write")
    parser.add_argument("--motion", help="folder of a training of the motion network; default: keep the folder's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--license", default="apache-2.0", help="of the weights (default: %(default)s)")
    args = parser.parse_args()
    if args.motion is None and not os.path.isdir(args.output):
        parser.error("--motion is needed to make a new folder")
    motion = load_motion(args.motion) if args.motion else EmoTaGModel.from_pretrained(args.output).motion
    model = build(motion, args.seed, args.license)
    # Half precision on disk costs no visible difference and half of the size; loading brings float32 back.
    state = {
        k: v.half() if k.startswith(("gaussians.", "motion.")) and v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    model.save_pretrained(args.output, state_dict=state)
    processor = EmoTaGProcessor(EmoTaGFeatureExtractor(motion.config.frontend))
    processor.save_pretrained(args.output)
    EmoTaGPipeline(model, processor).save_config(args.output)
    print(f"{args.output}: {model.gaussians}")


if __name__ == "__main__":
    main()
