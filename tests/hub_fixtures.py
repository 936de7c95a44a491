"""A stand-in hub that this process takes for the Hub, and an avatar to push. In: pytest's. Out: fixtures to import."""

from __future__ import annotations

import os
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from stand_in_hub import StandInHub

from emotag_hf import Consent, EmoTaGConfig, EmoTaGModel, EmoTaGPipeline
from emotag_hf.avatars import push_pipeline as sharing
from emotag_hf.avatars.avatar_folder import write_avatar
from emotag_hf.models.processing_emotag import EmoTaGProcessor

CLIP = "ab" * 32
SOURCE = {
    "sha256": CLIP, "frames_used": 125, "width": 512, "height": 512, "seconds": 5.04, "fps": 29.97,
    "tracker_version": 1,
}  # fmt: skip
CONSENT = Consent(
    person="Zoë Example",
    purposes=("research", "publication"),
    may_publish=True,
    statement="I agree.",
    date="2025-05-01T12:00:00+02:00",
    clip_sha256=CLIP,
    how="terminal",
)
PICTURE = (np.mgrid[:48, :64].sum(0)[..., None] * np.array([1, 2, 0])).astype(np.uint8)
SPEECH = {"array": 0.3 * np.sin(np.arange(6400) * 0.05).astype(np.float32), "sampling_rate": 16000}  # 0.4 s


def environment(hub: StandInHub, home: Path) -> dict[str, str]:
    """Of another process that takes the stand-in for the Hub and has seen nothing of it yet."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    own["PYTHONPATH"] = os.pathsep.join([str(Path(sharing.__file__).parents[1]), *filter(None, sys.path)])
    own |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return own | {"HF_TOKEN": "hf_ada"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, with "ada" logged in, an empty cache, no waiting before another try, quick previews."""
    speech = str(tmp_path / "speech.wav")
    with wave.open(speech, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((9000 * SPEECH["array"]).astype("<i2").tobytes())
    with StandInHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setattr(sharing, "PREVIEW_SIZE", 64)
        monkeypatch.setattr(sharing, "sample_path", lambda: speech)  # a blink of an eye long
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made with the real Hub's address
        monkeypatch.setenv("HF_TOKEN", "hf_ada")
        yield hub


@pytest.fixture
def pipe():
    """A toy model on the open head, as adaptation would hand it over."""
    config = EmoTaGConfig(
        gaussians_config={"num_gaussians": 50, "num_mouth_gaussians": 10},
        motion_config={"hidden_dim": 32, "num_layers": 1, "intermediate_dim": 32, "triplane_resolution": 4},
        backdrop={"inner": [0.6, 0.63, 0.66], "outer": [0.24, 0.27, 0.31]},
    )
    return EmoTaGPipeline(EmoTaGModel(config), EmoTaGProcessor())


@pytest.fixture
def avatar(pipe, tmp_path) -> Path:
    """The folder of an avatar whose person agreed to its publication."""
    training = {"steps": 800, "validation_psnr_face_box": 31.25, "versions": {"torch": "2.13.0"}}
    facts = {"source": SOURCE, "training": training, "metrics": {"oracle": {"psnr_mouth": 27.5}}}
    write_avatar(pipe, tmp_path / "me", consent=CONSENT, preview=PICTURE, background=PICTURE, **facts)
    return tmp_path / "me"
