"""How commands are told of checkpoints: a folder, or a file for each role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import RequestError

#: What an option that takes checkpoints may be given.
WEIGHTS_HELP = (
    "folder with the official files; or, several times, ROLE=FILE for the roles autoencoder, denoiser, controlnet, "
    "mask_autoencoder and mask_denoiser"
)


def given_weights(option: str, given: Sequence[str]) -> str | dict[str, str]:
    """One folder, or files by role; RequestError names the option and the words that are neither."""
    if len(given) == 1 and (Path(given[0]).exists() or "=" not in given[0]):
        return given[0]
    pairs = [entry.partition("=") for entry in given]
    wrong = [entry for entry, (_, sign, path) in zip(given, pairs, strict=True) if not sign or not path]
    if wrong:
        raise RequestError(f"{option}: expected one folder, or ROLE=FILE each time, found {', '.join(wrong)}")
    return {role: path for role, _, path in pairs}
