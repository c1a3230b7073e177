"""Which samples a step trains on: a function of the step number alone, so that a resumed run equals an unbroken one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A random generator that is a function of its key alone; zeros at the key's end do not count."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]) & (2**63 - 1)
    return torch.Generator().manual_seed(seed)


def draw(position: int, count: int, seed: int) -> int:
    """Index of the ``position``-th sample when every epoch is a fresh permutation of ``count`` samples."""
    epoch, offset = divmod(position, count)
    return int(torch.randperm(count, generator=generator(seed, epoch, 2))[offset])


class Buckets:
    """Samples grouped by shape; all samples of a step, on all ranks, come from one group.

    Among every ``count`` steps each group has as many as it has samples, in random order, so that every sample is
    drawn equally often; within a group, one random pass over its samples follows another.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        keys = [tuple(shape) for shape in shapes]
        self.shapes = sorted(set(keys))
        self.groups = [[i for i, key in enumerate(keys) if key == shape] for shape in self.shapes]
        self._group_of = torch.tensor([self.shapes.index(key) for key in keys])

    def members(self, step: int, size: int, seed: int, rank: int = 0, world: int = 1) -> list[int]:
        """Indices of the ``size`` samples that ``rank`` of ``world`` trains on in ``step``."""
        group, visit = self._visit(step, seed)
        first = visit * size * world + rank * size
        return [group[draw(first + position, len(group), seed)] for position in range(size)]

    def _visit(self, step: int, seed: int) -> tuple[list[int], int]:
        """The group of a step, and how many steps before this one were its."""
        if len(self.groups) == 1:
            return self.groups[0], step
        count = len(self._group_of)
        cycle, offset = divmod(step, count)
        order = self._group_of[torch.randperm(count, generator=generator(seed, cycle, 6))]
        chosen = int(order[offset])
        group = self.groups[chosen]
        return group, cycle * len(group) + int((order[:offset] == chosen).sum())
