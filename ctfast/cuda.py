"""The kernels of csrc/cuda: what the runtime does around the networks, on a CUDA device.

They are in a library of their own, ``libctfast_cuda.so``, which is built with ``-DCTFAST_CUDA=ON`` and opened when it
is first needed. Arrays are torch tensors or CuPy arrays on the current device. Every function puts its work into a
stream and returns: it allocates nothing and waits for nothing. ``stream`` is a ``cudaStream_t`` as a number, such as
torch's ``current_stream().cuda_stream``; 0 is the default stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device_arrays import DeviceArray, device_array
from .errors import DeviceError

if TYPE_CHECKING:
    from ._native import SolverCall

#: Where the library is, in a package that was built with it.
PATH = Path(__file__).with_name("libctfast_cuda.so")

_INTERFACE = 1
_TYPES = {
    "f32": 0,
    "bf16": 1,
    "u8": 2,
    "u16": 3,
    "i16": 3,
}  # of labels, which are only compared with 0 or are not negative
_POINTER, _I32, _I64, _F32 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "devices": (_POINTER,),
    "noise": (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, _POINTER, _I64, _POINTER),
    "solver_update": (*[_POINTER] * 5, _F32, *[_POINTER] * 3, _I64, _I32, _POINTER),
    "intensities": (
        _POINTER, _I32, _POINTER, _POINTER, _I32, *[_POINTER] * 4, _F32, _F32, _F32, _F32, ctypes.c_int16, _I32,
        _POINTER, _POINTER,
    ),
    "channel_sums": (_POINTER, _I32, _I64, _I64, *[_POINTER] * 3),
    "stitch_add": (*[_POINTER] * 4, _F32, *[_POINTER] * 4, _I64, _POINTER),
    "stitch_finish": (*[_POINTER] * 4, _I64, _POINTER),
    "count_values": (_POINTER, _POINTER, _I32, _I64, _POINTER, _I64, _I64, _I64, _POINTER),
    "medians": (_POINTER, _I64, _I64, _I64, *[_POINTER] * 3),
}  # fmt: skip


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The library, opened.

    Raises:
        DeviceError: It was not built, cannot be opened, is another version's, or finds no driver or no device.
    """
    if not PATH.is_file():
        raise DeviceError(
            f"expected the CUDA kernels in '{PATH}', found no such file. Install ctfast where nvcc is, with "
            "pip install . -C cmake.define.CTFAST_CUDA=ON"
        )
    try:
        opened = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise DeviceError(f"could not open the CUDA kernels: {error}. Install ctfast again on this computer") from error
    found = int(opened.ctfast_cuda_interface())
    if found != _INTERFACE:
        raise DeviceError(
            f"expected CUDA kernels of interface {_INTERFACE} in '{PATH}', found {found}. Install ctfast again"
        )
    opened.ctfast_cuda_error.restype = ctypes.c_char_p
    opened.ctfast_cuda_channel_slabs.restype = _I64
    opened.ctfast_cuda_channel_slabs.argtypes = (_I64, _I64)
    for name, arguments in _ARGUMENTS.items():
        getattr(opened, f"ctfast_cuda_{name}").argtypes = arguments
    devices = _I32()
    code = int(opened.ctfast_cuda_devices(ctypes.byref(devices)))
    if code != 0 or devices.value == 0:
        reason = opened.ctfast_cuda_error(code).decode() if code else "no device"
        raise DeviceError(f"expected a CUDA device and its driver, found: {reason}. Use another device, or mend that")
    return opened


def available() -> bool:
    """Whether the library can be used here."""
    try:
        library()
    except DeviceError:
        return False
    return True


def serves(tensor: Any) -> bool:
    """Whether a torch tensor is on a CUDA device and the library can be used."""
    return bool(tensor.is_cuda) and available()


