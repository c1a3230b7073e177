"""The shapes that a graph gives to its tensors: constants as far as that goes.

Torch writes the target of every reshape as a vector that is put together of single extents. Most can be written as a
constant: ONNX copies an extent of the same axis (0) and finds out one more (-1). The others become the shape of a
tensor that is there already, or a few runs of other tensors' extents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

#: An extent: a whole number times free extents, each with how often it is a factor.
_Extent = tuple[int, tuple[tuple[str, int], ...]]
_Extents = tuple[_Extent, ...]


@dataclass(frozen=True)
class _Run:
    """Extents of a tensor, ``count`` from the axis ``first`` on, times a factor."""

    source: ir.Value
    first: int
    count: int
    factor: Fraction


def fix_reshapes(model: ir.Model, droppable: Collection[str]) -> None:
    """Write the target of every reshape as simply as it can be; no size is read from inputs in ``droppable``."""
    graph = model.graph
    known: dict[_Extents, ir.Value] = {}
    for value in graph.inputs:
        extents = _extents(value)
        if extents is not None and value.name not in droppable:
            known.setdefault(extents, value)
    for node in list(graph):
        if node.op_type == "Unsqueeze":
            _join(graph, node)
        if node.op_type == "Reshape" and node.inputs[1] is not None and node.inputs[1].const_value is None:
            _fix(graph, node, known)
        for value in node.outputs:
            extents = _extents(value)
            if extents is not None:
                known[extents] = value  # the latest lives longest anyhow
    RemoveUnusedNodesPass()(model)
    CommonSubexpressionEliminationPass()(model)


def _join(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node that adds axes behind another one that does so add all of them."""
    assert node.inputs[0] is not None
    before = node.inputs[0].producer()
    if before is None or before.op_type != "Unsqueeze":
        return
    first, second = (_numbers(value) for value in (before.inputs[1], node.inputs[1]))
    if first is None or second is None or min(first) < 0 or min(second) <= max(first):
        return
    node.replace_input_with(0, before.inputs[0])
    node.replace_input_with(1, _vector(graph, [*first, *second]))


def _numbers(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(number) for number in value.const_value.numpy()]


def _fix(graph: ir.Graph, node: ir.Node, known: dict[_Extents, ir.Value]) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    have, want = _extents(source), _extents(result)
    if have is None or want is None:
        return
    constant = _constant(have, want)
    if constant is not None:
        target = _vector(graph, constant)
    elif want in known:
        target = _insert(graph, node, "Shape", [known[want]], "shape")
    else:
        runs = _runs(have, want, [source, *known.values()])
        if runs is None:
            return
        target = _insert(graph, node, "Concat", [_written(graph, node, run) for run in runs], "target", axis=0)
    node.replace_input_with(1, target)
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _constant(have: _Extents, want: _Extents) -> list[int] | None:
    """The target as a constant, if not more than one free extent is another than the same axis had."""
    target = [_same(have, want, axis) for axis in range(len(want))]
    others = [axis for axis, entry in enumerate(target) if entry is None]
    if len(others) > 1:
        return None
    return [-1 if entry is None else entry for entry in target]


def _same(have: _Extents, want: _Extents, axis: int) -> int | None:
    """An axis of the target as a number: its extent, or 0 where it is that of the source; None: neither."""
    number, free = want[axis]
    if not free:
        return number
    return 0 if axis < len(have) and have[axis] == want[axis] else None


def _runs(have: _Extents, want: _Extents, sources: list[ir.Value]) -> list[list[int] | _Run] | None:
    """The target in runs: numbers, and extents that follow one another in one of the sources; None: there is none."""
    runs: list[list[int] | _Run] = []
    axis = 0
    while axis < len(want):
        number = _same(have, want, axis)
        if number is None:
            found = max((_run(source, want[axis:]) for source in sources), key=lambda run: run.count)
            if not found.count:
                return None
            runs.append(found)
            axis += found.count
        else:
            if not runs or isinstance(runs[-1], _Run):
                runs.append([])
            last = runs[-1]
            assert isinstance(last, list)
            last.append(number)
            axis += 1
    return runs


def _run(source: ir.Value, want: _Extents) -> _Run:
    """The longest run of the source's extents with which ``want`` begins, but for one factor."""
    have = _extents(source) or ()
    best = _Run(source, 0, 0, Fraction(1))
    for first in range(len(have)):
        factors: list[Fraction] = []
        for (number, free), (wanted, wanted_free) in zip(have[first:], want, strict=False):
            if not free or free != wanted_free or (factors and factors[0] != Fraction(wanted, number)):
                break
            factors.append(Fraction(wanted, number))
        if len(factors) > best.count:
            best = _Run(source, first, len(factors), factors[0])
    return best


def _written(graph: ir.Graph, before: ir.Node, run: list[int] | _Run) -> ir.Value:
    """A run as a vector in the graph."""
    if not isinstance(run, _Run):
        return _vector(graph, run)
    vector = _insert(
        graph, before, "Shape", [run.source], f"from{run.first}", start=run.first, end=run.first + run.count
    )
    for kind, number in (("Mul", run.factor.numerator), ("Div", run.factor.denominator)):
        if number > 1:
            vector = _insert(graph, before, kind, [vector, _vector(graph, [number])], f"{kind}{run.first}")
    return vector


def _insert(
    graph: ir.Graph, before: ir.Node, kind: str, inputs: list[ir.Value], name: str, **attributes: int
) -> ir.Value:
    made = ir.node(kind, inputs, attributes)
    value = made.outputs[0]
    value.name, value.dtype = f"{before.outputs[0].name}_{name}", ir.DataType.INT64
    graph.insert_before(before, made)
    return value


def _vector(graph: ir.Graph, numbers: list[int]) -> ir.Value:
    """A constant; equal ones are one."""
    name = "shape_" + "_".join(str(number).replace("-", "minus") for number in numbers)
    if name not in graph.initializers:
        value = ir.Value(name=name, shape=ir.Shape([len(numbers)]), type=ir.TensorType(ir.DataType.INT64))
        value.const_value = ir.Tensor(np.array(numbers, np.int64), name=name)
        graph.register_initializer(value)
    return graph.initializers[name]


def _extents(value: ir.Value) -> _Extents | None:
    """A tensor's extents, or None if one of them is unknown or not a product."""
    if value.shape is None:
        return None
    found = [_extent(dim) for dim in value.shape]
    extents = tuple(extent for extent in found if extent is not None)
    return extents if extents and len(extents) == len(found) else None


def _extent(dim: int | ir.SymbolicDim) -> _Extent | None:
    if isinstance(dim, int):
        return dim, ()
    if dim.value is None or not re.fullmatch(r"\w+(\*\w+)*", dim.value):
        return None
    factors = dim.value.split("*")
    number = reduce(lambda product, factor: product * int(factor), filter(str.isdecimal, factors), 1)
    free = Counter(factor for factor in factors if not factor.isdecimal())
    return number, tuple(sorted(free.items()))
