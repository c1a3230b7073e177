"""Programs of real VAEs in the native runtime: every way to keep tensors gives what torch gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("ctfast._native")

from support.causal_vae import CHANNELS, CausalDecoder, causal_program  # noqa: E402
from support.native_walker import NativeProgram  # noqa: E402
from support.official_files import one_thread, redraw  # noqa: E402
from support.state_files import stored  # noqa: E402

import ctfast  # noqa: E402
from ctfast.export.constants import Constants  # noqa: E402
from ctfast.export.program import StagedNetwork  # noqa: E402
from ctfast.export.vae_program import decoder_program, encoder_program  # noqa: E402
from ctfast.networks import AutoencoderConfig, AutoencoderKL  # noqa: E402

WHOLE, LITTLE = 1 << 40, 0  # budgets: everything fits; nothing does, so that each strategy is at its smallest
WAYS = [(name, budget) for name in ("in_place", "spill", "recompute") for budget in (WHOLE, LITTLE)]
FOLDED = AutoencoderConfig(latent_channels=8, channels=(16, 32), blocks=(1, 2), groups=8, patch=2)
OFFICIAL = AutoencoderConfig(channels=(8, 16, 24), blocks=(2, 1, 1), groups=8)


@dataclass(frozen=True)
class Case:
    """A network in torch (one tensor in, one out), its stages, and an input of an odd size."""

    network: Callable[[Any], Any]
    staged: StagedNetwork
    weights: dict[str, Any]
    x: Any

    def expected(self) -> Any:
        """What torch gives, [z, y, x, channels]."""
        with torch.no_grad(), one_thread():
            return rows_of(self.network(self.x))


def rows_of(tensor: Any) -> Any:
    return np.ascontiguousarray(tensor.numpy()[0].transpose(3, 2, 1, 0))


def case(kind: str, folder: Path) -> Case:
    generator = torch.Generator().manual_seed(3)
    if kind == "causal":
        causal = redraw(CausalDecoder(), 1).eval()
        staged = causal_program(Constants(*stored(causal.state_dict(), folder)))
        return Case(causal, staged, {}, torch.randn((1, CHANNELS, 3, 2, 6), generator=generator))
    config = FOLDED if kind.startswith("folded") else OFFICIAL
    network = redraw(AutoencoderKL(config), 2).eval()
    constants = Constants(*stored(network.state_dict(), folder))
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    if kind.endswith("decoder"):
        x = torch.randn((1, config.latent_channels, 5, 6, 7), generator=generator)
        return Case(network.decode, decoder_program(config, constants), weights, x)
    x = torch.rand((1, config.in_channels, *(n * config.compression for n in (3, 5, 6))), generator=generator)
    return Case(lambda image: torch.cat(network.encode(image), 1), encoder_program(config, constants), weights, x)


KINDS = ("folded decoder", "folded encoder", "official decoder", "official encoder", "causal")


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, NativeProgram, Any]:
    one = case(request.param, tmp_path_factory.mktemp("weights"))
    return one, NativeProgram(one.staged, one.weights), one.expected()


def distance(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("name", "budget"), WAYS)
def test_every_strategy_computes_what_torch_computes(
    made: tuple[Case, NativeProgram, Any], name: str, budget: int, tmp_path: Path
) -> None:
    one, program, expected = made
    x = rows_of(one.x)
    strategy = program.strategies(x.shape, budget)[name]
    assert strategy.fits == (budget == WHOLE)
    assert distance(program.run(x, strategy, tmp_path), expected) < 1e-5
    assert not list(tmp_path.iterdir())


def test_sizes_are_told_beforehand(made: tuple[Case, NativeProgram, Any]) -> None:
    one, program, expected = made
    assert tuple(program.program.output_size(tuple(one.x.shape[2:]))) == expected.shape[2::-1]


@pytest.mark.parametrize("kind", ["folded decoder", "official decoder", "official encoder"])
def test_half_precision_is_close(kind: str, tmp_path: Path) -> None:
    """45 dB below the result's range, which is what the whole network in bf16 is held to."""
    one = case(kind, tmp_path)
    program, expected = NativeProgram(one.staged, one.weights, "bf16"), one.expected()
    x = rows_of(one.x)
    for name, strategy in program.strategies(x.shape, LITTLE).items():
        error = program.run(x, strategy, tmp_path) - expected
        decibels = 10 * np.log10(np.ptp(expected) ** 2 / np.mean(error**2))
        assert decibels > 45, name


def test_norms_per_voxel_need_no_pass_for_statistics(tmp_path: Path) -> None:
    """Of a long video the large tensors pass by, and nothing is computed twice for that."""
    one = case("causal", tmp_path)
    program = NativeProgram(one.staged, {})
    latent = torch.randn((1, CHANNELS, 8, 8, 100), generator=torch.Generator().manual_seed(4))
    streamed = program.strategies(rows_of(latent).shape, LITTLE)["recompute"]
    in_place = program.strategies(rows_of(latent).shape, WHOLE)["in_place"]
    assert "5_up" not in streamed.stored
    assert streamed.work == in_place.work == 1.0
    assert streamed.spilled_bytes == 0
    with torch.no_grad(), one_thread():
        expected = rows_of(one.network(latent))
    assert distance(program.run(rows_of(latent), streamed, tmp_path), expected) < 1e-5

    # Of hours of video, less is in memory at a time than one number per voxel.
    hours = (10_000, 16, 16, CHANNELS)
    voxels = 10_000 * 16 * 16 * expected[..., 0].size / latent[0, 0].numel()
    assert program.strategies(hours, LITTLE)["recompute"].peak_bytes < 4 * voxels


def test_the_embedded_plan_gives_the_same_in_stages() -> None:
    """Its VAE in fp32: the same latent but for rounding, the same intensities but for one HU here and there."""
    engine = ctfast.load(precision="fp32", threads=2)
    latent = np.random.default_rng(5).standard_normal((8, 24, 24, 16)).astype(np.float32)
    whole, staged = engine.decode(latent), engine.decode(latent, memory="25MB")
    assert [volume.meta["decode_strategy"]["name"] != "whole" for volume in (whole, staged)] == [False, True]
    difference = np.abs(whole.array.astype(int) - staged.array)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert distance(engine.encode(whole, memory="25MB"), engine.encode(whole)) < 1e-5