def noise(out: Any, seed: int, sample: int, first: int = 0, *, stream: int = 0) -> None:
    """Fill a contiguous float32 array with elements ``first``, ``first`` + 1, ... of stream ``sample`` of ``seed``.

    The numbers are those of the runtime (``_native.fill_normal``), up to one rounding of float32.
    """
    array = _array("out", out, ("f32",))
    _call("noise", [array], stream, seed, sample, first, array.pointer, array.size)


def solver_update(
    call: SolverCall,
    x: Any,
    y: Any,
    conditional: Any,
    plain: Any = None,
    *,
    guidance: float = 0.0,
    newest: Any = None,
    before: Sequence[Any] = (),
    wide: bool,
    stream: int = 0,
) -> None:
    """What one call of ``_native.solver_calls`` makes of a velocity, in one pass over the arrays.

    All arrays are contiguous, float32 and of one size. With ``plain``, the velocity is plain + guidance *
    (conditional - plain).

    Args:
        call: The coefficients.
        x: The base, changed in place; may be ``y``.
        y: The point where the next call is made, changed in place.
        conditional: The network's answer.
        plain: The unguided answer, or None.
        guidance: How much of their difference.
        newest: Gets the prediction, where a later call looks back.
        before: The predictions of the one or two calls before, the latest first, as many as the run looks back.
        wide: Whether in float64, as all solvers but Euler are meant; the arrays are float32 anyway.
        stream: Where to.
    """
    if len(before) > 2 or (before and newest is None):
        raise ValueError("solver_update: expected at most two predictions before, and a place for the newest with them")
    second, third = (*before, None, None)[:2]
    given = (x, y, conditional, plain, newest, second, third)
    names = ("x", "y", "conditional", "plain", "newest", "second", "third")
    arrays = [None if each is None else _array(name, each, ("f32",)) for name, each in zip(names, given, strict=True)]
    count = _one_size([each for each in arrays if each is not None])
    coefficients = (ctypes.c_double * 9)(
        call.point, call.velocity, call.keep, *call.mix, call.stay, *call.lead
    )  # fmt: skip
    places = [None if each is None else each.pointer for each in arrays]
    _call("solver_update", arrays, stream, coefficients, *places[:4], guidance, *places[4:], count, int(wide))


def intensities(
    image: Any,
    out: Any,
    bad: Any,
    *,
    scale: float,
    offset: float,
    low: float,
    high: float,
    air: int,
    labels: Any = None,
    nearest: bool = True,
    stream: int = 0,
) -> None:
    """int16 of a decoder's image: clamp(image * scale + offset, low, high), rounded, and ``air`` where labels are 0.

    Args:
        image: Three axes, float32 or bfloat16, any strides.
        out: The same shape, int16, any strides: the order of a file may be another.
        bad: int64 or uint64, one element, which grows by the number of voxels that are not finite.
        scale, offset: To the image's unit.
        low, high: Limits; infinite where there are none but int16's.
        air: Where labels are 0.
        labels: The same shape, uint8, uint16, int16 or bool, any strides; or None.
        nearest: Round to nearest, ties to even; otherwise toward zero.
        stream: Where to.
    """
    arrays = [_array("image", image, ("f32", "bf16"), 3, dense=False), _array("out", out, ("i16",), 3, dense=False)]
    inside = None if labels is None else _array("labels", labels, ("u8", "u16", "i16"), 3, dense=False)
    counter = _array("bad", bad, ("i64", "u64"))
    if counter.size != 1 or any(each.shape != arrays[0].shape for each in (*arrays, *([inside] if inside else []))):
        raise ValueError("intensities: expected image, out and labels of one shape, and one count of bad voxels")
    limits = (min(max(low, -32768.0), 32767.0), min(max(high, -32768.0), 32767.0))
    source, target = arrays
    _call(
        "intensities", [*arrays, inside, counter], stream,
        source.pointer, _TYPES[source.dtype], _extents(source.strides),
        None if inside is None else inside.pointer, _TYPES["u8" if inside is None else inside.dtype],
        None if inside is None else _extents(inside.strides), target.pointer, _extents(target.strides),
        _extents(source.shape), scale, offset, *limits, air, int(nearest), counter.pointer,
    )  # fmt: skip


