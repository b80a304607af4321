"""``torch.compile`` for one owner: what it makes serves nobody else, and goes when its owner goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch

Backend = str | Callable[..., Any]


class Compiled:
    """A function that does what ``function`` does, compiled at its first call and again for other kinds of inputs.

    PyTorch keeps what it compiled with a function's code, for the life of the process, and compiles only so many
    variants of it: all who compile one function fill the same few places. Hence each of these compiles a copy that has
    code of its own, and ``function`` itself stays as it is. A copy, or what comes out of a pickle, compiles anew.
    """

    def __init__(
        self, function: Callable[..., Any], *, backend: Backend = "inductor", **settings: Any
    ) -> None:
        """
        Args:
            function: a plain Python function.
            backend: of ``torch.compile``; "inductor" needs a C++ compiler on a CPU.
            **settings: others of ``torch.compile``.
        """
        self._again = partial(Compiled, function, backend=backend, **settings)
        plain: Any = function
        code = plain.__code__.replace()
        copy = FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
        self._run = torch.compile(copy, backend=backend, **settings)
        weakref.finalize(self, torch._dynamo.reset_code, code).atexit = False

    def __call__(self, *args: Any) -> Any:
        """As ``function``."""
        return self._run(*args)

    def __reduce__(self) -> tuple[Callable[..., Compiled], tuple[()]]:
        return self._again, ()
