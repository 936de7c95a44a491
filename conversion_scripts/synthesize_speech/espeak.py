"""espeak-ng through its C API: text in, sound with the sample time of every phoneme out.

Needs the Debian package `espeak-ng` (its library `libespeak-ng.so.1`). espeak-ng is GPL software: it is used as a tool,
only its audio is kept, and it is not part of this package.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import multiprocessing
from dataclasses import dataclass

import numpy as np

_SYNCHRONOUS, _PHONEME_IPA_EVENTS, _UTF8, _PHONEME_EVENT = 2, 0x0003, 1, 7
_RATE, _VOLUME, _PITCH, _RANGE, _WORDGAP = 1, 2, 3, 4, 7


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Utterance:
    """`samples` float32 in [-1, 1] at `rate` Hz; `phonemes`: (IPA symbol, start in seconds), in order."""

    samples: np.ndarray
    rate: int
    phonemes: list[tuple[str, float]]


class Espeak:
    """One espeak-ng engine; the library allows one per process."""

    def __init__(self):
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._lib = ctypes.CDLL(name)
        except OSError as error:
            raise ImportError("espeak-ng's library was not found; on Debian: `apt-get install espeak-ng`.") from error
        self.rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 200, None, _PHONEME_IPA_EVENTS)
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start; is the package `espeak-ng-data` installed?")
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[str, float]] = []
        self._callback = _Callback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wav, count, events) -> int:
        if wav and count > 0:
            self._sound.append(np.ctypeslib.as_array(wav, (count,)).astype(np.float32) / 32768)
        index = 0
        while events[index].type != 0:
            event = events[index]
            if event.type == _PHONEME_EVENT:
                raw = bytes(event.id)  # all eight bytes: a full one has no terminating zero
                symbol = raw.split(b"\0", 1)[0].decode("utf-8", "ignore")
                self._events.append((symbol, event.audio_position / 1000))
            index += 1
        return 0

    def say(self, text: str, voice: str, *, rate: int = 170, pitch: int = 50, pitch_range: int = 50) -> Utterance:
        """Speaks `text` with `voice` (such as `"de+f3"`): `rate` in words per minute, `pitch` and range 0..100."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"voice: espeak-ng has no voice {voice!r}; see `espeak-ng --voices`.")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range), (_VOLUME, 90)):
            self._lib.espeak_SetParameter(parameter, int(value), 0)
        self._sound, self._events = [], []
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        self._lib.espeak_Synchronize()
        samples = np.concatenate(self._sound) if self._sound else np.zeros(0, np.float32)
        return Utterance(samples, self.rate, list(self._events))


def _serve(pipe) -> None:
    engine = Espeak()
    while True:
        try:
            request = pipe.recv()
        except EOFError:  # the data set is done
            return
        pipe.send(engine.say(**request))


class RestartingEspeak:
    """`Espeak` in a process of its own: some voice variants crash the library, and the data set must not go with it."""

    def __init__(self):
        Espeak()  # fails at once, in this process, if the library is missing
        self._worker = None

    def say(self, text: str, voice: str, **settings) -> Utterance | None:
        """As `Espeak.say`; None where espeak-ng crashed or hung on this text."""
        if self._worker is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._worker = context.Process(target=_serve, args=(other,), daemon=True)
            self._worker.start()
            other.close()
        self._pipe.send({"text": text, "voice": voice, **settings})
        try:
            if self._pipe.poll(60):
                return self._pipe.recv()
        except EOFError:
            pass
        self._worker.kill()
        self._worker.join()
        self._worker = None
        return None
