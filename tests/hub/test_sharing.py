"""Avatars and models on the Hub, through the stand-in: up whole or not at all, back to the bit, consent first."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_fixtures import CLIP, CONSENT, PICTURE, SOURCE, SPEECH, environment
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load
from stand_in_hub import card_errors
from transformers import AutoModel

from emotag_hf import EmoTaGModel, EmoTaGPipeline, TalkingHeadPipeline, push_avatar
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.avatars import push_pipeline as sharing
from emotag_hf.avatars.avatar_facts import AvatarError
from emotag_hf.avatars.avatar_folder import AVATAR_FILES, read_avatar_info, write_avatar
from emotag_hf.hub.avatar_card import RESEARCH_LICENSE
from emotag_hf.hub.hub_transfer import HubError
from emotag_hf.hub.repo_contents import DOWNLOADED, PREVIEW_VIDEO, SHIM
from emotag_hf.models.modeling_gaussian_prior import GaussianPrior, GaussianPriorConfig
from emotag_hf.rights.consent import ConsentError
from emotag_hf.rights.provenance import read_provenance

pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.usefixtures("hub")
WHOLE = {*DOWNLOADED, PREVIEW_VIDEO}
FRESH = """
import json, sys
import numpy as np
import emotag_hf
from transformers import AutoModel, pipeline
from emotag_hf import EmoTaGPipeline
name, out = sys.argv[1:]
speech = {"array": 0.3 * np.sin(np.arange(6400) * 0.05).astype(np.float32), "sampling_rate": 16000}
model = AutoModel.from_pretrained(name)
one, two = EmoTaGPipeline.from_pretrained(name), pipeline("talking-head", model=name)
own = EmoTaGPipeline(model=model, processor=one.processor)
own._background = one._background  # AutoModel is the person alone
np.savez(out, *[np.stack(list(p(speech, size=64, seed=3).frames)) for p in (own, one, two)])
assert not [m for m in sys.modules if m.startswith("transformers_modules")]
print(json.dumps(sorted(one.avatar_files)))
"""


def fresh(code: str, hub, home: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=environment(hub, home), capture_output=True, text=True, cwd="/")


def test_pushed(hub, avatar):
    """One flat private repository, which is nothing to whoever may not see it."""
    pushed = push_avatar(avatar, "ada/me")
    assert pushed.private and pushed.changed and hub.repos["ada/me"].private
    assert pushed.url == f"{hub.url}/ada/me" and set(pushed.files) == WHOLE == hub.files("ada/me").keys()
    with pytest.raises(FileNotFoundError, match="no repository ada/me, or it is private and this token may not see it"):
        EmoTaGPipeline.from_pretrained("ada/me", token="hf_bob")


@pytest.mark.slow  # a process of its own imports transformers and diffusers
def test_loaded_in_another_process(hub, avatar, tmp_path):
    """AutoModel, `pipeline` and EmoTaGPipeline of a new process draw the same bits, and fetch what they need alone."""
    push_avatar(avatar, "ada/me")
    loaded = EmoTaGPipeline.from_pretrained(avatar)
    here = np.stack(list(loaded(SPEECH, size=64, seed=3).frames))
    run = fresh(FRESH, hub, tmp_path / "home", "ada/me", str(tmp_path / "frames.npz"))
    assert run.returncode == 0, run.stderr
    assert set(json.loads(run.stdout)) == AVATAR_FILES.keys()
    frames = np.load(tmp_path / "frames.npz")
    assert len(frames.files) == 3 and here.shape == (10, 64, 64, 3) and here.std() > 0.01
    for name in frames.files:
        np.testing.assert_array_equal(frames[name], here)
    down = {path.name for path in (tmp_path / "home").rglob("snapshots/*/*")}
    assert down == set(DOWNLOADED)  # no video, no shim


def test_what_lies_there(hub, avatar, tmp_path):
    """The video is marked, the card is rendered for the Hub with what was measured, no path of this machine leaves."""
    (avatar / "README.md").write_text("# Buy things <script>alert(1)</script>\n", encoding="utf-8")
    push_avatar(avatar, "ada/me")
    there = hub.files("ada/me")
    (tmp_path / "seen.mp4").write_bytes(there[PREVIEW_VIDEO])
    assert read_provenance(tmp_path / "seen.mp4")["ai_generated"] is True
    spoken = load_audio(sharing.sample_path())
    assert load_audio(tmp_path / "seen.mp4").duration == pytest.approx(spoken.duration, abs=0.1)
    text = there["README.md"].decode()
    assert "script" not in text and 'from_pretrained("ada/me")' in text and "(preview.mp4)" in text
    assert "versions, torch | 2.13.0" in text and "Zoë Example" in there["consent.json"].decode()
    results = {result.metric_name: result for result in ModelCard(text).data.eval_results}
    assert results["oracle, psnr_mouth"].metric_value == 27.5
    kept = results["PSNR of the face box, dB"]
    assert kept.metric_value == 31.25 and "said when to stop" in kept.dataset_name
    ModelCard(text).validate()
    assert not any(str(tmp_path).encode() in content for content in there.values())
    assert not [key for key in load(there["model.safetensors"]) if key.startswith(("head.", "encoder"))]


def test_pushed_again(hub, avatar, pipe, caplog):
    """Nothing new, no commit and no upload; a changed consent and background, a commit with what they change; a picture
    that is gone is gone there too. What somebody else put there stays."""
    first = push_avatar(avatar, "ada/me")
    hub.put("ada/me", {"notes.txt": b"mine"})
    commits, uploads = len(hub.repos["ada/me"].commits), dict(hub.large)
    seen = hub.files("ada/me")
    again = push_avatar(avatar, "me")  # of the user who is logged in
    assert not [name for name, content in hub.files("ada/me").items() if content != seen[name]]
    assert again.repo_id == "ada/me" and not again.changed and again.files == first.files
    assert len(hub.repos["ada/me"].commits) == commits and hub.large == uploads
    consent = replace(CONSENT, revocation_contact="zoe@example.org")
    facts = json.loads((avatar / "avatar.json").read_text())
    more = {"source": SOURCE, "training": facts["training"], "metrics": facts["metrics"]}
    write_avatar(pipe, avatar, consent=consent, preview=PICTURE, overwrite=True, **more)
    before = hub.files("ada/me")
    assert push_avatar(avatar, "ada/me").changed
    after = hub.files("ada/me")
    assert before.keys() - after.keys() == {"background.png"} and after["notes.txt"] == b"mine"
    assert {name for name in after if after[name] != before[name]} == {"README.md", "consent.json", PREVIEW_VIDEO}


def test_nobody_without_consent(hub, avatar, pipe, tmp_path):
    """Neither the folder, nor the pipeline, nor the bare model, nor transformers' pipeline and save_pretrained push a
    person who did not agree; nothing reaches the Hub."""
    private = replace(CONSENT, purposes=("research",), may_publish=False)
    write_avatar(pipe, tmp_path / "private", consent=private, source=SOURCE)
    with pytest.raises(ConsentError, match="did not agree that the avatar is published"):
        push_avatar(tmp_path / "private", "ada/me")
    with pytest.raises(ConsentError, match="did not agree"):
        pipe.push_to_hub("ada/me")
    old = replace(CONSENT, expires="2025-06-01T00:00:00Z")
    path = avatar / "consent.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expires": old.expires}))
    with pytest.raises(ConsentError, match="expired"):
        push_avatar(avatar, "ada/me")
    model = EmoTaGModel.from_pretrained(avatar)  # even with consent: it would go without its card
    for push in (
        lambda: model.push_to_hub("ada/me"),
        lambda: TalkingHeadPipeline(model=model, processor=pipe.processor).push_to_hub("ada/me"),
        lambda: EmoTaGPipeline(model, pipe.processor).push_to_hub("ada/me"),
    ):
        with pytest.raises(
            ValueError, match="a person's avatar, which is uploaded together with its consent and card or not at all"
        ):
            push()
    with pytest.raises(ValueError, match="push_to_hub: expected nothing here"):
        model.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id="ada/me")
    pipe.set_avatar_files({})
    pipe.model.config.camera = {"width": 64, "height": 64, "K": np.eye(3).tolist(), "viewmat": np.eye(4).tolist()}
    with pytest.raises(ValueError, match="a person's avatar"):
        pipe.push_to_hub("ada/me")
    assert not hub.repos


def test_other_heads_stay_here(hub, avatar, monkeypatch, tmp_path):
    """A user's own FLAME never leaves the machine, nor does what lies on it: by path, or loaded into the model."""
    loaded = EmoTaGPipeline.from_pretrained(avatar)
    asset = loaded.model.head._asset
    monkeypatch.setattr(loaded.model.config.head_config, "asset", str(tmp_path / "flame2023.safetensors"))
    with pytest.raises(ValueError, match="uses the head .*flame2023.* must not be uploaded"):
        loaded.push_to_hub("ada/me")
    monkeypatch.undo()
    flame = replace(asset, metadata=asset.metadata | {"license": "FLAME (Max Planck)"}, sha256="0" * 64)
    loaded.model.head.load_asset_(flame)
    with pytest.raises(ValueError, match="FLAME .Max Planck.*must not be uploaded"):
        loaded.push_to_hub("ada/me")
    assert not hub.repos


