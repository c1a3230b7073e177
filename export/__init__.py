"""Turns torch networks into plans. Needs torch, onnx and onnxscript: ``pip install ctfast[export]``."""

from __future__ import annotations

from ctfast.export.build import build, build_from_modules

__all__ = ["build", "build_from_modules"]
