"""The segmenter, its training on a mixture of two sets, and its judgement on held-out volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.losses.dice import DiceCELoss
from monai.networks.nets.segresnet import SegResNet
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import RequestError
from ...networks.patches import fold, unfold
from ...observer import Observer, report
from ...train.config import Optimisation
from ...train.loop import Trainer
from ...train.sampling import draw, generator
from .cases import Case, Store
from .patches import Augmentation, Size, cut

# HU that the network sees: all of CT, and soft tissue in more contrast, each mapped to [-1, 1].
_WINDOWS = ((-1000.0, 1000.0), (-160.0, 240.0))
# Blocks of voxels that the network works on, what it makes smaller by altogether, and groups of its norms.
_BLOCK, _UNIT, _GROUPS = 2, 8, 8
# Drives away what a label map does not say: classes that nobody drew in it.
_NEVER = -1e4
# Weight of background in the cross-entropy: with more, small organs are found late.
_BACKGROUND = 0.1
_STREAM_MIX, _STREAM_AUGMENT, _STREAM_WEIGHTS = 11, 12, 13


@dataclass(frozen=True)
class Settings:
    """What every arm has in common: steps, patches a step, their voxels, learning rate, width, seed and precision."""

    steps: int = 1000
    batch: int = 1
    patch: tuple[int, int, int] = (64, 64, 48)
    rate: float = 2e-3
    width: int = 32
    seed: int = 0
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        """RequestError for numbers that train nothing."""
        if any(extent < 2 * _UNIT or extent % _UNIT for extent in self.patch):
            raise RequestError(f"patch: expected multiples of {_UNIT} from {2 * _UNIT} on, found {self.patch}")
        if self.width < 1 or self.width % _GROUPS:
            raise RequestError(f"width: expected a multiple of {_GROUPS}, found {self.width}")
        if self.steps < 1 or self.batch < 1:
            raise RequestError(
                f"expected 1 or more steps of 1 or more patches, found {self.steps} steps of {self.batch}"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with what is fixed."""
        return {
            **asdict(self),
            "patch": list(self.patch),
            "network": "MONAI SegResNet on blocks of 2 x 2 x 2 voxels",
            "loss": "DiceCELoss",
            "background_weight": _BACKGROUND,
            "optimiser": "AdamW, cosine",
            "windows_hu": [list(window) for window in _WINDOWS],
        }


def bf16_is_fast() -> bool:
    """Whether mixed precision pays here: on GPUs, and on processors with instructions for bf16."""
    from ..._native import build_info

    features = build_info()["cpu"]
    return torch.cuda.is_available() or bool(features.get("amx_bf16") or features.get("avx512_bf16"))


class Segmenter(nn.Module):
    """MONAI's SegResNet on blocks of 2 x 2 x 2 voxels, which costs an eighth of one on voxels; scores are of voxels."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        blocks = _BLOCK**3
        self.body = SegResNet(
            spatial_dims=3,
            init_filters=width,
            in_channels=len(_WINDOWS) * blocks,
            out_channels=classes * blocks,
            norm=("GROUP", {"num_groups": _GROUPS}),
            blocks_down=(1, 2, 2),
            blocks_up=(1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, windows, x, y, z) to (b, classes, x, y, z), extents in multiples of ``_UNIT``."""
        return unfold(self.body(fold(x, _BLOCK).contiguous(memory_format=torch.channels_last_3d)), _BLOCK)


