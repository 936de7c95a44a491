"""`emotag setup tracking`: says what it does, does it in the right order, checks, fails in words. pip is not run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from emotag_hf.preprocessing.tracking import setup
from emotag_hf.preprocessing.tracking.setup import (
    TrackingSetupError,
    cache_folder,
    fetch_face_landmarker,
    find_face_landmarker,
    setup_tracking,
)

ROOT = Path(__file__).parents[3]
MODEL = b"a model"


class FakeRun:
    """Remembers the commands; those whose words contain `fails` fail with `stderr`."""

    def __init__(self, fails: str | None = None, stderr: str = ""):
        self.fails, self.stderr, self.commands = fails, stderr, []

    def __call__(self, command, **kwargs):
        self.commands.append(command)
        failed = self.fails is not None and any(self.fails in word for word in command)
        return subprocess.CompletedProcess(command, int(failed), "", self.stderr if failed else "")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """An own cache, a served model, a Python that the wheels know, versions as they are in a fresh environment."""
    monkeypatch.delenv(setup.MODEL_ENV, raising=False)
    monkeypatch.setenv("EMOTAG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served.task").write_bytes(MODEL)
    monkeypatch.setattr(setup, "MODEL_URL", (tmp_path / "served.task").as_uri())
    monkeypatch.setattr(setup, "MODEL_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(setup, "PYTHONS", (sys.version_info[:2],))
    monkeypatch.setattr(setup, "_version", {}.get)


def said_by(**kwargs) -> tuple[int, str]:
    lines: list[str] = []
    code = setup_tracking(echo=lines.append, **kwargs)
    return code, "\n".join(lines)


def test_one_list():
    """requirements-tracking.txt is the same list, and names the same MediaPipe."""
    text = (ROOT / "requirements-tracking.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines == list(setup.REQUIREMENTS)
    assert f"pip install --no-deps {setup.MEDIAPIPE}" in text
    if not (ROOT / "constraints.txt").exists():
        return
    assert f"\n{setup.MEDIAPIPE}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_what_it_does():
    """Says it first, then pip twice, then Face Mesh in a fresh process, then the model."""
    run = FakeRun()
    code, said = said_by(yes=True, run=run)
    assert code == 0
    pip = [sys.executable, "-m", "pip"]
    assert run.commands[:3] == [
        [*pip, "--version"],
        [*pip, "install", *setup.REQUIREMENTS],
        [*pip, "install", "--no-deps", setup.MEDIAPIPE],
    ]
    assert run.commands[3][:2] == [sys.executable, "-c"] and "check_mediapipe" in run.commands[3][2]
    assert (cache_folder() / "face_landmarker.task").read_bytes() == MODEL == find_face_landmarker().read_bytes()
    for word in (*setup.REQUIREMENTS, setup.MEDIAPIPE, "pip check", "MediaPipe works", str(cache_folder())):
        assert word in said
    assert '"protobuf>=4.25.3,<5"' in said, "quoted, or a shell would take < for a file"


def test_dry_run_and_no():
    """Neither changes anything; who cannot be asked is told how to agree beforehand."""
    run = FakeRun()
    assert said_by(dry_run=True, run=run)[0] == 0
    code, said = said_by(ask=lambda question: "", run=run)
    assert code == 1 and "Nothing was changed" in said

    def nobody(question):
        raise EOFError

    with pytest.raises(TrackingSetupError, match="emotag setup tracking --yes"):
        said_by(ask=nobody, run=run)
    assert run.commands == [] and not cache_folder().exists()
    assert said_by(ask=lambda question: "y", run=run)[0] == 0 and len(run.commands) == 4


def test_python_without_wheels(monkeypatch):
    run = FakeRun()
    monkeypatch.setattr(setup, "PYTHONS", ((3, 11), (3, 12)))
    monkeypatch.setattr(setup.sys, "version_info", (3, 14, 0))
    with pytest.raises(TrackingSetupError, match="no wheel for Python 3.14; the tracker needs Python 3.11 or 3.12"):
        said_by(yes=True, run=run)
    assert run.commands == []


def test_no_pip(monkeypatch):
    """An environment that uv made gets the two lines for uv; without uv, the line that brings pip."""
    monkeypatch.setattr(setup.shutil, "which", lambda name: "/usr/bin/uv")
    with pytest.raises(TrackingSetupError, match="no pip.*uv pip install --python .*--no-deps mediapipe==0.10.21"):
        said_by(yes=True, run=FakeRun("--version"))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(TrackingSetupError, match="no pip.*-m ensurepip"):
        said_by(yes=True, run=FakeRun("--version"))


def test_pip_that_fails():
    """The command that failed is named; nothing after it is tried."""
    run = FakeRun("absl-py")
    with pytest.raises(TrackingSetupError, match="pip failed.*install absl-py"):
        said_by(yes=True, run=run)
    assert len(run.commands) == 2


def test_mediapipe_that_does_not_run():
    """Installed is not enough: the last line of what it said is shown."""
    run = FakeRun("check_mediapipe", "Traceback ...\nImportError: libGL.so.1: cannot open shared object file\n")
    with pytest.raises(TrackingSetupError, match="does not run here: ImportError: libGL.so.1"):
        said_by(yes=True, run=run)
    assert not cache_folder().exists()


class Distribution:
    """An installed package that asks for something."""

    def __init__(self, name: str, *requires: str):
        self.metadata, self.requires = {"Name": name}, list(requires)


def test_protobuf_of_others(monkeypatch):
    """A protobuf that would be replaced is named, and so is who needs it; one in the range is not worth a word."""
    others = [
        Distribution("tensorboard", "protobuf!=4.24.0,>=3.19.6"),
        Distribution("onnx", "protobuf>=6; extra == 'reference'"),
        Distribution("grpcio-status", "protobuf<8.0.0,>=6.31.1"),
        Distribution("numpy"),
    ]
    monkeypatch.setattr(setup.metadata, "distributions", lambda: others)
    monkeypatch.setattr(setup, "_version", {"protobuf": "6.33.0"}.get)
    said = said_by(dry_run=True)[1]
    assert "protobuf 6.33.0 is here and will be replaced" in said
    assert "grpcio-status (protobuf<8.0.0,>=6.31.1)" in said and "tensorboard" not in said and "onnx" not in said
    others.pop(2)
    assert "Nothing installed minds" in said_by(dry_run=True)[1]
    monkeypatch.setattr(setup, "_version", {"protobuf": "4.25.9"}.get)
    assert "replaced" not in said_by(dry_run=True)[1]


def test_one_opencv(monkeypatch):
    """Two builds of OpenCV overwrite each other's files: another one that is there is left alone."""
    monkeypatch.setattr(setup, "_version", {"opencv-python": "4.12.0"}.get)
    run = FakeRun()
    said_by(yes=True, run=run)
    assert not any("opencv" in word for command in run.commands for word in command)


