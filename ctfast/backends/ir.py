"""What backends that read OpenVINO's graphs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import PlanError

if TYPE_CHECKING:
    from .. import _native
    from ..manifest import PlanManifest


def lacking(manifest: PlanManifest) -> str | None:
    """What a plan lacks for its networks to be read, or None."""
    others = [name for name, network in manifest.networks.items() if network.backend != "openvino"]
    if not others:
        return None
    return f"the plan has no OpenVINO graph of {', '.join(others)}. Build it again with: ctfast build"


def check_names(manifest: PlanManifest, network: str, session: _native.Session, drop: Sequence[str]) -> None:
    """PlanError if a session has other inputs or outputs than the manifest says."""
    entry = manifest.networks[network]
    expected = set(entry.inputs) - set(drop)
    if set(session.inputs) != expected or set(session.outputs) != set(entry.outputs):
        raise PlanError(
            f"network '{network}' of plan '{manifest.name}' has inputs {sorted(session.inputs)} and outputs "
            f"{sorted(session.outputs)}, but the manifest says {sorted(expected)} and {sorted(entry.outputs)}. "
            "Build the plan again."
        )
