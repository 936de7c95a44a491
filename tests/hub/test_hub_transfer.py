"""What comes down from the Hub: names on the list, no pickle, nothing huge, and a sentence where nothing comes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from huggingface_hub import constants

from emotag_hf import EmoTaGModel, EmoTaGPipeline, GaussianPrior
from emotag_hf.hub.hub_transfer import HubError, fetch, push_folder
from emotag_hf.hub.repo_contents import DOWNLOADED

pytest_plugins = ["hub_fixtures"]
WEIGHTS = (8).to_bytes(8, "little") + b"{}      "  # a safetensors file without tensors


def test_only_names_on_the_list(hub, caplog):
    """Scripts, videos, odd names and pickles of a stranger's repository stay there; the pickle is told."""
    strange = {
        "run_me.py": b"boom",
        "preview.mp4": b"x" * 5000,
        "pytorch_model.bin": b"\x80\x04",
        "sub/config.json": b"{}",
    }
    hub.put("bob/odd", {"config.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"# x"} | strange)
    with caplog.at_level(logging.WARNING, "emotag_hf"):
        folder = Path(fetch("bob/odd"))
    assert {path.name for path in folder.rglob("*")} == {"config.json", "model.safetensors", "README.md"}
    assert "bob/odd also holds 'pytorch_model.bin': pickles can run anything" in caplog.text
    asked = {path.rsplit("/", 1)[-1] for command, path in hub.requests if "/resolve/" in path}
    assert asked <= set(DOWNLOADED)


@pytest.mark.parametrize("loader", [EmoTaGPipeline, EmoTaGModel, GaussianPrior])
def test_a_repository_with_nothing_but_a_pickle(hub, loader):
    """Refused before a byte of it is there."""
    hub.put("bob/bad", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(
        ValueError, match="no model.safetensors .it has 'pytorch_model.bin', but pickled weights are nev"
    ):
        loader.from_pretrained("bob/bad")
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_a_pickle_in_disguise(hub):
    """Weights that only have the right name are refused when they are opened."""
    hub.put("bob/bad", {"config.json": b"{}", "model.safetensors": b"\x80\x04\x95" + b"x" * 100})
    with pytest.raises(ValueError, match="is a pickle, which is never loaded"):
        EmoTaGPipeline.from_pretrained("bob/bad")


def test_a_huge_repository(hub):
    """Two gigabytes are refused by the listing, before they come."""
    hub.put("bob/big", {"config.json": b"{}", "model.safetensors": WEIGHTS}, model=2_000_000_000)
    with pytest.raises(ValueError, match=r"bob/big has 2.0 GB, more than the 1 GB .* nothing was downloaded"):
        EmoTaGPipeline.from_pretrained("bob/big")
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_what_is_not_there(hub, monkeypatch, tmp_path):
    """A missing repository, a missing revision, a wrong token, no connection: each its sentence."""
    hub.put("bob/there", {"config.json": b"{}", "model.safetensors": WEIGHTS}, private=True)
    with pytest.raises(
        FileNotFoundError, match="there is no folder 'ada/none', .* no repository ada/none, or it is priv"
    ):
        EmoTaGPipeline.from_pretrained("ada/none")
    with pytest.raises(FileNotFoundError, match="bob/there has no such revision"):
        fetch("bob/there", revision="v9", token="hf_bob")
    with pytest.raises(FileNotFoundError, match="no repository bob/there, or it is private"):
        fetch("bob/there", token="hf_wrong")
    kept = fetch("bob/there", token="hf_bob")
    hub.dies_at = "all"
    assert fetch("bob/there", token="hf_bob") == kept  # of the cache
    assert fetch("bob/there", local_files_only=True) == kept
    with pytest.raises(FileNotFoundError, match="there is no folder 'bob/new'"):
        fetch("bob/new")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("bob/there") == kept
    with pytest.raises(FileNotFoundError, match="outgoing traffic has been disabled"):
        fetch("bob/new")


def test_what_may_go_up(hub, tmp_path, monkeypatch):
    """A folder with another name, a link or too much in it is refused before the Hub is asked."""
    (tmp_path / "x").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "x" / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="folder: expected plain files named .*, got 'README.md'"):
        push_folder(tmp_path / "x", "ada/x")
    (tmp_path / "x" / "README.md").unlink()
    (tmp_path / "x" / "flame2023.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match="got 'flame2023.pkl'"):
        push_folder(tmp_path / "x", "ada/x")
    (tmp_path / "x" / "flame2023.pkl").unlink()
    with (tmp_path / "x" / "model.safetensors").open("wb") as file:
        file.truncate(2_000_000_000)  # takes no room on disk
    with pytest.raises(ValueError, match="expected at most 1 GB to push, got 2.0 GB"):
        push_folder(tmp_path / "x", "ada/x")
    assert not hub.requests


def test_a_card_that_the_hub_refuses(hub, tmp_path):
    """What the Hub says against a card arrives as a sentence, without control characters, and nothing was committed."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "README.md").write_text("---\nlicense: stolen\n---\n# \x1b[2J\n")
    with pytest.raises(HubError, match="license.* must be one of") as caught:
        push_folder(tmp_path / "x", "ada/x")
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value) and not hub.files("ada/x")


def test_hostile_listings(hub):
    """Names that lead out of a folder are no names on the list: nothing is written anywhere."""
    names = ["../../../../evil.py", "/etc/cron.d/evil", "a/../../config.json"]
    hub.put("bob/out", dict.fromkeys(names, b"x") | {"config.json": b"{}", "model.safetensors": WEIGHTS})
    folder = Path(fetch("bob/out"))
    assert {path.name for path in folder.rglob("*")} == {"config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text()) == {}
