"""What test_train_runs.py starts under torchrun: ranks must agree, and share their work as one process would."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ctfast.cli.main import main
from ctfast.train.config import Optimisation
from ctfast.train.loop import Trainer
from ctfast.train.sampling import generator

SETTINGS = Optimisation(steps=5, batch=2, rate=0.1, warmup=1, amp=False, clip=0.5)


def fit(folder: Path, half: int | None) -> Tensor:
    """Train a small network on two samples a step, or on the one that is this rank's; returns its weights."""
    torch.manual_seed(0)
    trainer = Trainer(nn.Sequential(nn.Conv3d(1, 4, 3), nn.SiLU(), nn.Conv3d(4, 1, 1)), SETTINGS, folder, {})

    def loss(network: nn.Module, step: int) -> Mapping[str, Tensor]:
        data = torch.randn(2, 1, 6, 6, 6, generator=generator(step, 1))
        data = data if half is None else data[half : half + 1]
        return {"loss": (network(data) - 1.0).square().mean()}

    trainer.run(loss, lambda _: {})
    return torch.cat([p.detach().flatten() for p in [*trainer.network.parameters(), *trainer.ema.parameters()]])


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = fit(Path(sys.argv[1]) / "trainer", rank)
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both), "the ranks' weights differ"
    if rank == 0:
        torch.save(mine, Path(sys.argv[1]) / "weights.pt")
    sys.exit(main(sys.argv[2:]))
