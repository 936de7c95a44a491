"""An avatar that version 0.1 saved, before its modules moved into folders: it loads and looks as it did.

`fixtures/avatar_0_1/` holds the avatar (the demo person, thinned to 1,190 Gaussians, with a motion network of 16
channels that heard without an ear), `motion.npz` (six frames) and `frames.png` (how 0.1 drew them at 96 x 96 pixels
over grey, side by side).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from emotag_hf import EmoTaGModel, EmoTaGPipeline, EmoTaGProcessor, load_motion
from emotag_hf.avatars.avatar_folder import is_avatar, read_avatar_info
from emotag_hf.constants import OPEN_MODEL

FIXTURE = Path(__file__).parents[1] / "fixtures" / "avatar_0_1"
AVATAR = FIXTURE / "avatar"
SPEECH = {"array": 0.3 * np.sin(np.arange(6400) * 0.05).astype(np.float32), "sampling_rate": 16000}  # 0.4 s
SIZE = 96

ENTRANCES = {
    "EmoTaGModel": lambda: EmoTaGModel.from_pretrained(AVATAR),
    "AutoModel": lambda: AutoModel.from_pretrained(AVATAR),
    "EmoTaGPipeline": lambda: EmoTaGPipeline.from_pretrained(AVATAR).model,
    "pipeline": lambda: pipeline("talking-head", model=str(AVATAR)).model,
}


@pytest.mark.parametrize("entrance", list(ENTRANCES))
def test_it_looks_as_it_did(entrance):
    """The stored motion gives the stored frames: 99.9 % of values within 1/255, none beyond 4/255."""
    model, motion = ENTRANCES[entrance](), load_motion(FIXTURE / "motion.npz")
    with torch.no_grad():
        images = model.render(model.pose(motion), model.camera(SIZE), torch.full((SIZE, SIZE, 3), 0.5)).images
    drawn = (images.numpy() * 255).round().astype(int)
    stored = np.asarray(Image.open(FIXTURE / "frames.png")).reshape(SIZE, len(motion), SIZE, 3).swapaxes(0, 1)
    difference = np.abs(drawn - stored.astype(int))
    assert stored.std() > 20 and np.abs(np.diff(stored.astype(int), axis=0)).max() > 100  # a picture that moves
    assert (difference <= 1).mean() >= 0.999 and difference.max() <= 4


def test_it_speaks_and_is_saved_in_todays_format(tmp_path):
    """Both pipelines give the same frames; saved again, the folder names no module and holds the same person."""
    assert type(AutoConfig.from_pretrained(AVATAR)).__name__ == "EmoTaGConfig"
    assert isinstance(AutoProcessor.from_pretrained(AVATAR), EmoTaGProcessor)
    pipe = EmoTaGPipeline.from_pretrained(AVATAR)
    ours, theirs = pipe(SPEECH, size=64), pipeline("talking-head", model=str(AVATAR))(SPEECH, size=64)
    assert len(ours.frames) == 10 and np.array_equal(ours.frames[5], theirs.frames[5])
    assert is_avatar(AVATAR) and read_avatar_info(AVATAR).consent.is_synthetic
    assert "emotag_hf.modeling_emotag" in (AVATAR / "model_index.json").read_text()
    pipe.save_pretrained(tmp_path)
    assert "emotag_hf." not in (tmp_path / "model_index.json").read_text()
    again = EmoTaGPipeline.from_pretrained(tmp_path)
    assert np.array_equal(again(SPEECH, size=64).frames[5], ours.frames[5])


def test_it_says_once_that_another_network_speaks(caplog):
    """The motion network of 0.1 heard without an ear and is gone: the embedded open one takes over, with a warning."""
    model = EmoTaGModel.from_pretrained(AVATAR)
    (record,) = [r for r in caplog.records if "version 0.1" in r.getMessage()]
    assert OPEN_MODEL in record.getMessage() and "adapt it again" in record.getMessage()
    successor = EmoTaGModel.from_pretrained(OPEN_MODEL)
    ours, theirs = model.motion.state_dict(), successor.motion.state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert model.config.motion_config.frontend == "whisper_blocks"
    assert model.config.gaussians_config.num_gaussians == 1190
