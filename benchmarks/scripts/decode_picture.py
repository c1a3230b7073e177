"""Draw one latent decoded in windows and exactly, and the difference: docs/images/decode.png.

    python benchmarks/scripts/decode_picture.py --output docs/images/decode.png \\
        --append benchmarks/results/decode_picture.jsonl

The embedded plan generates one volume (--seed) twice. Its latent of 24 x 24 x 16 would fit into one of the official
scripts' windows, so the windows here are smaller, in the same proportion to the latent as in the official presets for
large volumes. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import records
from numpy.typing import NDArray

import ctfast

#: In HU; as in the model card's pictures.
LEVEL, WIDTH = 100.0, 900.0
_BAR_MM = 50.0


def main() -> int:
    """Generate, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--seed", type=int, default=2, help="default: 2")
    parser.add_argument("--window", type=int, nargs=3, default=[16, 16, 12], help="latent voxels (default: 16 16 12)")
    parser.add_argument("--overlap", type=float, default=0.4, help="default: 0.4")
    parser.add_argument("--largest", type=float, default=150.0, help="HU at the ends of the difference's colours")
    parser.add_argument("--append", type=Path, metavar="JSONL", help="add a row with the difference to this file")
    options = parser.parse_args()

    load_before = records.load()
    engine = ctfast.load(precision="fp32")
    exact = engine.generate(seed=options.seed)
    windowed = engine.generate(
        seed=options.seed, decode="windowed", window=tuple(options.window), overlap=options.overlap
    )
    difference = windowed.array.astype(np.float32) - exact.array
    settings = {
        "plan": exact.meta["plan"],
        "seed": options.seed,
        "size": exact.size,
        "window": options.window,
        "overlap": options.overlap,
        "precision": "fp32",
        "threads": exact.meta["threads"],
    }
    figures = {
        "rms_hu": round(float(np.sqrt(np.square(difference).mean())), 2),
        "largest_hu": int(np.abs(difference).max()),
        "within_10_hu": round(float((np.abs(difference) <= 10).mean()), 4),
    }
    print(f"windows minus exact: {figures}", file=sys.stderr)
    if options.append is not None:
        records.append(options.append, [records.row("decode_picture", settings, figures, load_before)])
    draw(options.output, exact, windowed.array, difference, options.largest)
    return 0


def draw(path: Path, exact: ctfast.Volume, windowed: NDArray[Any], difference: NDArray[Any], largest: float) -> None:
    """One row per plane (axial, coronal), one column per volume; HU in the colour bars, 50 mm in the scale bars."""
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    columns = (
        ("decoded in windows", windowed, "gray", (LEVEL - WIDTH / 2, LEVEL + WIDTH / 2)),
        ("exact", exact.array, "gray", (LEVEL - WIDTH / 2, LEVEL + WIDTH / 2)),
        ("windows minus exact", difference, "RdBu_r", (-largest, largest)),
    )
    figure, grid = pyplot.subplots(2, 3, figsize=(10.5, 6.0), layout="constrained", height_ratios=[4, 2.2])
    for column, (title, array, colours, limits) in enumerate(columns):
        image: Any = None
        for panel, (plane, size) in zip(grid[:, column], planes(array, exact.spacing), strict=True):
            height, width = size
            image = panel.imshow(
                plane,
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                extent=(0, width, 0, height),
                interpolation="nearest",
            )
            panel.set_xticks([])
            panel.set_yticks([])
            if column < 2:
                panel.plot([12, 12 + _BAR_MM], [10, 10], color="white", linewidth=2.5, solid_capstyle="butt")
                panel.text(12 + _BAR_MM / 2, 16, f"{_BAR_MM:.0f} mm", color="white", ha="center", fontsize=8)
        grid[0, column].set_title(title, fontsize=10)
        figure.colorbar(image, ax=grid[:, column], label="HU", orientation="horizontal", shrink=0.8, aspect=30)
    grid[0, 0].set_ylabel("axial")
    grid[1, 0].set_ylabel("coronal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def planes(array: NDArray[Any], spacing: tuple[float, float, float]) -> list[tuple[NDArray[Any], tuple[float, float]]]:
    """Axial and coronal plane through the centre, top row first, with (height, width) in mm; right is left."""
    x, y, z = spacing
    axial = array[::-1, ::-1, array.shape[2] // 2].T
    coronal = array[::-1, array.shape[1] // 2, ::-1].T
    return [
        (axial, (axial.shape[0] * y, axial.shape[1] * x)),
        (coronal, (coronal.shape[0] * z, coronal.shape[1] * x)),
    ]


if __name__ == "__main__":
    sys.exit(main())