def new_network(classes: int, settings: Settings, run: int) -> nn.Module:
    """The segmenter with the initial weights of a run, the same for every arm; ``classes``: background too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(settings.seed, run, _STREAM_WEIGHTS).initial_seed())
        return Segmenter(classes, settings.width)


def order_of(share: float, sizes: tuple[int, int], settings: Settings, run: int) -> NDArray[np.int64]:
    """Which volume each patch comes from: (steps x batch, 2) of set (0 real, 1 synthetic) and number in the set.

    A patch is synthetic with probability ``share``, the same random numbers for every arm. Within a set one random pass
    follows another, and sets of one size are passed in the same order.
    """
    count = settings.steps * settings.batch
    chance = torch.rand(count, generator=generator(settings.seed, run, _STREAM_MIX)).numpy()
    synthetic = (chance < share).astype(np.int64)
    seed = int(generator(settings.seed, run, _STREAM_MIX, 1).initial_seed())
    order = np.zeros((count, 2), np.int64)
    order[:, 0] = synthetic
    for which in (0, 1):
        places = np.flatnonzero(synthetic == which)
        order[places, 1] = [draw(position, sizes[which], seed) for position in range(len(places))]
    return order


def train(
    pools: tuple[Sequence[Case], Sequence[Case]],
    share: float,
    settings: Settings,
    run: int,
    classes: int,
    store: Store,
    folder: Path,
    observer: Observer,
    stage: str,
) -> nn.Module:
    """Train one network, going on from a checkpoint in ``folder`` if there is one; returns its averaged weights.

    Everything random is a function of seed, run and step, never of the arm. The observer hears steps of ``stage``.
    """
    order = order_of(share, (len(pools[0]), len(pools[1])), settings, run)

    def loss(network: nn.Module, step: int) -> Mapping[str, Tensor]:
        patches = []
        for place in range(step * settings.batch, (step + 1) * settings.batch):
            which, index = order[place]
            seed = generator(settings.seed, run, place, _STREAM_AUGMENT).initial_seed()
            patches.append(_patch(store, pools[which][index], classes, settings.patch, seed))
        images, targets, drawn = (torch.stack(each) for each in zip(*patches, strict=True))
        device = next(network.parameters()).device
        scores = network(images.to(device, memory_format=torch.channels_last_3d))
        with torch.autocast(device.type, enabled=False):
            return {"loss": segmentation_loss(scores.float(), targets.to(device), drawn.to(device))}

    def progress(_: str, done: int, total: int) -> None:
        report(observer, stage, done, total)

    optimisation = Optimisation(
        steps=settings.steps,
        batch=settings.batch,
        rate=settings.rate,
        warmup=max(1, settings.steps // 20),
        ema=0.99,
        amp=settings.mixed_precision,
        seed=settings.seed,
        save_every=200,
    )
    trainer = Trainer(new_network(classes, settings, run), optimisation, folder, {}, progress=progress)
    trainer.resume()
    trainer.run(loss, lambda _: {})
    return trainer.ema.eval()


def segmentation_loss(scores: Tensor, targets: Tensor, drawn: Tensor) -> Tensor:
    """Dice loss and cross-entropy of scores (b, classes, x, y, z) for classes (b, 1, x, y, z).

    Classes that are not ``drawn`` (b, classes) in a volume's map are neither learnt nor unlearnt from it.
    """
    known = scores.masked_fill(~drawn[:, :, None, None, None], _NEVER)
    weight = torch.ones(scores.shape[1], device=scores.device)
    weight[0] = _BACKGROUND
    criterion = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, batch=True, weight=weight)
    loss: Tensor = criterion(known, targets)
    return loss


def _patch(store: Store, case: Case, classes: int, size: Size, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the network sees (windows, x, y, z), classes (1, x, y, z), and which classes the case's map has (classes).

    A class that a map lacks is taken as not drawn rather than as not there: clinical contours are rarely complete.
    """
    hu, labels = store.get(case)
    drawn = torch.from_numpy(np.bincount(labels.ravel(), minlength=classes) > 0)
    drawn[0] = True
    image, wanted = cut(hu, labels, size, seed, Augmentation())
    return _seen(image), wanted, drawn


def _seen(hu: Tensor) -> Tensor:
    """HU (1, x, y, z) in each window, as the network's channels."""
    return torch.cat([((hu - low) / (high - low)).clamp(0, 1) * 2 - 1 for low, high in _WINDOWS])


@torch.no_grad()
def segment(network: nn.Module, hu: NDArray[np.int16], settings: Settings) -> NDArray[np.uint8]:
    """The class of every voxel, by windows of the patch's size that overlap by a quarter."""
    device = next(network.parameters()).device
    image = _seen(torch.from_numpy(hu[None].astype(np.float32)))[None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision):
        scores = sliding_window_inference(image, settings.patch, 1, network, padding_mode="constant", cval=-1.0)
    assert isinstance(scores, Tensor)
    return scores[0].argmax(0).to(torch.uint8).cpu().numpy()


def judge(
    network: nn.Module, held_out: Sequence[Case], labels: Sequence[int], store: Store, settings: Settings
) -> list[dict[int, float]]:
    """Dice by label for each held-out case, of the labels that its map has."""
    figures = []
    for case in held_out:
        hu, wanted = store.get(case)
        found = segment(network, hu, settings)
        numbers = {label: number for number, label in enumerate(labels, start=1) if label in case.labels}
        figures.append({label: dice(found == number, wanted == number) for label, number in numbers.items()})
    return figures


def dice(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Overlap of two masks, of which the wanted one is not empty: 1 if they are the same, 0 if they are apart."""
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
