"""A causal video VAE described with the same pieces: another norm, another padding along z, frames that are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from support.causal_vae import CHANNELS, CausalDecoder, causal_program  # noqa: E402
from support.official_files import one_thread, redraw  # noqa: E402
from support.program_walker import Run, compiled, walk  # noqa: E402
from support.state_files import stored  # noqa: E402

from ctfast.export.constants import Constants  # noqa: E402
from ctfast.export.program import StagedNetwork  # noqa: E402

SIZES = ((3, 2, 5), (2, 3, 2), (1, 1, 1))


@dataclass(frozen=True)
class Pair:
    network: Any
    staged: StagedNetwork
    runs: dict[str, Run]

    def walk(self, latent: Any, slab: int | None = None) -> Any:
        turned = np.ascontiguousarray(latent.numpy()[0].transpose(3, 2, 1, 0))
        return walk(self.staged.program, self.runs.__getitem__, {}, turned, slab).transpose(3, 2, 1, 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    network = redraw(CausalDecoder(), 1).eval()
    staged = causal_program(Constants(*stored(network.state_dict(), tmp_path_factory.mktemp("weights"))))
    return Pair(network, staged, {name: compiled(graph) for name, graph in staged.graphs.items()})


def latent_of(size: tuple[int, int, int]) -> Any:
    return torch.randn((1, CHANNELS, *size), generator=torch.Generator().manual_seed(7))


def decoded(pair: Pair, latent: Any) -> Any:
    with torch.no_grad(), one_thread():
        return pair.network(latent).numpy()[0]


def distance(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_no_stage_needs_statistics(pair: Pair) -> None:
    assert all(stage.norm is None for stage in pair.staged.program.stages)
    assert all(stage.halo[1] == 0 for stage in pair.staged.program.stages)


@pytest.mark.parametrize("slab", [None, 1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_stages_compute_what_torch_computes(pair: Pair, size: tuple[int, int, int], slab: int | None) -> None:
    latent = latent_of(size)
    expected = decoded(pair, latent)
    assert expected.shape == (2, 4 * size[0], 4 * size[1], 4 * size[2] - 3)
    assert distance(pair.walk(latent, slab), expected) < 1e-5


def test_a_frame_does_not_depend_on_later_ones(pair: Pair) -> None:
    latent = latent_of(SIZES[0])
    longer, shorter = pair.walk(latent, 2), pair.walk(latent[..., :3], 2)
    assert distance(longer[..., : shorter.shape[-1]], shorter) < 1e-6
