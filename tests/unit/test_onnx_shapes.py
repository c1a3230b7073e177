"""How the targets of reshapes are written."""

from __future__ import annotations

from typing import Any

import pytest

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("torch")

import numpy as np  # noqa: E402

from ctfast.export.onnx_shapes import fix_reshapes  # noqa: E402

Shape = list[Any]


def value(name: str, shape: Shape) -> Any:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def reshaped(have: Shape, want: Shape, others: tuple[Shape, ...] = (), droppable: tuple[str, ...] = ()) -> list[Any]:
    """Nodes of a graph that reshapes ``x``, whose target was an input; ``others`` are inputs before it."""
    x, target = value("x", have), ir.Value(name="target", type=ir.TensorType(ir.DataType.INT64))
    node = ir.node("Reshape", [x, target], {"allowzero": 1})
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape(want)
    inputs = [*(value(f"other{index}", shape) for index, shape in enumerate(others)), x, target]
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 20}, name="net")
    fix_reshapes(ir.Model(graph, ir_version=10), droppable)
    return list(graph)


@pytest.mark.parametrize(
    ("have", "want", "target"),
    [
        (["b", 16, "d", "h", "w"], ["b", 16, "d*h*w"], [0, 16, -1]),
        (["b", "d*h*w", 16], ["b", "d*h*w", 2, 8], [0, 0, 2, 8]),
        (["b", "h*w*d", 2, 8], ["b", "d*h*w", 16], [0, 0, 16]),
        (["b", 1, "4*d"], ["b", "2*d", 2], [0, -1, 2]),
        ([2, 3], [3, 2], [3, 2]),
    ],
)
def test_what_can_be_a_constant_is_one(have: Shape, want: Shape, target: list[int]) -> None:
    (node,) = reshaped(have, want)
    assert node.inputs[1].const_value.numpy().tolist() == target
    assert node.attributes["allowzero"].as_int() == 0


def test_the_shape_of_a_tensor_that_is_there() -> None:
    grid = ["b", 16, "d", "h", "w"]
    shape, node = reshaped(["b", 16, "d*h*w"], grid, others=(grid,))
    assert (shape.op_type, shape.inputs[0].name) == ("Shape", "other0")
    assert node.inputs[1] is shape.outputs[0]


def test_no_size_is_read_from_inputs_that_may_be_dropped() -> None:
    grid = ["b", 16, "d", "h", "w"]
    shape, _ = reshaped(["b", 16, "d*h*w"], grid, others=(grid, grid), droppable=("other0",))
    assert shape.inputs[0].name == "other1"
    (node,) = reshaped(["b", 16, "d*h*w"], grid, others=(grid,), droppable=("other0",))
    assert node.inputs[1].name == "target", "left as it was"


def test_runs_of_extents_with_their_factors() -> None:
    *_, node = reshaped(["b", 8, "2*d", "2*h", "2*w"], ["b", 1, 2, 2, 2, "2*d", "2*h", "2*w"])
    shape, concat = (node.inputs[1].producer().inputs[1].producer(), node.inputs[1].producer())
    assert (shape.attributes["start"].as_int(), shape.attributes["end"].as_int()) == (2, 5)
    assert concat.inputs[0].const_value.numpy().tolist() == [0, 1, 2, 2, 2]
    nodes = reshaped(["b", 1, "4*d", "4*h"], ["b", 1, "2*d", 2, "2*h", 2])
    assert [node.op_type for node in nodes] == ["Shape", "Div", "Shape", "Div", "Concat", "Reshape"]
    nodes = reshaped(["b", 1, "2*d", 2, "2*h", 2], ["b", 1, "4*d", "4*h"], others=(["b", 1, "d", "h"],))
    assert [node.op_type for node in nodes] == ["Shape", "Mul", "Concat", "Reshape"]
    assert nodes[0].inputs[0].name == "other0"
    np.testing.assert_array_equal(nodes[1].inputs[1].const_value.numpy(), [4])


def test_extents_that_are_no_products_are_left_alone() -> None:
    for extent in ("d + 1", None):
        (node,) = reshaped(["b", extent, "h"], ["b", "h", extent])
        assert node.inputs[1].name == "target"
