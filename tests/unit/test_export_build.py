"""Builds up to the first export: what is checked before the long part, and that nothing is left when it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from support import tiny_models  # noqa: E402

import ctfast  # noqa: E402
from ctfast.errors import CancelledError, CtfastError, OutputError, PlanError, RequestError  # noqa: E402
from ctfast.export import build, build_from_modules, describe  # noqa: E402
from ctfast.export.memory import BASE_BYTES, LAYOUT_FACTOR, Footprint, footprint, predict  # noqa: E402
from ctfast.export.sources import resolve  # noqa: E402
from ctfast.export.wrappers import Graph, Port  # noqa: E402
from ctfast.manifest import Sizes  # noqa: E402

PAIR = ("autoencoder", "denoiser")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models.write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Fail with an error of the test's choice where the first network would be exported."""

    def fail_with(error: BaseException) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setitem(build.__globals__, "onnx_model", fail)

    fail_with(AssertionError("nothing may be exported here"))
    return fail_with


def complete(**changes: Any) -> dict[str, Any]:
    """A description for build_from_modules."""
    out = tiny_models.description(scale_factor=1.0, revision="1", family="maisi-v2", **changes)
    for key in ("base", "networks"):
        del out[key]
    model = resolve("rflow-ct", {"autoencoder": "a", "denoiser": "b"})
    profile = describe.PROFILES[model.variant.name]
    out.setdefault("modality", {"default": 1, "names": {"ct": 1}})
    out["intensity"] = vars(profile.intensity)
    out["schedule"] = {key: value for key, value in vars(profile.schedule).items() if value is not None}
    out["licence"] = {"class": "open", "text": "Apache-2.0"}
    out["weights"] = [{"network": "denoiser", "source": "test", "sha256": "0" * 64, "licence": "open"}]
    return {key: value for key, value in out.items() if value is not None}


