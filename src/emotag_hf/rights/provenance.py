"""The mark that says that a video is AI-generated.

In: facts about how a video was made. Out: container tags and an XMP packet that players, `ffprobe`, `exiftool` and
`read_provenance` can read. Not in the paper; METHOD 6.

The mark is metadata and protects nothing: a re-encoded copy loses it. Signed manifests (C2PA) are not implemented.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import av

# IPTC's term for media that a trained model made: https://cv.iptc.org/newscodes/digitalsourcetype/
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
STATEMENT = "AI-generated video: this talking head was synthesised from audio."

_XMP_BOX = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes  # where XMP lives in ISO media files (XMP part 3)


def package_version() -> str:
    """The installed version, `"unknown"` when the package runs from a bare source tree."""
    try:
        return version("emotag_hf")
    except PackageNotFoundError:
        return "unknown"


def run_facts() -> dict[str, dict[str, Any]]:
    """`{"versions", "machine"}` of a training, for reproducibility. The machine's host name is not included."""
    import platform

    import torch

    versions = {"python": platform.python_version()}
    for name in ("torch", "numpy", "numba", "transformers"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    machine = {
        "system": platform.system(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
    return {"versions": versions, "machine": machine}


def make_provenance(**facts: Any) -> dict[str, Any]:
    """What is said about a generated video: that it is AI-generated, by which tool, plus the caller's `facts`.

    Args:
        facts: JSON values, by convention `model`, `avatar`, `emotion`, `intensity`, `seed`. `None` is left out.

    No time stamp: the same call writes the same file.
    """
    reserved = {
        "ai_generated": True,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "tool": "emotag_hf",
        "tool_version": package_version(),
    }
    return {k: v for k, v in facts.items() if v is not None and k not in reserved} | reserved


def container_tags(metadata: dict[str, Any]) -> dict[str, str]:
    """The mp4 tags of some metadata: JSON and, if they mark it as AI-generated, a readable sentence."""
    tags = {"comment": json.dumps(metadata, sort_keys=True, ensure_ascii=False)}
    return tags | ({"description": STATEMENT} if metadata.get("ai_generated") else {})


def append_xmp(path: str | os.PathLike, provenance: dict[str, Any]) -> None:
    """Adds the IPTC mark as an XMP box at the end of an mp4, where a box does not move the others."""
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(provenance['digital_source_type'])} "
        f"xmp:CreatorTool={quoteattr('{tool} {tool_version}'.format_map(provenance))}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
    with Path(path).open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", _XMP_BOX) + packet)


def read_provenance(path: str | os.PathLike) -> dict[str, Any]:
    """Reads back what `make_provenance` said; an empty dict when the file carries no such mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a media file.
    """
    try:
        with av.open(os.path.abspath(path)) as container:
            comment = container.metadata.get("comment", "")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"path: expected a video, but there is no file {path}.") from error
    except av.error.FFmpegError as error:
        raise ValueError(f"path: expected a video, but {path} cannot be read as one.") from error
    try:
        provenance = json.loads(comment)
    except json.JSONDecodeError:
        return {}
    return provenance if isinstance(provenance, dict) and provenance.get("ai_generated") else {}


__all__ = ["DIGITAL_SOURCE_TYPE", "make_provenance", "read_provenance"]