def channel_slabs(voxels: int, channels: int) -> int:
    """How many rows of 2 x channels ``channel_sums`` needs to put partial sums in."""
    return int(library().ctfast_cuda_channel_slabs(voxels, channels))


def channel_sums(values: Any, totals: Any, partial: Any, *, stream: int = 0) -> None:
    """Add sums of values and of their squares per channel, in float64 and always in the same order.

    Args:
        values: Contiguous, float32 or bfloat16, channels last.
        totals: (2, channels) float64.
        partial: Room for ``channel_slabs(voxels, channels)`` x 2 x channels float64.
        stream: Where to.
    """
    given = _array("values", values, ("f32", "bf16"))
    added, room = _array("totals", totals, ("f64",)), _array("partial", partial, ("f64",))
    channels = given.shape[-1] if given.shape else 0
    if channels < 1 or added.shape != (2, channels):
        raise ValueError(f"channel_sums: expected totals of shape (2, {channels}), found {added.shape}")
    voxels = given.size // channels
    needed = channel_slabs(voxels, channels) * 2 * channels
    if room.size < needed:
        raise ValueError(f"channel_sums: expected room for {needed} partial sums, found {room.size}")
    _call(
        "channel_sums", [given, added, room], stream,
        given.pointer, _TYPES[given.dtype], voxels, channels, room.pointer, added.pointer,
    )  # fmt: skip


