"""The doctor: is this clip good enough to make a head of, and if not, what should be recorded again?"""

from .examination import examine
from .page import write_page
from .report import Check, DoctorReport, render_text

__all__ = ["Check", "DoctorReport", "examine", "render_text", "write_page"]
