"""Consent: what counts as one, how it is asked for, and that files from strangers give sentences, not crashes."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from emotag_hf.rights import consent as consent_module
from emotag_hf.rights.consent import PURPOSES, Consent, ConsentError, load_consent, parse_consent, write_consent
from emotag_hf.rights.consent_dialogue import ask_consent, make_statement, resolve_consent

CLIP, OTHER_CLIP = "ab" * 32, "cd" * 32
DOCS = Path(__file__).parents[2] / "docs" / "consent.md"


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")


def valid(**changes) -> dict:
    """What a consent file holds, with `changes`; None as a change removes the key."""
    content = {
        "format": "emotag-consent",
        "format_version": 1,
        "person": "Zoë Example",
        "agreed_by": "person",
        "date": "2025-05-01T12:00:00+02:00",
        "purposes": ["private_use", "research"],
        "may_publish": False,
        "statement": "I agree that an avatar of me is made.",
    }
    return {key: value for key, value in (content | changes).items() if value is not Ellipsis}


def test_round_trip_through_a_file(tmp_path):
    """Every field comes back; the file is readable JSON with its format, and nothing else is left beside it."""
    consent = Consent(
        person="Zoë Example",
        purposes=("research", "publication"),
        statement="Line one.\nLine two.",
        agreed_by="guardian",
        guardian_name="Max Example",
        guardian_relation="father, legal guardian",
        date="2025-05-01T12:00:00+02:00",
        purpose_note="not for advertising",
        may_publish=True,
        expires=in_days(30),
        revocation_contact="max@example.org",
        clip_sha256=CLIP,
        how="terminal",
    )
    write_consent(consent, tmp_path / "consent.json")
    assert load_consent(tmp_path / "consent.json") == consent
    content = json.loads((tmp_path / "consent.json").read_text(encoding="utf-8"))
    assert content["format"] == "emotag-consent" and content["format_version"] == 1
    assert "Zoë" in (tmp_path / "consent.json").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["consent.json"]


@pytest.mark.skipif(not DOCS.is_file(), reason="only in a checkout of the repository")
def test_the_document_is_the_format(tmp_path):
    """The example in docs/consent.md is a consent, and its tables name every key and purpose there is."""
    text = DOCS.read_text(encoding="utf-8")
    (tmp_path / "consent.json").write_text(re.search(r"```json\n(.*?)```", text, re.S)[1], encoding="utf-8")
    consent = load_consent(tmp_path / "consent.json")
    assert consent.person == "Ada Example" and consent.how == "file" and consent.clip_sha256 is None
    keys = {name for row in re.findall(r"^\| (`.*?) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert keys == {*consent_module._FIELDS, "format", "format_version", *PURPOSES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"person": ...}, "person missing"),
        ({"person": "  "}, "consent.person: expected a text of at most 200 characters, got '  '"),
        ({"person": ["Zoë"]}, "consent.person: expected a text.*got a list"),
        ({"person": "x" * 201}, "consent.person"),
        ({"person": "Zoë\x1b[2J"}, r"consent.person: expected plain text without the character U\+001B"),
        ({"person": "Zoë\nExample"}, "consent.person: expected plain text without line breaks"),
        ({"person": "eo\u202eZ"}, r"U\+202E"),
        ({"statement": ...}, "statement missing"),
        ({"statement": None}, "consent.statement: expected a text"),
        ({"statement": "\ud800"}, r"U\+D800"),
        ({"agreed_by": "me"}, "consent.agreed_by: expected one of person, guardian, nobody, got 'me'"),
        ({"agreed_by": "guardian"}, "consent.guardian_name: expected the guardian's, got None"),
        ({"guardian_name": "Max"}, "consent.guardian_name: expected nothing, unless agreed_by is 'guardian'"),
        ({"agreed_by": "nobody"}, "consent.how: expected 'synthetic' if agreed_by is 'nobody'"),
        ({"how": "synthetic"}, "consent.how"),
        ({"how": {}}, "consent.how: expected one of .*, got a dict"),
        ({"purposes": []}, "consent.purposes: expected a list with some of private_use"),
        ({"purposes": "research"}, "consent.purposes"),
        ({"purposes": ["resaerch"]}, "consent.purposes: expected one of private_use.*got 'resaerch'"),
        ({"purposes": [["research"]]}, "consent.purposes"),
        ({"purposes": ["research", "research"]}, "expected each purpose once"),
        ({"may_publish": True}, "consent.may_publish: expected true if 'publication' is one of the purposes"),
        ({"purposes": ["publication"]}, "consent.may_publish"),
        ({"may_publish": 0}, "consent.may_publish: expected true or false, got 0"),
        ({"date": "2025-05-01"}, "consent.date: expected a date and time with its time zone, such as 2025"),
        ({"date": "2025-05-01T12:00:00"}, "consent.date: .*time zone"),
        ({"date": "yesterday"}, "consent.date: .*got 'yesterday'"),
        ({"date": 1746093600}, "consent.date: .*got 1746093600"),
        ({"date": "9999-12-31T23:59:59-23:59"}, "consent.date: expected a day that has come"),
        ({"expires": "2020-01-01T00:00:00Z"}, "consent.expires: expected a time after the date"),
        ({"expires": "never"}, "consent.expires"),
        ({"clip_sha256": CLIP.upper()}, "consent.clip_sha256: expected the recording's SHA-256"),
        ({"clip_sha256": CLIP[:-1]}, "consent.clip_sha256"),
        ({"format": "emotag-clip"}, "expected an object with format 'emotag-consent'"),
        ({"format_version": "1"}, "consent.format_version: expected a whole number"),
        ({"format_version": True}, "consent.format_version"),
        ({"format_version": 2}, "reads up to 1; update it"),
        ({"may_publsh": True}, "unknown 'may_publsh'; expected person"),
        ({"\x1b[2J": 1}, r"unknown '\\x1b\[2J'"),
    ],
)
def test_what_is_no_consent_is_refused_by_name(changes, message):
    """Each wrong field is named with what was expected and what came; as a dict and as a file alike."""
    content = valid(**changes)
    with pytest.raises(ConsentError, match=message):
        load_consent(content)
    with pytest.raises(ConsentError, match=message):
        parse_consent(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not whole JSON"),
        (b"\xff\xfe\x00", "not whole JSON in UTF-8"),
        (b"[" * 50_000, "not whole JSON"),
        (b"[1]", "expected an object"),
        (b"9" * 60_000, "not whole JSON|expected an object"),
        (b'{"person": "A", "person": "B"}', "'person' occurs twice"),
        (json.dumps(valid(format_version=10**400)).encode(), "it has format a huge number"),
        (json.dumps(valid()).encode() + b" " * 64_000, "larger than 64,000 bytes"),
        (json.dumps(valid())[:-30].encode(), "not whole JSON"),
    ],
    ids=["empty", "bytes", "nested", "list", "number", "twice", "version", "large", "cut"],
)
def test_hostile_files_give_one_sentence(tmp_path, data, message):
    """Whatever a stranger's file holds, the answer is short and names the file."""
    path = tmp_path / "consent.json"
    path.write_bytes(data)
    with pytest.raises(ConsentError, match=message) as caught:
        load_consent(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_a_notepad_file_is_read(tmp_path):
    """Windows editors put a mark before UTF-8; it is no part of the JSON."""
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(valid()).encode())
    assert load_consent(tmp_path / "c.json").person == "Zoë Example"


