"""The convolution kernel of conv3d and trilinear_conv: an implicit matrix product over channels-last voxels.

A program computes a block of voxels, in their order in memory, times a block of output channels. Two ways:

- Plain: for every block of input channels and each of the 27 taps, one product of shifted voxels and the tap's
  weights.
- SLIDE (3^3, stride 1): shifted voxels are loaded for the 9 taps of x and y only, and each load meets the weights of
  all three taps of z, in an accumulator of its own. The shift by one voxel along z is a shift by one row of the block,
  so the three accumulators are joined once, at the end: a third of the loads, and of the prologue's work. A row too
  many at each end of the block pays for it.
"""

from __future__ import annotations

from typing import Any

from .dispatch import jit, tl


@jit
def _prepared(
    values: tl.tensor,
    valid: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    channel: tl.tensor,
    CHANNELS: tl.constexpr,
    AFFINE: tl.constexpr,
    SILU: tl.constexpr,
) -> Any:
    """The input's scale, shift and SiLU; voxels that the padding stands for are zero behind them too."""
    if AFFINE or SILU:
        wide = values.to(tl.float32)
        if AFFINE:
            factor = tl.load(scale + channel, mask=channel < CHANNELS, other=0.0)
            offset = tl.load(shift + channel, mask=channel < CHANNELS, other=0.0)
            wide = wide * factor[None, :] + offset[None, :]
        if SILU:
            wide = wide / (1.0 + tl.math.exp2(wide * -1.4426950408889634))
        values = tl.where(valid, wide, 0.0).to(values.dtype)
    return values


