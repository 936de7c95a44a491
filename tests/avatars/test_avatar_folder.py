"""The avatar folder: a model that says whose face it is, whole or not there, small, and safe to open."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from synthetic_clip import make_clip

from emotag_hf import EmoTaGConfig, EmoTaGModel, EmoTaGPipeline
from emotag_hf.avatars import avatar_folder as avatar_module
from emotag_hf.avatars.avatar_facts import AvatarError, decode_picture, plain_facts, source_of_clip
from emotag_hf.avatars.avatar_folder import (
    AVATAR_FILES,
    check_avatar_folder,
    is_avatar,
    make_avatar_files,
    read_avatar_files,
    read_avatar_info,
    write_avatar,
)
from emotag_hf.hub.avatar_card import RESEARCH_LICENSE, escape, research_license_text
from emotag_hf.models.processing_emotag import EmoTaGProcessor
from emotag_hf.rights.consent import Consent, ConsentError

CLIP = "ab" * 32
SOURCE = {
    "sha256": CLIP, "frames_used": 125, "width": 512, "height": 512, "seconds": 5.04, "fps": 29.97,
    "tracker_version": 1,
}  # fmt: skip
METRICS = {"oracle": {"face_box_psnr_db": 27.46813, "frames": [125, 126, 127]}, "lip_correlation": float("nan")}
CONSENT = Consent(
    person="Zoë | <b>Example</b> [x](http://example.org)",
    purposes=("private_use", "research"),
    statement="I agree.\n# And this is no heading",
    date="2025-05-01T12:00:00+02:00",
    clip_sha256=CLIP,
    how="terminal",
)
PICTURE = (np.mgrid[:48, :64].sum(0)[..., None] * np.array([1, 2, 0])).astype(np.uint8)


@pytest.fixture
def pipe():
    """A toy model on the open head, as adaptation would hand it over."""
    config = EmoTaGConfig(
        gaussians_config={"num_gaussians": 50, "num_mouth_gaussians": 10},
        motion_config={"hidden_dim": 32, "num_layers": 1, "intermediate_dim": 32, "triplane_resolution": 4},
    )
    return EmoTaGPipeline(EmoTaGModel(config), EmoTaGProcessor())


def write(pipe, folder: Path, **changes):
    about = {"consent": CONSENT, "source": SOURCE, "training": {"steps": 800}, "metrics": METRICS}
    return write_avatar(pipe, folder, **(about | changes))


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_written_comes_back(pipe, tmp_path):
    """Facts, consent and pictures; the model loads from the same flat folder; nothing else lies there or beside it."""
    info = write(pipe, tmp_path / "me", preview=PICTURE, background=PICTURE[::-1])
    assert read_avatar_info(tmp_path / "me") == info and is_avatar(tmp_path / "me")
    assert info.consent == CONSENT and info.source == SOURCE and info.training == {"steps": 800}
    assert info.metrics == {"oracle": METRICS["oracle"], "lip_correlation": None}
    assert info.licenses == {"head": "Apache-2.0", "motion": "apache-2.0", "gaussian_prior": "apache-2.0"}
    assert os.listdir(tmp_path) == ["me"]
    assert {path.name for path in (tmp_path / "me").iterdir()} == {*AVATAR_FILES, *avatar_module._MODEL_FILES}
    files = read_avatar_files(tmp_path / "me")
    assert files == pipe.avatar_files and files.keys() == AVATAR_FILES.keys()
    np.testing.assert_array_equal(decode_picture(files["preview.png"], "preview"), PICTURE)
    np.testing.assert_array_equal(decode_picture(files["background.png"], "background"), PICTURE[::-1])
    again = EmoTaGPipeline.from_pretrained(tmp_path / "me")
    for ours, theirs in zip(pipe.model.state_dict().values(), again.model.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_the_same_avatar_is_the_same_bytes(pipe, tmp_path):
    """No clock and no path is in it, so that a resumed adaptation can be compared with one that ran through."""
    write(pipe, tmp_path / "a", preview=PICTURE)
    write(pipe, tmp_path / "b", preview=PICTURE)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    assert not any(str(tmp_path).encode() in content for content in content_of(tmp_path / "a").values())
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()}
    assert len(modes) == 1  # safetensors made files that no web server could read


def test_optional_parts_may_be_left_out(pipe, tmp_path):
    """Without pictures, training numbers and held-out numbers: an avatar that says so."""
    info = write_avatar(pipe, tmp_path / "me", consent=CONSENT, source=SOURCE)
    assert info.metrics is None and info.training == {}
    card = (tmp_path / "me" / "README.md").read_text(encoding="utf-8")
    assert "nothing was measured" in card and "preview.png" not in card
    assert not (tmp_path / "me" / "preview.png").exists()


def test_the_card_is_one_for_the_hub(pipe, tmp_path):
    """Its header is what the Hub reads; what the person is called stays text; the numbers are there."""
    write(pipe, tmp_path / "me", preview=PICTURE, base_model="user/emotag-base")
    text = (tmp_path / "me" / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("emotag_hf", "image-to-video")
    assert data.base_model == "user/emotag-base" and "talking-head" in data.tags
    assert (data.license, data.license_name, data.license_link) == ("other", "avatar-by-consent", "LICENSE.md")
    assert "private use, research" in data.to_dict()["extra_gated_prompt"]
    assert "![A rendering of" in text and "Private: the person did not agree to publication" in text
    assert "| oracle, face\\_box\\_psnr\\_db | 27.47 |" in text
    assert "| lip\\_correlation | not known |" in text and "[125" not in text
    assert "<b>" not in text.replace("\\<b\\>", "") and "](http" not in text
    assert re.search(r"^> I agree\.\n> \\# And", text, re.M) and "$" not in text and "5.0 s of video" in text
    rights = (tmp_path / "me" / "LICENSE.md").read_text(encoding="utf-8")
    assert "may not be given to others" in rights and "- research" in rights and "<b>" not in rights.replace("\\<b", "")


def test_text_stays_text():
    """Nothing that a name holds becomes Markdown or HTML."""
    assert escape("a | b *c* `d` <e> [f](http://g) #h ~i~ \\j &amp;") == (
        "a \\| b \\*c\\* \\`d\\` \\<e\\> \\[f\\]\\(http:\\/\\/g\\) \\#h \\~i\\~ \\\\j \\&amp;"
    )
    assert escape("---\n=== -\n  + x") == "\\---\n\\=== -\n\\+ x" and escape("Zoë O'Hara, Jr.") == "Zoë O'Hara, Jr."


def test_a_synthetic_person_may_be_free(pipe, tmp_path):
    """Nobody had to agree: the licence is that of the weights, and no licence file is needed."""
    write(pipe, tmp_path / "me", consent=Consent.synthetic("Remy", CLIP))
    text = (tmp_path / "me" / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert data.license == "apache-2.0" and data.license_name is None and "synthetic" in data.tags
    assert "does not exist" in text and not (tmp_path / "me" / "LICENSE.md").exists()
    assert "extra_gated_prompt" not in data.to_dict()


def test_research_weights_keep_their_licence(pipe, tmp_path):
    """Weights adapted from research weights stay under their licence, and its text has to go with them."""
    parts = {"gaussian_prior": RESEARCH_LICENSE}
    with pytest.raises(AvatarError, match="licenses.gaussian_prior: .* config.weights_license says apache-2.0"):
        write(pipe, tmp_path / "me", licenses=parts)
    pipe.model.config.weights_license = RESEARCH_LICENSE
    info = write(pipe, tmp_path / "me", licenses=parts | {"head": "FLAME (Max Planck)"})
    assert info.licenses == {"head": "FLAME (Max Planck)", "motion": RESEARCH_LICENSE, **parts}
    assert research_license_text().strip() in (tmp_path / "me" / "LICENSE.md").read_text(encoding="utf-8")
    assert "non-commercial use only" in (tmp_path / "me" / "README.md").read_text(encoding="utf-8")
    write(pipe, tmp_path / "x", licenses=parts, consent=Consent.synthetic("Remy", CLIP))
    data = ModelCard((tmp_path / "x" / "README.md").read_text(encoding="utf-8")).data
    assert (data.license, data.license_name, data.license_link) == ("other", RESEARCH_LICENSE, "LICENSE.md")
    with pytest.raises(AvatarError, match="licenses: unknown mouth; expected head, motion, gaussian_prior"):
        write(pipe, tmp_path / "y", licenses={"mouth": "mit"})


def test_nothing_is_written_without_consent(pipe, tmp_path):
    """For another recording, expired or broken: no folder, and none of what lay there changes."""
    over = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    for consent, message in (
        (replace(CONSENT, clip_sha256="cd" * 32), "another|this one"),
        (replace(CONSENT, expires=over), "expired"),
        (replace(CONSENT, purposes=()), "consent.purposes"),
    ):
        with pytest.raises(ConsentError, match=message):
            write(pipe, tmp_path / "me", consent=consent)
    assert not list(tmp_path.iterdir())


def test_an_expired_consent_warns_at_loading(pipe, tmp_path, caplog):
    """The avatar still opens, and its owner is told; before its end nothing is said."""
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    write(pipe, tmp_path / "me", consent=replace(CONSENT, expires=soon))
    assert not caplog.records
    path = tmp_path / "me" / "consent.json"
    path.write_text(path.read_text(encoding="utf-8").replace(soon, "2025-06-01T00:00:00Z"), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert read_avatar_info(tmp_path / "me").consent.is_expired()
    assert "expired on 2025-06-01" in caplog.text


def test_foreign_folders_are_left_alone(pipe, tmp_path):
    """Only an empty folder or, asked for, an avatar is replaced; never a file, somebody's folder, or a model."""
    folder = tmp_path / "me"
    folder.mkdir()
    write(pipe, folder)  # empty: fine
    before = content_of(folder)
    with pytest.raises(AvatarError, match="there is an avatar in .*overwrite=True"):
        write(pipe, folder)
    (folder / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(AvatarError, match="holds holiday.jpg, which does not belong to an avatar and would be lost"):
        write(pipe, folder, overwrite=True)
    (folder / "holiday.jpg").unlink()
    (folder / ".git").mkdir()
    with pytest.raises(AvatarError, match="holds .git"):
        write(pipe, folder, overwrite=True)
    (folder / ".git").rmdir()
    assert content_of(folder) == before
    EmoTaGPipeline(pipe.model, pipe.processor).save_pretrained(tmp_path / "model")  # no avatar
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "avatar.json").write_bytes(b"{")
    for name, message in (
        ("model", "holds .* and is no avatar"),
        ("file", "is a file"),
        ("damaged", "no avatar"),
        ("file/me", "nothing can be written|cannot be used"),
    ):
        with pytest.raises(AvatarError, match=message):
            write(pipe, tmp_path / name, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["damaged", "file", "me", "model"]


def test_overwriting_leaves_nothing_of_the_old_one(pipe, tmp_path):
    """An avatar with pictures is replaced by one without: whole, and through a link at the link's place."""
    write(pipe, tmp_path / "real", preview=PICTURE, background=PICTURE)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(pipe, tmp_path / "link", overwrite=True, training={"steps": 1})
    assert read_avatar_info(tmp_path / "real").training == {"steps": 1}
    assert not (tmp_path / "real" / "preview.png").exists() and "preview.png" not in pipe.avatar_files
    assert (tmp_path / "link").is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.mark.parametrize("stage", ["save_pretrained", "read_avatar_info", "_settle", "_swap"])
def test_a_failure_leaves_the_old_avatar(pipe, tmp_path, monkeypatch, stage):
    """Wherever it stops, the folder is the old avatar as it was, and no half of a new one lies beside it."""
    write(pipe, tmp_path / "me")
    before = content_of(tmp_path / "me")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if stage == "_swap":  # the renaming itself fails, after the old one has stepped aside
        rename = os.rename
        monkeypatch.setattr(avatar_module.os, "rename", lambda a, b: fail() if ".new-" in str(a) else rename(a, b))
    else:
        monkeypatch.setattr(pipe if stage == "save_pretrained" else avatar_module, stage, fail)
    with pytest.raises(AvatarError, match="cannot be written .No space left on device"):
        write(pipe, tmp_path / "me", overwrite=True, training={"steps": 2})
    monkeypatch.undo()
    assert content_of(tmp_path / "me") == before and os.listdir(tmp_path) == ["me"]


def test_too_large_is_refused(pipe, tmp_path, monkeypatch):
    """The limit is a promise to whoever downloads it; the message says what to do."""
    write(pipe, tmp_path / "me")
    size = (tmp_path / "me" / "model.safetensors").stat().st_size
    monkeypatch.setattr(avatar_module, "MAX_WEIGHTS_BYTES", size)
    write(pipe, tmp_path / "fits")
    monkeypatch.setattr(avatar_module, "MAX_WEIGHTS_BYTES", size - 1)
    with pytest.raises(AvatarError, match="MB of safetensors, got .* fewer Gaussians"):
        write(pipe, tmp_path / "large")
    assert sorted(os.listdir(tmp_path)) == ["fits", "me"]
    monkeypatch.undo()
    assert avatar_module.MAX_WEIGHTS_BYTES == 12_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": SOURCE | {"name": "zoe.mp4"}}, "source: expected sha256, .* and nothing else, got .*name"),
        ({"source": {k: v for k, v in SOURCE.items() if k != "fps"}}, "source: expected"),
        ({"source": SOURCE | {"seconds": float("nan")}}, "source.seconds: expected a number above 0 or None"),
        ({"source": SOURCE | {"width": 12.5}}, "source.width: expected a whole number"),
        ({"source": SOURCE | {"frames_used": None}}, "source.frames_used"),
        ({"source": SOURCE | {"sha256": "zoe.mp4"}}, "source.sha256"),
        ({"training": {"clip": "/home/zoe/zoe.mp4"}}, "training.clip: expected plain text and no path"),
        ({"training": {"log": ["written to C:\\Users\\Zoe"]}}, "training.log: .*no path"),
        ({"metrics": {"x": object()}}, "metrics.x: expected numbers, texts, lists"),
        ({"metrics": {"x": torch.zeros(3)}}, "metrics.x: .*got a Tensor"),
        ({"metrics": [1]}, "metrics: expected a dict, got a list"),
        ({"metrics": {1: 2}}, "metrics: expected short texts as keys, got 1"),
        ({"metrics": {"x": list(range(300_000))}}, "metrics: .* bytes of facts are too many"),
        ({"base_model": "/models/emotag"}, "base_model: expected a name as on the Hub"),
        ({"preview": PICTURE.astype(np.float32)}, r"preview: expected uint8 \[H, W, 3\], got float32"),
        ({"background": PICTURE[..., 0]}, r"background: expected uint8 \[H, W, 3\], got uint8 \[48, 64\]"),
        ({"preview": np.zeros((1, 5000, 3), np.uint8)}, "preview: expected at most 4096"),
    ],
)
def test_wrong_facts_are_refused_by_name(pipe, tmp_path, changes, message):
    """Names of files and paths of a machine do not slip into what is uploaded, nor do things that are no facts."""
    with pytest.raises(AvatarError, match=message):
        write(pipe, tmp_path / "me", **changes)
    assert not list(tmp_path.iterdir())


