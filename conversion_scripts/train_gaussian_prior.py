"""Makes a Gaussian prior: colours for the inside of the mouth, of the synthetic person or the mean over many people.

    python conversion_scripts/train_gaussian_prior.py --demo -o src/emotag_hf/assets/emotag-gaussian-prior
    python conversion_scripts/train_gaussian_prior.py CLIPS -o prior --people splits.json --leave-out may --cache fits

The first makes the embedded prior, from the synthetic person. The second fits people: CLIPS is a folder of processed
clips (`emotag prepare`); `--people` is a JSON file of the persons in them (`{"persons": {"name": ["folder/file.mp4",
...]}}`). Fits are cached, so an interrupted run continues. About 40 s per clip on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from emotag_hf import EmoTaGModel, default_model_path
from emotag_hf.models.modeling_gaussian_prior import GaussianPrior, GaussianPriorConfig
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.preprocessing.data.clip import ProcessedClip
from emotag_hf.rendering.spherical_harmonics import SH_C0
from emotag_hf.training.checkpoint import load_state, save_state
from emotag_hf.training.gaussians.adapt_arguments import AdaptArguments
from emotag_hf.training.gaussians.gaussian_trainer import GaussianTrainer
from emotag_hf.training.gaussians.initialise import INNER_MOUTH, sample_surface
from emotag_hf.training.gaussians.scene import TrainingScene

STEPS, FRAMES = 800, 150
MOVED = 0.02  # a colour that training changed by so much was seen
PEOPLE = 3  # no colour of one or two people alone


def fit(clip: ProcessedClip, head: ParametricHead) -> dict:
    """The colours `[S, 3]` of one person's surface before and after training."""
    frames = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), FRAMES)).round().astype(int)).tolist()
    arguments = AdaptArguments.preset("fast", steps=STEPS, max_frames=FRAMES, validation_share=0.0)
    trainer = GaussianTrainer(TrainingScene(clip, frames, head), arguments)
    start = trainer.gaussians.colors.detach().clone()
    trainer.train()
    with trainer.averaged():
        colors = trainer.gaussians.colors.detach().clone()
    slots = surface_slots(trainer.gaussians, arguments.num_surface)
    return {"start": to_rgb(start)[slots], "colors": to_rgb(colors)[slots], "psnr": trainer.psnr}


def demo(head: ParametricHead, count: int) -> GaussianPrior:
    """The synthetic person's colours: each place takes that of the nearest of their Gaussians in the same part."""
    model = EmoTaGModel.from_pretrained(default_model_path())
    with torch.no_grad():
        vertices = head(shape=model.shape[None]).vertices
        painted = model.gaussians.pose(vertices, head.faces)
        surface = sample_surface(head, vertices[0], count, torch.Generator().manual_seed(AdaptArguments().seed))
    prior = GaussianPrior(GaussianPriorConfig(num_surface=count, head_sha256=head.sha256, num_people=0))
    prior.faces.copy_(surface.faces)
    prior.barycentric.copy_(surface.barycentric)
    for name in INNER_MOUTH:
        part = head.face_mask(name)
        mine = torch.nonzero(part[surface.faces])[:, 0]
        theirs = torch.nonzero(part[model.gaussians.binding])[:, 0]
        nearest = torch.cdist(surface.points[mine], painted.means[0, theirs]).topk(3, largest=False).indices
        prior.inner_colors[mine] = painted.colors[theirs][nearest].mean(1)
        prior.has_inner[mine] = True
    return prior


def to_rgb(coefficients: torch.Tensor) -> torch.Tensor:
    return coefficients[:, 0] * SH_C0 + 0.5


def surface_slots(gaussians, num_surface: int) -> torch.Tensor:
    """Where the surface's Gaussians lie: what is beside the mesh comes between them and the inner mouth."""
    mouth, count = gaussians.config.num_mouth_gaussians, gaussians.num_gaussians
    return torch.cat([torch.arange(num_surface - mouth), torch.arange(count - mouth, count)])


def join(fits: list[dict], head: ParametricHead, people: int, license: str) -> GaussianPrior:
    """The means over people."""
    count = len(fits[0]["colors"])
    config = GaussianPriorConfig(num_surface=count, head_sha256=head.sha256, num_people=people, weights_license=license)
    prior = GaussianPrior(config)
    surface = sample_surface(head, head.v_template, count, torch.Generator().manual_seed(AdaptArguments().seed))
    inner = head.face_mask(*INNER_MOUTH)[surface.faces]
    back = torch.argsort(torch.cat([torch.nonzero(~inner)[:, 0], torch.nonzero(inner)[:, 0]]))
    colors = torch.stack([one["colors"] for one in fits])
    moved = (colors - torch.stack([one["start"] for one in fits])).abs().amax(-1, keepdim=True) > MOVED
    seen = moved.float().sum(0)
    mean = ((colors * moved).sum(0) / seen.clamp_min(1))[back]
    prior.faces.copy_(surface.faces)
    prior.barycentric.copy_(surface.barycentric)
    prior.has_inner.copy_(inner & (seen[back, 0] >= PEOPLE))
    prior.inner_colors.copy_(mean * prior.has_inner[:, None])
    return prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("--demo", action="store_true", help="the synthetic person's colours, no clips")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--people", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--license", default="emotag-research-weights-1.0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = ParametricHead.from_asset()
    if args.demo:
        demo(head, AdaptArguments().num_surface).save_pretrained(args.output)
        return
    if not (args.clips and args.people and args.cache):
        parser.error("without --demo, CLIPS, --people and --cache are needed")
    persons = json.loads(args.people.read_text())["persons"]
    who = {Path(file).stem: person for person, files in persons.items() for file in files}
    if missing := set(args.leave_out) - set(persons):
        parser.error(f"--leave-out: {', '.join(sorted(missing))} is nobody in {args.people}")
    chosen = [p for p in sorted(args.clips.iterdir()) if who.get(p.name) and who[p.name] not in args.leave_out]
    args.cache.mkdir(parents=True, exist_ok=True)
    fits = []
    for path in chosen:
        file = args.cache / f"{path.name}.safetensors"
        if not file.exists():
            save_state(file, fit(ProcessedClip.open(path), head))
        fits.append(load_state(file))
        print(f"{path.name}: {fits[-1]['psnr']:.1f} dB", flush=True)
    people = len({who[path.name] for path in chosen})
    join(fits, head, people, args.license).save_pretrained(args.output)
    print(f"{len(fits)} clips of {people} people -> {args.output}")


if __name__ == "__main__":
    main()
