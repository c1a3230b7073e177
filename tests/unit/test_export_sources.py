"""What a build is told, and which files it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from support import tiny_models  # noqa: E402

from ctfast.errors import CheckpointError, RequestError  # noqa: E402
from ctfast.export.sources import resolve  # noqa: E402
from ctfast.networks.variants import VARIANTS  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models.write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with the names of rflow-mr's files and nothing in them."""
    for name in ("autoencoder_v2.pt", "diff_unet_3d_rflow-mr.pt"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_variant_is_found_in_its_folder(official: Path) -> None:
    model = resolve("rflow-mr", official)
    assert model.variant is VARIANTS["rflow-mr"]
    assert {role: path.name for role, path in model.files.items()} == {
        "autoencoder": "autoencoder_v2.pt",
        "denoiser": "diff_unet_3d_rflow-mr.pt",
    }


def test_a_family_stands_for_its_only_variant(files: dict[str, Path]) -> None:
    assert resolve("maisi-v1", files).variant.name == "ddpm-ct"
    with pytest.raises(RequestError, match=r"maisi-v2.*rflow-ct, rflow-mr, rflow-mr-brain"):
        resolve("maisi-v2", files)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_description_may_be_a_file(files: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tiny{suffix}"
    text = json.dumps(tiny_models.description())
    if suffix == ".yaml":
        text = pytest.importorskip("yaml").safe_dump(tiny_models.description())
    path.write_text(text)
    model = resolve(path, files)
    assert model.networks == tiny_models.NETWORKS
    assert model.variant.name == "rflow-ct"
    assert model.overrides["variant"] == "tiny"
    assert tuple(model.files) == tiny_models.NETWORKS.roles
    assert model.scale_factor() == tiny_models.SCALE_FACTOR
    assert model.scale_factor("mask_denoiser") == tiny_models.MASK_SCALE_FACTOR


def test_variant_alone_is_the_base(files: dict[str, Path]) -> None:
    model = resolve({"variant": "rflow-ct", "networks": tiny_models.NETWORKS.to_dict()}, files)
    assert model.variant.name == "rflow-ct"
    assert "variant" not in model.overrides


def test_networks_can_be_left_out(files: dict[str, Path]) -> None:
    model = resolve(tiny_models.description(), files, networks=["autoencoder", "denoiser", "controlnet"])
    assert tuple(model.files) == ("autoencoder", "denoiser", "controlnet")
    two = {role: files[role] for role in ("autoencoder", "denoiser")}
    assert tuple(resolve(tiny_models.description(), two).files) == tuple(two)


@pytest.mark.parametrize(
    ("source", "change", "networks", "message"),
    [
        ("rflow-xr", {}, None, r"'rflow-xr' is neither a variant nor a description: expected one of rflow-ct"),
        ({"networks": {}}, {}, None, "no variant to start from"),
        ({"base": "headneck"}, {}, None, "unknown variant 'headneck'"),
        ({"base": "rflow-ct", "variant": "rflow-mr"}, {}, None, "base is rflow-ct and its variant rflow-mr, which is"),
        ({"base": "rflow-ct", "networks": {"unet": {}}}, {}, None, "unknown network 'unet'"),
        ("rflow-mr", {}, ["autoencoder", "denoiser", "controlnet"], "rflow-mr has no network controlnet"),
        ("rflow-ct", {}, ["autoencoder"], "needs autoencoder and denoiser, and denoiser was left out"),
        ("rflow-ct", {"vae": "x.pt"}, None, "weights: unknown network vae; known are autoencoder"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    files: dict[str, Path], source: Any, change: dict[str, str], networks: list[str] | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(source, {**files, **change}, networks)


def test_a_missing_file_is_named(files: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="no file was given for denoiser, which rflow-ct needs"):
        resolve("rflow-ct", {"autoencoder": files["autoencoder"]})
    with pytest.raises(CheckpointError, match="no file was given for controlnet"):
        resolve(
            "rflow-ct", {r: files[r] for r in ("autoencoder", "denoiser")}, ["autoencoder", "denoiser", "controlnet"]
        )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", r"is not valid JSON"),
        ("a.yaml", "a: [", r"is not valid YAML"),
        ("a.json", "[1]", "expected a mapping of keys to values, found list"),
        ("a.toml", "", "neither a variant nor a description"),
        ("absent.json", None, "cannot be read: No such file"),
    ],
)
def test_unreadable_descriptions_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=message):
        resolve(tmp_path / name, {})


def test_a_missing_scale_factor_is_told_and_can_be_described(files: dict[str, Path], tmp_path: Path) -> None:
    bare = {**files, "denoiser": files["autoencoder"]}
    with pytest.raises(CheckpointError, match="has no scale_factor"):
        resolve(tiny_models.description(), bare).scale_factor()
    assert resolve(tiny_models.description(scale_factor=2.5), bare).scale_factor() == 2.5


def test_files_of_another_variant_are_suspected(official: Path) -> None:
    known = VARIANTS["rflow-ct"].scale_factors[0]
    torch.save({"w": torch.ones(1)}, official / "autoencoder_v2.pt")
    torch.save(
        {"unet_state_dict": {"w": torch.ones(1)}, "scale_factor": torch.tensor(known, dtype=torch.float64)},
        official / "diff_unet_3d_rflow-mr.pt",
    )
    with pytest.warns(UserWarning, match="has the scale factor of rflow-ct, not of rflow-mr"):
        assert resolve("rflow-mr", official).scale_factor() == pytest.approx(known)


def test_networks_are_loaded_with_the_checkpoints_weights(files: dict[str, Path]) -> None:
    model = resolve(tiny_models.description(), files)
    expected = tiny_models.modules()
    for role in model.files:
        loaded = model.load(role)
        assert not loaded.training
        for key, tensor in expected[role].state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor)


def test_a_file_of_another_network_is_refused(files: dict[str, Path]) -> None:
    model = resolve(tiny_models.description(), {**files, "denoiser": files["autoencoder"]})
    with pytest.raises(CheckpointError, match="does not fit the denoiser of rflow-ct"):
        model.load("denoiser")
