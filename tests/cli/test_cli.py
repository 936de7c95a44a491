"""The `emotag` command: what it hands to the pipeline, what it prints, and its exit codes. The pipeline is a stand-in
that writes a real file; the real one has its own tests."""

from __future__ import annotations

import errno
import json
import os
import runpy
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest

from emotag_hf import cli
from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.video.video_reader import read_video
from emotag_hf.video.video_writer import VideoWriter

CALLS: list = []


class FakePipeline:
    """Remembers how it was called and makes a grey video of the right length."""

    model = SimpleNamespace(warm_up=lambda: CALLS.append(("warm_up", None)))

    @classmethod
    def from_pretrained(cls, path=None):
        CALLS.append(("from_pretrained", path))
        return cls()

    def set_progress_bar_config(self, **kwargs):
        CALLS.append(("progress", kwargs))

    def __call__(self, audio, **kwargs):
        CALLS.append(("call", kwargs))
        if kwargs["seed"] == 14:
            raise ValueError("seed: expected\n luck, got 14.")
        if kwargs["seed"] == 15:
            raise KeyError("a fault of ours")
        self.audio, self.options = audio, kwargs
        return self

    def idle(self, seconds, *, loop, **kwargs):
        CALLS.append(("idle", {"seconds": seconds, "loop": loop, **kwargs}))
        tone = np.full((round(seconds * 16_000), 1), 0.1, np.float32)
        self.audio, self.options = AudioClip(tone, 16_000), kwargs
        return self

    def save(self, path):
        if self.options["seed"] == 13:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size, fps = self.options["size"], self.options["fps"]
        with VideoWriter(path, size, size, fps, audio=self.audio) as writer:
            for _ in range(round(self.audio.duration * fps)):
                writer.write(np.full((size, size, 3), 128, np.uint8))


@pytest.fixture(autouse=True)
def fake_pipeline(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(
        sys.modules, "emotag_hf.pipelines.pipeline_emotag", SimpleNamespace(EmoTaGPipeline=FakePipeline)
    )


@pytest.fixture
def speech(tmp_path):
    """One second of a tone."""
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((8_000 * np.sin(0.2 * np.arange(16_000))).astype("<i2").tobytes())
    return path


def test_speak(speech, tmp_path, capsys):
    """Every option reaches the pipeline, the video is there, and the last line says what and how fast."""
    out = tmp_path / "out.mp4"
    options = "--model avatar --emotion happy --intensity 0.7 --seed 1 --fps 30 --size 64 --background #336699"
    options += " --look-ahead 0.4 --articulation 1.2"
    assert cli.main(["speak", str(speech), "-o", str(out), *options.split()]) == 0
    calls = dict(CALLS)
    assert calls["from_pretrained"] == "avatar"
    assert calls["call"] == {
        "emotion": "happy",
        "intensity": 0.7,
        "seed": 1,
        "fps": 30.0,
        "size": 64,
        "background": "#336699",
        "head_motion": 1.0,
        "articulation": 1.2,
        "look_ahead": 0.4,
        "pose_from": None,
        "expression_from": None,
    }
    assert calls["progress"]["disable"] is None
    assert read_video(out).num_frames == 30
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"{out}: 1.0 s of video in ") and last.endswith("x real time)")


