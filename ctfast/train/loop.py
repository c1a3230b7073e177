"""The training loop all tasks share: AMP, EMA, cosine decay, checkpoints that resume to the bit, DDP, TensorBoard."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctfast.errors import CheckpointError, DataError, OutputError
from ctfast.train.config import Optimisation
from ctfast.train.distributed import distributed, pick_device, wait_for_all
from ctfast.train.fast_norm import use_fast_norms
from ctfast.train.files import Log, save_atomically
from ctfast.train.sampling import generator

# (network to call, step) -> losses by name; "loss" is the one that is minimised.
LossFunction = Callable[[nn.Module, int], Mapping[str, Tensor]]
# (averaged network) -> figures by name
Validation = Callable[[nn.Module], Mapping[str, float]]
# (stage, done, total)
Progress = Callable[[str, int, int], object]


def rate_at(step: int, settings: Optimisation) -> float:
    """Learning rate: linear warm-up, then a cosine from ``rate`` to ``final * rate``."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.rate * (settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def channels_last(value: Tensor) -> Tensor:
    """The same tensor with channels innermost, which is how convolutions want it."""
    return value.contiguous(memory_format=torch.channels_last_3d)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device in the layout, and with the norms, that are fastest to train there."""
    if device.type == "cpu":
        network = use_fast_norms(network)
    # torch's stubs do not know that memory_format goes with a device.
    placed: nn.Module = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return placed


class Trainer:
    """Trains one network; every random draw is a function of the step, so a resumed run equals an unbroken one.

    Args:
        network: What is trained, on any device; its state dict is what checkpoints hold.
        settings: How.
        folder: Where checkpoints and logs go.
        record: Further entries of the checkpoint, of plain types.
        wrap: Makes a module with another ``forward`` out of the network; that is what the loss function gets.
        progress: Called with ("train", steps done, steps in all) after every step.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: Optimisation,
        folder: Path,
        record: Mapping[str, Any],
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.settings, self.folder, self.record, self.progress = settings, folder, dict(record), progress
        self.rank, self.world = distributed()
        self.device = pick_device()
        self.network = place(network, self.device)
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self._wrap = wrap or (lambda module: module)
        self._trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self._trained, settings.rate, weight_decay=settings.weight_decay)
        self.step = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: expected a folder to train into: {error}") from error

    @property
    def checkpoint(self) -> Path:
        """Where the newest state lies."""
        return self.folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one.

        Raises:
            CheckpointError: It is damaged, or of a network or a set of trained weights other than the configuration's.
        """
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.ema.load_state_dict(state["state_dict"])
            self.optimiser.load_state_dict(state["optimizer_state_dict"])
            self.step = int(state["step"])
        except (RuntimeError, KeyError, ValueError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.checkpoint}: does not fit this configuration, or is damaged ({error}); "
                "go on with the configuration it was made with, or train into a new folder"
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

    def run(self, loss: LossFunction, validate: Validation, stop_after: int | None = None) -> None:
        """Train up to the configured number of steps (or to step ``stop_after``), saving and logging on the way.

        Raises:
            DataError: A gradient is not finite.
        """
        called = self._wrap(self.network)
        if self.world > 1:
            called = DistributedDataParallel(called)
        averaged = self._wrap(self.ema)
        last = self.settings.steps if stop_after is None else min(self.settings.steps, stop_after)
        with Log(self.folder, self.rank) as log:
            while self.step < last:
                log.add(self._train(called, loss))
                if self.step % self.settings.log_every == 0 or self.step == last:
                    log.write_means(self.step, rate_at(self.step - 1, self.settings))
                if self.step % self.settings.save_every == 0 or self.step == last:
                    self.save()
                    if self.rank == 0:
                        with torch.no_grad():
                            log.write_validation(self.step, validate(averaged))
                if self.progress is not None:
                    self.progress("train", self.step, last)
        wait_for_all()

    def _train(self, called: nn.Module, loss: LossFunction) -> dict[str, float]:
        """One step; returns its losses and the norm of its gradient."""
        # What a network draws itself (posterior samples) follows the step as well.
        torch.manual_seed(int(generator(self.settings.seed, self.step, self.rank, 3).initial_seed()))
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, self.settings)
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            losses = loss(called, self.step)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self._trained, self.settings.clip)
        if not torch.isfinite(norm):
            kept = f"The last checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "Nothing was saved yet"
            raise DataError(
                f"step {self.step}: expected a finite gradient, found {float(norm)}; lower the rate, or look for "
                f"damaged crops. {kept}"
            )
        self.optimiser.step()
        self._average()
        self.step += 1
        return {name: float(value.detach()) for name, value in {**losses, "gradient": norm}.items()}

    @torch.no_grad()
    def _average(self) -> None:
        # Early on the average would be dominated by the first weights; the ramp forgets them.
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