def test_numbers_of_any_library_are_taken():
    """Measurements come as NumPy's and torch's numbers; an undefined one must not cost a finished avatar."""
    facts = {"a": np.float32(0.5), "b": torch.tensor(3), "c": np.arange(2), "d": float("inf"), "e": (True, None)}
    plain = plain_facts("metrics", facts | {"f": np.bool_(True), "g": "0.8 L1 / 0.2 SSIM", "h": np.array(2.5)})
    assert plain == {
        "a": 0.5, "b": 3, "c": [0, 1], "d": None, "e": [True, None], "f": True, "g": "0.8 L1 / 0.2 SSIM", "h": 2.5,
    }  # fmt: skip
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_source_of_a_processed_clip(tmp_path, pipe):
    """What is said of the recording leaves its name out, and is what a consent is bound to."""
    clip = make_clip(tmp_path / "clip")
    source = source_of_clip(clip.info, 20)
    assert source == {
        "sha256": "1" * 64, "frames_used": 20, "width": 64, "height": 48, "seconds": None, "fps": None,
        "tracker_version": None,
    }  # fmt: skip
    full = clip.info | {"source": SOURCE | {"name": "made.mp4", "rotation": 90}, "request": {"tracker": 3}}
    assert source_of_clip(full, 7) == SOURCE | {"frames_used": 7, "tracker_version": 3}
    write(pipe, tmp_path / "me", source=source, consent=replace(CONSENT, clip_sha256="1" * 64))
    assert b"made.mp4" not in b"".join(content_of(tmp_path / "me").values())


