"""Triton's interpreter stands in for a GPU. It has to be asked for before anything imports triton, so here."""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
