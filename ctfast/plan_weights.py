"""Reading a network's state dict back out of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .plan import Plan


def state_dict(plan: Plan, network: str) -> dict[str, NDArray[np.generic[Any]]]:
    """The network's tensors by state-dict key, shapes as in the state dict; floating ones widened to float32."""
    raise NotImplementedError