def test_speech_encoders_are_named(hub, pipe, tmp_path):
    """wav2vec2 is named by id and revision in config and card, and never copied; what others cannot find is refused."""
    motion = pipe.model.config.motion_config
    motion.audio_model, motion.audio_revision = (
        "facebook/wav2vec2-base-960h",
        "22aad52d435eb6dbaf354bdad9b0da84ce7d6156",
    )
    pipe.push_to_hub("ada/base")
    there = hub.files("ada/base")
    assert motion.audio_revision in there["config.json"].decode()
    assert f"wav2vec2-base-960h at revision {motion.audio_revision}" in there["README.md"].decode().replace("\\", "")
    assert not [key for key in load(there["model.safetensors"]) if "wav2vec" in key or "encoder" in key.split(".")[0]]
    motion.audio_revision = None
    with pytest.raises(ValueError, match="audio_revision: expected the commit of facebook/wav2vec2-base-960h"):
        pipe.push_to_hub("ada/other")
    motion.audio_model = str(tmp_path)
    with pytest.raises(ValueError, match="audio_model: expected a speech encoder's name on the Hub, got the folder"):
        pipe.push_to_hub("ada/other")
    assert set(hub.repos) == {"ada/base"}


def test_models_and_priors(hub, pipe, tmp_path):
    """A mere model and a prior go up with a card of their own, come back equal, and leave each other's files alone."""
    pipe.model.config.avatar_name = "---\nlicense: mit\n# <b>[Free](http://x)</b> {repo_id}"
    pipe.model.config.weights_license = RESEARCH_LICENSE
    pipe.push_to_hub("ada/base", private=False)
    assert not hub.repos["ada/base"].private
    files = hub.files("ada/base")
    text = files["README.md"].decode()
    assert not card_errors(text) and ModelCard(text).data.license_name == RESEARCH_LICENSE
    assert "<b>" not in text.replace("\\<b", "") and "](http" not in text and "\nlicense: mit" not in text
    assert b"non-commercial research" in files["LICENSE.md"] and PREVIEW_VIDEO in files
    pushed = pipe.model.push_to_hub("ada/base", private=False)
    assert set(pushed.files) == {"config.json", "model.safetensors", "README.md", "LICENSE.md"}
    assert hub.files("ada/base").keys() == files.keys()
    again = EmoTaGModel.from_pretrained("ada/base")
    assert all(torch.equal(a, b) for a, b in zip(pipe.model.state_dict().values(), again.state_dict().values()))
    prior = GaussianPrior(GaussianPriorConfig(num_surface=5))
    prior.inner_colors.data.uniform_()
    prior.push_to_hub("ada/prior")
    assert torch.equal(GaussianPrior.from_pretrained("ada/prior").inner_colors, prior.inner_colors)
    assert not card_errors(hub.files("ada/prior")["README.md"].decode())
    with pytest.raises(ValueError, match="push_to_hub"):
        prior.save_pretrained(tmp_path, push_to_hub=True)


