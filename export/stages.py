"""The graphs of a network's stages as files: IR and ONNX over the network's weights."""

from __future__ import annotations

from pathlib import Path

from ctfast.export.onnx_weights import save_over_weights
from ctfast.export.program import StagedNetwork
from ctfast.export.shared_graphs import SharedWeights
from ctfast.export.stage_onnx import stage_model


def write_stages(
    staged: StagedNetwork, network: str, shared: SharedWeights, folder: Path, opset: int
) -> dict[str, Path]:
    """Write the graphs of all stages into ``folder``, which is made.

    The files are by their sections' names without the network's: "stages/<stage>.xml" and "stages/<stage>.onnx".
    """
    folder.mkdir()
    files: dict[str, Path] = {}
    for stage, model in staged.graphs.items():
        ir, onnx = (folder / f"{stage}{suffix}" for suffix in (".xml", ".onnx"))
        shared.save(model, ir)
        save_over_weights(stage_model(model, network, opset), onnx, shared)
        files |= {f"stages/{stage}.xml": ir, f"stages/{stage}.onnx": onnx}
    return files
