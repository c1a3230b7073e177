"""The native runtime (csrc/bindings). Arrays go in as anything numpy understands and come out C-contiguous.

Errors are the classes of ctfast.errors. Functions that take an ``observer`` call it as observer(stage, done, total)
between network calls, on the calling thread; False cancels the request (CancelledError). Signal handlers run at the
same places, so Ctrl-C surfaces as KeyboardInterrupt even without an observer. The interpreter lock is released
everywhere else.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, type_check_only

import numpy as np
import numpy.typing as npt

_Float32: TypeAlias = npt.NDArray[np.float32]
_Observer: TypeAlias = Callable[[str, int, int], bool | None] | None
_Size: TypeAlias = Sequence[int]

@type_check_only
class _Cpu(TypedDict):
    avx2: bool
    avx512: bool
    avx512_bf16: bool
    amx_bf16: bool
    avx512_fp16: bool
    bf16: bool  # whether bf16 networks run in hardware
    fp16: bool  # the same of fp16

@type_check_only
class _BuildInfo(TypedDict):
    openvino: str
    compiler: str
    cpu: _Cpu
    threads: int  # what threads=0 means here: affinity mask and container quota

def build_info() -> _BuildInfo: ...
def fill_normal(seed: int, sample: int, shape: Sequence[int]) -> _Float32:
    """Standard normal noise: Philox 4x32-10, Box-Muller. Element i depends on (seed, sample, i) alone."""

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Ten rounds: four 32-bit words from a counter of four and a key of two. For known-answer tests."""

