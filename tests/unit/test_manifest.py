"""The manifest: reading, writing, every problem named at once, and the rules of sizes and spacings."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import plan_bytes

from ctfast.errors import PlanError
from ctfast.manifest import PlanManifest, SizeRule

Path = tuple[Any, ...]


def changed(*path: Any, value: Any = None, delete: bool = False) -> dict[str, Any]:
    """The tiny manifest with the value at ``path`` replaced, or deleted."""
    manifest = copy.deepcopy(plan_bytes.MANIFEST)
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    if delete:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return manifest


def problem(manifest: dict[str, Any], *, strict: bool = True) -> str:
    with pytest.raises(PlanError) as caught:
        PlanManifest.from_json(manifest, strict=strict)
    return str(caught.value)


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where every value of the manifest is, inner ones included; free-form parts count as one value."""
    if path:
        yield path
    if isinstance(value, dict) and path not in {("target",), ("data",)}:
        for key, item in value.items():
            yield from leaves(item, (*path, key))


def test_round_trip() -> None:
    manifest = PlanManifest.from_json(json.dumps(plan_bytes.MANIFEST), strict=True)
    assert manifest.to_json() == plan_bytes.MANIFEST
    assert PlanManifest.from_json(manifest.to_json(), strict=True) == manifest
    assert manifest.licence.kind == "open"
    assert manifest.labels is not None
    assert manifest.labels.tumour_replacement == {23: (28, 29), 26: (1,)}
    assert manifest.networks["denoiser"].tensors["time_embed.0.weight"].transposed
    assert manifest.sizes.rule.legal == ((32, 32, 16), (64, 64, 32))


def test_frozen() -> None:
    manifest = PlanManifest.from_json(plan_bytes.MANIFEST)
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "other"  # type: ignore[misc]


def test_round_trip_of_a_ddpm_plan_without_the_optional_parts() -> None:
    manifest = copy.deepcopy(plan_bytes.MANIFEST)
    for key in ("labels", "data", "model_card"):
        del manifest[key]
    del manifest["sizes"]["fov"]
    manifest["modality"] = {"default": None, "names": {}}
    manifest["conditioning"]["class_label"] = False
    manifest["intensity"] |= {"low": 0.0, "high": None}
    manifest["schedule"] |= {"kind": "ddpm", "solver": "ddpm", "beta_start": 0.0015, "beta_end": 0.0195, "steps": 1000}
    assert PlanManifest.from_json(manifest, strict=True).to_json() == manifest


OPTIONAL = {
    *[("labels",), ("labels", "body"), ("labels", "tumour_replacement"), ("data",), ("model_card",), ("sizes", "fov")],
    *[("sizes", "rule", key) for key in ("legal", "xy", "z", "multiple")],
    *[("intensity", "low"), ("intensity", "high"), ("modality", "default")],
    *[("networks", name, key) for name in ("denoiser", "vae_decoder") for key in ("drop_if_unused", "tensors")],
}
FREE = {"networks", "names", "versions", "tensors", "tumour_replacement"}  # objects whose keys are the plan's own
FLAGS = {"transform", "transposed", *plan_bytes.MANIFEST["conditioning"]}


@pytest.mark.parametrize("path", list(leaves(plan_bytes.MANIFEST)), ids=lambda path: ".".join(map(str, path)))
def test_every_key_is_checked(path: Path) -> None:
    """Deleting a required key, and putting a value of a wrong type anywhere, is noted with the key's place."""
    place = ".".join(map(str, path))
    own = path[-2:-1] != () and path[-2] in FREE
    if path not in OPTIONAL and not own and path[-1] != "transposed":
        assert f"{place}: expected" in problem(changed(*path, delete=True))
        assert "found nothing" in problem(changed(*path, delete=True))
    for value in (object(), "true" if path[-1] in FLAGS else True):
        message = problem(changed(*path, value=value))
        assert place.rsplit(".", 1)[0] if own else place in message


