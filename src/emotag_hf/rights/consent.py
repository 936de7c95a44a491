"""Consent to an avatar: who agreed, when, to what. docs/consent.md is the format of consent.json.

In: a file or a dict. Out: a checked `Consent`, and consent.json. consent_dialogue.py asks for one. Not in the paper.

A consent is a statement, not a proof: nobody's identity is checked, and nothing is signed. Consents are also read from
untrusted avatars: any file content gives either a valid `Consent` or a ConsentError.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import unicodedata
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FORMAT = "emotag-consent"
FORMAT_VERSION = 1
CONSENT_JSON = "consent.json"

# What an avatar may be used for -> plain words, for the terminal, the statement and the card.
PURPOSES = {
    "private_use": "private use",
    "research": "research",
    "public_demonstration": "public demonstrations",
    "commercial": "commercial use",
    "publication": "publication of the avatar itself, for others to use",
}
AGREED_BY = ("person", "guardian", "nobody")
HOW = ("terminal", "file", "argument", "synthetic")

_MAX_BYTES = 64_000  # of a consent.json; one has about a thousand
_MAX_LENGTHS = {
    "person": 200, "guardian_name": 200, "guardian_relation": 200, "revocation_contact": 300,
    "purpose_note": 2000, "statement": 6000,
}  # fmt: skip
_REQUIRED = ("person", "agreed_by", "date", "purposes", "may_publish", "statement")  # the others may be left out
_CLOCKS_DIFFER = timedelta(days=1)  # tolerates another computer's clock
_EXAMPLE_DATE = "2025-05-01T12:00:00+02:00"
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they reorder text on screen


class ConsentError(ValueError):
    """There is no consent, or it does not cover this use; the message says what is missing and what to do."""


def _now() -> str:
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True)
class Consent:
    """What somebody agreed to. The constructor checks nothing; `check` does, and so does every function that reads or
    writes one.

    Args:
        person: name of the person whom the avatar shows, as they want to be named.
        purposes: what the avatar may be used for, out of `PURPOSES`.
        statement: the sentence that was agreed to, in full.
        agreed_by: `"person"` themselves; `"guardian"`, who may decide for them; `"nobody"` for a synthetic person.
        guardian_name, guardian_relation: with `"guardian"`: who that is, and why they may decide.
        date: when, ISO 8601 with its time zone. Now, if not given.
        purpose_note: limits or wishes in their own words.
        may_publish: whether the avatar itself may be given to others; must be true if and only if `"publication"` is a
            purpose.
        expires: ISO 8601 with its time zone: no adaptation after that. None: no end.
        revocation_contact: whom to write to in order to withdraw the consent.
        clip_sha256: SHA-256 of the recording it is for. None until `for_clip` sets it.
        how: one of `HOW`: typed at a terminal, handed over as a file or as an argument, or a synthetic person.
    """

    person: str
    purposes: tuple[str, ...]
    statement: str
    agreed_by: str = "person"
    guardian_name: str | None = None
    guardian_relation: str | None = None
    date: str = field(default_factory=_now)
    purpose_note: str | None = None
    may_publish: bool = False
    expires: str | None = None
    revocation_contact: str | None = None
    clip_sha256: str | None = None
    how: str = "argument"

    @classmethod
    def synthetic(cls, person: str, clip_sha256: str | None = None) -> Consent:
        """For a person who does not exist: nobody has to agree, and everything is allowed."""
        statement = f"{person} is synthetic: no real person is shown, so nobody had to agree."
        everything: dict[str, Any] = {"purposes": tuple(PURPOSES), "may_publish": True}
        about: dict[str, Any] = {"agreed_by": "nobody", "clip_sha256": clip_sha256, "how": "synthetic"}
        return cls(person=person, statement=statement, **about, **everything).check()

    @property
    def is_synthetic(self) -> bool:
        return self.agreed_by == "nobody"

    def check(self) -> Consent:
        """Returns itself if every field is as documented.

        Raises:
            ConsentError: naming the field, what was expected and what came.
        """
        for name, limit in _MAX_LENGTHS.items():
            _check_text(name, getattr(self, name), limit, name not in ("person", "statement"))
        _check_choice("agreed_by", self.agreed_by, AGREED_BY)
        _check_choice("how", self.how, HOW)
        if not isinstance(self.purposes, (list, tuple)) or not self.purposes:
            raise wrong_field("purposes", f"a list with some of {', '.join(PURPOSES)}", self.purposes)
        for purpose in self.purposes:
            _check_choice("purposes", purpose, tuple(PURPOSES))
        if len(set(self.purposes)) < len(self.purposes):
            raise wrong_field("purposes", "each purpose once", list(self.purposes))
        if not isinstance(self.may_publish, bool):
            raise wrong_field("may_publish", "true or false", self.may_publish)
        if self.may_publish != ("publication" in self.purposes):
            raise wrong_field(
                "may_publish", "true if 'publication' is one of the purposes, else false", self.may_publish
            )
        is_guardian = self.agreed_by == "guardian"
        for name in ("guardian_name", "guardian_relation"):
            if (getattr(self, name) is not None) != is_guardian:
                expected = "the guardian's" if is_guardian else "nothing, unless agreed_by is 'guardian'"
                raise wrong_field(name, expected, getattr(self, name))
        if self.is_synthetic != (self.how == "synthetic"):
            raise wrong_field("how", "'synthetic' if agreed_by is 'nobody', else how somebody agreed", self.how)
        if self.clip_sha256 is not None and not is_sha256(self.clip_sha256):
            raise wrong_field("clip_sha256", "the recording's SHA-256, 64 digits 0-9 a-f", self.clip_sha256)
        date = _parse_date("date", self.date)
        if date > datetime.now(UTC) + _CLOCKS_DIFFER:
            raise wrong_field("date", "a day that has come", self.date)
        if self.expires is not None and _parse_date("expires", self.expires) <= date:
            raise wrong_field("expires", f"a time after the date {self.date}", self.expires)
        return self

    def is_expired(self, at: datetime | None = None) -> bool:
        """Whether it expired before `at` (with a time zone; now if None)."""
        at = at or datetime.now(UTC)
        return self.expires is not None and _parse_date("expires", self.expires) <= at

    def for_clip(self, clip_sha256: str) -> Consent:
        """A copy of this consent for the recording with that hash, as adaptation needs it.

        Raises:
            ConsentError: it is not as documented, is for another recording, or has expired.
        """
        self.check()
        if self.clip_sha256 not in (None, clip_sha256):
            raise ConsentError(
                f"consent: {self.person} agreed for the recording with SHA-256 {self.clip_sha256[:12]}..., this one "
                f"has {clip_sha256[:12]}...; ask again for this recording."
            )
        if self.is_expired():
            raise ConsentError(f"consent: the consent of {self.person} expired on {self.expires}; ask them again.")
        return replace(self, clip_sha256=clip_sha256).check()

    def check_publication(self) -> None:
        """Raises ConsentError unless the avatar itself may be published now."""
        self.check()
        if not self.may_publish:
            raise ConsentError(
                f"consent: {self.person} did not agree that the avatar is published; keep it private, or ask them."
            )
        if self.is_expired():
            raise ConsentError(f"consent: the consent of {self.person} expired on {self.expires}; ask them again.")

    def warn_if_expired(self) -> None:
        """Logs a warning if the consent has expired."""
        if self.is_expired():
            logger.warning("The consent of %s to this avatar expired on %s; ask them again.", self.person, self.expires)

    def to_json(self) -> bytes:
        """The content of consent.json; checked."""
        self.check()
        content = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


_FIELDS = tuple(f.name for f in fields(Consent))


def load_consent(path_or_dict: str | os.PathLike | dict) -> Consent:
    """Reads a consent.json, or a dict with the same keys.

    Raises:
        FileNotFoundError: there is no such file.
        ConsentError: it is not a consent as documented in docs/consent.md.
    """
    if isinstance(path_or_dict, dict):
        return _from_dict(path_or_dict, "argument")
    path = Path(path_or_dict)
    if not path.is_file():
        raise FileNotFoundError(f"consent: expected a consent file, but there is no file {path}.")
    with path.open("rb") as file:
        return parse_consent(file.read(_MAX_BYTES + 1), str(path))


def parse_consent(data: bytes, what: str = CONSENT_JSON) -> Consent:
    """The consent in the bytes of a consent.json; `what` names it in errors. Raises ConsentError."""
    if len(data) > _MAX_BYTES:
        raise ConsentError(f"consent: {what} is larger than {_MAX_BYTES:,} bytes, too large for a consent.")
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise ConsentError(
            f"consent: {what} is not whole JSON in UTF-8 ({error}); docs/consent.md shows one."
        ) from None
    try:
        return _from_dict(content, "file")
    except ConsentError as error:
        raise ConsentError(f"{error} It stands in {what}.") from None


def write_consent(consent: Consent, path: str | os.PathLike) -> None:
    """Writes consent.json atomically.

    Raises:
        ConsentError: the consent is not as documented, or nothing can be written at `path`.
    """
    data, path = consent.to_json(), Path(path)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise ConsentError(f"path: {path} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def is_interactive() -> bool:
    """Whether there is a terminal at which somebody can answer."""
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False


def no_terminal_error() -> ConsentError:
    """The error when a consent is needed and there is no terminal to ask at."""
    return ConsentError(
        "consent: the person in the recording has to agree to an avatar, and there is no terminal to ask at; give "
        "their consent as a file (--consent-file, consent=), or run it at a terminal; docs/consent.md shows a file."
    )


def is_sha256(value: Any) -> bool:
    """Whether `value` is a SHA-256 as 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def check_printable(text: str) -> str | None:
    """The first control character, surrogate or bidirectional control of a text, in words; None if there is none."""
    for letter in text:
        if (unicodedata.category(letter) in ("Cc", "Cs") and letter != "\n") or letter in _BIDI:
            return f"the character U+{ord(letter):04X}"
    return None


