"""Guesses what a file is from its first bytes, so that a refusal can tell the user what was given instead of a plan.

The twin is csrc/core/file_kind.cc: the same kinds, in the same order, in the same words.
"""

from __future__ import annotations

from typing import NamedTuple

FILE_KIND_BYTES = 512  # how many of a file's first bytes file_kind() looks at

_BUILD = "Build a plan from the checkpoint with: ctfast build"
_PLAN = "Give the path of a plan here, and this file as the input"
_UNPACK = "If a plan is inside, unpack it first"
_DOWNLOAD = "Download it again"
_OTHER = "Give the path of a plan, or build one with: ctfast build"


class FileKind(NamedTuple):
    """What a file looks like ("a NIfTI image") and what to do about it (a sentence without its full stop)."""

    looks_like: str
    remedy: str


_SIGNATURES = (
    (0, b"\x1f\x8b", FileKind("a gzip archive", _UNPACK)),
    (0, b"PK\x03\x04", FileKind("a zip archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a Zstandard archive", _UNPACK)),
    (0, b"\xfd7zXZ", FileKind("an xz archive", _UNPACK)),
    (0, b"BZh", FileKind("a bzip2 archive", _UNPACK)),
    (257, b"ustar", FileKind("a tar archive", _UNPACK)),
    (0, b"\x80\x02", FileKind("a PyTorch checkpoint of the old kind, or another pickle", _BUILD)),
    (4, b'\0\0\0\0{"', FileKind("a safetensors file", _BUILD)),
    (0, b"\x89HDF", FileKind("an HDF5 file", _BUILD)),
    (0, b"ftrt", FileKind("a TensorRT engine", _OTHER)),
    (0, b"ptrt", FileKind("a TensorRT engine", _OTHER)),
    (344, b"n+1\0", FileKind("a NIfTI image", _PLAN)),
    (344, b"ni1\0", FileKind("a NIfTI header", _PLAN)),
    (4, b"n+2\0", FileKind("a NIfTI-2 image", _PLAN)),
    (128, b"DICM", FileKind("a DICOM file", _PLAN)),
    (0, b"NRRD", FileKind("an NRRD image", _PLAN)),
    (0, b"\x89PNG", FileKind("a PNG picture", _PLAN)),
    (0, b"\x93NUMPY", FileKind("a NumPy array", _PLAN)),
    (0, b"version https://git-lfs", FileKind("a Git LFS pointer", "Fetch the file itself with: git lfs pull")),
    (0, b"<!DOCTYPE", FileKind("a web page", _DOWNLOAD)),
    (0, b"<!doctype", FileKind("a web page", _DOWNLOAD)),
    (0, b"<html", FileKind("a web page", _DOWNLOAD)),
    (0, b"<?xml", FileKind("an XML file, perhaps an OpenVINO model", _OTHER)),
    (0, b"{", FileKind("a JSON file", _OTHER)),
    (0, b"\x7fELF", FileKind("a program or library", _OTHER)),
)


def file_kind(head: bytes) -> FileKind | None:
    """What ``head`` (a file's first bytes) looks like; None for kinds that nobody mixes up with plans."""
    head = head[:FILE_KIND_BYTES]
    if head.startswith(b"PK\x03\x04") and b"/data.pkl" in head:
        return FileKind("a PyTorch checkpoint", _BUILD)
    # An ONNX model is a protobuf message whose first field is a small version number and whose next is a string.
    if len(head) > 2 and head[0] == 8 and 0 < head[1] < 32 and head[2] == 18:
        return FileKind("an ONNX model", _BUILD)
    for offset, magic, kind in _SIGNATURES:
        if head.startswith(magic, offset):
            return kind
    if head and not head.strip(b"\0"):
        return FileKind("a file of zeros, as an unfinished copy leaves", "Copy it again")
    return None
