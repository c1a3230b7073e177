"""Whether TensorRT engines run on a machine, by version and GPU: told before TensorRT is asked, which names neither."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..manifest import TensorRT

_log = logging.getLogger("ctfast")


def mismatch(built: TensorRT, version: str, name: str, capability: str) -> str | None:
    """Why an engine does not run here, or None.

    ``version`` is TensorRT's, ``name`` the GPU's, and ``capability`` its compute capability, like "9.0".
    """
    made, here = numbers(built.version), numbers(version)
    # A version-compatible engine runs with later versions of its major version, and one of 10 with 11.
    later = built.version_compatible and made <= here and here[0] - made[0] <= 1
    if built.version != version and not later:
        newer = ", and was not built to run with later versions" if made < here else ""
        return f"was built with TensorRT {built.version}{newer}; here is TensorRT {version}"
    ampere_plus = built.hardware == "ampere_plus" and numbers(capability) >= (8, 0)
    if capability != built.compute_capability and not ampere_plus:
        return (
            f"was built for {built.device} (compute capability {built.compute_capability}); here is {name} "
            f"({capability})"
        )
    if built.hardware == "none" and name != built.device:
        _log.warning("the engines were built for %s; on %s they may be slower", built.device, name)
    return None


def numbers(version: str) -> tuple[int, ...]:
    """The parts of a version that are numbers, four at most."""
    return tuple(int(part) for part in version.split(".")[:4] if part.isdigit())
