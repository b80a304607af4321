"""Functions that Numba compiles, and the types of what they are given.

The guard asks for where parts are and how far they are apart some thousand times a second, and NumPy spends more time
on being called than on so few numbers. Types are declared, so that all is compiled when it is imported (once: what was
compiled is kept on disk), and nothing in the first moment of a motion. Loops are plain: array expressions take seconds
to compile. A file's functions call none of another file: what was kept of them would not be compiled anew with those,
nor with what is said here to Numba.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from numba import njit, types

if TYPE_CHECKING:
    from collections.abc import Callable


def array(dimensions: int, kind: Any = types.float64, *, written: bool = False) -> types.Array:
    """Type of any array of so many dimensions; one that is not `written` is only read."""
    return types.Array(kind, dimensions, "A", readonly=not written)


NUMBER, INTEGER = types.float64, types.int64
VECTOR, MATRIX, STACK, STACKS = (array(n) for n in (1, 2, 3, 4))
"""Any array of one to four dimensions, which is only read."""
INDICES, PAIRS = (array(n, INTEGER) for n in (1, 2))


def compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for arguments of these types."""

    def compile_now(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(arguments, cache=True)(function)
        except Exception as error:  # of a folder that cannot be written, or of a file that is damaged in it
            warnings.warn(
                f"what is compiled of rdt2.control cannot be kept ({type(error).__name__}), so that every start takes "
                "seconds longer. Name a folder for it in NUMBA_CACHE_DIR, or empty the one that it names.",
                RuntimeWarning,
                stacklevel=2,
            )
            return njit(arguments)(function)

    return compile_now
