"""The table that finds a state dict's tensors in a network's constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as op
from torch import Tensor

from ctfast.export.tensors import ALIGNMENT, fingerprints, fits_half, locate, stored_bytes

RNG = np.random.default_rng(0)


def saved(folder: Path, constants: list[Any], half: bool = False) -> tuple[Path, Path]:
    """An IR whose graph adds up these constants, each flattened."""
    total: Any = op.parameter([1], np.float32)
    parameter = total
    for constant in constants:
        total = op.add(total, op.reduce_sum(op.constant(constant), op.constant(list(range(constant.ndim))), False))
    ov.save_model(ov.Model([total], [parameter]), str(folder / "net.xml"), compress_to_fp16=half)
    return folder / "net.xml", folder / "net.bin"


def read_back(weights: Path, table: Any) -> dict[str, Any]:
    data = weights.read_bytes()
    out = {}
    for key, entry in table.items():
        flat = np.frombuffer(data, entry.dtype, int(np.prod(entry.shape)), entry.offset)
        out[key] = flat.reshape(entry.shape[::-1]).T if entry.transposed else flat.reshape(entry.shape)
    return out


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def test_tensors_are_found_in_whatever_shape_the_graph_has_them(tmp_path: Path) -> None:
    kernel, norm, linear = normal(3, 2, 3, 3, 3), normal(8), normal(4, 6)
    xml, weights = saved(tmp_path, [kernel, norm.reshape(1, 8, 1, 1, 1), np.ascontiguousarray(linear.T)])
    size = weights.stat().st_size
    state = {name: torch.from_numpy(array) for name, array in (("k", kernel), ("n", norm), ("l", linear))}
    table = locate(xml, weights, state, half=False)
    assert weights.stat().st_size == size
    assert {name: entry.transposed for name, entry in table.items()} == {"k": False, "n": False, "l": True}
    for name, found in read_back(weights, table).items():
        np.testing.assert_array_equal(found, state[name].numpy())
    assert stored_bytes(table.values()) == 4 * sum(tensor.numel() for tensor in state.values())


def test_halved_tensors_are_found_and_ones_that_stayed_float32_too(tmp_path: Path) -> None:
    # OpenVINO leaves constants whose values are mostly below float16's normal range as they are.
    usual, tiny = normal(50, 7), normal(400) * 1e-6
    xml, weights = saved(tmp_path, [usual, tiny], half=True)
    size = weights.stat().st_size
    table = locate(xml, weights, {"usual": torch.from_numpy(usual), "tiny": torch.from_numpy(tiny)}, half=True)
    assert weights.stat().st_size == size
    assert {name: entry.dtype for name, entry in table.items()} == {"usual": "float16", "tiny": "float32"}
    found = read_back(weights, table)
    np.testing.assert_array_equal(found["usual"], usual.astype(np.float16))
    np.testing.assert_array_equal(found["tiny"], tiny)


@pytest.mark.parametrize(("half", "dtype"), [(False, np.float32), (True, np.float16)])
def test_what_the_graph_does_not_hold_is_appended(tmp_path: Path, half: bool, dtype: Any) -> None:
    kept = normal(5)
    xml, weights = saved(tmp_path, [kept])
    before = weights.read_bytes()
    state: dict[str, Tensor] = {
        "unused": torch.from_numpy(normal(3, 4)),
        "kept": torch.from_numpy(kept),
        "steps": torch.tensor([7, 1 << 40]),
    }
    table = locate(xml, weights, state, half=half)
    assert weights.read_bytes()[: len(before)] == before
    found = read_back(weights, table)
    np.testing.assert_array_equal(found["unused"], state["unused"].numpy().astype(dtype))
    np.testing.assert_array_equal(found["kept"], kept)
    np.testing.assert_array_equal(found["steps"], state["steps"].numpy())
    assert all(table[key].offset % ALIGNMENT == 0 for key in ("unused", "steps"))
    assert table["kept"].offset < len(before) <= table["unused"].offset
    assert ov.Core().read_model(str(xml)).get_ops()


def test_equal_tensors_share_their_bytes_and_similar_ones_do_not(tmp_path: Path) -> None:
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    almost = ones.copy()
    almost[-1] = np.nextafter(np.float32(1), np.float32(2))
    xml, weights = saved(tmp_path, [zeros, ones, almost])
    state = {name: torch.from_numpy(array) for name, array in (("a", zeros), ("b", zeros), ("c", ones), ("d", almost))}
    table = locate(xml, weights, state, half=False)
    assert table["a"].offset == table["b"].offset
    assert len({table[key].offset for key in "acd"}) == 3
    np.testing.assert_array_equal(read_back(weights, table)["d"], almost)


def test_a_square_matrix_and_its_transpose_are_told_apart(tmp_path: Path) -> None:
    matrix = normal(5, 5)
    xml, weights = saved(tmp_path, [np.ascontiguousarray(matrix.T)])
    table = locate(xml, weights, {"m": torch.from_numpy(matrix)}, half=False)
    assert table["m"].transposed
    np.testing.assert_array_equal(read_back(weights, table)["m"], matrix)


def test_fingerprints_know_a_tensor_and_its_transpose() -> None:
    matrix = torch.from_numpy(normal(2, 3))
    assert len(fingerprints({"m": matrix})) == 2
    assert fingerprints({"m": matrix}) == fingerprints({"t": matrix.T})
    assert fingerprints({"m": matrix}).isdisjoint(fingerprints({"m": matrix + 1}))


def test_weights_beyond_half_precision_are_noticed() -> None:
    assert fits_half({"w": torch.tensor([65504.0, -65504.0]), "steps": torch.tensor([1 << 40])})
    assert not fits_half({"w": torch.tensor([1.0]), "v": torch.tensor([-65505.0])})
