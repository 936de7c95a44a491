"""adapt() at toy size: a whole, small avatar folder that speaks; a stop that costs nothing; reasons for a no."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_person import toy_clip

from emotag_hf import AdaptArguments, Consent, EmoTaGPipeline, adapt, sample_path
from emotag_hf.avatars.avatar_facts import AvatarError
from emotag_hf.rights.consent import ConsentError
from emotag_hf.training.adaptation.adapt import AdaptError

TINY = AdaptArguments.preset(
    "fast", steps=24, num_surface=2500, num_beside=400, num_correctives=3, size=128, crop=64, trial_steps=4
)
AGREED = Consent.synthetic("Toy")


def adapted(output=None, **options):
    return adapt(toy_clip(), output, **({"consent": AGREED, "force": True, "arguments": TINY} | options))


@pytest.fixture(scope="module")
def avatar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "avatar"
    return folder, adapted(folder)


def test_the_folder_is_an_avatar_that_speaks(avatar):
    """Saved and loaded, it draws the same frames; consent, provenance and numbers lie beside; nothing else is left."""
    folder, made = avatar
    assert {path.name for path in folder.parent.iterdir()} == {"avatar"}
    facts = json.loads((folder / "avatar.json").read_text())
    assert facts["source"]["sha256"] == "a" * 64 and facts["training"]["steps"] == TINY.steps
    assert json.loads((folder / "consent.json").read_text())["person"] == "Toy"
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) < 12e6
    loaded = EmoTaGPipeline.from_pretrained(folder)
    both = [pipe(sample_path(), size=96, seed=3).frames[5] for pipe in (made, loaded)]
    assert np.abs(both[0] - both[1]).max() < 0.02  # correctives in 16 bits
    assert both[0].std() > 0.05


def test_the_background_of_the_clip_is_behind_it(avatar):
    """The corner of a frame shows the clip's plate, unless another background is asked for."""
    made = avatar[1]
    own, white = made(sample_path(), size=96).frames[0], made(sample_path(), size=96, background="white").frames[0]
    assert np.abs(own[0, 0] - 0.3).max() < 0.02 and white[0, 0].min() > 0.98


def test_a_stopped_adaptation_goes_on(avatar, tmp_path):
    """Ctrl-C in the middle keeps the state; with resume the weights are those of the one that was never stopped."""

    def stop(trainer):
        if trainer.step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapted(tmp_path / "avatar", on_step=stop)
    assert (tmp_path / "avatar.training" / "state.safetensors").is_file() and not (tmp_path / "avatar").exists()
    again = adapted(tmp_path / "avatar", resume=True)
    for name, value in avatar[1].model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_red_light_stops_it(monkeypatch):
    """The doctor's reasons and advice are in the error; force goes on."""
    check = SimpleNamespace(light="red", finding="The face is 40 pixels high.", advice="Record closer.")
    monkeypatch.setattr("emotag_hf.training.adaptation.adapt.examine", lambda clip: SimpleNamespace(checks=[check]))
    with pytest.raises(AdaptError, match="The face is 40 pixels high. Record closer."):
        adapted(force=False)


def test_what_cannot_be_kept_is_refused_before_training(avatar, tmp_path):
    """No consent, a foreign folder, an avatar that is there, one frame: one sentence each, and no step is taken."""
    never = {"on_step": lambda trainer: pytest.fail("trained")}
    with pytest.raises(ConsentError):
        adapted(consent=None, **never)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(AvatarError):
        adapted(tmp_path / "mine", overwrite=True, **never)
    with pytest.raises(AvatarError):
        adapted(avatar[0], **never)
    with pytest.raises(AdaptError, match="at least two frames"):
        adapted(frames=[3], **never)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
