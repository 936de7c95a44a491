"""Obtains the consent to an avatar: from a file, from an argument, or by asking the person at a terminal. Not in the
paper.

In: a file, a dict, or answers typed by a person. Out: a `Consent` whose statement they have read and agreed to, or a
ConsentError.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, time
from typing import Any

from .consent import (
    PURPOSES,
    Consent,
    ConsentError,
    check_printable,
    is_interactive,
    is_sha256,
    load_consent,
    no_terminal_error,
    wrong_field,
)

_ATTEMPTS = 3  # answers to one question before it gives up, so that piped empty lines cannot loop forever
_AGREEMENT = "i agree"
_INTRODUCTION = """
An avatar of the person in this recording is about to be made. It will look like them, and whoever has it can make it
say anything. So the person has to agree to it first: please let them answer. What they answer is kept beside the
avatar, in consent.json; nothing is sent anywhere. Ctrl+C stops.
"""


def resolve_consent(
    consent: None | str | os.PathLike | dict | Consent, clip_sha256: str, interactive: bool | None = None
) -> Consent:
    """The consent to an avatar of one recording, from any of its sources; call it before any work.

    Args:
        consent: a `Consent`, a dict, the path of a consent file, `"ask"`, or None: ask if there is a terminal.
        clip_sha256: SHA-256 of the recording.
        interactive: whether there is a terminal; None finds out.

    Raises:
        ConsentError: nobody agreed; or the consent is wrong, for another recording, or expired.
        FileNotFoundError: there is no such consent file.
    """
    if not is_sha256(clip_sha256):
        raise wrong_field("clip_sha256", "the recording's SHA-256, 64 digits 0-9 a-f", clip_sha256)
    if isinstance(consent, Consent):
        return consent.for_clip(clip_sha256)
    if consent is None or (isinstance(consent, str) and consent == "ask"):
        if not (is_interactive() if interactive is None else interactive):
            raise no_terminal_error()
        return ask_consent(clip_sha256).for_clip(clip_sha256)
    if not isinstance(consent, (str, os.PathLike, dict)):
        raise wrong_field("", "a Consent, a dict, the path of a consent file, 'ask' or None", consent)
    return load_consent(consent).for_clip(clip_sha256)


def ask_consent(clip_sha256: str, ask: Callable[[str], str] = input, say: Callable[[str], Any] = print) -> Consent:
    """Asks in plain words; the person types their name, and "I agree" under the finished statement.

    Args:
        clip_sha256: SHA-256 of the recording; it becomes part of the statement.
        ask: shows a question and returns the answer, as `input` does; it raises EOFError if nobody answers.
        say: shows a text, as `print` does.

    Raises:
        ConsentError: they did not agree, gave no usable answer three times, or there is no terminal.
    """
    if ask is input and not is_interactive():
        raise no_terminal_error()
    try:
        return _interview(clip_sha256, ask, say)
    except EOFError:
        raise no_terminal_error() from None


def _interview(clip_sha256: str, ask, say) -> Consent:
    say(_INTRODUCTION.strip())
    name = _answer(ask, say, "Name of the person in the recording, as they want to be named: ", _text(200))
    guardian, relation = None, None
    if not _answer(ask, say, f"Are you {name}? [yes/no] ", _yes_or_no):
        say(
            f"Then only somebody who may decide for {name} can agree, such as a legal guardian. "
            "If that is not you, stop here (Ctrl+C) and ask them."
        )
        guardian = _answer(ask, say, "Your own name: ", _text(200))
        relation = _answer(
            ask, say, f"Why you may decide for {name} (for example: mother, legal guardian): ", _text(200)
        )
    listed = "\n".join(f"  {i}  {words}" for i, words in enumerate(PURPOSES.values(), 1))
    say(f"What may the avatar be used for?\n{listed}")
    purposes = _answer(ask, say, "Numbers, with commas between them (for example 1,2): ", _choices)
    note = _answer(ask, say, "Limits or wishes in your own words (Enter: none): ", _text(2000, True))
    expires = _answer(ask, say, "Until which day, such as 2027-12-31 (Enter: no end): ", _end_of_day)
    contact = _answer(ask, say, "Whom to write to, to take this back later (Enter: nobody): ", _text(300, True))
    facts = {
        "person": name,
        "guardian_name": guardian,
        "guardian_relation": relation,
        "purposes": purposes,
        "purpose_note": note,
        "expires": expires,
        "may_publish": "publication" in purposes,
    }
    statement = make_statement(clip_sha256=clip_sha256, **facts)
    say(f"\n{statement}\n")
    if ask('To agree, type "I agree"; anything else stops: ').strip(" .!\"'").lower() != _AGREEMENT:
        raise ConsentError("consent: it was not agreed to, so no avatar is made; nothing was written.")
    return Consent(
        **facts,
        statement=statement,
        agreed_by="person" if guardian is None else "guardian",
        revocation_contact=contact,
        clip_sha256=clip_sha256,
        how="terminal",
    ).check()


def make_statement(
    *,
    person: str,
    purposes: tuple[str, ...],
    clip_sha256: str,
    may_publish: bool = False,
    guardian_name: str | None = None,
    guardian_relation: str | None = None,
    purpose_note: str | None = None,
    expires: str | None = None,
) -> str:
    """The statement that the person agrees to, made from the fields of a `Consent`."""
    uses = ", ".join(PURPOSES[purpose] for purpose in purposes)
    if guardian_name is None:
        begin = f"I, {person}, agree that a talking avatar of me is made"
    else:
        begin = (
            f"I, {guardian_name} ({guardian_relation}), agree for {person} that a talking avatar of {person} is made"
        )
    sentences = [
        f"{begin} from the recording with SHA-256 {clip_sha256}, and that it is used for: {uses}.",
        f"The avatar itself may {'be' if may_publish else 'not be'} given to others.",
        f"In my own words: {purpose_note.rstrip('.')}." if purpose_note else "",
        f"This holds until {expires}." if expires else "This holds until I take it back.",
        f"I know that it can be made to say what {'I' if guardian_name is None else person} never said, and that I can "
        "take this back, though copies that others already have may remain.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _answer(ask, say, question: str, read: Callable[[str], Any]) -> Any:
    for _ in range(_ATTEMPTS):
        try:
            return read(ask(question).strip())
        except ValueError as error:
            say(f"  {error}")
    raise ConsentError(f"consent: no usable answer to {question.strip(' :')!r}, so no avatar is made; start again.")


def _text(limit: int, optional: bool = False) -> Callable[[str], str | None]:
    def read(answer: str) -> str | None:
        if not answer and optional:
            return None
        if not answer or len(answer) > limit:
            raise ValueError(f"Please type something of at most {limit} characters.")
        if found := check_printable(answer):
            raise ValueError(f"Please type it without {found}.")
        return answer

    return read


def _yes_or_no(answer: str) -> bool:
    if answer.lower() not in ("yes", "y", "no", "n"):
        raise ValueError('Please type "yes" or "no".')
    return answer.lower() in ("yes", "y")


def _choices(answer: str) -> tuple[str, ...]:
    numbers = answer.replace(",", " ").split()
    if not numbers or set(numbers) - {str(i) for i in range(1, len(PURPOSES) + 1)}:
        raise ValueError(f"Please type one or more of the numbers 1 to {len(PURPOSES)}.")
    return tuple(purpose for i, purpose in enumerate(PURPOSES, 1) if str(i) in numbers)


def _end_of_day(answer: str) -> str | None:
    if not answer:
        return None
    try:
        end = datetime.combine(datetime.strptime(answer, "%Y-%m-%d"), time(23, 59, 59)).astimezone()
        is_over = end <= datetime.now().astimezone()
    except (ValueError, OverflowError, OSError):  # the last two: years that a system's clock does not reach
        raise ValueError("Please type a day as year-month-day, such as 2027-12-31.") from None
    if is_over:
        raise ValueError("Please type a day that is not over.")
    return end.isoformat()


__all__ = ["ask_consent", "make_statement", "resolve_consent"]