def _change(folder: Path, name: str, edit) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    edit(content)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("avatar.json", lambda c: c.update(format="other"), "is not one's"),
        ("avatar.json", lambda c: c.update(format_version=2), "newer avatar format than 1.*update it"),
        ("avatar.json", lambda c: c.update(format_version="1"), "no format_version"),
        ("avatar.json", lambda c: c.pop("source"), "'source' is missing"),
        ("avatar.json", lambda c: c.update(source=[]), "source: expected"),
        ("avatar.json", lambda c: c.update(licenses=None), "is not an avatar's"),
        ("avatar.json", lambda c: c["licenses"].update(motion="a\x1bb"), "motion: expected a short text"),
        ("avatar.json", lambda c: c.update(metrics={"a": {"b": {"c": {"d": {}}}}}), "at most 4 deep"),
        ("avatar.json", lambda c: c["training"].update(x="\ud800"), "training.x"),
        ("avatar.json", lambda c: c.update(base_model="../../x"), "base_model"),
        ("consent.json", lambda c: c.update(clip_sha256="cd" * 32), "for another recording than the avatar"),
        ("consent.json", lambda c: c.update(person=""), "consent.person: .*It stands in .*consent.json"),
    ],
)
def test_a_strangers_folder_gives_one_sentence(pipe, tmp_path, name, edit, message):
    """What a downloaded avatar says is checked before anything of it is used."""
    write(pipe, tmp_path / "me")
    _change(tmp_path / "me", name, edit)
    with pytest.raises(ValueError, match=message):
        read_avatar_info(tmp_path / "me")


