"""Object arrays that numpy pickled, read without running anything that is in the file.

A pickle is a program: it names functions and calls them. This reader knows five names, those by
which numpy writes arrays and numbers, and puts harmless classes of its own in their place. Any other
name ends the reading, so a file can build dictionaries, lists, tuples, strings, bytes and numbers and
nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

from open_clip_ext.errors import InputError

NUMBERS = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


def load(path: Path) -> list[Any]:
    """The elements of an object array saved by `numpy.save(..., allow_pickle=True)`.

    Arrays come back as flat lists and numpy's numbers as Python's. Raises InputError if the file is
    anything else, or holds anything else.
    """
    from numpy.lib import format as npy

    try:
        with path.open("rb") as file:
            header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            _, _, dtype = header[npy.read_magic(file)](file)
            if not dtype.hasobject:
                raise pickle.UnpicklingError(f"an array of {dtype}, not of objects")
            found = PlainUnpickler(file).load()
            if not isinstance(found, Array):
                raise pickle.UnpicklingError(f"a {type(found).__name__}, not an array")
            return found
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged or hostile file can raise any
        raise InputError(
            f"{path}: not a .npy file of plain dictionaries ({type(error).__name__}: {error}); "
            "it was not read further"
        ) from error


class _Stand:
    """Something in the place of numpy's; a class, so that a pickle cannot write attributes to it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state where there can be none")


class Array(list[Any]):
    """In the place of `numpy.ndarray`: its elements, flat."""

    __slots__ = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, elements = state
        self[:] = elements if isinstance(elements, list) else _numbers(dtype, elements)


class _DType(_Stand):
    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Reconstruct(_Stand):
    __slots__ = ()

    def __new__(cls, *_: Any) -> Array:  # type: ignore[misc]
        return Array()


class _Scalar(_Stand):
    __slots__ = ()

    def __new__(cls, dtype: Any, data: bytes) -> Any:
        (number,) = _numbers(dtype, data)
        return number


def _numbers(dtype: Any, data: Any) -> list[Any]:
    import numpy

    if not isinstance(dtype, _DType) or dtype.code not in NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError("an array that is neither of objects nor of numbers")
    order = dtype.order if dtype.order in ("<", ">") else "|"
    return numpy.frombuffer(data, order + dtype.code).tolist()  # type: ignore[no-any-return]


NAMES = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _DType,
    **{
        (module, name): stand
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, stand in (("_reconstruct", _Reconstruct), ("scalar", _Scalar))
    },
}


class PlainUnpickler(pickle.Unpickler):
    """Builds plain values only. Raises pickle.UnpicklingError at any other name."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        """One of ours in the place of numpy's."""
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])
        return NAMES[module, name]