def test_a_dry_run_checks_everything_and_writes_nothing(files: dict[str, Path], tmp_path: Path, no_export: Any) -> None:
    stages: list[str] = []
    target = tmp_path / "out" / "tiny.plan"
    target.parent.mkdir()
    path = ctfast.build(
        tiny_models.description(),  # type: ignore[arg-type]
        files,  # type: ignore[arg-type]
        target,
        dry_run=True,
        observer=lambda stage, done, total: stages.append(stage),
    )
    assert path == target
    assert stages == [*(f"check {role}" for role in tiny_models.NETWORKS.roles), "check"]
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend: expected openvino, found 'tensorrt'"),
        ({"precision": "fp8"}, "precision: expected bf16 or fp16 or fp32 or int8, found 'fp8'"),
        ({"weights_dtype": "int8"}, "weights_dtype: expected float16 or float32, found 'int8'"),
        ({"opset": 21}, "opset: expected 20 or 23, found 21"),
        ({"networks": ["denoiser"]}, "needs autoencoder and denoiser"),
    ],
)
def test_unknown_options_are_refused(
    files: dict[str, Path], tmp_path: Path, no_export: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        build(tiny_models.description(), files, tmp_path / "a.plan", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": {**tiny_models.SIZES, "default": [31, 32, 16]}}, r"sizes: x = 31 is not a multiple|sizes.default"),
        ({"licence": {"class": "open"}}, "licence.text: expected a string"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"memory": []}, "sets memory, which the build finds out by itself"),
        ({"labels": {**tiny_models.LABELS, "bits": 7}}, "labels have 7 bits, but the ControlNet reads 8"),
    ],
)
def test_bad_descriptions_are_refused_before_anything_is_loaded(
    files: dict[str, Path], tmp_path: Path, no_export: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RequestError, PlanError), match=message):
        build(tiny_models.description(**changes), files, tmp_path / "a.plan")
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be_written_are_refused_first(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        build("rflow-ct", {}, tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        build("rflow-ct", {}, tmp_path / "no" / "a.plan")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="is not writable"):
        build("rflow-ct", {}, tmp_path / "a.plan")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left on device. Make room"),
        (CtfastError("broken"), CtfastError, "broken"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_build_that_fails_leaves_the_old_plan_and_nothing_else(
    files: dict[str, Path],
    tmp_path: Path,
    no_export: Callable[[BaseException], None],
    error: BaseException,
    expected: type[BaseException],
    message: str | None,
) -> None:
    no_export(error)
    (tmp_path / "a.plan").write_bytes(b"old")
    with pytest.raises(expected, match=message):
        build(tiny_models.description(), files, tmp_path / "a.plan")
    assert [path.name for path in tmp_path.iterdir()] == ["a.plan"]
    assert (tmp_path / "a.plan").read_bytes() == b"old"


@pytest.mark.parametrize("last", ["load autoencoder", "export vae_decoder"])
def test_a_build_can_be_cancelled(files: dict[str, Path], tmp_path: Path, no_export: Any, last: str) -> None:
    with pytest.raises(CancelledError, match=last):
        build(tiny_models.description(), files, tmp_path / "a.plan", observer=lambda stage, *_: stage != last)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("autoencoder",), "expected at least autoencoder and denoiser"),
        ((*PAIR, "unet"), "expected at least autoencoder and denoiser, all of denoiser, controlnet"),
    ],
)
def test_modules_must_have_known_roles(tmp_path: Path, no_export: Any, roles: tuple[str, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build_from_modules({role: torch.nn.Identity() for role in roles}, complete(), tmp_path / "a.plan")


def test_modules_of_the_wrong_kind_are_refused(tmp_path: Path, no_export: Any) -> None:
    networks = tiny_models.modules()
    swapped = {"autoencoder": networks["denoiser"], "denoiser": networks["autoencoder"]}
    with pytest.raises(RequestError, match="autoencoder must be an AutoencoderKL"):
        build_from_modules(swapped, complete(), tmp_path / "a.plan")


def test_a_description_without_scale_factor_is_refused(tmp_path: Path, no_export: Any) -> None:
    description = complete()
    del description["scale_factor"]
    with pytest.raises(RequestError, match="no scale_factor"):
        build_from_modules(tiny_models.modules(), description, tmp_path / "a.plan")


def test_the_manifest_tells_where_weights_and_build_come_from(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    model = resolve(tiny_models.description(), {role: files[role] for role in PAIR})
    shapes = describe.Shapes(tiny_models.VAE, tiny_models.FLOW, 0)
    manifest = describe.completed(describe.described(model, "mine"), shapes, "ctfast build")
    assert manifest["name"] == "mine"
    assert manifest["variant"] == "tiny"
    assert manifest["latent"] == {"channels": 4, "compression": [4, 4, 4], "scale_factor": tiny_models.SCALE_FACTOR}
    assert manifest["conditioning"] == {"spacing": True, "region": False, "class_label": True, "controlnet": False}
    assert [entry["source"] for entry in manifest["weights"]] == ["autoencoder.pt", "denoiser.pt"]
    assert manifest["weights"][1]["sha256"] == model.checksums["denoiser"]
    assert manifest["revision"] == model.checksums["denoiser"][:12]
    assert manifest["build"]["date"] == "2023-11-14T22:13:20Z"
    assert manifest["build"]["versions"]["torch"] == torch.__version__
    assert manifest["licence"]["class"] == "open-model"


def test_a_model_of_ones_own_has_the_base_s_ways_and_its_own_name(files: dict[str, Path]) -> None:
    source = tiny_models.description() | {"base": "rflow-ct", "variant": "headneck", "name": "mine"}
    manifest = describe.described(resolve(source, files), None)
    assert (manifest["family"], manifest["variant"], manifest["name"]) == ("maisi-v2", "headneck", "mine")
    base = describe.described(resolve("rflow-ct", files), None)
    assert {key: manifest[key] for key in ("modality", "intensity", "schedule", "licence")} == {
        key: base[key] for key in ("modality", "intensity", "schedule", "licence")
    }


def pooled() -> tuple[Graph, ov.Model]:
    """(1, 2, n, n, n) through a convolution to 8 channels, SiLU and a sum over channels."""
    latent = op.parameter([-1, 2, -1, -1, -1], np.float32)
    latent.output(0).get_tensor().set_names({"latent"})
    wide = op.convolution(latent, op.constant(torch.ones(8, 2, 1, 1, 1).numpy()), [1] * 3, [0] * 3, [0] * 3, [1] * 3)
    active = op.swish(wide)
    out = op.reduce_sum(active, op.constant([1]), True)
    port = Port("latent", (("batch", 1), 2, ("d", 1), ("h", 1), ("w", 1)))
    graph = Graph("g", torch.nn.Identity(), (port,), ("out",), {"w": torch.ones(16)})
    return graph, ov.Model([out], [latent])


@pytest.mark.parametrize(("precision", "width"), [("bf16", 2), ("fp32", 4)])
def test_a_footprint_counts_what_lives_at_the_same_time(precision: str, width: int) -> None:
    graph, model = pooled()
    found = footprint(graph, model, 1000, precision)
    assert found.loaded_bytes == 1000 + 16 * width
    # At most, input and convolution's result: 2 + 8 channels (the SiLU works in place).
    assert found.bytes_per_voxel == pytest.approx(10 * width * LAYOUT_FACTOR)


def test_memory_is_predicted_for_every_size_of_the_rule() -> None:
    footprints = {
        "denoiser": Footprint(1000, 64.0),
        "vae_decoder": Footprint(100, 10.0),
        "vae_encoder": Footprint(10**12, 10.0**6),
    }
    sizes = describe.PROFILES["rflow-ct"].sizes
    peaks = predict(footprints, sizes, compression=4, label_bits=0)
    assert {peak.size for peak in peaks} == {(xy, xy, z) for xy in sizes.rule.xy for z in sizes.rule.z}
    assert [peak.peak_bytes for peak in peaks] == sorted(peak.peak_bytes for peak in peaks)
    first = peaks[0]
    voxels = first.size[0] * first.size[1] * first.size[2]
    assert first.peak_bytes == BASE_BYTES + 1100 + voxels * (10 + 64 / 4**3 + 10)
    free = Sizes((32, 32, 16), type(sizes.rule)(multiple=16), sizes.spacing)
    assert [peak.size for peak in predict(footprints, free, 4, 0)] == [(32, 32, 16)]
    masked = predict(footprints, free, 4, 8)[0].peak_bytes - predict(footprints, free, 4, 0)[0].peak_bytes
    assert masked == 32 * 32 * 16 * (2 + 4 * 8)