@jit
def there(place: tl.tensor, extent: tl.tensor, EDGE: tl.constexpr) -> Any:
    """Along one axis, a bit for each tap: whether it meets a voxel."""
    bits = (place < extent).to(tl.int32) << (EDGE // 2)
    if EDGE == 3:
        bits |= (place >= 1).to(tl.int32) | ((place + 1 < extent).to(tl.int32) << 2)
    return bits


@jit
def repeated(which: tl.tensor, bits: tl.tensor, WIDTH: tl.constexpr, EDGE: tl.constexpr) -> Any:
    """Bits of WIDTH taps, once for each of the outer axis' taps, where that one meets a voxel."""
    result = (which & 1) * bits
    if EDGE == 3:
        result |= (((which >> 1) & 1) * bits << WIDTH) | (((which >> 2) & 1) * bits << (2 * WIDTH))
    return result


@jit
def _back(bits: tl.tensor, tap: tl.tensor, stride: tl.tensor) -> Any:
    """How far from where a tap points the nearest voxel is, in elements: it points at most one voxel too far."""
    return tl.where((bits >> tap) & 1 == 1, 0, (1 - tap).to(tl.int64) * stride)


@jit
def _accumulated(
    sums: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    place_x: tl.tensor,
    place_y: tl.tensor,
    place_z: tl.tensor,
    inside: tl.tensor,
    made: tl.tensor,
    extent_x: tl.tensor,
    extent_y: tl.tensor,
    extent_z: tl.tensor,
    stride_x: tl.tensor,
    stride_y: tl.tensor,
    stride_z: tl.tensor,
    weight_tap: tl.tensor,
    weight_in: tl.tensor,
    weight_out: tl.tensor,
    CHANNELS: tl.constexpr,
    MADE: tl.constexpr,
    EDGE: tl.constexpr,
    CLAMP: tl.constexpr,
    AFFINE: tl.constexpr,
    SILU: tl.constexpr,
    SLIDE: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> Any:
    """What one input adds to the sums: taps run fastest, so that voxels are still in the cache when they come again.

    What differs between steps of the loop is a number of elements that is the same for all rows, and one bit of each
    row; with CLAMP also the way back of rows on the border.
    """
    before, here, after = sums
    LOADS: tl.constexpr = EDGE * EDGE if SLIDE else EDGE * EDGE * EDGE
    RUN: tl.constexpr = 1 if SLIDE else EDGE  # taps along z that have loads of their own
    MIDDLE: tl.constexpr = EDGE // 2
    there_x, there_y = there(place_x, extent_x, EDGE), there(place_y, extent_y, EDGE)
    there_z = there(place_z, extent_z, RUN)
    if CLAMP:
        known = inside.to(tl.int32)
    else:
        known = repeated(there_x, repeated(there_y, there_z, RUN, EDGE), EDGE * RUN, EDGE)
        known = tl.where(inside, known, 0)
    block = tl.arange(0, BLOCK_IN)
    row = place_x.to(tl.int64) * stride_x + place_y.to(tl.int64) * stride_y + place_z.to(tl.int64) * stride_z
    rows = x + row[:, None] + block[None, :]
    taps = weight + block[:, None] * weight_in + made[None, :] * weight_out
    for step in range(0, LOADS * tl.cdiv(CHANNELS, BLOCK_IN)):
        load = step % LOADS
        first = (step // LOADS) * BLOCK_IN
        channel = first + block
        tap_x, tap_y, tap_z = load // (EDGE * RUN), load // RUN % EDGE, load % RUN
        away = tl.cast(tap_x - MIDDLE, tl.int64) * stride_x + tl.cast(tap_y - MIDDLE, tl.int64) * stride_y
        away += tl.cast(tap_z - RUN // 2, tl.int64) * stride_z + first
        if CLAMP:
            valid = (known != 0)[:, None]
            way = _back(there_x, tl.cast(tap_x, tl.int32), stride_x) + _back(
                there_y, tl.cast(tap_y, tl.int32), stride_y
            )
            if not SLIDE:
                way += _back(there_z, tl.cast(tap_z, tl.int32), stride_z)
            at = rows + (away + way)[:, None]
        else:
            valid = ((known >> load) & 1 != 0)[:, None]
            at = rows + away
        if CHANNELS % BLOCK_IN != 0:
            valid = valid & (channel < CHANNELS)[None, :]
        # The same voxels come again at once where each tap loads them: they are kept in the multiprocessor's own cache.
        values = tl.load(at, mask=valid, other=0.0, cache_modifier="" if SLIDE else ".ca")
        values = _prepared(values, valid, scale, shift, channel, CHANNELS, AFFINE, SILU)
        given = (channel < CHANNELS)[:, None] & (made < MADE)[None, :]
        from_tap = taps + first * weight_in + load * (3 if SLIDE else 1) * weight_tap
        EVEN: tl.constexpr = CHANNELS % BLOCK_IN == 0 and MADE % BLOCK_OUT == 0
        if SLIDE:
            before = tl.dot(values, _weights(from_tap, given, EVEN), before, input_precision="ieee")
            here = tl.dot(values, _weights(from_tap + weight_tap, given, EVEN), here, input_precision="ieee")
            after = tl.dot(values, _weights(from_tap + 2 * weight_tap, given, EVEN), after, input_precision="ieee")
        else:
            here = tl.dot(values, _weights(from_tap, given, EVEN), here, input_precision="ieee")
    return before, here, after


@jit
def _weights(at: tl.tensor, given: tl.tensor, EVEN: tl.constexpr) -> Any:
    return tl.load(at) if EVEN else tl.load(at, mask=given, other=0.0)


@jit
def _joined(
    sums: tl.tensor,
    row: tl.tensor,
    place_z: tl.tensor,
    extent_z: tl.tensor,
    CLAMP: tl.constexpr,
    BLOCK_VOXELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> Any:
    """SLIDE's three accumulators as one: row i is the voxel whose own loads are in row i + 1."""
    before, here, after = sums
    first, last = (place_z == 0)[:, None], (place_z == extent_z - 1)[:, None]
    lower = tl.broadcast_to(row[:, None], [BLOCK_VOXELS, BLOCK_OUT])
    own = tl.minimum(lower + 1, BLOCK_VOXELS - 1)
    upper = tl.minimum(lower + 2, BLOCK_VOXELS - 1)
    result = tl.gather(here, own, 0)
    if CLAMP:
        result += tl.gather(before, tl.where(first, own, lower), 0)
        result += tl.gather(after, tl.where(last, own, upper), 0)
    else:
        result += tl.where(first, 0.0, before)
        result += tl.where(last, 0.0, tl.gather(after, upper, 0))
    return result


@jit
def convolve(
    x: tl.tensor,
    x2: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    embedding: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    extent_x: tl.tensor,
    extent_y: tl.tensor,
    extent_z: tl.tensor,
    made_x: tl.tensor,
    made_y: tl.tensor,
    made_z: tl.tensor,
    x_batch: tl.tensor,
    x_x: tl.tensor,
    x_y: tl.tensor,
    x_z: tl.tensor,
    x2_batch: tl.tensor,
    x2_x: tl.tensor,
    x2_y: tl.tensor,
    x2_z: tl.tensor,
    weight_phase: tl.tensor,
    weight_out: tl.tensor,
    weight_in: tl.tensor,
    weight_tap: tl.tensor,
    residual_batch: tl.tensor,
    residual_x: tl.tensor,
    residual_y: tl.tensor,
    residual_z: tl.tensor,
    out_batch: tl.tensor,
    out_x: tl.tensor,
    out_y: tl.tensor,
    out_z: tl.tensor,
    CHANNELS: tl.constexpr,
    CHANNELS2: tl.constexpr,
    MADE: tl.constexpr,
    EDGE: tl.constexpr,
    STRIDE: tl.constexpr,
    PHASES: tl.constexpr,
    AFFINE: tl.constexpr,
    SILU: tl.constexpr,
    BIAS: tl.constexpr,
    EMBEDDING: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SUMS: tl.constexpr,
    SLIDE: tl.constexpr,
    BLOCK_VOXELS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """One block of voxels and output channels, of one volume.

    PHASES is 1, or 8 for a result of twice the grid: then phase p has weights of its own, makes the voxels
    (2 x + p // 4, 2 y + p // 2 % 2, 2 z + p % 2), and voxels beyond the input's border are the nearest on it.
    """
    CLAMP: tl.constexpr = PHASES == 8
    STEP: tl.constexpr = 2 if PHASES == 8 else 1
    # Programs that read the same voxels are neighbours, for the cache.
    out_blocks = tl.cdiv(MADE, BLOCK_OUT)
    made = (tl.program_id(0) % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    phase = tl.program_id(0) // out_blocks % PHASES
    block = tl.program_id(0) // out_blocks // PHASES
    batch = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, BLOCK_VOXELS)
    voxels = made_x * made_y * made_z
    if SLIDE:
        voxel = block * (BLOCK_VOXELS - 2) + row
        present = (voxel < voxels) & (row < BLOCK_VOXELS - 2)
        loaded = voxel - 1
        within = (loaded >= 0) & (loaded < voxels)
        loaded = tl.maximum(loaded, 0)
    else:
        voxel = block * BLOCK_VOXELS + row
        present = voxel < voxels
        loaded = voxel
        within = present
    place_z = loaded % made_z * STRIDE
    place_y = loaded // made_z % made_y * STRIDE
    place_x = loaded // made_z // made_y * STRIDE

    weight += phase.to(tl.int64) * weight_phase
    scale += batch * (CHANNELS + CHANNELS2)
    shift += batch * (CHANNELS + CHANNELS2)
    here = tl.zeros([BLOCK_VOXELS, BLOCK_OUT], tl.float32)
    sums = (here, here, here)
    sums = _accumulated(
        *(sums, x + batch * x_batch, weight, scale, shift, place_x, place_y, place_z, within, made),
        *(extent_x, extent_y, extent_z, x_x, x_y, x_z, weight_tap, weight_in, weight_out),
        *(CHANNELS, MADE, EDGE, CLAMP, AFFINE, SILU, SLIDE, BLOCK_IN, BLOCK_OUT),
    )
    if CHANNELS2 > 0:
        sums = _accumulated(
            *(sums, x2 + batch * x2_batch, weight + CHANNELS * weight_in, scale + CHANNELS, shift + CHANNELS),
            *(place_x, place_y, place_z, within, made),
            *(extent_x, extent_y, extent_z, x2_x, x2_y, x2_z, weight_tap, weight_in, weight_out),
            *(CHANNELS2, MADE, EDGE, CLAMP, AFFINE, SILU, SLIDE, BLOCK_IN, BLOCK_OUT),
        )

    place_z, place_y, place_x = voxel % made_z, voxel // made_z % made_y, voxel // made_z // made_y
    if SLIDE:
        result = _joined(sums, row, place_z, extent_z, CLAMP, BLOCK_VOXELS, BLOCK_OUT)
    else:
        _, result, _ = sums
    if BIAS:
        result += tl.load(bias + made, mask=made < MADE, other=0.0).to(tl.float32)[None, :]
    if EMBEDDING:
        result += tl.load(embedding + batch * MADE + made, mask=made < MADE, other=0.0).to(tl.float32)[None, :]
    inside = present[:, None] & (made < MADE)[None, :]
    place_x, place_y, place_z = place_x.to(tl.int64), place_y.to(tl.int64), place_z.to(tl.int64)
    if RESIDUAL:
        offset = batch * residual_batch + place_x * residual_x + place_y * residual_y + place_z * residual_z
        result += tl.load(residual + offset[:, None] + made[None, :], mask=inside, other=0.0).to(tl.float32)
    stored = result.to(out.dtype.element_ty)
    place_x = place_x * STEP + phase // 4
    place_y = place_y * STEP + phase // 2 % 2
    place_z = place_z * STEP + phase % 2
    offset = batch * out_batch + place_x * out_x + place_y * out_y + place_z * out_z
    tl.store(out + offset[:, None] + made[None, :], stored, mask=inside)
    if SUMS:
        # Of what is stored, so that they are those of the tensor that is read next.
        kept = tl.where(inside, stored.to(tl.float32), 0.0)
        blocks = tl.num_programs(0) // out_blocks
        partial += (batch * blocks + block) * 2 * MADE
        tl.store(partial + made, tl.sum(kept, 0), mask=made < MADE)
        tl.store(partial + MADE + made, tl.sum(kept * kept, 0), mask=made < MADE)
