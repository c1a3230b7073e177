"""Programs of the MAISI family's VAE: the stages, one after the other, compute what the torch network computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import openvino as ov  # noqa: E402
from support.official_files import one_thread, redraw  # noqa: E402
from support.program_walker import Run, compiled, walk  # noqa: E402
from support.state_files import stored  # noqa: E402

from ctfast.errors import CtfastError  # noqa: E402
from ctfast.export.constants import Constants  # noqa: E402
from ctfast.export.program import ProgramBuilder, StagedNetwork, StageInputs  # noqa: E402
from ctfast.export.stage_graph import channels_first, convolution, same  # noqa: E402
from ctfast.export.vae_program import decoder_program, encoder_program  # noqa: E402
from ctfast.manifest_program import StageMask, StageNorm  # noqa: E402
from ctfast.networks import AutoencoderConfig, AutoencoderKL  # noqa: E402

#: Latent sizes (x, y, z) that are not multiples of anything.
SIZES = ((5, 6, 7), (3, 1, 2), (2, 5, 1))
CONFIGS = {
    "folded": AutoencoderConfig(latent_channels=8, channels=(32, 64), blocks=(2, 1), groups=8, patch=2),
    "official": AutoencoderConfig(channels=(16, 24, 32), blocks=(1, 2, 1), groups=8),
    "channels": AutoencoderConfig(3, 2, 4, channels=(8, 16), blocks=(1, 1), groups=4, eps=1e-3, patch=3),
    "flat": AutoencoderConfig(channels=(16,), blocks=(1,), groups=16, patch=1),
}


@dataclass(frozen=True)
class Pair:
    """A network in torch, and the same in stages."""

    config: AutoencoderConfig
    network: Any
    weights: dict[str, Any]
    staged: dict[str, StagedNetwork]
    runs: dict[str, dict[str, Run]]

    def walk(self, name: str, x: Any, slab: int | None = None) -> Any:
        """What the program gives for a tensor in the network's layout, in that layout."""
        turned = np.ascontiguousarray(x.numpy()[0].transpose(3, 2, 1, 0))
        out = walk(self.staged[name].program, self.runs[name].__getitem__, self.weights, turned, slab)
        return out.transpose(3, 2, 1, 0)


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = CONFIGS[request.param]
    network = redraw(AutoencoderKL(config), 3).eval()
    constants = Constants(*stored(network.state_dict(), tmp_path_factory.mktemp("weights")))
    staged = {"decoder": decoder_program(config, constants), "encoder": encoder_program(config, constants)}
    runs = {name: {key: compiled(graph) for key, graph in each.graphs.items()} for name, each in staged.items()}
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    return Pair(config, network, weights, staged, runs)


def given(pair: Pair, size: tuple[int, int, int]) -> tuple[Any, Any]:
    """A latent and an image of one size, in latent voxels."""
    generator = torch.Generator().manual_seed(sum(size))
    latent = torch.randn((1, pair.config.latent_channels, *size), generator=generator)
    larger = [n * pair.config.compression for n in size]
    return latent, torch.rand((1, pair.config.in_channels, *larger), generator=generator)


def wanted(pair: Pair, latent: Any, image: Any) -> tuple[Any, Any]:
    """What torch makes of them: an image, and mean and log variance as one tensor."""
    with torch.no_grad(), one_thread():
        return pair.network.decode(latent).numpy()[0], torch.cat(pair.network.encode(image), 1).numpy()[0]


