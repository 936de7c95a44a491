"""`emotag export`: what it writes, what it prints, its exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emotag_hf import load_motion
from emotag_hf.cli import main

MODEL = ["--model", "emotag-base-open"]


def test_at_rest_and_by_frame(tmp_path, capsys):
    """Without a recording the avatar at rest; with one, the frame that was asked for; --json says what was written."""
    assert main(["export", "-o", str(tmp_path / "rest.ply"), *MODEL, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    path = tmp_path / "rest.ply"
    assert facts == {"path": str(path), "format": "ply", "frames": 1, "bytes": path.stat().st_size}
    told = ["export", "--sample", "-o", str(tmp_path / "x.bin"), "--format", "splat", "--frame", "70", *MODEL, "-q"]
    assert main(told) == 0 and capsys.readouterr().out == ""
    rest, spoken = path.read_bytes(), (tmp_path / "x.bin").read_bytes()
    assert b"element vertex %d\n" % (len(spoken) // 32) in rest


def test_motion_follows_the_options(tmp_path, capsys):
    """Another seed, another motion; the last line is for people."""
    for seed in (1, 2):
        told = ["export", "--sample", "-o", str(tmp_path / f"{seed}.npz"), "--seed", str(seed), *MODEL]
        assert main(told) == 0
    assert "2.npz: 266 frames, 0.1 MB" in capsys.readouterr().out
    one, two = (load_motion(tmp_path / f"{seed}.npz") for seed in (1, 2))
    assert len(one) == 266 and not np.allclose(one.rotation, two.rotation)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["-o", "a.obj"], "path: expected a name that ends in .ply"),
        (["-o", "a.html"], "audio: expected a recording"),
        (["-o", "a.ply", "--frame", "3"], "frame: the avatar at rest has frame 0 alone"),
        (["-o", "a.ply", "--sample", "x.wav"], "expected a recording or --sample, got both"),
        (["--sample", "-o", "nowhere/a.html"], "there is no nowhere"),
        (["--sample", "-o", "a.html", "--size", "33"], "size: expected even numbers"),
        (["--sample", "-o", "a.ply", "--frame", "266"], "frame: expected a whole number from 0 to 265"),
        (["--sample", "-o", "a.csv", "--format", "bvh"], "format: expected one of"),
    ],
)
def test_what_the_user_can_put_right_is_exit_code_2(told, expected, tmp_path, monkeypatch, capsys):
    """One sentence on stderr, no traceback, no file."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", *told, *MODEL]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("emotag: ") and expected in error
    assert not list(tmp_path.iterdir())
