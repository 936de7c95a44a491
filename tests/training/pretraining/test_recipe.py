"""A recipe teaches everything it names, goes on where it was interrupted, and says in one sentence what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from emotag_hf.cli.emotag import main
from emotag_hf.models.ear import Ear
from emotag_hf.models.ear_asset import save_ear
from emotag_hf.training.pretraining import follow_recipe
from emotag_hf.training.pretraining.hearing import heard_clips
from emotag_hf.training.pretraining.motion_data import fold_of
from emotag_hf.training.pretraining.pretrain import Pretrainer, load_motion
from emotag_hf.training.pretraining.recipe import WEIGHTS, read_recipe

FRAMES = 40
RECIPE = """
[data]
talkers = "talkers"
clips = "clips.json"
synthetic = ["speech.npz"]
heldout = "speech.npz"

[network]
ear = "ear.safetensors"
start = "emotag-base-open"

[people]
leave_out = ["dee"]
folds = 2

[speech]
steps = 2
batch_size = 2
window = 20

[lips]
steps = 3
batch_size = 2
window = 20
save_every = 1

[weights]
width = 0.7
"""


@pytest.fixture
def folder(tmp_path):
    """Four talkers: `dee` in fold 0, `ann` and `eve`, who is only scored, in fold 1; an untaught ear; speech."""
    rng = np.random.default_rng(0)
    (tmp_path / "talkers").mkdir()
    facts = {
        "ann_1": {"person": "ann", "lag": 1.0, "tested": True, "weight": 0.5},
        "bob_1": {"person": "bob"},
        "dee_1": {"person": "dee", "tested": True},
        "eve_1": {"person": "eve", "tested": True, "teaches": False},
    }
    for name in facts:
        parts = {
            "samples": (rng.normal(size=FRAMES * 640) * 3000).astype(np.int16),
            "face": rng.uniform(0, 0.2, (FRAMES, 53)).astype(np.float32),
            "valid": np.ones(FRAMES, bool), "action_units": np.zeros((FRAMES, 14), np.float32),
            "emotion": np.zeros((FRAMES, 7), np.float32), "identity": np.zeros(512, np.float32),
        }  # fmt: skip
        save_file(parts, tmp_path / "talkers" / f"{name}.safetensors")
    (tmp_path / "clips.json").write_text(json.dumps(facts))
    np.savez(
        tmp_path / "speech.npz", features=rng.uniform(0, 1, (FRAMES * 4, 82)).astype(np.float16),
        face=np.zeros((FRAMES, 53), np.float32), visemes=np.arange(FRAMES) % 17, closures=np.arange(FRAMES) % 9 == 0,
        lengths=np.array([FRAMES]),
    )  # fmt: skip
    torch.manual_seed(0)
    save_ear(Ear(1), tmp_path / "ear.safetensors")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def weights(path):
    return load_motion(path).state_dict()


def test_one_command_teaches(folder, capsys):
    """The network for everybody and one for each fold whose people teach; unheard people are scored by look-ahead."""
    out = folder / "out"
    assert main(["pretrain", str(folder / "recipe.toml"), "-o", str(out)]) == 0
    assert "r on people it has not heard, look-ahead full: opening" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["persons"] == ["ann", "bob"] and report["left_out"] == ["dee"]
    assert report["arguments"]["steps"] == 3 and report["weights"] == asdict(WEIGHTS) | {"width": 0.7}
    assert set(report["unheard_people"]) == {"full", "0.16"} and "shut" in report["shut_on_p_b_m"]
    assert set(report["unheard_people"]["full"]["people"]) == {"ann", "dee", "eve"}
    assert json.loads((out / "lags.json").read_text()) == {"ann_1": 1.0, "dee_1": 0.0, "eve_1": 0.0}
    assert [fold_of(person, 2) for person in ("dee", "ann", "eve")] == [0, 1, 1]
    assert not (out / "fold_0").exists()  # it would be taught by the people of the network for everybody
    assert json.loads((out / "fold_1" / "report.json").read_text())["persons"] == ["bob", "dee"]
    assert load_motion(out).config.audio_encoder == str(folder / "ear.safetensors")
    untaught = follow_recipe.new_network(read_recipe(folder / "recipe.toml")).state_dict()
    phonemes, last = weights(out / "speech"), weights(out)
    for name, value in last.items():
        if name.startswith(("audio_net.phones.", "viseme_head.")):  # only the first part teaches these, and only these
            assert torch.equal(value, phonemes[name]) and not torch.equal(value, untaught[name])
        else:
            assert torch.equal(phonemes[name], untaught[name])
    assert not torch.equal(last["base_motion.weight"], phonemes["base_motion.weight"])


def test_interrupted_it_goes_on_where_it_was(folder, monkeypatch):
    """Killed in the middle of a fold, the same call gives the same networks; nothing is heard or taught twice."""
    recipe, steps = read_recipe(folder / "recipe.toml"), []
    follow_recipe.follow(recipe, folder / "whole", show=False)
    take_step = Pretrainer.take_step

    def killed(self):
        steps.append(self.step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return take_step(self)

    monkeypatch.setattr(Pretrainer, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        follow_recipe.follow(recipe, folder / "parts", show=False)
    # With an ear that is None it can only read what was kept.
    monkeypatch.setattr(follow_recipe, "heard_clips", lambda clips, ear, *a, **k: heard_clips(clips, None, *a, **k))
    follow_recipe.follow(recipe, folder / "parts", show=False)
    assert steps == [0, 1, 0, 1, 2, 0, 1, 1, 2]  # of phonemes, of everybody, of the fold
    for name in ("", "fold_1"):
        first, second = weights(folder / "whole" / name), weights(folder / "parts" / name)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_recipe_is_refused_in_a_folder(folder):
    out = folder / "out"
    out.mkdir()
    (out / "recipe.toml").write_text("[data]\n")
    with pytest.raises(ValueError, match="holds what another recipe taught"):
        follow_recipe.follow(read_recipe(folder / "recipe.toml"), out, show=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('talkers = "talkers"', ""), "does not say 'talkers'"),
        (('"clips.json"', '"none.json"'), "names .*none.json, which is not there"),
        (("steps = 2", "stops = 2"), r"\[speech\] has stops; expected some of steps, "),
        (("steps = 2", "steps = 0"), "steps: expected 1 or more, got 0"),
        (("[people]", "[persons]"), r"\[recipe\] has persons"),
        (("[data]", "data"), "expected a TOML file in .*recipe.toml"),
        (('leave_out = ["dee"]', 'leave_out = ["zoe"]'), "leave_out: expected persons of the clips, got zoe"),
        (('"dee"]', '"dee", "ann", "bob"]'), "clips: expected some that teach; none is left"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(folder, change, message):
    path = folder / "recipe.toml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(ValueError, match=message) as error:
        follow_recipe.follow(read_recipe(path), folder / "out", show=False)
    assert "\n" not in str(error.value).strip() or "TOML" in str(error.value)


def test_a_recipe_says_everything(folder, capsys):
    """Options of a training beside a recipe, and clips that are no table, are errors for people."""
    assert main(["pretrain", str(folder / "recipe.toml"), "-o", str(folder / "out"), "--steps", "3"]) == 2
    assert "a recipe says everything" in capsys.readouterr().err
    (folder / "clips.json").write_text("[1]")
    assert main(["pretrain", str(folder / "recipe.toml"), "-o", str(folder / "out")]) == 2
    assert "clips: expected JSON" in capsys.readouterr().err
