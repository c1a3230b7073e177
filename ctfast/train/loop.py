"""The training loop all tasks share: AMP, EMA, cosine decay, checkpoints that resume to the bit, DDP, TensorBoard."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from ctfast.errors import CheckpointError, DataError
from ctfast.train.config import Optimisation
from ctfast.train.data import generator
from ctfast.train.fast_norm import use_fast_norms

# (network to call, step, device) -> losses by name; "loss" is the one that is minimised.
LossFunction = Callable[[nn.Module, int, torch.device], Mapping[str, Tensor]]
Validation = Callable[[nn.Module, torch.device], Mapping[str, float]]


def distributed() -> tuple[int, int]:
    """(rank, world size) of a run under torchrun, (0, 1) otherwise; joins the process group at the first call."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def pick_device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def rate_at(step: int, settings: Optimisation) -> float:
    """Learning rate: linear warm-up, then a cosine from ``rate`` to ``final * rate``."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.rate * (settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """``torch.save``, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


class Trainer:
    """Trains one network; every random draw is a function of the step, so a resumed run equals an unbroken one."""

    def __init__(self, network: nn.Module, settings: Optimisation, folder: Path, record: Mapping[str, Any]) -> None:
        self.settings, self.folder, self.record = settings, folder, dict(record)
        self.rank, self.world = distributed()
        self.device = pick_device()
        network = use_fast_norms(network) if self.device.type == "cpu" else network
        self.network = network.to(self.device, memory_format=torch.channels_last_3d)
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, settings.rate, weight_decay=settings.weight_decay)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Where the newest state lies."""
        return self.folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.ema.load_state_dict(state["state_dict"])
            self.optimiser.load_state_dict(state["optimizer_state_dict"])
            self.step = int(state["step"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{self.checkpoint}: does not fit this configuration ({error}); train into a new folder"
            ) from error
        return True

    def save(self) -> None:
        """Write network, EMA, optimiser and step, whole or not at all."""
        if self.rank:
            return
        state = {
            "state_dict": self.ema.state_dict(),
            "network": self.network.state_dict(),
            "optimizer_state_dict": self.optimiser.state_dict(),
            "step": self.step,
            **self.record,
        }
        save_atomically(state, self.checkpoint)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 autocast where the configuration asks for mixed precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.settings.amp else nullcontext()

    def run(self, loss: LossFunction, validate: Validation | None = None, stop_after: int | None = None) -> None:
        """Train up to the configured number of steps (or ``stop_after``), saving and logging on the way."""
        called: nn.Module = self.network
        if self.world > 1:
            called = DistributedDataParallel(self.network, find_unused_parameters=True)
        last = min(self.settings.steps, stop_after if stop_after is not None else self.settings.steps)
        writer = SummaryWriter(str(self.folder)) if self.rank == 0 else None
        log = (self.folder / "log.jsonl").open("a") if self.rank == 0 else None
        sums: dict[str, float] = {}
        started = time.perf_counter()
        while self.step < last:
            step = self.step
            # What a network draws itself (posterior samples) follows the step as well.
            torch.manual_seed(int(generator(self.settings.seed, step, self.rank, 3).initial_seed()))
            for group in self.optimiser.param_groups:
                group["lr"] = rate_at(step, self.settings)
            self.optimiser.zero_grad(set_to_none=True)
            with self.autocast():
                losses = loss(called, step, self.device)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
            if not torch.isfinite(norm):
                raise DataError(
                    f"step {step}: the gradient is not finite; lower the rate, or look for damaged crops. "
                    f"The last checkpoint is {self.checkpoint}"
                )
            self.optimiser.step()
            self._average()
            self.step += 1
            for name, value in {**losses, "gradient": norm}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if log is not None and writer is not None and (self.step % self.settings.log_every == 0 or self.step == last):
                entry = {name: total / self._logged() for name, total in sums.items()}
                entry |= {"step": self.step, "rate": rate_at(step, self.settings)}
                entry["seconds"] = round(time.perf_counter() - started, 1)
                sums = {}
                log.write(json.dumps({k: round(v, 6) for k, v in entry.items()}) + "\n")
                log.flush()
                for name, value in entry.items():
                    writer.add_scalar(name, value, self.step)
            if self.step % self.settings.save_every == 0 or self.step == last:
                self.save()
                if validate is not None and log is not None and writer is not None:
                    with torch.no_grad():
                        figures = validate(self.ema, self.device)
                    log.write(json.dumps({"step": self.step, **{f"val_{k}": round(v, 5) for k, v in figures.items()}}) + "\n")
                    log.flush()
                    for name, value in figures.items():
                        writer.add_scalar(f"val/{name}", value, self.step)
        if writer is not None and log is not None:
            writer.close()
            log.close()

    def _logged(self) -> int:
        return self.settings.log_every if self.step % self.settings.log_every == 0 else self.step % self.settings.log_every

    @torch.no_grad()
    def _average(self) -> None:
        # Early on the average would be dominated by the first weights; the ramp forgets them.
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
