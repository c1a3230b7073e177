"""One tree of errors. Each message says what was expected, what was found and what to do.

The command line prints the message alone and exits with ``exit_code``. ``csrc/bindings/errors.cc`` raises the same
classes.
"""

from __future__ import annotations


class CtfastError(Exception):
    """Base of everything ctfast raises on purpose."""

    exit_code = 1


class RequestError(CtfastError):
    """A request that the plan, or ctfast, cannot serve: size, spacing, mask, solver, missing input file."""

    exit_code = 2


class DataError(RequestError):
    """Training or preparation data that cannot be used."""


class PlanError(CtfastError):
    """A plan file that is truncated, altered, foreign, or made for a newer ctfast."""

    exit_code = 3


class CheckpointError(CtfastError):
    """A checkpoint that is missing, unsafe, or does not hold the tensors its network needs."""

    exit_code = 3


class DeviceError(CtfastError):
    """A device or backend that is absent or failed."""

    exit_code = 4


class MemoryBudgetError(DeviceError):
    """A request that needs more memory than there is."""


class OutputError(CtfastError):
    """A result that could not be written: no space, no permission."""

    exit_code = 4


class CancelledError(CtfastError):
    """The request was cancelled by the user or by the observer."""

    exit_code = 130