def test_quiet_and_defaults(speech, tmp_path, capsys):
    """Without options the embedded model speaks with its own reading of the voice; --quiet prints nothing."""
    assert cli.main(["speak", str(speech), "-o", str(tmp_path / "out.mp4"), "--quiet", "--size", "64"]) == 0
    calls = dict(CALLS)
    assert calls["from_pretrained"] is None and calls["progress"]["disable"] is True
    assert calls["call"]["emotion"] is None and calls["call"]["seed"] == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{dir}/missing.wav", "-o", "{dir}/out.mp4"], "audio: expected a recording, but there is no file"),
        (["{dir}", "-o", "{dir}/out.mp4"], "is a folder"),
        (["{text}", "-o", "{dir}/out.mp4"], "is not a recording"),
        (["{speech}", "-o", "{dir}/nowhere/out.mp4"], "path: expected a folder that exists"),
        (["{speech}", "-o", "{dir}/out.avi"], "path: expected a name that ends in .mp4"),
        (["{speech}", "-o", "{dir}/out.mp4", "--emotion", "bored"], "emotion: expected one of angry, "),
        (["{speech}", "-o", "{dir}/out.mp4", "--intensity", "1.1"], "intensity: expected"),
        (["{speech}", "-o", "{dir}/out.mp4", "--size", "65"], "size: expected even numbers"),
        (["{speech}", "-o", "{dir}/out.mp4", "--fps", "9"], "fps: expected"),
        (["{speech}", "-o", "{dir}/out.mp4", "--seed", "14"], "seed: expected luck, got 14."),
        (["{speech}", "-o", "{dir}/out.mp4", "--seed", "13"], "No space left on device"),
    ],
)
def test_user_errors(speech, tmp_path, capsys, arguments, words):
    """What the user can put right: exit code 2, one line, no traceback, no file."""
    text = tmp_path / "text.wav"
    text.write_text("hello " * 100)
    before = sorted(tmp_path.iterdir())
    places = {"dir": tmp_path, "speech": speech, "text": text}
    assert cli.main(["speak", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("emotag: ") and words in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["speak"],
        ["speak", "a.wav"],
        ["speak", "-o", "a.mp4"],
        ["speak", "a.wav", "-o", "a.mp4", "--fps", "x"],
    ],
)
def test_wrong_words(arguments, capsys):
    """argparse's own errors are one sentence as well."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_come_before_the_model(tmp_path):
    """Loading a model for a recording that is not there, or a size that cannot be, would waste seconds."""
    assert cli.main(["speak", str(tmp_path / "missing.wav"), "-o", str(tmp_path / "out.mp4")]) == 2
    assert cli.main(["speak", "--sample", "-o", str(tmp_path / "out.mp4"), "--size", "0"]) == 2
    assert CALLS == []


def test_our_faults_are_not_hidden(speech, tmp_path):
    """A bug keeps its traceback; --debug shows that of a user error too."""
    arguments = ["speak", str(speech), "-o", str(tmp_path / "out.mp4"), "--seed"]
    with pytest.raises(KeyError):
        cli.main([*arguments, "15"])
    with pytest.raises(ValueError):
        cli.main(["--debug", *arguments, "14"])


def test_interrupt(speech, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakePipeline, "save", stop)
    assert cli.main(["speak", str(speech), "-o", str(tmp_path / "out.mp4")]) == 130
    assert capsys.readouterr().err.endswith("emotag: stopped; nothing was left behind.\n")


def test_info(capsys):
    """Versions, back ends and licences, for people and for programs."""
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"versions", "backends", "licences"}
    assert facts["versions"]["torch"] != "not installed"
    assert facts["licences"]["emotag_hf"] == "Apache-2.0"
    for rows in facts.values():
        for name, value in rows.items():
            assert name in text and value in text


def test_facts_for_programs(speech, tmp_path, capsys):
    """`speak --json` prints nothing but one JSON object, and shows no bar."""
    assert cli.main(["speak", str(speech), "-o", str(tmp_path / "out.mp4"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["video"] == str(tmp_path / "out.mp4") and facts["seconds_of_video"] > 0 and facts["seconds"] > 0
    assert ("progress", {"disable": True, "unit": "frame", "desc": "out.mp4"}) in CALLS


def test_demo(tmp_path, capsys):
    """`demo` speaks the sample, happy."""
    assert cli.main(["demo", "-o", str(tmp_path / "demo.mp4")]) == 0
    options = dict(CALLS)["call"]
    assert (options["emotion"], options["intensity"]) == ("happy", 0.6)
    assert "demo.mp4" in capsys.readouterr().out and (tmp_path / "demo.mp4").is_file()


def test_idle(tmp_path, capsys):
    """Every option reaches `pipe.idle`, a loop unless said otherwise; mistakes come before the model."""
    out = str(tmp_path / "loop.mp4")
    assert cli.main(["idle", "-o", out, "--size", "64", "--seed", "3", "--model", "avatar", "-q"]) == 0
    look = dict(emotion=None, intensity=1.0, seed=3, fps=25, size=64, background=None, head_motion=1.0)
    assert dict(CALLS)["idle"] == {"seconds": 10.0, "loop": True, **look}
    assert dict(CALLS)["from_pretrained"] == "avatar" and capsys.readouterr().out == ""
    assert cli.main(["idle", "-o", out, "--size", "64", "--seconds", "1.5", "--no-loop", "--json"]) == 0
    assert CALLS[-1][0] == "idle" and (CALLS[-1][1]["seconds"], CALLS[-1][1]["loop"]) == (1.5, False)
    assert json.loads(capsys.readouterr().out)["seconds_of_video"] == pytest.approx(1.52)  # whole frames
    CALLS.clear()
    for words, message in (("--seconds 900", "seconds: expected a number from 1 to 600"), ("--size 9", "size: exp")):
        assert cli.main(["idle", "-o", out, *words.split()]) == 2 and message in capsys.readouterr().err
    assert CALLS == []


def test_speak_silence(tmp_path, capsys):
    """A silent recording reaches the pipeline, which warns; it was refused here."""
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(32_000))
    assert cli.main(["speak", str(path), "-o", str(tmp_path / "out.mp4"), "--size", "64"]) == 0
    assert "1.0 s of video" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    """Every command is in what the shell is given; a shell that nobody completes for is refused."""
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    commands = "speak idle demo info prepare doctor setup adapt dub evaluate pretrain export push completion"
    for command in commands.split():
        assert command in text, command
    with pytest.raises(SystemExit) as stopped:
        cli.main(["completion", "cmd.exe"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("module", ["emotag_hf", "emotag_hf.cli"])
def test_python_m(module, monkeypatch, capsys):
    """The command is there where `emotag` is not on the PATH; `python -m emotag_hf` had no `__main__`."""
    monkeypatch.setattr(sys, "argv", ["emotag", "info"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert stopped.value.code == 0 and "emotag_hf" in capsys.readouterr().out