def stitch_add(
    out: Any,
    total: Any,
    patch: Any,
    weights: Any,
    floor: float,
    start: Sequence[int],
    scale: Sequence[int],
    *,
    stream: int = 0,
) -> None:
    """Add one window to a volume as weight * value, and its weights to their sum.

    Args:
        out: (channels, volume * scale), contiguous float32, zero at first.
        total: The sum of weights, (volume), contiguous float32, zero at first.
        patch: (channels, window * scale), contiguous float32.
        weights: The window's weights along its three axes, one behind the other, float32.
        floor: What a product of weights is not below.
        start: The window's first voxel, before scaling.
        scale: How many voxels of ``out`` one of the volume is along each axis.
        stream: Where to.
    """
    result, sums = _stitched(out, total, scale), _array("total", total, ("f32",), 3)
    window, along = _array("patch", patch, ("f32",), 4), _array("weights", weights, ("f32",), 1)
    size = tuple(extent // by for extent, by in zip(window.shape[1:], scale, strict=True))
    fits = all(at >= 0 and at + extent <= whole for at, extent, whole in zip(start, size, sums.shape, strict=True))
    exact = window.shape[1:] == tuple(extent * by for extent, by in zip(size, scale, strict=True))
    if not (fits and exact and window.shape[0] == result.shape[0] and along.size == sum(size)):
        raise ValueError(
            f"stitch_add: expected a window inside {sums.shape} with a weight for each of its voxels along each axis, "
            f"found a patch of {window.shape} at {tuple(start)} and {along.size} weights"
        )
    _call(
        "stitch_add", [result, sums, window, along], stream,
        result.pointer, sums.pointer, window.pointer, along.pointer, floor, _extents(sums.shape), _extents(size),
        _extents(start), _extents(scale), result.shape[0],
    )  # fmt: skip


def stitch_finish(out: Any, total: Any, scale: Sequence[int], *, stream: int = 0) -> None:
    """Divide by the sum of weights; the arrays are those of ``stitch_add``, all windows added."""
    result, sums = _stitched(out, total, scale), _array("total", total, ("f32",), 3)
    _call(
        "stitch_finish", [result, sums], stream,
        result.pointer, sums.pointer, _extents(sums.shape), _extents(scale), result.shape[0],
    )  # fmt: skip


def count_values(values: Any, labels: Any, counts: Any, first: int, *, stream: int = 0) -> None:
    """Add to ``counts`` how often labels have values.

    Args:
        values: int16, contiguous.
        labels: As many, uint8 or uint16, contiguous. 0 and labels without a row are left out.
        counts: (labels, bins) int32 or uint32, contiguous: column b is for value ``first`` + b. What lies outside is
            counted in the first and the last one.
        first: The value of the first bin.
        stream: Where to.
    """
    given, of = _array("values", values, ("i16",)), _array("labels", labels, ("u8", "u16"))
    table = _array("counts", counts, ("i32", "u32"), 2)
    voxels = _one_size([given, of])
    _call(
        "count_values", [given, of, table], stream,
        given.pointer, of.pointer, _TYPES[of.dtype], voxels, table.pointer, *table.shape, first,
    )  # fmt: skip


def medians(counts: Any, first: int, out: Any, counted: Any, *, stream: int = 0) -> None:
    """The median of each row of ``count_values``' counts, as NumPy's; NaN where nothing was counted.

    Args:
        counts: (labels, bins) int32 or uint32, contiguous.
        first: The value of the first bin.
        out: (labels) float32.
        counted: (labels) int64: how many values each has.
        stream: Where to.
    """
    table = _array("counts", counts, ("i32", "u32"), 2)
    found, voxels = _array("out", out, ("f32",), 1), _array("counted", counted, ("i64",), 1)
    if found.shape != table.shape[:1] or voxels.shape != table.shape[:1]:
        raise ValueError(f"medians: expected {table.shape[0]} medians and counts, found {found.size} and {voxels.size}")
    _call("medians", [table, found, voxels], stream, table.pointer, *table.shape, first, found.pointer, voxels.pointer)


def _array(what: str, value: Any, dtypes: Sequence[str], axes: int | None = None, *, dense: bool = True) -> DeviceArray:
    """Where an array lies; ValueError if it is not of these types, this number of axes, or not contiguous."""
    found = device_array(what, value)
    if found.dtype not in dtypes:
        raise ValueError(f"{what}: expected elements of {' or '.join(dtypes)}, found {found.dtype}")
    if axes is not None and len(found.shape) != axes:
        raise ValueError(f"{what}: expected {axes} axes, found shape {found.shape}")
    if dense and not found.contiguous:
        raise ValueError(f"{what}: expected a contiguous array, found strides {found.strides} of shape {found.shape}")
    return found


def _stitched(out: Any, total: Any, scale: Sequence[int]) -> DeviceArray:
    result, sums = _array("out", out, ("f32",), 4), _array("total", total, ("f32",), 3)
    wanted = tuple(extent * by for extent, by in zip(sums.shape, scale, strict=True))
    if result.shape[1:] != wanted:
        raise ValueError(f"stitching: expected a volume of {wanted} for weights of {sums.shape}, found {result.shape}")
    return result


def _one_size(arrays: Sequence[DeviceArray]) -> int:
    sizes = {each.size for each in arrays}
    if len(sizes) != 1:
        raise ValueError(f"expected arrays of one size, found {sorted(sizes)} elements")
    return sizes.pop()


def _extents(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (_I64 * len(values))(*values)


def _call(name: str, arrays: Sequence[DeviceArray | None], stream: int, *arguments: Any) -> None:
    devices = {each.device for each in arrays if each is not None and each.device is not None}
    if len(devices) > 1:
        raise ValueError(f"{name}: expected arrays on one device, found devices {sorted(devices)}")
    opened = library()
    function: Callable[..., int] = getattr(opened, f"ctfast_cuda_{name}")
    code = function(*arguments, stream or None)
    if code != 0:
        raise DeviceError(f"the CUDA kernel '{name}' did not start: {opened.ctfast_cuda_error(code).decode()}")
