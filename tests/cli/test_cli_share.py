"""`emotag push`: what it does, prints and returns, against the stand-in hub."""

from __future__ import annotations

import json

import pytest

from emotag_hf import cli

pytest_plugins = ["hub_fixtures"]


def test_push(hub, avatar, capsys):
    """Private unless --public is given; the last line says where it is and how to make it speak; --json is JSON."""
    assert cli.main(["push", str(avatar), "ada/me"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{hub.url}/ada/me (private): 11 files, ")
    assert line.endswith("MB; emotag speak speech.wav --model ada/me -o out.mp4\n") and hub.repos["ada/me"].private
    assert cli.main(["push", str(avatar), "bob/me", "--public", "--json", "--token", "hf_bob", "--remote-code"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["repo_id"] == "bob/me" and facts["private"] is False and facts["changed"] is True
    assert len(facts["commit"]) == 40 and "modeling_emotag_shim.py" in facts["files"]
    assert cli.main(["push", str(avatar), "bob/me", "--public", "-q", "--token", "hf_bob", "--remote-code"]) == 0
    assert (
        "preview.mp4" not in (said := capsys.readouterr()).err
        and said.out == ""
        and len(hub.repos["bob/me"].commits) == 2
    )


def test_errors_are_one_sentence(hub, avatar, capsys, tmp_path):
    """Exit code 2 and one line for whatever the user can put right; no traceback, no token."""
    for words, said in (
        ([str(tmp_path / "none"), "ada/me"], "there is no folder"),
        ([str(tmp_path), "ada/me"], "has no avatar.json"),
        ([str(avatar), "../ada/me"], "repo_id: expected a name on the Hub"),
        ([str(avatar), "ada/me", "--token", "hf_wrong"], "token: "),
        ([str(avatar), "bob/me"], "may not write to bob/me"),
    ):
        assert cli.main(["push", *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("emotag: ") and said in error and "hf_wrong" not in error
    with pytest.raises(SystemExit) as caught:
        cli.main(["push", str(avatar)])
    assert caught.value.code == 2
