"""Draw the training curves of log files that ``ctfast train`` wrote.

    python benchmarks/scripts/curves.py docs/headneck/*.jsonl --output docs/images/headneck_curves.png

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of one log."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def main() -> None:
    """Draw one panel per log: the loss, and the validation figure on a second axis."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", help="log.jsonl files")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()

    # By name, so that types are checked alike with and without matplotlib.
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, len(options.logs), figsize=(4.2 * len(options.logs), 3.2), squeeze=False)
    for panel, path in zip(panels[0], options.logs, strict=True):
        entries = read(path)
        train = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
        panel.plot(*zip(*train, strict=True), color="tab:blue", label="training loss")
        panel.set(title=path.stem, xlabel="step", yscale="log")
        names = {key for entry in entries for key in entry if key.startswith("val_")}
        for name in sorted(names):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axis = panel.twinx() if name == "val_psnr" else panel
            label = "validation PSNR, dB" if name == "val_psnr" else "validation"
            axis.plot(*zip(*points, strict=True), "o-", color="tab:orange", markersize=3, label=label)
            axis.legend(loc="center right", fontsize=7)
        panel.legend(loc="upper right", fontsize=7)
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
