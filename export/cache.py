"""Exported networks, kept so that a build that was broken off goes on where it was, and the next one is short.

One folder per network, named by a key of everything that decides its files: weights, shapes, options, versions, and
the exporter's own source. An entry appears as a whole by a rename and is never changed; its files are checked when
they are used. So any number of builds can share a cache, and a kill or a full disk costs an entry, never a plan.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ctfast import networks
from ctfast._version import __version__
from ctfast.checkpoints import sha256_of
from ctfast.export.describe import versions
from ctfast.export.scratch import owned_folder
from ctfast.export.wrappers import Graph
from ctfast.manifest import Footprint

_log = logging.getLogger(__name__)

#: Entries used longest ago go when all together have more.
LIMIT_BYTES = 8 << 30

_CONTENTS = "entry.json"
_PARTS = ".part-"


@dataclass(frozen=True)
class Part:
    """One network as it goes into a plan: its entry in the manifest, and its sections' files.

    ``files`` are by the sections' names without the network's, such as "model.xml", in their order in the plan.
    """

    entry: Mapping[str, Any]
    footprint: Footprint
    files: Mapping[str, Path]


def default_folder() -> Path:
    """Where a user's caches are: ``ctfast/export`` in $XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ctfast" / "export"


class ExportCache:
    """A folder of exported networks; it is made when the first is kept. What goes wrong here is logged, not raised."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self._limit = limit_bytes

    def has(self, key: str) -> bool:
        """Whether there is an entry, which may still turn out to be damaged."""
        return (self.folder / key / _CONTENTS).is_file()

    def load(self, key: str, name: str, scratch: Path) -> Part | None:
        """The network of that key as files in ``scratch``, or None if there is none that is whole."""
        source, target = self.folder / key, scratch / name
        try:
            contents = json.loads((source / _CONTENTS).read_text(encoding="utf-8"))
            for file, digest in contents["files"].items():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                _link(source / file, target / file)
                if sha256_of(target / file) != digest:
                    raise ValueError(f"{file} has another checksum")
            os.utime(source)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s: the kept network '%s' cannot be used (%s) and is exported again", source, name, error)
            shutil.rmtree(target, ignore_errors=True)
            if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):  # a full disk is not its fault
                self._drop(source)
            return None
        footprint = Footprint(**contents["footprint"])
        _log.info("%s: taken from %s", name, source)
        return Part(contents["entry"], footprint, {file: target / file for file in contents["files"]})

    def keep(self, key: str, part: Part) -> None:
        """Add a network, and remove those used longest ago if there are too many bytes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with owned_folder(self.folder, _PARTS) as scratch:
                entry = scratch / key
                for name, path in part.files.items():
                    (entry / name).parent.mkdir(parents=True, exist_ok=True)
                    _link(path, entry / name)
                contents = {
                    "files": {name: sha256_of(path) for name, path in part.files.items()},
                    "entry": part.entry,
                    "footprint": asdict(part.footprint),
                }
                (entry / _CONTENTS).write_text(json.dumps(contents), encoding="utf-8")
                _rename(entry, self.folder / key)
            with contextlib.suppress(FileNotFoundError):  # another build trims too
                self._trim(key)
        except OSError as error:
            _log.warning("%s: a network could not be kept: %s", self.folder, error.strerror or error)

    def _trim(self, newest: str) -> None:
        entries = [(path.stat().st_mtime_ns, _bytes(path), path) for path in self.folder.iterdir() if path.is_dir()]
        entries = [entry for entry in sorted(entries) if not entry[2].name.startswith(".")]
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self._limit:
                return
            if path.name != newest:
                self._drop(path)
                total -= size

    def _drop(self, entry: Path) -> None:
        """Remove an entry at once for everybody, and then its files."""
        with contextlib.suppress(OSError), owned_folder(self.folder, _PARTS) as scratch:
            os.rename(entry, scratch / entry.name)


def key_of(graph: Graph, config: object, options: Mapping[str, Any]) -> str:
    """What a network's files are kept under; ``config`` is its shape and ``options`` how it is written."""
    told = [graph.name, repr(config), repr(graph.inputs), repr(graph.outputs), repr(graph.drop_if_unused)]
    told += [json.dumps(dict(options), sort_keys=True), json.dumps(versions(), sort_keys=True), __version__, _source()]
    digest = hashlib.sha256(json.dumps(told).encode())
    for name, tensor in graph.state.items():
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"\n{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _source() -> str:
    """Checksum of the code that an exported network depends on: two states of one version are told apart."""
    folders = (Path(__file__).parent, Path(networks.__file__).parent)
    files = sorted(path for folder in folders for path in folder.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where there are no such links; neither is written to any more."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _rename(entry: Path, target: Path) -> None:
    try:
        os.rename(entry, target)
    except OSError:
        if not target.is_dir():  # another build kept the same network meanwhile
            raise


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