def test_every_problem_is_listed_at_once() -> None:
    manifest = changed("name", value=3)
    del manifest["licence"]
    manifest["latent"] = {"channels": 0, "compression": [4, 4], "scale_factor": float("inf")}
    manifest["networks"]["denoiser"]["precision"] = "int3"
    manifest["weights"][0]["sha256"] = "abc"
    manifest["nmae"] = "x"
    message = problem(manifest)
    assert message.startswith("the manifest has 8 problems: ")
    for words in (
        "name: expected a string that is not blank, found 3",
        "licence: expected an object, found nothing",
        "latent.channels: expected a whole number of at least 1, found 0",
        "latent.compression: expected a list of 3 whole numbers of at least 1, found [4, 4]",
        "latent.scale_factor: expected a positive number, found inf",
        "networks.denoiser.precision: expected one of bf16, fp16, fp32, int8, found 'int3'",
        "weights[0].sha256: expected 64 hexadecimal digits, found 'abc'",
        "nmae: unknown key",
    ):
        assert words in message


def test_readers_ignore_unknown_keys_and_writers_do_not() -> None:
    manifest = changed("sizes", "rule", "future", value=1)
    assert PlanManifest.from_json(manifest).to_json() == plan_bytes.MANIFEST
    assert "sizes.rule.future: unknown key" in problem(manifest)


def test_a_newer_manifest_asks_for_an_upgrade() -> None:
    message = problem({"format": 3, "all": "different"})
    assert "format 3" in message
    assert "pip install -U ctfast" in message


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    (changed("networks", value={}), "networks: expected at least one"),
    (changed("networks", "denoiser", "drop_if_unused", value=["x"]), "drop_if_unused: not among the inputs: x"),
    (changed("networks", "De/noiser", value=plan_bytes.MANIFEST["networks"]["vae_decoder"]), "networks.De/noiser: "),
    (changed("conditioning", "controlnet", value=True), "networks has no controlnet and no controlnet_condition"),
    (changed("sizes", "rule", "xy", value=[32]), "sizes.rule: expected either legal or xy and z"),
    (changed("sizes", "default", value=[48, 48, 16]), "sizes.default: [48, 48, 16] is not legal"),
    (changed("sizes", "rule", "legal", value=[[32, 32, 16], [33, 32, 16]]), "sizes: x = 33 is not a multiple"),
    (changed("sizes", "rule", value={"legal": [[32, 32, 16], [32, 32, 18]]}), "sizes: z = 18 is not a multiple"),
    (changed("sizes", "rule", value={"multiple": 2}), "sizes.rule.multiple: 2 is not a multiple of latent.compression"),
    (changed("sizes", "spacing", "default", value=[1.0, 1.0, 9.0]), "sizes.spacing.default: [1.0, 1.0, 9.0]"),
    (changed("sizes", "fov", "low", value=[400, 1, 1]), "sizes.fov: low [400.0, 1.0, 1.0] is above high"),
    (changed("labels", "bits", value=7), "labels: 200 cannot be written with labels.bits = 7"),
    (changed("labels", "bits", value=17), "labels.bits: expected at most 16"),
    (changed("labels", "names", "0", value="air"), "labels.names: 0 is the background"),
    (changed("labels", "names", "x", value="air"), "labels.names: expected labels as whole numbers in quotes"),
    (changed("schedule", "steps", value=1001), "schedule.steps: 1001 is above"),
    (changed("schedule", "solver", value="ddim"), "schedule.solver: expected one of euler"),
    (changed("schedule", "kind", value="ddpm"), "schedule.beta_start: expected a positive number, found nothing"),
    (
        changed("schedule", value=plan_bytes.MANIFEST["schedule"] | {"beta_start": 0.2, "beta_end": 0.1}),
        "expected beta_start < beta_end < 1",
    ),
    (changed("modality", "default", value=7), "modality.default: 7 is not among the codes"),
    (changed("modality", "default", value=None), "conditioning.class_label is true"),
    (changed("intensity", "low", value=1000), "intensity: low 1000.0 is not below high 1000.0"),
    (
        changed("networks", "denoiser", "tensors", "time_embed.0.bias", "transposed", value=True),
        "transposed: only a tensor of 2 axes can be, and this one has 1",
    ),
]


@pytest.mark.parametrize(("manifest", "words"), CONTRADICTIONS, ids=[words for _, words in CONTRADICTIONS])
def test_contradictions(manifest: dict[str, Any], words: str) -> None:
    assert words in problem(manifest)