def rflow_time_grid(
    steps: int,
    latent_voxels: int,
    mode: str = "monai",
    *,
    train_steps: int = 1000,
    base_voxels: int = 32768,
    spatial_dim: int = 3,
    transform: bool = True,
    steps_offset: int = 0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(t, dt): what the denoiser is told at each step (0..1000, decreasing), and each step's length in flow time.

    ``mode``: "monai" (half-precision t, truncated next t) or "exact".
    """

def given_time_grid(
    times: Sequence[float] | npt.NDArray[np.float64],
    latent_voxels: int,
    *,
    train_steps: int = 1000,
    base_voxels: int = 32768,
    transform: bool = True,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The exact (t, dt) of ``times`` instead of equal steps: from train_steps on, falling, before the transform."""

class SolverCall:
    """One network call of a solver and what becomes of the velocity v at (y, t), in this order.

    p0 = point * y + velocity * v; x = keep * x + mix . (p0, p1, p2); y = stay * x + lead . (p0, p1). p1 and p2 are
    those of the two calls before. x and y begin as the noise, y after the last call is the data.
    """

    @property
    def step(self) -> int:
        """Of the time grid."""

    @property
    def t(self) -> float: ...
    @property
    def point(self) -> float: ...
    @property
    def velocity(self) -> float: ...
    @property
    def keep(self) -> float: ...
    @property
    def mix(self) -> list[float]: ...
    @property
    def stay(self) -> float: ...
    @property
    def lead(self) -> list[float]: ...

def solver_calls(
    solver: str, t: Sequence[float] | npt.NDArray[np.float64], dt: Sequence[float] | npt.NDArray[np.float64]
) -> list[SolverCall]:
    """What a solver does on a time grid, for loops that run elsewhere; RequestError on a malformed grid."""

def integrate(
    solver: str,
    t: Sequence[float] | npt.NDArray[np.float64],
    dt: Sequence[float] | npt.NDArray[np.float64],
    velocity: Callable[[_Float32, float], npt.ArrayLike],
    x: npt.ArrayLike,
    observer: _Observer = None,
) -> _Float32:
    """Integrate dx = velocity(x, t) dt from noise ``x``. Solvers: euler, heun, ab2, dpmpp_2m, unipc."""

def window_starts(volume: _Size, window: _Size, overlap: float) -> tuple[list[list[int]], list[int]]:
    """First voxel of each window, and the windows' size (cut to the volume)."""

def gaussian_window(window: _Size, sigma_scale: float = 0.125) -> _Float32:
    """Blending weights of a window."""

def label_bits(labels: npt.NDArray[np.uint16], bits: int) -> _Float32:
    """(bits, x, y, z): channel k is bit k of each label, 0.0 or 1.0."""

def to_hu(
    image: npt.ArrayLike,
    labels: npt.NDArray[np.uint16] | None = None,
    scale: float = 2000.0,
    offset: float = -1000.0,
    low: float = -1000.0,
    high: float = 1000.0,
    air: int = -1000,
    rounding: str = "nearest",
) -> npt.NDArray[np.int16]:
    """clamp(image * scale + offset, low, high) as int16, ``air`` where labels are 0.

    ``rounding``: "nearest" or "truncate". RequestError on NaN or Inf.
    """

class Plan:
    """The plan file, memory-mapped and checked. PlanError says what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def file_size(self) -> int: ...
    @property
    def manifest(self) -> str: ...
    @property
    def sections(self) -> list[tuple[str, int, int, str]]:
        """(name, offset, length, sha256 in hexadecimal) in file order."""

    def section(self, name: str) -> memoryview:
        """Read-only bytes; the view keeps the plan open."""

    def verify(self, observer: _Observer = None) -> None:
        """Compare every section's checksum; reports stage "verify" in bytes."""

class Session:
    """What runs one network. May be shared between threads: each call waits for the one before it."""

    @property
    def inputs(self) -> list[str]: ...
    @property
    def outputs(self) -> list[str]: ...
    def run(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """Run once. Floating inputs become float32; integer ones must be int64 or uint8. The results are copies."""

class OpenVINOSession(Session):
    """A network on the CPU, from ``<network>/model.xml`` and ``<network>/model.bin`` of a plan, used in place.

    ``precision`` is "fp32", "bf16" or "fp16"; DeviceError for one that the processor lacks. ``threads`` 0 means all
    that affinity and container quota allow. Inputs in ``drop`` stay zero and are compiled away. ``cache_dir`` keeps
    compiled networks between processes. ``graph`` is the section of another graph over the network's weights: a
    program's stage. Inputs and outputs in ``half_io`` are bfloat16 in memory; such a session runs in programs only.
    """

    def __init__(
        self,
        plan: Plan,
        network: str,
        precision: str,
        threads: int = 0,
        drop: Sequence[str] = [],
        cache_dir: str = "",
        *,
        graph: str | None = None,
        half_io: Sequence[str] = [],
    ) -> None: ...
    @staticmethod
    def from_bytes(
        xml: str | bytes,
        weights: bytes,
        *,
        name: str = "network",
        precision: str = "fp32",
        threads: int = 0,
        drop: Sequence[str] = [],
        cache_dir: str = "",
        half_io: Sequence[str] = [],
    ) -> OpenVINOSession:
        """The same from an OpenVINO IR in memory."""

    @property
    def precision(self) -> Literal["bf16", "fp16", "fp32"]:
        """As OpenVINO reports it for the network compiled last; before the first run, as asked for."""

    @property
    def compiled_shapes(self) -> int:
        """How many sets of input shapes are compiled now (3 at most)."""

    @property
    def compiled_operations(self) -> list[str]:
        """OpenVINO's operations in the network compiled last; empty before the first run."""

class CallableSession(Session):
    """A network that is a Python function: dict of arrays in (copies), dict of arrays out."""

    def __init__(
        self,
        inputs: Sequence[str],
        outputs: Sequence[str],
        function: Callable[[dict[str, npt.NDArray[Any]]], Mapping[str, npt.ArrayLike]],
    ) -> None: ...

class AddressedSession(Session):
    """A stage as a function of (dtype, shape, address): inputs by name, and the output "y" that it writes.

    "x", "residual" and "y" lie in the workspace's memory, the other inputs in this computer's.
    """

    def __init__(
        self, inputs: Sequence[str], function: Callable[[dict[str, _Addressed], _Addressed], None]
    ) -> None: ...

def sample(
    denoiser: Session,
    controlnet: Session | None,
    *,
    shape: Sequence[int],
    seed: int,
    sample: int = 0,
    latents: npt.ArrayLike | None = None,
    method: str = "flow",
    t: Sequence[float] | npt.NDArray[np.float64] = ...,
    dt: Sequence[float] | npt.NDArray[np.float64] = ...,
    solver: str = "euler",
    beta_start: float = 0.0,
    beta_end: float = 0.0,
    train_steps: int = 1000,
    steps: int = 1000,
    eta: float = 0.0,
    class_label: int | None = None,
    spacing: Sequence[float] | None = None,
    top_region: Sequence[float] | None = None,
    bottom_region: Sequence[float] | None = None,
    condition: npt.ArrayLike | None = None,
    control_scale: float = 1.0,
    guidance: float = 0.0,
    guidance_kind: str = "none",
    observer: _Observer = None,
) -> _Float32:
    """From noise to a latent of ``shape`` (channels, x, y, z). Reports stage "sample" in steps.

    ``latents`` replaces the noise of (seed, sample). ``method`` flow: ``t``, ``dt`` of rflow_time_grid, ``solver``;
    ddpm and ddim: betas, ``train_steps``, ``steps``, and ``eta`` for ddim. ``spacing`` in mm and regions as one-hot
    weights of four: the networks are given 100 times these. ``condition`` is the ControlNet's condition embedding,
    (1 or 2, C0, x, y, z), the second one of the mask without tumours. ``guidance`` 0 is one conditional pass, otherwise
    the prediction is u + guidance * (c - u) from a batch of two, ``guidance_kind`` "modality" or "tumour". Conditions
    that the networks do not take are ignored.
    """

def decode(
    session: Session,
    latent: npt.ArrayLike,
    scale_factor: float,
    compression: _Size = (4, 4, 4),
    window: _Size | None = None,
    overlap: float = 0.4,
    observer: _Observer = None,
) -> _Float32:
    """(X, Y, Z) from a latent (channels, x, y, z): whole, or in Gaussian-blended windows of latent voxels as MONAI's.

    As in the official scripts, a latent of no more voxels than the window has is decoded whole. Reports stage "decode"
    in network calls.
    """

def encode(
    session: Session, image: npt.ArrayLike, compression: _Size = (4, 4, 4), observer: _Observer = None
) -> tuple[_Float32, _Float32]:
    """(mean, log_variance), each (channels, x, y, z), of an image (X, Y, Z) in the network's units."""

class Program:
    """A network as stages that run one after the other on slabs of rows along z; see docs/decode.md.

    Each of ``stages`` maps name, reads, writes, adds (or None), channels, up and down (x, y, z), halo (before, after),
    skip, groups (0: no norm), eps, gamma and beta (arrays, or None), mask (None or (grid, before, after)) and
    multiply_adds per output voxel. PlanError if they do not fit together.
    """

    def __init__(self, input: str, input_channels: int, output: str, stages: Sequence[Mapping[str, Any]]) -> None: ...
    def output_size(self, size: _Size) -> tuple[int, int, int]:
        """Extents (x, y, z) of the output for an input of ``size``; RequestError where a stage does not divide it."""

class Strategy:
    """How a program is run within a memory budget, with what that is predicted to take."""

    @property
    def name(self) -> Literal["whole", "in_place", "spill", "recompute"]: ...
    @property
    def peak_bytes(self) -> int:
        """Beyond the weights."""

    @property
    def work(self) -> float:
        """Multiply-adds over those of one plain pass."""

    @property
    def spilled_bytes(self) -> int:
        """Written to and read from scratch files."""

    @property
    def scratch_bytes(self) -> int:
        """The most that is in scratch files at one time."""

    @property
    def seconds(self) -> float: ...
    @property
    def fits(self) -> bool: ...
    @property
    def stored(self) -> list[str]:
        """Tensors that are kept in memory between passes."""

    @property
    def spilled(self) -> list[str]: ...
    @property
    def slab_rows(self) -> int:
        """Rows of the output per call of the last stage; 0 for "whole"."""

_Addressed: TypeAlias = tuple[str, tuple[int, ...], int]  # "f32", "bf16", "i64" or "u8"; shape; address

class _RowSums(Protocol):
    """Adds up a tensor that comes in parts, channels last."""

    def add(self, address: int, dtype: str, voxels: int, /) -> None: ...
    def totals(self) -> tuple[Sequence[float], Sequence[float]]:
        """Per channel: sums of the values, and of their squares."""

class _SpilledRows(Protocol):
    """Rows of a tensor in a place that is larger and slower."""

    def write(self, first: int, count: int, address: int, /) -> None: ...
    def read(self, first: int, count: int, address: int, /) -> None: ...

class _Memory(Protocol):
    """Where the tensors between the stages of a program lie; the runtime knows addresses only."""

    def allocate(self, count: int, /) -> int: ...
    def release(self, address: int, /) -> None: ...
    def copy(self, target: int, target_stride: int, source: int, source_stride: int, width: int, count: int, /) -> None:
        """Copy ``count`` pieces of ``width`` bytes that begin ``stride`` bytes apart, and do not overlap."""

    def move(self, target: int, source: int, count: int, /) -> None:
        """Copy bytes that may overlap."""

    def row_sums(self, channels: int, /) -> _RowSums: ...
    def spilled_rows(self, rows: int, width: int, /) -> _SpilledRows: ...

class Workspace:
    """Memory of programs that is kept from one run to the next: its first use takes longer than later ones.

    For one run at a time; a run keeps to its strategy's predicted peak, what is kept included. ``memory``: where it
    comes from, if it is not this computer's own.
    """

    def __init__(self, memory: _Memory | None = None) -> None: ...
    @property
    def kept_bytes(self) -> int: ...
    def clear(self) -> None:
        """Give it to the system."""

def strategies(
    program: Program,
    size: _Size,
    *,
    element_bytes: int,
    budget: int,
    whole_bytes: int | None = None,
    rate: float = 1e12,
    spill_rate: float = 1e9,
) -> list[Strategy]:
    """One strategy of each kind for an input of ``size`` (x, y, z): the quickest that fits, or the smallest.

    ``budget`` is in bytes beyond the weights, ``element_bytes`` 2 (bf16) or 4 (fp32). ``whole_bytes`` is what one call
    of the whole network takes. ``rate`` (multiply-adds per second) and ``spill_rate`` (bytes per second) weigh work
    against transfers.
    """

def run_program(
    program: Program,
    open_stage: Callable[[str], Session],
    input: npt.ArrayLike,
    strategy: Strategy,
    *,
    sink: Callable[[int, _Float32], None],
    element_bytes: int,
    threads: int = 0,
    scratch: str = "/tmp",
    stage: str = "decode",
    workspace: Workspace | None = None,
    observer: _Observer = None,
) -> int:
    """Run a program on an input (z, y, x, channels); sink(first_row, rows) is given the output as it is finished.

    ``open_stage`` gives the session of a stage, once per pass; its memory is released when the pass is over. The
    sink's rows (rows, y, x, channels) come in order and are valid during the call only. Spilled tensors go to
    ``scratch``. Returns the peak bytes of the walker's own memory: kept tensors, windows and results, not what the
    sessions hold.
    """

def run_program_in(
    workspace: Workspace,
    program: Program,
    open_stage: Callable[[str], Session],
    address: int,
    shape: tuple[int, int, int, int],
    strategy: Strategy,
    *,
    sink: Callable[[int, _Addressed], None],
    element_bytes: int,
    stage: str = "decode",
    observer: _Observer = None,
) -> int:
    """The same in the workspace's memory: stages are AddressedSessions, the input is float32 at ``address``."""
