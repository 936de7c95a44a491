"""Limits per visitor. In: keywords. Out: `Settings`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..training.gaussians.adapt_arguments import AdaptArguments


@dataclass(frozen=True)
class Settings:
    """Limits and sizes of the page.

    Args:
        max_recording_s: longest recording, seconds.
        max_video_s: longest video for an avatar, seconds.
        max_upload_mb: largest upload in MiB, as Gradio counts.
        max_pixels: largest frame of a video; larger ones are slow to decode and are reduced to 512 anyway.
        size: size of the output videos, pixels.
        preview_size: size of the preview, pixels.
        keep_s: seconds without activity after which a visitor's files are deleted.
        arguments: parameters of an adaptation.
    """

    max_recording_s: float = 60.0
    max_video_s: float = 20.0
    max_upload_mb: int = 100
    max_pixels: int = 4096 * 2304
    size: int = 512
    preview_size: int = 384
    keep_s: float = 3600.0
    arguments: AdaptArguments = field(default_factory=AdaptArguments.preset)

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 2**20


__all__ = ["Settings"]