def _from_dict(content: Any, how: str) -> Consent:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConsentError(f"consent: expected an object with format {FORMAT!r}; docs/consent.md shows one.")
    version = content.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise wrong_field("format_version", f"a whole number, now {FORMAT_VERSION}", version)
    if version > FORMAT_VERSION:
        raise ConsentError(
            f"consent: it has format {_short(version)}, this emotag_hf reads up to {FORMAT_VERSION}; "
            "update it: pip install -U emotag_hf"
        )
    values = {key: value for key, value in content.items() if key not in ("format", "format_version")}
    if unknown := [key for key in values if key not in _FIELDS]:
        names = ", ".join(_short(key) for key in unknown[:3])
        raise ConsentError(f"consent: unknown {names}; expected {', '.join(_FIELDS)}.")
    if missing := [key for key in _REQUIRED if key not in values]:
        raise ConsentError(f"consent: {', '.join(missing)} missing; docs/consent.md says what belongs there.")
    if isinstance(values["purposes"], list):
        values["purposes"] = tuple(values["purposes"])
    return Consent(**({"how": how} | values)).check()


def _check_text(name: str, value: Any, limit: int, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        raise wrong_field(name, f"a text of at most {limit} characters{' or nothing' if optional else ''}", value)
    if (found := check_printable(value)) or ("\n" in value and limit <= 300):
        raise wrong_field(name, f"plain text without {found or 'line breaks'}", value)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise wrong_field(name, f"one of {', '.join(choices)}", value)


def _parse_date(name: str, value: Any) -> datetime:
    expected = f"a date and time with its time zone, such as {_EXAMPLE_DATE}"
    if not isinstance(value, str) or len(value) > 40:
        raise wrong_field(name, expected, value)
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        raise wrong_field(name, expected, value) from None
    if date.tzinfo is None:
        raise wrong_field(name, expected, value)
    return date


def wrong_field(name: str, expected: str, value: Any) -> ConsentError:
    """The error about a field that is not as docs/consent.md has it."""
    return ConsentError(f"consent{'.' if name else ''}{name}: expected {expected}, got {_short(value)}.")


def _short(value: Any) -> str:
    # ascii(): a terminal would interpret control characters in an error message
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**12:
        return "a huge number"
    text = ascii(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(names) if key in names[:i])
        raise ValueError(f"{_short(twice)} occurs twice")
    return content


__all__ = [
    "Consent",
    "ConsentError",
    "PURPOSES",
    "load_consent",
    "parse_consent",
    "write_consent",
]
