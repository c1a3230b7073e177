"""Products with weights and their biases, several of one tensor, and the scale of an attention's queries."""

from __future__ import annotations

from dataclasses import replace

from .torch_layers import Layer, LayerGraph, Slot, extents


def fuse_linear(graph: LayerGraph) -> None:
    """Find them: kinds Linear, Projections and ScaledDotProductAttention with the part "factor".

    Queries, keys and values are three products of one tensor, and all embeddings of a network's blocks are products of
    another: as one, that tensor is read once, and a launch does the work of all.
    """
    together: dict[tuple[Slot, str, int], list[Layer]] = {}
    for product in graph.of_kind("MatMul"):
        one = _linear(graph, product)
        if one is not None:
            weights = extents(_weights(graph, one))
            key = (one.inputs[0], one.attributes["transpose_a"], weights[1])
            together.setdefault(key, []).append(one)
    for same in together.values():
        if len(same) > 1:
            _projections(graph, same)
    for attention in graph.of_kind("ScaledDotProductAttention"):
        _scaled(graph, attention)


def _weights(graph: LayerGraph, linear: Layer) -> Layer:
    constant = graph.constant(linear.inputs[1])
    assert constant is not None
    return constant


def _linear(graph: LayerGraph, product: Layer) -> Layer | None:
    """Put one layer in the place of a product with [outputs, inputs] weights and of its bias."""
    weights = graph.constant(product.inputs[1])
    addition = graph.reader(product, "Add")
    if weights is None or addition is None or product.attributes.get("transpose_b", "false") not in ("true", "1"):
        return None
    shape = extents(weights)
    bias = graph.constant(graph.other(addition, product.slot)) if addition.inputs[0] != addition.inputs[1] else None
    if bias is None or len(shape) != 2 or graph.constant(product.inputs[0]) is not None:
        return None
    width = extents(bias)
    # One value for each output, and no more axes than the product has, so that the sum has the product's shape.
    if width[-1:] != shape[:1] or any(extent != 1 for extent in width[:-1]) or len(width) > len(product.shape):
        return None
    transposed = "true" if product.attributes.get("transpose_a", "false") in ("true", "1") else "false"
    attributes = {"transpose_a": transposed, "parts": "x,kernel,bias"}
    inputs = (*product.inputs, graph.other(addition, product.slot))
    one = replace(addition, kind="Linear", attributes=attributes, inputs=inputs)
    graph.replace((product,), one)
    return one


def _projections(graph: LayerGraph, same: list[Layer]) -> None:
    """Put one layer with several outputs in the place of products of one tensor; weights are joined at opening."""
    same = [graph.layers[each.number] for each in same]  # as they are now: one may read what another gave
    widths = [extents(_weights(graph, each))[0] for each in same]
    joined = []
    for which in (1, 2):
        first = graph.source(same[0].inputs[which])
        attributes = {"axis": "0", "flat": "true" if which == 2 else "false"}
        inputs = tuple(each.inputs[which] for each in same)
        layer = replace(
            first, number=graph.new_number(same[0]), kind="JoinedWeights", attributes=attributes, inputs=inputs
        )
        graph.put(layer)
        joined.append(layer.slot)
    one = Layer(
        graph.new_number(same[0]),
        "Projections",
        {**same[0].attributes, "widths": ",".join(map(str, widths))},
        (same[0].inputs[0], *joined),
        tuple(range(len(same))),
        {port: each.names[each.outputs[0]] for port, each in enumerate(same)},
    )
    for port, each in enumerate(same):
        graph.redirect(each.slot, (one.number, port))
        graph.drop(each.number)
    graph.put(one)


def _scaled(graph: LayerGraph, attention: Layer) -> None:
    """Have an attention multiply its queries, when a constant number does."""
    product = graph.source(attention.inputs[0])
    if product.kind != "Multiply" or graph.reader(product, attention.kind) is not attention:
        return
    for queries, factor in (product.inputs, product.inputs[::-1]):
        constant = graph.constant(factor)
        if constant is not None and all(extent == 1 for extent in extents(constant)):
            parts = ",".join(("q", "k", "v", "mask", "scale")[: len(attention.inputs)])
            one = replace(attention, inputs=(queries, *attention.inputs[1:])).with_attributes(parts=parts)
            graph.replace((product,), one.with_part("factor", factor))
            return
