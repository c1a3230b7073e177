"""Reading a network's state dict back out of a plan, so that training can go on from a plan's weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .manifest_checks import BACKEND_SECTIONS
from .plan_layout import refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .plan import Plan


def state_dict(plan: Plan, network: str) -> dict[str, NDArray[Any]]:
    """The tensors of ``network`` by state-dict key, as new arrays in the state dict's shapes.

    float16 tensors are widened to float32, which is what training wants; their values are those of the plan, so a plan
    with float16 weights gives the trained weights rounded to float16. PlanError if the plan has no such network, has it
    in int8, or has no table of its tensors.
    """
    networks = plan.manifest.networks
    if network not in networks:
        refuse(plan.name, f"the plan has no network '{network}'; it has: {', '.join(networks)}", "Name one of these")
    entry = networks[network]
    if entry.precision == "int8":
        what = f"network '{network}' was quantised to int8, and its trained weights are not in the plan"
        refuse(plan.name, what, "Use its checkpoint, or a plan that was built with --precision bf16 or fp32")
    if not entry.tensors:
        what = f"the manifest does not tell where the tensors of network '{network}' are"
        refuse(plan.name, what, "Build the plan again with: ctfast build, or give the checkpoint instead")
    return tensors(plan, network, entry.tensors)


def tensors(plan: Plan, network: str, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Some of them, which must be in the table of the network's tensors."""
    import numpy as np

    entry = plan.manifest.networks[network]
    weights = plan.section(f"{network}/{BACKEND_SECTIONS[entry.backend][-1]}")
    found: dict[str, NDArray[Any]] = {}
    for key in keys:
        tensor = entry.tensors[key]
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        flat = np.frombuffer(weights, dtype, count=math.prod(tensor.shape), offset=tensor.offset)
        shaped = flat.reshape(tensor.shape[::-1]).T if tensor.transposed else flat.reshape(tensor.shape)
        found[key] = np.array(shaped, np.float32 if tensor.dtype == "float16" else tensor.dtype, order="C")
    return found
