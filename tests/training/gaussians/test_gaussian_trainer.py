"""The fitting of Gaussians at toy size: it learns, goes on where it stopped, and looks at training frames alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_person import FRAMES, toy_clip

from emotag_hf import EmoTaGModel, default_model_path
from emotag_hf.preprocessing.tracking.photometric import draw
from emotag_hf.training.checkpoint import load_state, save_state
from emotag_hf.training.gaussians import gaussian_trainer
from emotag_hf.training.gaussians.adapt_arguments import AdaptArguments
from emotag_hf.training.gaussians.gaussian_trainer import GaussianTrainer
from emotag_hf.training.gaussians.losses import geometry_loss, normals_from_depth
from emotag_hf.training.gaussians.person import make_model
from emotag_hf.training.gaussians.scene import TrainingScene

TINY = {
    "num_surface": 2500,
    "num_beside": 600,
    "num_correctives": 3,
    "size": 128,
    "crop": 64,
    "validation_share": 0.0,
    "trial_steps": 5,
}
TRAIN = range(16)
REFINED = {"refine": True, "validation_share": 0.2}  # all that may look at pictures
DENSE = {"densify": True}


def trainer(clip=None, frames=TRAIN, **changes) -> GaussianTrainer:
    arguments = AdaptArguments.preset("fast", **(TINY | {"steps": 40, "refine": False} | changes))
    return GaussianTrainer(TrainingScene(clip or toy_clip(), frames), arguments)


def psnr(person: GaussianTrainer, frames) -> float:
    """Over whole later frames, with the true motion."""
    scene, squares = person.scene, []
    for i in frames:
        with torch.no_grad():
            colors, alpha = draw(scene.motion[i : i + 1], person, scene.shape, scene.camera)
            truth = torch.from_numpy(scene.clip.frame(i)).float() / 255
            squares.append((colors + (1 - alpha) * scene.background - truth).square().mean().item())
    return -10 * float(np.log10(np.mean(squares)))


def weights(person: GaussianTrainer) -> dict[str, torch.Tensor]:
    with person.averaged():
        return {name: value.clone() for name, value in person.gaussians.state_dict().items()}


def same(a: GaussianTrainer, b: GaussianTrainer) -> bool:
    mine, other = weights(a), weights(b)
    return all(torch.equal(mine[name], other[name]) for name in mine) and torch.equal(a.offsets.rows, b.offsets.rows)


@pytest.fixture(scope="module", autouse=True)
def short_looks():
    """A look at a validation frame moves it by few steps here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaussian_trainer, "_CHECK_STEPS", 3)
        yield


@pytest.fixture(scope="module")
def refined(short_looks):
    """A training that never stopped, and the clip that it read."""
    clip = toy_clip()
    person = trainer(clip, **REFINED)
    person.train()
    assert len(person.report.validation) > 2
    return person, clip


def test_later_frames_get_better():
    """Frames that training never saw rise by more than 2 dB over where it began."""
    person = trainer(steps=80)
    before = psnr(person, range(18, FRAMES))
    person.train()
    with person.averaged():
        after = psnr(person, range(18, FRAMES))
    assert after > before + 2, (before, after)