def distance(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("size", SIZES)
def test_stages_on_whole_volumes_compute_what_torch_computes(pair: Pair, size: tuple[int, int, int]) -> None:
    latent, image = given(pair, size)
    decoded, moments = wanted(pair, latent, image)
    assert distance(pair.walk("decoder", latent), decoded) < 1e-5
    found, half = pair.walk("encoder", image), pair.config.latent_channels
    assert distance(found[:half], moments[:half]) < 1e-5
    assert distance(found[half:], moments[half:]) < 1e-5


@pytest.mark.parametrize("slab", [2, 3])
def test_stages_on_slabs_compute_the_same(pair: Pair, slab: int) -> None:
    latent, image = given(pair, SIZES[0])
    assert distance(pair.walk("decoder", latent, slab), pair.walk("decoder", latent)) < 1e-6
    assert distance(pair.walk("encoder", image, slab), pair.walk("encoder", image)) < 1e-6


def test_the_log_variance_is_clamped_and_the_mean_is_not(tmp_path: Path) -> None:
    config = CONFIGS["flat"]
    network = redraw(AutoencoderKL(config), 4).eval()
    with torch.no_grad():
        for conv in (network.quant_conv_mu.conv, network.quant_conv_log_sigma.conv):
            conv.weight.mul_(1000)
    staged = encoder_program(config, Constants(*stored(network.state_dict(), tmp_path)))
    runs = {key: compiled(graph) for key, graph in staged.graphs.items()}
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    image = torch.rand((1, 1, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    found = walk(staged.program, runs.__getitem__, weights, image.numpy()[0].transpose(3, 2, 1, 0)).transpose(
        3, 2, 1, 0
    )
    mean, log_variance = network.encode(image)
    assert distance(found, torch.cat([mean, log_variance], 1).detach().numpy()[0]) < 1e-5
    assert {found[4:].min(), found[4:].max()} == {-30.0, 20.0}
    assert np.abs(found[:4]).max() > 30


def test_work_is_counted_per_voxel_of_output(pair: Pair) -> None:
    """Multiply-adds of torch's convolutions, counted while it runs, against the programs' sums."""
    counted = {"decoder": 0, "encoder": 0}
    half = "decoder"

    def count(module: Any, _: Any, out: Any) -> None:
        counted[half] += out[0, 0].numel() * module.weight.numel()

    latent, image = given(pair, (2, 3, 2))
    hooks = [m.register_forward_hook(count) for m in pair.network.modules() if isinstance(m, torch.nn.Conv3d)]
    with torch.no_grad():
        pair.network.decode(latent)
        half = "encoder"
        pair.network.encode(image)
    for hook in hooks:
        hook.remove()
    for name, first in (("decoder", latent), ("encoder", image)):
        program = pair.staged[name].program
        voxels, total = {program.input: np.array(first.shape[2:])}, 0
        for stage in program.stages:
            voxels[stage.writes] = voxels[stage.reads] * stage.up // stage.down
            total += int(np.prod(voxels[stage.writes])) * stage.multiply_adds
        assert total == counted[name]


def test_stages_have_the_inputs_that_the_format_says(pair: Pair) -> None:
    for staged in pair.staged.values():
        channels = {staged.program.input: staged.program.input_channels}
        for stage in staged.program.stages:
            model, width = staged.graphs[stage.name], channels[stage.reads]
            ports = {port.any_name: str(port.get_partial_shape()) for port in model.inputs}
            expected = {"x": f"[1,?,?,?,{width}]"}
            if stage.norm is not None:
                expected |= {"scale": f"[1,1,1,1,{width}]", "shift": f"[1,1,1,1,{width}]"}
            if stage.mask is not None:
                expected["mask"] = "[1,?,1,1,1]"
            if stage.adds is not None:
                expected["residual"] = f"[1,?,?,?,{stage.channels}]"
            assert ports == expected
            assert [port.any_name for port in model.outputs] == ["y"]
            channels[stage.writes] = stage.channels


def executed(model: ov.Model, rows: dict[str, int], half: tuple[str, ...]) -> list[tuple[str, str]]:
    """Type and precision of what OpenVINO executes in bf16 on 16 x 16 voxels per row.

    ``rows`` are those of the inputs; the tensors in ``half`` are bfloat16 in memory too, as the runtime has them.
    """
    shaped = model.clone()
    shapes = {
        port.any_name: [axis.get_length() if axis.is_static else 16 for axis in port.partial_shape]
        for port in shaped.inputs
    }
    shaped.reshape({name: [1, rows.get(name, shape[1]), *shape[2:]] for name, shape in shapes.items()})
    retyped = ov.preprocess.PrePostProcessor(shaped)
    for name in shapes.keys() & set(half):
        retyped.input(name).tensor().set_element_type(ov.Type.bf16)
    if "y" in half:
        retyped.output("y").tensor().set_element_type(ov.Type.bf16)
    options = {"INFERENCE_PRECISION_HINT": "bf16", "PERF_COUNT": True}
    network = ov.Core().compile_model(retyped.build(), "CPU", options)
    network([np.zeros(port.shape, port.element_type.to_dtype()) for port in network.inputs])
    found = []
    for node in network.get_runtime_model().get_ordered_ops():
        info = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "execTimeMcs", "outputPrecisions")}
        if info["execTimeMcs"] != "not_executed":
            found.append((info["layerType"], info["outputPrecisions"]))
    return found


def has_bf16() -> bool:
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.skipif(not has_bf16(), reason="this processor computes in fp32 whatever is asked for")
@pytest.mark.parametrize("stage", ["1_conv1", "1_conv2", "2_up", "3_skip", "3_conv2", "conv_out"])
def test_no_stage_moves_memory_around_its_convolution(tmp_path: Path, stage: str) -> None:
    """The transpositions beside a convolution cost nothing only if OpenVINO removes them."""
    config = AutoencoderConfig(channels=(32, 64), blocks=(1, 1), groups=16)
    network = redraw(AutoencoderKL(config), 0)
    model = decoder_program(config, Constants(*stored(network.state_dict(), tmp_path))).graphs[stage]
    rows = {"x": {"2_up": 6, "3_skip": 8}.get(stage, 10), "mask": 10, "residual": 8}
    half = ("x", "residual") if stage == "conv_out" else ("x", "residual", "y")
    operations = executed(model, rows, half)
    assert "Transpose" not in [kind for kind, _ in operations]
    written = [precision for kind, precision in operations if kind == "Convolution"]
    assert written == (["f32"] if stage == "conv_out" else ["bf16"])


def stage_of(builder: ProgramBuilder, constants: Constants, name: str = "a", channels: int = 4, **more: Any) -> str:
    """A convolution of the input by the tensor ``w``."""

    def body(inputs: StageInputs) -> ov.Node:
        kernel = constants.kernel("w")
        return convolution(channels_first(inputs.x), kernel, before=same(kernel), after=same(kernel))

    return builder.stage(name, more.pop("reads", "in"), channels, body, multiply_adds=432, halo=(1, 1), **more)


@pytest.fixture
def constants(tmp_path: Path) -> Constants:
    return Constants(*stored({"w": torch.ones(4, 4, 3, 3, 3), "n": torch.ones(3)}, tmp_path))


REFUSALS: list[tuple[Callable[[ProgramBuilder, Constants], Any], str]] = [
    (lambda b, c: stage_of(b, c, reads="x"), "stage 'a': nothing before it writes 'x'"),
    (lambda b, c: stage_of(b, c, adds="x"), "stage 'a': nothing before it writes 'x'"),
    (lambda b, c: stage_of(b, c, channels=5), "stage 'a': expected 5 channels, but its graph gives 4"),
    (lambda b, c: b.finish(), "from 'in' does not fit together: stages: expected at least one, found none"),
    (
        lambda b, c: (stage_of(b, c, norm=StageNorm(2, 1e-6, "n", "none")), b.finish()),
        r"stages.a.norm.weight: expected 'n' of shape \[4\], found \[3\]; "
        "stages.a.norm.bias: the network's tensors have no 'none'",
    ),
    (
        lambda b, c: (stage_of(b, c), stage_of(b, c, reads="a"), b.finish()),
        "stages.a: the name comes twice; stages.a.writes: 'a' is there already",
    ),
    (lambda b, c: c.kernel("v"), "the network has no tensor 'v'; it has: w, n"),
    (
        lambda b, c: b.stage("a", "in", 4, lambda given: given.masked(given.x), multiply_adds=0),
        "the stage has no mask",
    ),
]


@pytest.mark.parametrize(("describe", "message"), REFUSALS, ids=[message for _, message in REFUSALS])
def test_programs_that_do_not_fit_together_are_refused(
    constants: Constants, describe: Callable[[ProgramBuilder, Constants], Any], message: str
) -> None:
    with pytest.raises(CtfastError, match=message):
        describe(ProgramBuilder("in", 4, constants.shapes()), constants)


def test_a_mask_beyond_the_halo_is_refused(constants: Constants) -> None:
    builder = ProgramBuilder("in", 4, constants.shapes())

    def body(inputs: StageInputs) -> ov.Node:
        return channels_first(inputs.masked(inputs.x))

    builder.stage("a", "in", 4, body, multiply_adds=0, halo=(1, 1), mask=StageMask("input", 2, 1))
    with pytest.raises(CtfastError, match=r"stages.a.mask: \[2, 1\] rows of mask go beyond the halo \[1, 1\]"):
        builder.finish()
