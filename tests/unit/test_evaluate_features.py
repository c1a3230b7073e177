"""Feature networks and what they are shown: slices, layouts of weights, random features, the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_sets
from torch.nn import functional

from ctfast.errors import CheckpointError, CtfastError
from ctfast.evaluate.features import slices
from ctfast.evaluate.features.cache import WHOLE, FeatureCache, read_features
from ctfast.evaluate.features.inception import FidInception
from ctfast.evaluate.features.networks import load_network, random_network
from ctfast.evaluate.features.resnet import RadImageNetResNet50, medicalnet_resnet50
from ctfast.evaluate.presets import PRESETS, Preset, preset_of
from ctfast.evaluate.volumes import Scan, find_set, load_scan


def scan(size: tuple[int, int, int] = (12, 10, 8), spacing: tuple[float, float, float] = (2.0, 2.0, 4.0)) -> Scan:
    hu = np.random.default_rng(1).normal(0, 900, size).astype(np.float32)
    return Scan("one", hu, spacing)


def preset(**changes: Any) -> Preset:
    settings = {"spacing": None, "size": None, "windows": {"full": (-1000.0, 1000.0)}, "centre_share": 1.0}
    return Preset("test", **{**settings, **changes}, published=False, about="")


def test_slices_are_cut_along_each_axis_and_stretched_over_their_stack() -> None:
    one = scan()
    found = dict(slices.stacks(slices.prepared(one, preset()), preset()))
    clipped = np.clip(one.hu, -1000, 1000)
    wanted = {"full/xy": clipped.transpose(2, 0, 1), "full/yz": clipped, "full/zx": clipped.transpose(1, 0, 2)}
    assert tuple(found) == slices.stack_names(preset()) == tuple(wanted)
    for name, stack in wanted.items():
        stretched = (stack - stack.min()) / (stack.max() - stack.min())
        np.testing.assert_allclose(found[name][:, 0].numpy(), stretched, atol=1e-6)


def test_the_middle_part_is_kept_and_stretched_by_itself() -> None:
    one = scan()
    half = preset(centre_share=0.5)
    found = dict(slices.stacks(slices.prepared(one, half), half))
    middle = np.clip(one.hu, -1000, 1000)[:, :, 2:6].transpose(2, 0, 1)
    np.testing.assert_allclose(
        found["full/xy"][:, 0].numpy(), (middle - middle.min()) / (middle.max() - middle.min()), atol=1e-6
    )
    assert [slices.kept_slices(count, share) for count, share in ((512, 0.5), (512, 0.4), (9, 1), (1, 0.1))] == [
        (128, 384),
        (153, 358),
        (0, 9),
        (0, 1),
    ]


def test_windows_are_clipped_to_and_flat_stacks_are_zero() -> None:
    two = preset(windows={"low": (-500.0, 0.0), "above": (5000.0, 6000.0)})
    found = dict(slices.stacks(slices.prepared(scan(), two), two))
    assert len(found) == 6
    assert float(found["low/xy"].amax()) == 1
    assert float(found["above/zx"].abs().amax()) == 0


def test_volumes_are_resampled_then_padded_with_air_or_cut() -> None:
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None] * 10, (12, 10, 8)).copy()
    grid = slices.prepared(Scan("ramp", ramp, (2.0, 2.0, 4.0)), preset(spacing=(1.0, 1.0, 1.0), size=(30, 10, 40)))
    assert tuple(grid.shape) == (30, 10, 40)
    line = grid[:, 5, 20].numpy()
    inside = line[line > -1000]
    assert (line[:2] == -1000).all()
    assert (line[-2:] == -1000).all()
    assert len(inside) in (23, 24)
    np.testing.assert_allclose(np.diff(inside)[2:-2], 5, atol=0.5)
    assert (grid[:, :, 0] == -1000).all()


def test_volumes_for_3d_networks_are_small_and_standardised() -> None:
    shown = slices.whole(scan((260, 26, 13)))
    assert tuple(shown.shape) == (1, 1, 128, 13, 6)
    assert float(shown.mean()) == pytest.approx(0, abs=1e-4)
    assert float(shown.std()) == pytest.approx(1, abs=1e-4)
    assert tuple(slices.whole(scan()).shape) == (1, 1, 12, 10, 8)


def test_published_presets() -> None:
    assert PRESETS["medsyn2"].windows["lung"] == (-1350, 150)
    assert [name for name, each in PRESETS.items() if not each.published] == ["native"]
    with pytest.raises(CtfastError, match="expected one of native, maisi-v2"):
        preset_of("maisi")


@pytest.mark.parametrize(("dimensions", "width", "total"), [(2, 160, 18.475384), (3, 80, 1.6087599)])
def test_random_features_are_the_same_on_every_machine(dimensions: int, width: int, total: float) -> None:
    network = random_network(dimensions)
    side = torch.linspace(0, 1, 20)
    image = (side[:, None] * side if dimensions == 2 else side[:, None, None] * side[:, None] * side)[None, None]
    found = network(image)
    assert found.shape == (1, width)
    assert float(found.sum()) == pytest.approx(total, rel=1e-4)
    assert not network.info.comparable
    assert network.info.sha256 is None


def weights_of(module: Any, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = torch.rand(tensor.shape, generator=generator) - 0.5
        result[name] = values.abs() + 0.5 if name.endswith("running_var") else values * 0.2
    return result


def plain_radimagenet(weights: dict[str, Any], images: Any) -> Any:
    """The same network, written out: Keras' ResNet-50 with the strides in the first convolution of a layer."""

    def norm(name: str, x: Any) -> Any:
        values = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, scale, shift = (value[:, None, None] for value in values)
        return (x - mean) / torch.sqrt(variance + 1.001e-5) * scale + shift

    def conv(name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding)

    x = torch.cat([images - 0.406, images - 0.456, images - 0.485], 1)
    x = functional.max_pool2d(norm("bn1", conv("conv1", x, 2, 3)).relu(), 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at, stride = f"layer{layer}.{block}", 2 if block == 0 and layer > 1 else 1
            y = norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)).relu()
            y = norm(f"{at}.bn2", conv(f"{at}.conv2", y, 1, 1)).relu()
            y = norm(f"{at}.bn3", conv(f"{at}.conv3", y))
            if block == 0:
                x = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, stride))
            x = (x + y).relu()
    return x.mean((2, 3))


