"""Requests against a plan: defaults, what is legal, and what is said about the rest."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from support import tiny_plan

from ctfast.errors import PlanError, RequestError
from ctfast.families.maisi_profiles import PROFILES
from ctfast.labels import LabelMap
from ctfast.manifest import PlanManifest
from ctfast.request import Job, Request, RequestWarning, check

SIZE, SPACING, BODY = tiny_plan.SIZE, tiny_plan.SPACING, tiny_plan.BODY


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> PlanManifest:
    from ctfast.plan import Plan

    return Plan.open(tiny_plan.write(tmp_path_factory.mktemp("plan") / "tiny.plan")).manifest


@pytest.fixture(scope="module")
def ddpm(manifest: PlanManifest) -> PlanManifest:
    """The tiny plan as if it held the official DDPM model."""
    profile = PROFILES["ddpm-ct"]
    changes = {
        field.name: getattr(profile, field.name) for field in dataclasses.fields(profile) if field.name != "sizes"
    }
    return dataclasses.replace(manifest, family="maisi-v1", variant="ddpm-ct", **changes)


def mask(**boxes: int) -> Any:
    """A body in air, with labels given as l7=3 for a slab of label 7, three voxels thick."""
    labels = np.full(SIZE, BODY, np.uint8)
    labels[:2] = 0
    for name, thick in boxes.items():
        labels[8 : 8 + thick] = int(name[1:])
    return labels


def affine(spacing: Any = SPACING, origin: Any = (-5.0, 7.0, 11.0)) -> Any:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def job_of(manifest: PlanManifest, **request: Any) -> Job:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return check(Request(**request), manifest)


def test_defaults_are_the_plans(manifest: PlanManifest) -> None:
    job = job_of(manifest)
    assert (job.size, job.spacing, job.latent_shape) == (SIZE, SPACING, tiny_plan.LATENT)
    assert (job.steps, job.solver, job.time_grid, job.seed, job.sample) == (4, "euler", "monai", 0, 0)
    assert (job.modality, job.class_label, job.guidance_kind, job.guidance) == ("ct", 1, "none", 0.0)
    assert (job.window, job.regions, job.mask, job.latents, job.method) == (None, None, None, None, "flow")
    centre = job.affine @ [*((np.array(SIZE) - 1) / 2), 1]
    assert centre == pytest.approx([0, 0, 0, 1])


def test_other_solvers_use_the_exact_grid_unless_told(manifest: PlanManifest) -> None:
    assert job_of(manifest, solver="heun").time_grid == "exact"
    assert job_of(manifest, solver="heun", time_grid="monai").time_grid == "monai"
    assert job_of(manifest, time_grid="exact").time_grid == "exact"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"size": (33, 32, 16)}, ["size 33 x 32 x 16", "32, 48", "nearest legal size is 32 x 32 x 16"]),
        ({"size": (32, 32)}, ["size", "three whole numbers", "(32, 32)"]),
        ({"size": (32.0, 32, 16)}, ["three whole numbers", "32.0"]),
        ({"size": "abc"}, ["three whole numbers"]),
        ({"spacing": (0.1, 4, 2.5)}, ["spacing 0.1 x 4 x 2.5", "x 2 to 6"]),
        ({"spacing": (float("nan"), 4, 2.5)}, ["three numbers", "nan"]),
        ({"steps": 0}, ["steps", "from 1 to 1000", "found 0"]),
        ({"steps": 1001}, ["from 1 to 1000", "1001"]),
        ({"steps": True}, ["steps", "found True"]),
        ({"solver": "rk4"}, ["solver", "euler, heun, ab2, dpmpp_2m, unipc", "'rk4'"]),
        ({"solver": "ddim"}, ["solver", "'ddim'"]),
        ({"time_grid": "linear"}, ["time_grid", "monai, exact"]),
        ({"seed": -1}, ["seed", "2^64 - 1", "-1"]),
        ({"seed": 2**64}, ["seed", "18446744073709551616"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"sample": -2}, ["sample"]),
        ({"modality": "mr"}, ["modality", "ct (1), ct_contrast (3)", "'mr'"]),
        ({"modality": 2}, ["modality", "found 2"]),
        ({"guidance": -1}, ["guidance", "-1"]),
        ({"guidance": float("inf")}, ["guidance", "inf"]),
        ({"regions": ("head", "pelvis")}, ["regions", "takes none"]),
        ({"decode": "tiled"}, ["decode", "exact, windowed"]),
        ({"window": (8, 8, 8)}, ["decode='windowed'"]),
        ({"decode": "windowed", "window": (0, 8, 8)}, ["window", "(0, 8, 8)"]),
        ({"decode": "windowed", "overlap": 1}, ["overlap", "below 1"]),
        ({"latents": np.zeros((4, 8, 8, 5))}, ["latents", "(4, 8, 8, 4)", "(4, 8, 8, 5)"]),
        ({"latents": np.full(tiny_plan.LATENT, np.nan)}, ["latents", "1024 values are NaN"]),
        ({"latents": "noise"}, ["latents"]),
        ({"mask": "nowhere.nii.gz"}, ["no file 'nowhere.nii.gz'"]),
        ({"mask": {"a": 1}}, ["mask", "nibabel image", "dict"]),
        ({"mask": mask()[..., 0]}, ["mask", "three-dimensional", "(32, 32)"]),
        ({"mask": mask()[:, :, :8]}, ["size 32 x 32 x 8"]),
        ({"mask": mask()[:, :, :8], "size": SIZE}, ["mask", "(32, 32, 8)", "must be equal"]),
        ({"mask": np.zeros(SIZE, int)}, ["empty"]),
        ({"mask": mask(l77=3, l99=1)}, ["77, 99", "1536 voxels", "7 Mandible"]),
        ({"mask": np.where(mask() == 0, np.nan, 200.0)}, ["1024 voxels are NaN"]),
        ({"mask": mask() * 0.377}, ["not integers", "nearest"]),
        ({"mask": mask().astype(int) - 1}, ["1024 voxels are negative", "-1"]),
        ({"mask": mask().astype(int) * 1000}, ["200000", "65536"]),
        ({"mask": mask().astype("U3")}, ["integer labels"]),
    ],
)
def test_one_message_says_what_was_expected_and_found(
    manifest: PlanManifest, request_: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(RequestError) as raised:
        check(Request(**request_), manifest)
    for word in words:
        assert word in str(raised.value)
    assert "problems" not in str(raised.value)


def test_all_problems_are_told_at_once(manifest: PlanManifest) -> None:
    with pytest.raises(RequestError, match=r"has 4 problems: \(1\).*\(2\).*\(3\).*\(4\)") as raised:
        check(Request(size=(1, 1, 1), steps=0, solver="x", seed=-1), manifest)
    for name in ("size", "steps", "solver", "seed"):
        assert name in str(raised.value)


def test_unknown_fields_are_named_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match="no 'step'; did you mean 'steps'"):
        Request.of({"step": 3})
    with pytest.raises(RequestError, match="found list"):
        Request.of([("steps", 3)])  # type: ignore[arg-type]


def test_modalities_by_name_code_and_text(manifest: PlanManifest) -> None:
    for value in ("ct_contrast", 3, "3", np.int64(3)):
        job = job_of(manifest, modality=value)
        assert (job.modality, job.class_label) == ("ct_contrast", 3)


def test_a_field_of_view_outside_training_warns(manifest: PlanManifest) -> None:
    with pytest.warns(RequestWarning, match="field of view"):
        check(Request(size=(48, 48, 16), spacing=(6, 6, 5)), manifest)


def test_a_mask_sets_size_spacing_and_place(manifest: PlanManifest) -> None:
    labels = np.full((48, 48, 32), BODY, np.uint8)
    image = nibabel.Nifti1Image(labels, affine((3.0, 3.0, 2.0)))
    job = job_of(manifest, mask=image)
    assert job.size == (48, 48, 32)
    assert job.spacing == pytest.approx((3, 3, 2))
    assert np.allclose(job.affine, image.affine)


def test_masks_are_turned_to_ras(manifest: PlanManifest) -> None:
    labels = mask(l7=3)
    stored = np.ascontiguousarray(labels[::-1, :, ::-1].transpose(2, 0, 1))  # axes S-down, L, A
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = -2.5, -4, 4, 1
    turned[:3, 3] = [31 * 4 - 5, 7, 15 * 2.5 + 11]
    job = job_of(manifest, mask=(stored, turned))
    assert job.mask is not None
    assert np.array_equal(job.mask.labels, labels)
    assert np.allclose(job.affine, affine())


def test_every_way_to_give_a_mask_gives_the_same(manifest: PlanManifest, tmp_path: Path) -> None:
    labels = LabelMap(mask(l7=3).astype(np.uint16), affine())
    files = [labels.save(tmp_path / f"mask{suffix}").image for suffix in (".nii", ".nii.gz", ".nrrd", ".npz")]
    sources = [labels, (labels.array, labels.affine), nibabel.load(files[0]), *files, str(files[1])]
    jobs = [job_of(manifest, mask=source) for source in sources]
    assert len({job.mask.sha256 for job in jobs if job.mask is not None}) == 1
    for job in jobs:
        assert job.mask is not None
        assert np.array_equal(job.mask.labels, labels.array)
        assert np.allclose(job.affine, labels.affine, atol=1e-5)


def test_an_oblique_mask_is_refused_with_the_remedy(manifest: PlanManifest) -> None:
    turned = affine()
    angle = np.radians(8)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned[:3, :3] = rotation @ turned[:3, :3]
    with pytest.raises(RequestError, match=r"oblique: its axes are up to 8\.0 degrees.*resample_to_output"):
        check(Request(mask=(mask(), turned)), manifest)
    turned[:3, 0] = 0
    with pytest.raises(RequestError, match="not invertible"):
        check(Request(mask=(mask(), turned)), manifest)


def test_a_mask_that_conflicts_with_the_request(manifest: PlanManifest) -> None:
    with pytest.raises(RequestError, match=r"conflicts with the size \(48, 48, 16\) asked for"):
        check(Request(mask=(mask(), affine()), size=(48, 48, 16)), manifest)
    with pytest.raises(RequestError, match="conflicts with the spacing 3 x 3 x 2 mm"):
        check(Request(mask=(mask(), affine()), spacing=(3, 3, 2)), manifest)
    job = job_of(manifest, mask=(mask(), affine()), size=SIZE, spacing=SPACING)
    assert np.allclose(job.affine, affine())


def test_the_same_field_of_view_on_another_grid_is_resampled(manifest: PlanManifest) -> None:
    fine = mask(l7=4).repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    grid = affine(np.array(SPACING) / 2)
    with pytest.warns(RequestWarning, match="was resampled from 64 x 64 x 32"):
        job = check(Request(mask=(fine, grid), size=SIZE, spacing=SPACING), manifest)
    assert job.mask is not None
    assert np.array_equal(job.mask.labels, mask(l7=4))
    centre = job.affine @ [*((np.array(SIZE) - 1) / 2), 1]
    assert centre == pytest.approx(grid @ [*((np.array(fine.shape) - 1) / 2), 1])


def test_a_mask_without_body_warns(manifest: PlanManifest) -> None:
    labels = np.zeros(SIZE, int)
    labels[10:20] = 7
    with pytest.warns(RequestWarning, match="no voxel of body .label 200."):
        check(Request(mask=labels), manifest)


def test_plans_without_controlnet_take_no_mask(manifest: PlanManifest) -> None:
    plain = dataclasses.replace(
        manifest, conditioning=dataclasses.replace(manifest.conditioning, controlnet=False), labels=None
    )
    with pytest.raises(RequestError, match="has no ControlNet"):
        check(Request(mask=mask()), plain)


def test_guidance_follows_the_kind_of_request(manifest: PlanManifest) -> None:
    assert job_of(manifest, guidance=3).guidance_kind == "modality"
    assert job_of(manifest, guidance=3, mask=mask()).guidance_kind == "tumour"
    assert job_of(manifest, guidance=0, mask=mask()).guidance_kind == "none"
    assert manifest.labels is not None
    no_tumours = dataclasses.replace(manifest, labels=dataclasses.replace(manifest.labels, tumour_replacement={}))
    with pytest.raises(RequestError, match="cannot guide by tumours"):
        check(Request(guidance=2, mask=mask()), no_tumours)
    unlabelled = dataclasses.replace(manifest.conditioning, class_label=False)
    with pytest.raises(RequestError, match="cannot guide by modality: it has no class label"):
        check(Request(guidance=2), dataclasses.replace(manifest, conditioning=unlabelled))
    brain = dataclasses.replace(manifest, variant="rflow-mr-brain")
    assert job_of(brain).guidance == 2.0
    assert job_of(brain, guidance=0).guidance == 0.0


def test_ddpm_plans(ddpm: PlanManifest) -> None:
    job = job_of(ddpm)
    assert (job.method, job.steps, job.class_label) == ("ddpm", 1000, None)
    assert job.regions == ((0, 1, 0, 0), (0, 0, 1, 0))
    assert job_of(ddpm, regions=("head", "thorax")).regions == ((1, 0, 0, 0), (0, 1, 0, 0))
    assert job_of(ddpm, solver="ddim", steps=50).method == "ddim"
    for bad in (("abdomen", "head"), ("head",), ("neck", "head")):
        with pytest.raises(RequestError, match="regions"):
            check(Request(regions=bad), ddpm)
    with pytest.raises(RequestError, match="solver: expected one of ddpm, ddim"):
        check(Request(solver="euler"), ddpm)
    labels = np.full(SIZE, BODY, np.uint8)
    labels[4], labels[5], labels[6] = 22, 28, 93
    assert job_of(ddpm, mask=labels).regions == ((1, 0, 0, 0), (0, 0, 0, 1))


def test_a_family_from_the_future_is_a_plan_error(manifest: PlanManifest) -> None:
    with pytest.raises(PlanError, match="family 'maisi-v9'"):
        check(Request(), dataclasses.replace(manifest, family="maisi-v9"))
