"""Checkpoint files: what is read from them, what is refused, and what is never touched."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from support.official_files import (  # noqa: E402
    SCALE_FACTOR,
    adam_state,
    denoiser_checkpoint,
    meta_tensor,
    one_thread,
    reference,
    small,
)

from ctfast.checkpoints import read_checkpoint  # noqa: E402
from ctfast.errors import CheckpointError  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return reference(small("rflow-ct").denoiser, seed=1)


@pytest.fixture(scope="module")
def training_file(denoiser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint with Adam state."""
    path = tmp_path_factory.mktemp("official") / "diff_unet_3d_rflow-ct.pt"
    torch.save(denoiser_checkpoint(denoiser), path)
    return path


def equal(state: Any, other: Any) -> bool:
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in other)


def saved(path: Path, contents: Any, **options: Any) -> Path:
    torch.save(contents, path, **options)
    return path


def repacked(source: Path, target: Path, keep: Any = lambda name: True, **changes: Any) -> Path:
    """The archive packed again by another tool: entries are filtered, compressed or replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", changes.get("method", 0)) as new:
        for entry in old.infolist():
            name = entry.filename
            if keep(name):
                data = changes.get("replace", {}).get(name.split("/", 1)[1], old.read(name))
                new.writestr(name, data)
    return target


def test_a_training_checkpoint_gives_weights_scale_factor_and_plain_values(training_file: Path, denoiser: Any) -> None:
    checkpoint = read_checkpoint(training_file)
    assert equal(checkpoint.state_dict, denoiser.state_dict())
    assert checkpoint.scale_factor == SCALE_FACTOR
    assert checkpoint.extras == {"epoch": 28851, "loss": 1.198, "num_train_timesteps": 1000, "epoch_finished": True}
    assert checkpoint.path == training_file


def test_adam_state_is_never_touched(training_file: Path, denoiser: Any, tmp_path: Path) -> None:
    """A file whose optimiser storages are gone reads like a whole one."""
    keys = {tensor.data_ptr(): 0 for tensor in denoiser.state_dict().values()}
    with zipfile.ZipFile(training_file) as archive:
        everything = [name for name in archive.namelist() if "/data/" in name and "serialization" not in name]
    needed = {f"data/{index}" for index in range(len(keys) + 1)}  # the scale factor, then the weights, come first
    cut = repacked(training_file, tmp_path / "cut.pt", lambda n: n not in everything or n.split("/", 1)[1] in needed)
    assert len(everything) > 3 * len(keys), "the file should hold Adam's two moments and a step per weight"
    assert cut.stat().st_size < 0.5 * training_file.stat().st_size
    assert equal(read_checkpoint(cut).state_dict, denoiser.state_dict())


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's memory accounts")
def test_reading_maps_the_file_instead_of_loading_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.pt", {"state_dict": {"weight": torch.ones(1 << 24)}, "other": torch.ones(1 << 24)})
    checkpoint = read_checkpoint(path)
    assert resident(path) < 4 << 20
    assert float(checkpoint.state_dict["weight"].sum()) == 1 << 24
    assert 64 << 20 <= resident(path) < 72 << 20, "the weight's 64 MiB are there now, the other tensor's are not"


def resident(path: Path) -> int:
    """Bytes of the file's mappings that are in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ")[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "bare.pt", {"weight": torch.ones(4)})
    before = path.read_bytes()
    read_checkpoint(path).state_dict["weight"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("wrap", "extras"),
    [
        (lambda state: state, {}),
        (lambda state: {"unet_state_dict": state}, {}),
        (
            lambda state: {"controlnet_state_dict": state, "epoch": 60, "loss": torch.tensor(0.5)},
            {"epoch": 60, "loss": 0.5},
        ),
        (
            lambda state: {"state_dict": state, "config": {"denoiser": {"groups": 8}}},
            {"config": {"denoiser": {"groups": 8}}},
        ),
        (lambda state: {"state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items())}, {}),
        (lambda state: {key: torch.nn.Parameter(value) for key, value in state.items()}, {}),
        (lambda state: {"state_dict": state, "image": torch.ones(3), "loss": np.float32(0.5)}, {"loss": 0.5}),
    ],
)
def test_layouts(wrap: Any, extras: dict[str, Any], tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 2), "b.bias": torch.randn(5).half()}
    checkpoint = read_checkpoint(saved(tmp_path / "file.pt", wrap(state)))
    assert equal(checkpoint.state_dict, state)
    assert (checkpoint.scale_factor, checkpoint.extras) == (None, extras)


@pytest.mark.parametrize(
    "value",
    [
        SCALE_FACTOR,
        torch.tensor(SCALE_FACTOR),
        torch.tensor(SCALE_FACTOR, dtype=torch.float16),
        torch.tensor([SCALE_FACTOR], dtype=torch.float64),
        torch.nn.Parameter(torch.tensor(SCALE_FACTOR)),
        np.float64(SCALE_FACTOR),
        np.float32(SCALE_FACTOR),
        meta_tensor(SCALE_FACTOR),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_scale_factors(value: Any, tmp_path: Path) -> None:
    contents = {"unet_state_dict": {"weight": torch.ones(2)}, "scale_factor": value}
    assert read_checkpoint(saved(tmp_path / "file.pt", contents)).scale_factor == SCALE_FACTOR


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "one", True, torch.ones(2)])
def test_a_scale_factor_must_be_one_positive_number(value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", {"unet_state_dict": {"weight": torch.ones(2)}, "scale_factor": value})
    with pytest.raises(CheckpointError, match=r"file\.pt .* expected scale_factor to be one positive number"):
        read_checkpoint(path)


def test_views_strides_and_element_types(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.T,
        "row": base[2],
        "empty": torch.zeros(0, 3),
        "bf16": torch.randn(7).bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "count": torch.tensor(3),
        "unusual": torch.tensor([1, 65535], dtype=torch.uint16),
    }
    read = read_checkpoint(saved(tmp_path / "file.pt", state)).state_dict
    assert {key: (tensor.dtype, tensor.tolist()) for key, tensor in read.items()} == {
        key: (tensor.dtype, tensor.tolist()) for key, tensor in state.items()
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_packed_again_by_another_tool(
    method: int, training_file: Path, denoiser: Any, tmp_path: Path
) -> None:
    """Such archives are compressed, or their tensors are not aligned."""
    again = repacked(training_file, tmp_path / "again.pt", method=method)
    assert equal(read_checkpoint(again).state_dict, denoiser.state_dict())


def test_safetensors(denoiser: Any, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = {**denoiser.state_dict(), "half": torch.randn(3).half(), "nothing": torch.zeros(0, 2)}
    path = tmp_path / "file.safetensors"
    save_file(state, path, {"scale_factor": str(SCALE_FACTOR), "config": '{"groups": 8}', "author": "somebody"})
    checkpoint = read_checkpoint(path)
    assert equal(dict(sorted(checkpoint.state_dict.items())), dict(sorted(state.items())))
    assert checkpoint.scale_factor == SCALE_FACTOR
    assert checkpoint.extras == {"config": {"groups": 8}, "author": "somebody"}
    save_file({**state, "scale_factor": torch.tensor(SCALE_FACTOR)}, path)
    assert read_checkpoint(path).scale_factor == SCALE_FACTOR


class Hostile:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (torch.load, "torch.serialization.load"),
    ],
)
def test_code_in_a_checkpoint_is_named_and_never_run(function: Any, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    call = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    path = tmp_path / "hostile.pt"
    torch.save({"state_dict": {"weight": torch.ones(2)}, "optimizer_state_dict": Hostile(function, call)}, path)
    with pytest.raises(
        CheckpointError, match=rf"hostile\.pt .* asks for {name.replace('.', '[.]')}, .* state dict alone"
    ):
        read_checkpoint(path)
    assert not marker.exists()


def test_members_of_enums_by_name(tmp_path: Path) -> None:
    """As the first releases of Python 3.11 pickle them; by name nothing else is to be had."""
    enums = importlib.import_module("monai.utils.enums")
    state = {"weight": torch.ones(2)}
    kept = saved(tmp_path / "enum.pt", {"state_dict": state, "space": Hostile(getattr, enums.SpaceKeys, "RAS")})
    assert equal(read_checkpoint(kept).state_dict, state)
    for owner, name in ((torch.Tensor, "tolist"), (OrderedDict, "clear"), (enums.SpaceKeys, 1)):
        path = saved(tmp_path / "other.pt", {"state_dict": state, "other": Hostile(getattr, owner, name)})
        with pytest.raises(CheckpointError, match=r"asks for (builtins\.getattr|torch\._tensor\.Tensor|torch\.Tensor)"):
            read_checkpoint(path)


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "module.pt", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)


def test_the_old_format_is_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3)}
    path = saved(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6.*torch\.save\(torch\.load\(file\), file\)"):
        read_checkpoint(path)
    torch.save(torch.load(path), path)
    assert equal(read_checkpoint(path).state_dict, state)


def zip_of(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found something else"),
        (b"\0" * 600, "found a file of zeros"),
        (b"<html>quota exceeded", "found a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "found a Git LFS pointer"),
        (zip_of(notes=b"text"), "not one of weights"),
        (zip_of(a__data=b"pickle"), "not one of weights"),
        (zip_of(**{"a/data.pkl": b"\x80\x02}."}), "expected weights, bare or under"),
        (zip_of(**{"a/data.pkl": pickle.dumps([1, 2], 2)}), "expected a dictionary of tensors, found list"),
        (
            zip_of(**{"a/data.pkl": pickle.dumps({"state_dict": 3}, 2)}),
            "expected a dictionary of tensors under state_dict",
        ),
        (zip_of(**{"a/data.pkl": b"\x80\x02}.", "a/code/x.py": b""}), "a TorchScript program"),
        (zip_of(**{"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"big"}), "big-endian"),
        (zip_of(**{"a/data.pkl": b"\x80\x02}"}), "table of contents is damaged"),
        (zip_of(**{"a/data.pkl": b"\x80\x02}r\xff\xff\xff\x3f."}), "table of contents is damaged"),
        (zip_of(**{"a/data.pkl": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f."}), "table of contents is damaged"),
        (header(b'{"a": 1}'), "header is damaged"),
        (header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'), "beyond the end"),
        (header(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}') + bytes(8), "8 bytes for the shape"),
        (struct.pack("<Q", 1 << 30) + b"{", "header is damaged or cut short"),
    ],
)
def test_foreign_and_damaged_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pt cannot be read: No such file"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="it is a folder; name one of the files in it"):
        read_checkpoint(tmp_path)


def test_several_networks_in_one_file(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    path = saved(tmp_path / "both.pt", {"unet_state_dict": state, "controlnet_state_dict": state})
    with pytest.raises(CheckpointError, match=r"several networks \(unet_state_dict, controlnet_state_dict\)"):
        read_checkpoint(path)


def test_truncated_and_altered_files_are_refused_or_read(tmp_path: Path) -> None:
    """Whatever is wrong with a file, the answer is a checkpoint or a CheckpointError."""
    module = torch.nn.Linear(3, 2)
    contents = {
        "epoch": 3,
        "scale_factor": meta_tensor(1.0),
        "unet_state_dict": module.state_dict(),
        **adam_state(module),
    }
    whole = saved(tmp_path / "whole.pt", contents).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        table = archive.read("whole/data.pkl")
    generator, path, refused = random.Random(0), tmp_path / "altered.pt", 0
    for attempt in range(600):
        if attempt % 3 == 0:
            path.write_bytes(whole[: generator.randrange(len(whole))])
        elif attempt % 3 == 1:
            path.write_bytes(mutated(whole, generator))
        else:
            repacked(tmp_path / "whole.pt", path, replace={"data.pkl": mutated(table, generator)})
        try:
            for tensor in read_checkpoint(path).state_dict.values():
                tensor.sum()
        except CheckpointError:
            refused += 1
    assert refused > 300


def mutated(data: bytes, generator: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        out[generator.randrange(len(out))] = generator.randrange(256)
    return bytes(out)


def test_tensors_beyond_their_storage_are_refused(tmp_path: Path) -> None:
    """A lying table of contents must not make torch enlarge a storage, nor read what lies behind it in the file."""
    path = saved(tmp_path / "file.pt", {"state_dict": {"weight": torch.arange(4.0), "other": torch.arange(100.0)}})
    with zipfile.ZipFile(path) as archive:
        table = archive.read("file/data.pkl")
    shape = b"K\x04\x85"  # (4,)
    assert table.count(shape) == 1
    longer = repacked(path, tmp_path / "longer.pt", replace={"data.pkl": table.replace(shape, b"K\x05\x85")})
    with pytest.raises(CheckpointError, match="reaches beyond its storage"):
        read_checkpoint(longer)
    short = repacked(path, tmp_path / "short.pt", replace={"data/0": bytes(12)})
    with pytest.raises(CheckpointError, match="shorter than it should be"):
        read_checkpoint(short)
    gone = repacked(path, tmp_path / "gone.pt", lambda name: not name.endswith("data/0"))
    with pytest.raises(CheckpointError, match="not in the archive"):
        read_checkpoint(gone)