def test_what_is_no_avatar(pipe, tmp_path):
    """A model without consent, an empty folder, garbage, nothing: said, not crashed; and a cut-off model is named."""
    EmoTaGPipeline(pipe.model, pipe.processor).save_pretrained(tmp_path / "model")  # no avatar
    assert not is_avatar(tmp_path / "model") and read_avatar_files(tmp_path / "model") == {}
    with pytest.raises(AvatarError, match="has no avatar.json"):
        read_avatar_info(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_avatar_info(tmp_path / "nowhere")
    assert not is_avatar(tmp_path / "nowhere")
    for data in (b"", b"[]", b"[" * 100_000, b"\xff", b" " * 1_000_001):
        (tmp_path / "model" / "avatar.json").write_bytes(data)
        assert not is_avatar(tmp_path / "model")
        with pytest.raises(AvatarError):
            read_avatar_info(tmp_path / "model")
    write(pipe, tmp_path / "me")
    whole = (tmp_path / "me" / "model.safetensors").read_bytes()
    (tmp_path / "me" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_avatar_info(tmp_path / "me")
    (tmp_path / "me" / "consent.json").unlink()
    with pytest.raises(AvatarError, match="has no consent.json; an avatar without consent is not used"):
        read_avatar_files(tmp_path / "me")


def test_pictures_of_strangers(tmp_path):
    """No other format than PNG is opened, and nothing huge is unpacked."""
    jpeg, huge = tmp_path / "a.jpg", tmp_path / "b.png"
    Image.new("RGB", (8, 8)).save(jpeg)
    Image.new("1", (20_000, 4)).save(huge)
    for data in (jpeg.read_bytes(), huge.read_bytes(), b"", huge.read_bytes()[:40]):
        with pytest.raises(AvatarError, match="preview: expected a PNG of at most 4096 pixels a side"):
            decode_picture(data, "preview")


def test_files_of_an_avatar_that_was_never_written(pipe):
    """An avatar in memory has the same files: it can be pushed without a folder."""
    files = make_avatar_files(pipe, consent=CONSENT, source=SOURCE, preview=PICTURE)
    assert set(files) == {"avatar.json", "consent.json", "README.md", "LICENSE.md", "preview.png"}


def test_checking_changes_nothing_and_reading_is_quick(pipe, tmp_path):
    """The place is checked before a long adaptation; what an avatar says is read in no time, beside loading it."""
    check_avatar_folder(tmp_path / "deep" / "down" / "me")
    assert not list(tmp_path.iterdir())
    write(pipe, tmp_path / "deep" / "down" / "me", preview=PICTURE)
    times = []
    for _ in range(5):  # the quickest of some: other processes have their moments
        began = time.perf_counter()
        read_avatar_files(tmp_path / "deep" / "down" / "me")
        times.append(time.perf_counter() - began)
    assert min(times) < 0.1