def test_no_file_and_no_place(tmp_path):
    """A missing file is a FileNotFoundError; a place where nothing can be written leaves nothing half-written."""
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_consent(tmp_path / "nothing.json")
    with pytest.raises(FileNotFoundError):
        load_consent(tmp_path)  # a folder
    (tmp_path / "taken").mkdir()
    for place in (tmp_path / "taken", tmp_path / "nowhere" / "c.json"):
        with pytest.raises(ConsentError, match="cannot be written"):
            write_consent(load_consent(valid()), place)
    with pytest.raises(ConsentError, match="consent.person"):
        write_consent(replace(load_consent(valid()), person=""), tmp_path / "c.json")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_stop_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    """The new consent takes the old one's place at once, or not at all."""
    path = tmp_path / "consent.json"
    write_consent(load_consent(valid()), path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(consent_module.os, "fsync", full)
    with pytest.raises(ConsentError, match="No space left"):
        write_consent(load_consent(valid(person="Other")), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["consent.json"]


def test_resolve_takes_it_from_anywhere(tmp_path):
    """A Consent, a dict and a file are bound to the recording they are handed over with, and say how they came."""
    (tmp_path / "c.json").write_text(json.dumps(valid()), encoding="utf-8")
    by_file = resolve_consent(tmp_path / "c.json", CLIP)
    assert by_file.clip_sha256 == CLIP and by_file.how == "file"
    assert resolve_consent(str(tmp_path / "c.json"), CLIP) == by_file
    by_dict = resolve_consent(valid(), CLIP)
    assert by_dict.how == "argument" and replace(by_dict, how="file") == by_file
    assert resolve_consent(by_dict, CLIP) == by_dict
    assert resolve_consent(valid(how="terminal"), CLIP).how == "terminal"  # out of another avatar: kept
    assert resolve_consent(Consent.synthetic("Remy"), CLIP).is_synthetic
    with pytest.raises(ConsentError, match="expected a Consent, a dict, the path"):
        resolve_consent(7, CLIP)
    with pytest.raises(ConsentError, match="clip_sha256"):
        resolve_consent(valid(), "me.mp4")


def test_resolve_refuses_another_recording_and_an_expired_consent():
    """A consent given for one recording, or until yesterday, makes no avatar."""
    with pytest.raises(ConsentError, match=r"agreed for the recording with SHA-256 cdcdcdcdcdcd\.\.\., this one"):
        resolve_consent(valid(clip_sha256=OTHER_CLIP), CLIP)
    over = valid(expires="2025-06-01T00:00:00Z")
    assert load_consent(over).is_expired(datetime(2025, 6, 2, tzinfo=UTC))
    assert not load_consent(over).is_expired(datetime(2025, 5, 31, tzinfo=UTC))
    with pytest.raises(ConsentError, match="expired on 2025-06-01T00:00:00Z; ask them again"):
        resolve_consent(over, CLIP)
    assert resolve_consent(valid(expires=in_days(1)), CLIP).clip_sha256 == CLIP


def test_an_expired_consent_warns_at_loading(caplog):
    """Whoever has the avatar is told; one that still holds says nothing."""
    with caplog.at_level(logging.WARNING):
        load_consent(valid(expires=in_days(9))).warn_if_expired()
        assert not caplog.records
        load_consent(valid(date=in_days(-3), expires=in_days(-1))).warn_if_expired()
    assert "Zoë Example" in caplog.text and "expired" in caplog.text


@pytest.mark.parametrize("consent", [None, "ask"])
def test_nobody_to_ask(consent, monkeypatch):
    """In a script, a pipe or a closed stdin nobody can agree: the error says what to give instead, and nothing hangs
    or is taken from the pipe as an answer."""
    for stdin in (io.StringIO("Zoë\nyes\n1\n\n\n\nI agree\n"), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(ConsentError, match=r"no terminal.*--consent-file, consent="):
            resolve_consent(consent, CLIP)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    with pytest.raises(ConsentError, match="no terminal"):
        ask_consent(CLIP)
    with pytest.raises(ConsentError, match="no terminal"):
        resolve_consent(consent, CLIP, interactive=False)


def dialogue(*answers: str):
    """`ask` that gives these answers and then says that nobody is there, and the list of all that was shown."""
    shown: list[str] = []
    left = list(answers)

    def ask(question: str) -> str:
        shown.append(question)
        if not left:
            raise EOFError
        return left.pop(0)

    return ask, shown


def test_asking_the_person():
    """Their answers become the consent; the statement they agreed to was on the screen in full."""
    ask, shown = dialogue(" Zoë Example ", "y", "1, 5", "not on Sundays", "", "zoe@example.org", ' "I agree." ')
    consent = ask_consent(CLIP, ask=ask, say=shown.append)
    assert consent.person == "Zoë Example" and consent.agreed_by == "person" and consent.how == "terminal"
    assert consent.purposes == ("private_use", "publication") and consent.may_publish
    assert consent.purpose_note == "not on Sundays" and consent.revocation_contact == "zoe@example.org"
    assert consent.clip_sha256 == CLIP and consent.expires is None
    assert any(consent.statement in text for text in shown)
    for part in ("Zoë Example", CLIP, PURPOSES["publication"], "not on Sundays", "may be given to others"):
        assert part in consent.statement
    assert parse_consent(consent.to_json()) == consent


def test_asking_a_guardian_until_a_day():
    """Who is not the person says who they are and why they may decide; the last day counts as a whole."""
    day = (datetime.now() + timedelta(days=40)).strftime("%Y-%m-%d")
    ask, shown = dialogue("Zoë", "no", "Max", "father", "2", "", day, "", "i agree")
    consent = ask_consent(CLIP, ask=ask, say=shown.append)
    assert (consent.agreed_by, consent.guardian_name, consent.guardian_relation) == ("guardian", "Max", "father")
    assert consent.expires.startswith(day + "T23:59:59") and not consent.may_publish
    assert consent.statement.startswith("I, Max (father), agree for Zoë that") and day in consent.statement
    assert "may not be given to others" in consent.statement


def test_wrong_answers_are_asked_again_and_not_for_ever():
    """A slip costs a line; something that answers nonsense is stopped."""
    ask, shown = dialogue("", "Zoë", "maybe", "yes", "6", "1,,2", "", "31.12.2030", "0001-01-01", "", "", "I agree")
    consent = ask_consent(CLIP, ask=ask, say=shown.append)
    assert consent.purposes == ("private_use", "research")
    assert sum("Please type" in text for text in shown) == 5
    ask, shown = dialogue("Zoë", "1", "2", "3", "yes")
    with pytest.raises(ConsentError, match="no usable answer to 'Are you Zoë.*no avatar is made"):
        ask_consent(CLIP, ask=ask, say=shown.append)


@pytest.mark.parametrize("last", ["no", "", "I agree to nothing", "I disagree", "agree"])
def test_refusing_is_refusing(last):
    """Anything but "I agree" makes no avatar."""
    ask, shown = dialogue("Zoë", "yes", "1", "", "", "", last)
    with pytest.raises(ConsentError, match="it was not agreed to, so no avatar is made"):
        ask_consent(CLIP, ask=ask, say=shown.append)


def test_an_end_of_input_is_nobody():
    """A terminal that goes away in the middle is no agreement."""
    ask, shown = dialogue("Zoë", "yes", "1")
    with pytest.raises(ConsentError, match="no terminal to ask at"):
        ask_consent(CLIP, ask=ask, say=shown.append)


def test_publication_needs_a_yes():
    """`check_publication` stands before every upload."""
    load_consent(valid(purposes=["publication"], may_publish=True)).check_publication()
    Consent.synthetic("Remy").check_publication()
    with pytest.raises(ConsentError, match="did not agree that the avatar is published"):
        load_consent(valid()).check_publication()
    with pytest.raises(ConsentError, match="expired"):
        load_consent(
            valid(purposes=["publication"], may_publish=True, date=in_days(-3), expires=in_days(-1))
        ).check_publication()


def test_a_statement_without_extras():
    """The sentence reads whole when nothing optional was said."""
    text = make_statement(person="Zoë", purposes=("research",), clip_sha256=CLIP)
    assert text.startswith(f"I, Zoë, agree that a talking avatar of me is made from the recording with SHA-256 {CLIP}")
    assert "  " not in text and "None" not in text and "until I take it back" in text
