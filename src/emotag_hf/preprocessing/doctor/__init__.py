"""The doctor: checks whether a clip is good enough to make an avatar, and what to record again if not."""

from .examination import examine
from .page import write_page
from .report import Check, DoctorReport, render_text

__all__ = ["Check", "DoctorReport", "examine", "render_text", "write_page"]
