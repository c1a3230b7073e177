"""Modules that need more packages than the runtime does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import RequestError


def import_extra(module: str, what: str, extra: str) -> Any:
    """A module of ctfast that needs the packages of an extra; RequestError says what to install for ``what``."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "ctfast":
            raise
        raise RequestError(
            f"{what} needs '{error.name}', which is not installed: pip install 'ctfast[{extra}]'"
        ) from error
