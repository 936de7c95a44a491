"""What one visitor may take of a machine that many share. In: nothing, or keywords. Out: `Settings`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..training.gaussians.adapt_arguments import AdaptArguments


@dataclass(frozen=True)
class Settings:
    """Limits and sizes of the page.

    Args:
        max_recording_s: seconds of a recording that is spoken.
        max_video_s: seconds of a video that becomes an avatar.
        max_upload_mb: megabytes (of 2^20 bytes, as Gradio counts) of one upload, whatever it is.
        max_pixels: of a video's picture; what is larger takes long to decode and is cut to 512 anyway.
        size: pixels of the videos that are made.
        preview_size: pixels of the picture that is shown while one is made.
        keep_s: seconds after which the files of a visitor who is not heard of are deleted.
        arguments: of an adaptation.
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