@pytest.mark.parametrize("stop", [33, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("changes", [REFINED, DENSE], ids=["refined", "dense"])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, refined, changes, stop):
    """Saved at any step and loaded into a fresh trainer, the result is that of a training that never stopped."""
    whole = refined[0] if changes is REFINED else trainer(**changes)
    if changes is not REFINED:
        whole.train()
    first = trainer(**changes)
    first.train(lambda t: t.step == stop)
    assert first.step == stop and first.report.stopped == "asked to stop"
    save_state(tmp_path / "state.safetensors", first.state_dict())
    second = trainer(**changes)
    second.load_state_dict(load_state(tmp_path / "state.safetensors"))
    second.train()
    assert second.step == whole.step and same(second, whole)


def test_other_frames_are_never_looked_at(refined):
    """Test frames full of noise change no bit of the weights, because nothing reads them (METHOD 7)."""
    (one, clip), noisy = refined, toy_clip()
    later = range(TRAIN.stop, FRAMES)
    random = np.random.default_rng(0)
    noisy._frames[later] = random.integers(0, 255, noisy._frames[later].shape, dtype=np.uint8)
    noisy._mattes[later] = 0
    other = trainer(noisy, **REFINED)
    other.train()
    assert same(one, other)
    assert not clip.read & set(later)


@pytest.mark.slow
def test_refining_finds_a_disturbed_pose():
    """Half of the frames tracked askew: training pulls them back to where the head truly was."""
    from dataclasses import replace

    clip = toy_clip()
    true = clip.track.motion
    rotation = true.rotation.clone()
    rotation[::2, 0] += 0.03
    clip.track = replace(clip.track, motion=replace(true, rotation=rotation))
    person = trainer(clip, refine=True, steps=300, offset_rate=1.0)
    person.refining = True
    person.train()
    found = person.offsets.motion(torch.tensor(list(TRAIN)))
    turn = lambda motion: motion.rotation[:, 0] + motion.neck_pose[:, 0]  # noqa: E731
    off = turn(found) - turn(true)[TRAIN.start : TRAIN.stop]
    apart = (off[::2].mean() - off[1::2].mean()).abs().item()  # a turn common to all frames cannot be told
    assert apart < 0.5 * 0.03, apart


def test_the_model_draws_what_the_trainer_draws(tmp_path):
    """The person's model, saved and loaded again, renders the trainer's picture; its folder is small."""
    person = trainer()
    person.train()
    base = EmoTaGModel.from_pretrained(default_model_path())
    model = make_model(person, base, "toy")
    model.save_pretrained(tmp_path)
    again = EmoTaGModel.from_pretrained(tmp_path)
    motion = person.scene.motion[3:4]
    with torch.no_grad(), person.averaged():
        colors, alpha = draw(motion, person, person.scene.shape, person.camera)
        wanted = (colors + (1 - alpha) * person.scene.background).clamp(0, 1)
    for one, bound in ((model, 1e-4), (again, 5e-3)):  # correctives are stored in 16 bits
        got = one.render(one.pose(motion), one.camera(128), person.scene.background).images[0]
        assert (got - wanted).abs().max() < bound
    assert again.gaussians.corrective_colors.dtype == torch.float32
    assert (tmp_path / "model.safetensors").stat().st_size < 5e6


@pytest.mark.slow
def test_geometry_pulls_the_depth_to_the_head():
    """With a large weight the drawn relief comes closer to the tracked head's than without (L_Geo, METHOD 5)."""
    found = {}
    for weight in (0.0, 300.0):
        person = trainer(steps=60, geometry_weight=weight)
        person.train()
        camera, total = person.scene.camera, 0.0
        for i in range(0, len(TRAIN), 4):
            depth, normals, mask = person.scene.geometry(i, camera)
            with torch.no_grad():
                motion = person.scene.motion[i : i + 1]
                drawn, alpha = draw(motion, person, person.scene.shape, camera, render_mode="ED")
                facing = normals_from_depth(drawn[..., 0], camera.K)
                seen = mask & (alpha[..., 0] > 0.5)
                total += sum(geometry_loss(drawn[..., 0], facing, depth, normals, seen).values()).item()
        found[weight] = total
    assert found[300.0] < 0.9 * found[0.0], found


def test_a_budget_in_seconds_is_kept():
    """The schedule runs to its end in the time given, with as many steps as fit."""
    person = trainer(budget_s=1.0)
    report = person.train()
    assert report.stopped == "done" and report.seconds < 4 and report.steps > 5


def test_bad_arguments_are_named():
    """One sentence each."""
    with pytest.raises(ValueError, match="steps: expected a positive number, got 0"):
        AdaptArguments(steps=0)
    with pytest.raises(ValueError, match="quality: expected one of fast, best"):
        AdaptArguments.preset("ultra")
    with pytest.raises(ValueError, match="arguments: unknown stepz"):
        AdaptArguments.preset("fast", stepz=3)
    with pytest.raises(ValueError, match="train: expected at least one frame"):
        TrainingScene(toy_clip(), [])