@pytest.mark.slow  # a process of its own imports transformers and diffusers
def test_remote_code_brings_the_package(hub, avatar, tmp_path):
    """Who has not imported emotag_hf loads by `trust_remote_code`."""
    push_avatar(avatar, "ada/me", remote_code=True)
    code = "import sys; from transformers import AutoModel, AutoProcessor\n"
    code += "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    code += "assert type(model).__module__.startswith('emotag_hf')\n"
    code += "print(type(AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)).__name__)"
    run = fresh(code, hub, tmp_path / "home", "ada/me")
    assert run.returncode == 0 and run.stdout.strip().endswith("EmoTaGProcessor"), run.stderr


def test_remote_code_only_on_request(hub, avatar):
    """Without it no code lies there; with it, who has imported emotag_hf is not asked. A second push without it takes
    it away."""
    push_avatar(avatar, "ada/me", remote_code=True)
    files = hub.files("ada/me")
    assert set(files) == WHOLE | {SHIM} and "auto_map" in json.loads(files["config.json"])
    assert type(AutoModel.from_pretrained("ada/me")) is EmoTaGModel
    loaded = EmoTaGPipeline.from_pretrained("ada/me")
    loaded.push_to_hub("ada/me")
    files = hub.files("ada/me")
    assert set(files) == WHOLE and b"auto_map" not in files["config.json"] + files["processor_config.json"]


