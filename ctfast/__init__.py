"""ctfast: fast inference for latent flow and diffusion models of 3D CT and MR.

The public names are loaded at their first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import errors
    from .api import build, decode, encode, generate, load
    from .engine import Engine
    from .volume import Volume

__all__ = ["Engine", "Volume", "__version__", "build", "decode", "encode", "errors", "generate", "load"]

_HOME = {
    "Engine": ".engine",
    "Volume": ".volume",
    "build": ".api",
    "decode": ".api",
    "encode": ".api",
    "generate": ".api",
    "load": ".api",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    from importlib import import_module

    if name == "errors":
        return import_module(".errors", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'ctfast' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
