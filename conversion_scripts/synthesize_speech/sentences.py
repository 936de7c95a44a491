"""Real sentences by language, for the synthetic voices.

Random words have other phoneme sequences than real speech, and too many p, b, m. In: the folder of Debian's packages
`fortunes`, `fortunes-de`, `-es`, `-it`, `-pl`, `-ru`, `-br`, which hold quotations, proverbs and jokes; only the sound
of the sentences is kept. Out: sentences of 20 to 130 letters by espeak-ng's name of the language.
"""

from __future__ import annotations

import re
from pathlib import Path

# Prose alone: no drawings, no source code, no song of a single word.
_ENGLISH = (
    "art", "computers", "cookie", "drugs", "education", "food", "fortunes", "humorists", "kids", "law", "literature",
    "love", "medicine", "men-women", "news", "people", "pets", "platitudes", "politics", "riddles", "science",
    "songs-poems", "sports", "wisdom", "work",
)  # fmt: skip
_FILES = {
    "en-us": _ENGLISH, "en": _ENGLISH, "de": ("de/*",), "es": ("es/*",), "it": ("italia", "it/italia"), "pl": ("pl/*",),
    "ru": ("ru/*",), "pt-br": ("brasil",),
}  # fmt: skip
_UNSPEAKABLE = re.compile(r"[\d@#$%^&*_=+<>{}\\/|~\[\]]")
_AUTHOR = re.compile(r"\s*(--|—|\[|\()")


def read_sentences(folder: Path) -> dict[str, list[str]]:
    """Language -> sentences, sorted, each once; languages of which nothing is installed are not in it.

    Raises:
        FileNotFoundError: there is no sentence in the folder.
    """
    found = {language: _read(folder, patterns) for language, patterns in _FILES.items()}
    found = {language: lines for language, lines in found.items() if lines}
    if not found:
        raise FileNotFoundError(
            f"sentences: expected Debian's quotations in {folder}, found none; `apt-get install fortunes` and, for "
            "other languages, fortunes-de, -es, -it, -pl, -ru, -br."
        )
    return found


def _read(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    lines: set[str] = set()
    for path in sorted(p for pattern in patterns for p in folder.glob(pattern)):
        if path.is_file() and path.suffix not in (".dat", ".u8"):
            lines |= set(split(path.read_bytes()))
    return sorted(lines)


def split(content: bytes) -> list[str]:
    """The sentences of one file, whose pieces are parted by lines of a percent sign."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    found = []
    for piece in re.split(r"\n%\n", text):
        prose = " ".join(" ".join(line for line in piece.split("\n") if not _AUTHOR.match(line)).split())
        for raw in re.split(r"(?<=[.!?;:])\s+", prose):
            sentence = raw.strip("\"' -")
            plain = sum(c.isalpha() or c == " " for c in sentence)
            if 20 <= len(sentence) <= 130 and not _UNSPEAKABLE.search(sentence) and plain > 0.85 * len(sentence):
                found.append(sentence)
    return found