def test_no_network(monkeypatch, tmp_path):
    """Without the model everything but blendshapes works: a note, no failure."""
    monkeypatch.setattr(setup, "MODEL_URL", (tmp_path / "missing.task").as_uri())
    code, said = said_by(yes=True, run=FakeRun())
    assert code == 0 and "could not be fetched" in said and setup.MODEL_ENV in said
    assert find_face_landmarker() is None


def test_model_that_is_another(monkeypatch, tmp_path):
    """What does not have the right checksum never gets its name; a damaged copy is fetched anew, and not used."""
    (tmp_path / "served.task").write_bytes(b"something else")
    with pytest.raises(OSError, match="not the expected file"):
        fetch_face_landmarker()
    assert not cache_folder().exists()
    (tmp_path / "served.task").write_bytes(MODEL)
    path = fetch_face_landmarker()
    path.write_bytes(MODEL[:3])
    with pytest.raises(ValueError, match="is damaged; delete it and run: emotag setup tracking"):
        find_face_landmarker()
    assert fetch_face_landmarker().read_bytes() == MODEL
    assert [p.name for p in cache_folder().iterdir()] == ["face_landmarker.task"]
    (tmp_path / "served.task").unlink()
    assert fetch_face_landmarker() == path, "a good copy is not fetched again"


def test_which_model(monkeypatch, tmp_path):
    """The argument goes before the variable, the variable before the fetched copy."""
    fetched = fetch_face_landmarker()
    for name in ("own.task", "variable.task"):
        (tmp_path / name).write_bytes(MODEL)
    assert find_face_landmarker() == fetched
    monkeypatch.setenv(setup.MODEL_ENV, str(tmp_path / "variable.task"))
    assert find_face_landmarker() == tmp_path / "variable.task"
    assert find_face_landmarker(tmp_path / "own.task") == tmp_path / "own.task"


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EMOTAG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "emotag_hf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "emotag_hf"


@pytest.mark.real_data
def test_pinned_checksum(test_data, monkeypatch):
    """The checksum in the package is that of Google's file."""
    monkeypatch.undo()
    data = (test_data / "models" / "face_landmarker.task").read_bytes()
    assert hashlib.sha256(data).hexdigest() == setup.MODEL_SHA256
