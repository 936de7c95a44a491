"""Reads a FLAME pickle without executing it: the user's own file in, arrays by name out.

A pickle is a program. This reader knows the handful of names that a FLAME file (2017 to 2023, "2023 Open" included)
calls: numpy's arrays, scipy's sparse matrices and chumpy's wrappers, the last two replaced by stand-ins that only keep
their numbers. Any other name is refused before it is looked up; neither chumpy nor scipy is imported.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError, check_keys

NUM_SHAPE, NUM_EXPRESSION = 300, 100
VERTICES = 5023
_LARGEST = 1 << 30  # bytes; FLAME's files have some 50 MB

# name -> shape, None for any length
REQUIRED = {
    "v_template": (VERTICES, 3),
    "f": (None, 3),
    "shapedirs": (VERTICES, 3, NUM_SHAPE + NUM_EXPRESSION),
    "posedirs": (VERTICES, 3, 36),
    "J_regressor": (5, VERTICES),
    "weights": (VERTICES, 5),
    "kintree_table": (2, 5),
}
# said by some editions and not needed: joints follow from the regressor
IGNORED = ("J", "bs_style", "bs_type", "J_regressor_prior", "weights_prior", "vert_sym_idxs")
_PARENTS = [0, 1, 1, 1]  # of neck, jaw, left eye, right eye; the root has none


def read_flame(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of `REQUIRED` (float64, faces int64) in a FLAME pickle.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: not a pickle, one that asks for anything a FLAME file does not need, or other arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"flame: expected the pickle of a FLAME model, but there is no file {path}.")
    if path.stat().st_size > _LARGEST:
        raise ConversionError(f"flame: {path.name} has more than {_LARGEST >> 30} GB, which no FLAME file has.")
    content = _unpickle(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConversionError(f"flame: expected a dictionary of arrays in {path.name}, got {type(content).__name__}.")
    check_keys(content, REQUIRED, IGNORED, f"flame: {path.name}")
    arrays = {name: _array(name, content[name], path.name) for name in REQUIRED}
    for name, shape in REQUIRED.items():
        got = arrays[name].shape
        if len(got) != len(shape) or any(w not in (None, g) for w, g in zip(shape, got, strict=True)):
            wanted = ["any" if n is None else n for n in shape]
            raise ConversionError(f"flame: expected {name} of shape {wanted} in {path.name}, got {list(got)}.")
    _check_values(arrays, path.name)
    arrays["f"] = arrays["f"].astype(np.int64)
    return arrays


def _check_values(arrays: dict[str, np.ndarray], name: str) -> None:
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ConversionError(f"flame: expected finite numbers in {key} of {name}, got NaN or infinity.")
    if arrays["f"].min() < 0 or arrays["f"].max() >= VERTICES:
        raise ConversionError(f"flame: expected faces of vertices 0 to {VERTICES - 1} in {name}, got others.")
    if arrays["kintree_table"][0, 1:].tolist() != _PARENTS:
        parents = arrays["kintree_table"][0].tolist()
        raise ConversionError(f"flame: expected FLAME's joints with parents {_PARENTS} in {name}, got {parents}.")


class _Plain:
    """Replaces a foreign class: keeps the pickled values, without behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Chumpy(_Plain):
    def value(self) -> np.ndarray:
        return self.state["x"]


class _Sparse(_Plain):
    by_column = True

    def value(self) -> np.ndarray:
        state = self.state
        rows, columns = (int(n) for n in state.get("_shape", state.get("shape")))
        if not 0 <= rows * columns <= 100 * VERTICES:
            raise ValueError(f"a sparse matrix of {rows} x {columns}")
        lengths = np.diff(state["indptr"])
        major, minor = np.repeat(np.arange(len(lengths)), lengths), np.asarray(state["indices"])
        dense = np.zeros((columns, rows) if self.by_column else (rows, columns))
        np.add.at(dense, (major, minor), state["data"])
        return dense.T if self.by_column else dense


class _SparseRows(_Sparse):
    by_column = False


def _new_array(kind: type, shape: tuple, code: Any) -> np.ndarray:
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array of an unusual kind")
    return np.ndarray((0,), "b")


def _new_object(kind: type, base: type, state: Any) -> _Plain:
    if not (isinstance(kind, type) and issubclass(kind, _Plain)) or base is not object:
        raise pickle.UnpicklingError("an object of an unusual kind")
    return kind()


def _latin(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin,
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy", "Ch"): _Chumpy,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{(module, "object"): object for module in ("__builtin__", "builtins")},
    **{(module, "set"): set for module in ("__builtin__", "builtins")},
    **{(f"scipy.sparse.{m}", "csc_matrix"): _Sparse for m in ("csc", "_csc")},
    **{(f"scipy.sparse.{m}", "csr_matrix"): _SparseRows for m in ("csr", "_csr")},
    **{(f"scipy.sparse.{m}", "csc_array"): _Sparse for m in ("csc", "_csc")},
    **{(f"scipy.sparse.{m}", "csr_array"): _SparseRows for m in ("csr", "_csr")},
}


class _Forbidden(Exception):
    """The name that a pickle requested."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Forbidden(f"{module}.{name}")
        return _KNOWN[module, name]


# what a damaged or hostile stream of opcodes may raise inside the unpickler
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, ImportError,
    OverflowError, MemoryError, RecursionError, UnicodeError,
)  # fmt: skip


def _unpickle(path: Path) -> Any:
    try:
        return _Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except _Forbidden as error:
        raise ConversionError(
            f"flame: {path.name} asks for {error}, which no FLAME model needs; nothing of it was run, "
            "get the file from where FLAME is distributed."
        ) from None
    except _BROKEN as error:
        raise ConversionError(f"flame: {path.name} is not a whole pickle ({type(error).__name__}: {error}).") from error


def _array(name: str, value: Any, file: str) -> np.ndarray:
    try:
        value = value.value() if isinstance(value, _Plain) else value
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"numbers expected, not {array.dtype}")
        return array.astype(np.float64 if name != "kintree_table" else np.int64)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConversionError(f"flame: expected an array of numbers as {name} in {file} ({error}).") from error