def test_links_out_of_the_folder(hub, avatar, tmp_path):
    """A link in a stranger's avatar does not take a file of the user's along, neither loading nor pushing; a link
    within it, and the cache of the Hub, whose files are links, are fine."""
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (avatar / "background.png").rename(avatar / "picture.png")
    (avatar / "background.png").symlink_to("picture.png")
    EmoTaGPipeline.from_pretrained(avatar)
    (avatar / "background.png").unlink()
    (avatar / "background.png").symlink_to(secret)
    with pytest.raises(AvatarError, match="background.png is a link out of the avatar's folder"):
        push_avatar(avatar, "ada/me")
    with pytest.raises(AvatarError, match="is a link out of"):
        EmoTaGPipeline.from_pretrained(avatar)
    trap = tmp_path / "models--x" / "snapshots" / "1"  # a folder that is built like the cache, with a way out
    trap.parent.mkdir(parents=True)
    avatar.rename(trap)
    (trap.parents[1] / "blobs").symlink_to(tmp_path)
    with pytest.raises(AvatarError, match="is a link out of"):
        read_avatar_info(trap)
    assert not hub.repos


def test_pictures_are_pictures(hub, avatar):
    """A file that is only named like a picture is not pushed."""
    (avatar / "preview.png").write_bytes(b"my passwords")
    with pytest.raises(AvatarError, match="preview.png: expected a PNG"):
        push_avatar(avatar, "ada/me")
    assert not hub.repos


@pytest.mark.parametrize("stage", ["upload", "commit"])
def test_the_connection_breaks(hub, avatar, stage):
    """Whatever was sent by then, the repository holds what it held; another try goes through."""
    push_avatar(avatar, "ada/me")
    before, commits = hub.files("ada/me"), len(hub.repos["ada/me"].commits)
    hub.large.clear()
    pipeline = EmoTaGPipeline.from_pretrained(avatar)
    with torch.no_grad():
        pipeline.model.gaussians.colors += 0.1
    hub.dies_at = stage
    with pytest.raises(
        HubError, match=r"the connection to http://127.* broke.*ada/me is as it was, nothing was commit"
    ):
        pipeline.push_to_hub("ada/me")
    assert hub.files("ada/me") == before and len(hub.repos["ada/me"].commits) == commits
    hub.dies_at = None
    assert pipeline.push_to_hub("ada/me").changed and hub.files("ada/me") != before


def test_who_may_push(hub, avatar, monkeypatch, caplog):
    """A wrong token, somebody else's name, nobody logged in, no connection: a sentence, and never the token in it."""
    with pytest.raises(HubError, match="token: .* does not take this token; `hf auth login`") as caught:
        push_avatar(avatar, "ada/me", token="hf_wrong")
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(HubError, match="may not write to bob/me"):
        push_avatar(avatar, "bob/me")
    assert not hub.repos
    hub.put("ada/seen", {})
    with pytest.raises(HubError, match="ada/seen is there and is public; choose another name"):
        push_avatar(avatar, "ada/seen")
    hub.put("ada/kept", {}, private=True)
    with caplog.at_level(logging.WARNING, "emotag_hf"):
        assert push_avatar(avatar, "ada/kept", private=False).private
    assert "ada/kept is there and is private, and stays so" in caplog.text
    HfApi(token="hf_ada").delete_repo("ada/kept")
    assert "ada/kept" not in hub.repos
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="token: "):
        push_avatar(avatar, "ada/me")
    hub.dies_at = "all"
    with pytest.raises(HubError, match="the connection to .* broke"):
        push_avatar(avatar, "ada/me", token="hf_ada")


@pytest.mark.parametrize("name", ["../x/y", "../x", "/tmp/x", "a/../b", "a/b/c", "C:\\x", "", "a b/c", "-a/b", "x.git"])
def test_names_that_are_none(hub, avatar, name, monkeypatch):
    """A path is no name on the Hub: refused before anything is read, drawn or asked."""
    monkeypatch.setattr(sharing, "push_folder", lambda *args, **options: pytest.fail("it went on"))
    with pytest.raises(ValueError, match="repo_id: expected a name on the Hub such as 'user/name'"):
        push_avatar(avatar, name)
    if name:
        with pytest.raises(FileNotFoundError, match="expected a folder or a repository"):
            EmoTaGPipeline.from_pretrained(name)
    assert not hub.requests


def test_what_is_downloaded_is_what_avatars_have():
    """Every file of an avatar is on the list, or it would be missing after a push."""
    assert set(AVATAR_FILES) <= set(DOWNLOADED) and CLIP == SOURCE["sha256"]