def test_radimagenets_weights_are_recognised_and_computed_with(tmp_path: Path) -> None:
    weights = weights_of(RadImageNetResNet50())
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "rad.pth")
    network = load_network(tmp_path / "rad.pth")
    assert (network.info.network, network.dimensions, network.info.comparable) == ("radimagenet-resnet50", 2, True)
    assert network.info.sha256 is not None
    images = torch.rand(2, 1, 40, 36)
    wanted = plain_radimagenet(weights, images)
    assert float(wanted.abs().max()) > 0.01
    torch.testing.assert_close(network(images), wanted, rtol=1e-3, atol=1e-5)


def test_the_fids_inception_is_recognised(tmp_path: Path) -> None:
    module = FidInception()
    # What Inception v3 has without its classifier.
    assert sum(parameter.numel() for parameter in module.parameters()) == 21_785_568
    weights = weights_of(module)
    torch.save({**weights, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, tmp_path / "fid.pth")
    network = load_network(tmp_path / "fid.pth")
    assert (network.info.network, network.dimensions) == ("inception-v3-fid", 2)
    assert network(torch.rand(1, 1, 30, 30)).shape == (1, 2048)


def test_medicalnets_last_layers_are_dilated(tmp_path: Path) -> None:
    weights = weights_of(medicalnet_resnet50())
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "med.pth")
    network = load_network(tmp_path / "med.pth")
    assert (network.info.network, network.dimensions) == ("medicalnet-resnet50", 3)
    sizes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(network.module, name).register_forward_hook(
            lambda module, given, maps, name=name: sizes.update({name: tuple(maps.shape[1:])})
        )
    assert network(torch.rand(1, 1, 32, 32, 16)).shape == (1, 2048)
    assert [sizes[f"layer{n}"][1:] for n in (1, 2, 3, 4)] == [(8, 8, 4), (4, 4, 2), (4, 4, 2), (4, 4, 2)]
    assert sizes["layer4"][0] == 2048


def test_other_weights_are_refused(tmp_path: Path) -> None:
    rad = weights_of(RadImageNetResNet50())
    files: dict[str, tuple[dict[str, Any], str]] = {
        "plain": (
            {name: tensor for name, tensor in rad.items() if name != "conv1.bias"},
            "without RadImageNet's biases",
        ),
        "half": ({name: tensor for name, tensor in rad.items() if "layer4" not in name}, "lacks layer4.0.bn1.bias"),
        "shape": ({**rad, "bn1.weight": torch.ones(3)}, "other shapes"),
        "foreign": ({"a": torch.ones(1)}, "found a"),
    }
    for name, (weights, message) in files.items():
        torch.save(weights, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=message):
            load_network(tmp_path / f"{name}.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(tmp_path / "missing.pth")


def test_features_are_made_once_for_a_volumes_content(tmp_path: Path) -> None:
    volumes = find_set(tiny_sets.write(tmp_path / "set", [1, 2]))
    network, native = random_network(2), preset_of("native")
    cache = FeatureCache(tmp_path / "cache" / "deep")
    first = cache.ensure(volumes.items[0], network, native)
    (features,) = read_features([first], "full/xy")
    shown = dict(slices.stacks(slices.prepared(load_scan(volumes.items[0]), native), native))["full/xy"]
    np.testing.assert_allclose(features, network(shown).numpy(), rtol=1e-6)
    assert cache.made == 1

    again = FeatureCache(tmp_path / "cache" / "deep")
    copy = tmp_path / "other" / "renamed_ct.nii.gz"
    copy.parent.mkdir()
    copy.write_bytes(volumes.items[0].image.read_bytes())
    assert again.ensure(find_set(copy.parent).items[0], network, native) == first
    assert again.made == 0
    assert again.ensure(volumes.items[1], network, native) != first
    assert again.ensure(volumes.items[0], random_network(3), native) != first
    assert again.ensure(volumes.items[0], network, replace(native, centre_share=1.0)) != first
    assert again.made == 3


def test_a_spoilt_entry_is_made_again_and_no_part_file_stays(tmp_path: Path) -> None:
    (item,) = find_set(tiny_sets.write(tmp_path / "set", [1])).items
    network, native = random_network(3), preset_of("native")
    cache = FeatureCache(tmp_path / "cache")
    path = cache.ensure(item, network, native)
    whole = path.read_bytes()
    for spoilt in (whole[:100], b"", b"not an archive"):
        path.write_bytes(spoilt)
        assert cache.ensure(item, network, native) == path
        (features,) = read_features([path], WHOLE)
        assert features.shape == (1, network.width)
    assert cache.made == 4
    assert [each.name for each in path.parent.iterdir()] == [path.name]