def with_rule(rule: dict[str, Any], default: list[int]) -> PlanManifest:
    manifest = changed("sizes", "rule", value=rule)
    manifest["sizes"]["default"] = default
    return PlanManifest.from_json(manifest)


def test_sizes_from_a_list() -> None:
    manifest = PlanManifest.from_json(plan_bytes.MANIFEST)
    assert manifest.size_problem((64, 64, 32)) is None
    assert manifest.size_problem((60, 64, 40)) == (
        "size 60 x 64 x 40 is not legal for plan 'tiny': expected one of 32 x 32 x 16, 64 x 64 x 32 (voxels x, y, z). "
        "The nearest legal size is 64 x 64 x 32"
    )


def test_sizes_from_lists_per_axis() -> None:
    manifest = with_rule({"xy": [256, 384, 512], "z": [128, 256, 768], "multiple": 128}, [256, 256, 128])
    assert manifest.size_problem((512, 512, 768)) is None
    message = manifest.size_problem((400, 512, 130))
    assert message is not None
    assert "x = y, one of 256, 384, 512; z one of 128, 256, 768; multiples of 128" in message
    assert message.endswith("nearest legal size is 512 x 512 x 128")
    assert manifest.size_problem((256, 384, 128)) is not None  # x and y differ


def test_sizes_from_a_multiple() -> None:
    manifest = with_rule({"multiple": 16}, [32, 32, 16])
    assert manifest.size_problem((16, 480, 32)) is None
    message = manifest.size_problem((5, 100, 32))
    assert message is not None
    assert "expected multiples of 16" in message
    assert message.endswith("nearest legal size is 16 x 96 x 32")


def test_sizes_along_z_alone() -> None:
    manifest = with_rule({"z": [32], "multiple": 16}, [32, 48, 32])
    assert manifest.size_problem((48, 16, 32)) is None
    assert manifest.size_problem((48, 16, 48)) is not None


@pytest.mark.parametrize("size", [(32, 32), (32, 32, 16, 1), (0, 32, 16), (-32, 32, 16), ()])
def test_sizes_that_are_none(size: tuple[int, ...]) -> None:
    message = PlanManifest.from_json(plan_bytes.MANIFEST).size_problem(size)
    assert message is not None
    assert message.endswith("The default is 32 x 32 x 16")


def test_nearest_size_is_always_legal() -> None:
    rules = [
        SizeRule(legal=((96, 96, 64), (128, 128, 96))),
        SizeRule(xy=(64, 96), z=(32,), multiple=32),
        SizeRule(xy=(64, 96), multiple=16),
        SizeRule(multiple=16),
    ]
    for rule in rules:
        for size in ((1, 1, 1), (100, 90, 70), (1000, 10, 33), (96, 96, 64)):
            assert rule.allows(rule.nearest(size))
        assert rule.nearest((96, 96, 64))[:2] == (96, 96)


def test_spacings() -> None:
    manifest = PlanManifest.from_json(plan_bytes.MANIFEST)
    assert manifest.spacing_problem((0.5, 5, 6)) is None
    assert manifest.spacing_problem((0.4999999, 5.0000001, 6)) is None  # float32 on its way
    for spacing in ((0.49, 1, 1), (1, 1, 6.1), (float("nan"), 1, 1), (1, float("inf"), 1), (-1, 1, 1), (1, 1)):
        message = manifest.spacing_problem(spacing)
        assert message is not None
        assert "expected x 0.5 to 5, y 0.5 to 5, z 0.5 to 6 mm. The default is 1.5 x 1.5 x 2 mm" in message


def test_field_of_view() -> None:
    manifest = PlanManifest.from_json(plan_bytes.MANIFEST)
    assert manifest.fov_warning((32, 32, 16), (1.5, 1.5, 2)) is None
    warning = manifest.fov_warning((64, 64, 32), (5, 5, 2))
    assert warning is not None
    assert "320 x 320 x 64 mm, is outside" in warning
    assert "x 40 to 300" in warning
    assert PlanManifest.from_json(changed("sizes", "fov", delete=True)).fov_warning((64, 64, 32), (5, 5, 2)) is None
