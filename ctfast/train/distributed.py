"""Devices and processes of a run: one process, or several under torchrun."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

# The first rank encodes the data set and validates while the others wait.
_PATIENCE = timedelta(hours=4)


def distributed() -> tuple[int, int]:
    """(rank, world size) of a run under torchrun, (0, 1) otherwise; joins the process group at the first call."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not dist.is_initialized():
        device = pick_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    return dist.get_rank(), world


def wait_for_all() -> None:
    """Return when every process of the run has come here."""
    if distributed()[1] > 1:
        dist.barrier()


def leave() -> None:
    """Leave the process group at the end of a program, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def pick_device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
