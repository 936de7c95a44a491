"""`emotag prepare`, `doctor` and `setup`: what they hand on, what they print, their exit codes. The work itself
is a stand-in here; it has its own tests."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from emotag_hf import cli
from emotag_hf.preprocessing.data import prepare as prepare_module
from emotag_hf.preprocessing.data import prepare_many as many_module
from emotag_hf.preprocessing.data import vhap as vhap_module
from emotag_hf.preprocessing.data.prepare_many import PrepareResult
from emotag_hf.preprocessing.tracking import setup as installer


def fake_clip(path) -> SimpleNamespace:
    track = SimpleNamespace(
        valid=torch.tensor([True, True, False]), held_out_error=torch.tensor([1.0, 2.0, float("nan")])
    )
    return SimpleNamespace(path=Path(path), num_frames=3, track=track, warnings=["there is no sound."])


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def one(source, output=None, **options):
        seen.append(("one", source, output, options))
        if source == "gone.mp4":
            raise FileNotFoundError("path: expected a video, but there is no file gone.mp4.")
        return fake_clip(output or "me_clip")

    def many(sources, output, **options):
        seen.append(("many", sources, output, options))
        good = PrepareResult(Path("a.mp4"), Path("out/a"), None, (), 1.0)
        return [good, PrepareResult(Path("b.mp4"), Path("out/b"), "no face.", (), 1.0)]

    def vhap(source, output=None, **options):
        seen.append(("vhap", source, output, options))
        return fake_clip(output or "vhap_clip")

    monkeypatch.setattr(prepare_module, "prepare", one)
    monkeypatch.setattr(many_module, "prepare_many", many)
    monkeypatch.setattr(vhap_module, "import_vhap", vhap)
    return seen


def test_prepare_one(calls, capsys):
    """Options and teachers arrive; the last line says how many frames are good and how well they are met."""
    words = "prepare me.mp4 -o out --size 256 --crop whole --face 2 --emotion some/model --depth other/model -q"
    assert cli.main(words.split()) == 0
    kind, source, output, options = calls[0]
    assert (kind, source, output) == ("one", "me.mp4", "out")
    assert (options["size"], options["crop"], options["face"], options["progress"]) == (256, "whole", 2, False)
    features = options["features"]
    assert (features.emotion, features.depth, features.action_units) == ("some/model", "other/model", "head")
    printed = capsys.readouterr().out
    assert "note: there is no sound." in printed and "3 frames, 2 of them good" in printed and "1.0 px" in printed


def test_prepare_json(calls, capsys):
    """For programs: facts as JSON and nothing else."""
    assert cli.main(["prepare", "me.mp4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frames"] == 3 and facts["valid_frames"] == 2 and facts["warnings"] == ["there is no sound."]


def test_prepare_many(calls, capsys, tmp_path):
    """A folder, or several videos; a failed one is named, and the exit code says so."""
    words = ["prepare", str(tmp_path), "-o", "out", "--workers", "2", "--shard", "1/4"]
    assert cli.main(words) == 2
    kind, source, output, options = calls[0]
    assert (kind, source, output, options["workers"], options["shard"]) == ("many", str(tmp_path), "out", 2, (1, 4))
    assert "b.mp4: no face." in capsys.readouterr().out
    assert cli.main(["prepare", "a.mp4", "b.mp4", "-o", "out", "--json"]) == 2
    assert calls[1][1] == ["a.mp4", "b.mp4"]
    assert [row["error"] for row in json.loads(capsys.readouterr().out)] == [None, "no face."]


def test_prepare_a_vhap_export(calls, tmp_path):
    """A folder with a VHAP export in it is that, not a folder of videos."""
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": []}))
    assert cli.main(["prepare", str(tmp_path), "-q"]) == 0
    assert calls[0][0] == "vhap" and "face" not in calls[0][3]


@pytest.mark.parametrize(
    "words, message",
    [
        ("prepare gone.mp4", "there is no file gone.mp4"),
        ("prepare a.mp4 b.mp4", "--output: several videos need the folder"),
        ("prepare a.mp4 b.mp4 -o out --audio x.wav", "--audio: expected one video"),
        ("prepare a.mp4 --action-units nonsense", "action_units: expected"),
    ],
)
def test_what_a_user_can_put_right(calls, capsys, words, message):
    """One sentence and exit code 2."""
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_shard_that_cannot_be(capsys):
    """Said by the parser, before any work."""
    with pytest.raises(SystemExit) as stop:
        cli.main("prepare a.mp4 --shard two".split())
    assert stop.value.code == 2 and "expected I/N" in capsys.readouterr().err


def test_stopped_by_hand(monkeypatch, capsys):
    """^C in the middle of preparing says that nothing is lost."""

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "prepare", stop)
    assert cli.main(["prepare", "me.mp4"]) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_setup_only_says(monkeypatch, capsys):
    """`emotag setup tracking --dry-run` names every package and runs nothing."""
    monkeypatch.setattr(installer, "_check_python", lambda: None)
    assert cli.main(["setup", "tracking", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "mediapipe==0.10.21" in printed and "--no-deps" in printed and "protobuf" in printed


def test_doctor(tmp_path, capsys, caplog):
    """A video that is none is one sentence; a real one's report is the doctor's own test."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    with caplog.at_level(logging.CRITICAL):
        assert cli.main(["doctor", str(broken)]) == 2
    assert "broken.mp4" in capsys.readouterr().err
