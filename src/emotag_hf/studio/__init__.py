"""The backend of the web page: visitors, limits on uploads, speaking, making an avatar, posing.

In: visitors' inputs. Out: files in a folder per visitor, data for plots, messages. `space/app.py` is the page and is
not used here.
"""

from __future__ import annotations

from .avatars import DEMO, FROM_HUB, MINE, Avatars
from .faces import FACE_SLIDERS, MAX_NOD, MAX_TURN, draw_face, face_motion, viewer_frame
from .making import CONSENT_ROLES, Made, consent_of, look_at, make_avatar, report_html, zip_avatar
from .settings import Settings
from .speaking import FROM_VOICE, Spoken, curve_points, emotion_of, keyframes_of, speak
from .uploads import UploadError, check_recording, check_video, in_words
from .visitors import Job, Stopped, Visitor, Visitors

__all__ = [
    "Avatars",
    "CONSENT_ROLES",
    "DEMO",
    "FACE_SLIDERS",
    "FROM_HUB",
    "FROM_VOICE",
    "Job",
    "MAX_NOD",
    "MAX_TURN",
    "MINE",
    "Made",
    "Settings",
    "Spoken",
    "Stopped",
    "UploadError",
    "Visitor",
    "Visitors",
    "check_recording",
    "check_video",
    "consent_of",
    "curve_points",
    "draw_face",
    "emotion_of",
    "face_motion",
    "in_words",
    "keyframes_of",
    "look_at",
    "make_avatar",
    "report_html",
    "speak",
    "viewer_frame",
    "zip_avatar",
]
