"""The mathematics of training: losses, schedules, norms, and what is folded into a VAE."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support import tiny_training
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from ctfast.networks import AutoencoderKL, ControlNet, DenoiserUNet
from ctfast.train.config import ControlNetTask, DataConfig, FlowTask, Optimisation, Phase, VaeTask
from ctfast.train.controlnet import contrast_weight, contrastive_loss, dilate, region_of, start_from, without_roi
from ctfast.train.data import Crops
from ctfast.train.fast_norm import FastGroupNorm, use_fast_norms
from ctfast.train.flow import conditions, distance, noised, scheduler
from ctfast.train.latents import standardise
from ctfast.train.loop import rate_at
from ctfast.train.sampling import generator
from ctfast.train.vae import kl_divergence, phase_at, psnr_in_body
from ctfast.train.weights import rescale


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(tiny_training.config(tmp_path_factory.mktemp("none")).vae.network).eval().requires_grad_(False)


def test_kl_is_torchs() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    closed = torch_kl(Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), closed)
    assert float(kl_divergence(torch.zeros(4), torch.zeros(4))) == 0.0


def test_psnr_counts_the_body_alone() -> None:
    image = torch.zeros(1, 1, 4, 4, 4)
    image[..., :2] = 0.5
    other = image.clone()
    other[..., :2] += 0.1
    other[..., 2:] += 0.7  # air
    assert psnr_in_body(image, other) == pytest.approx(20.0, abs=1e-3)
    other[..., :2] = 9.0  # clamped to the window
    assert psnr_in_body(image, other) == pytest.approx(-20 * math.log10(0.5), abs=1e-3)


def test_phases_follow_each_other_and_the_last_goes_on() -> None:
    task = VaeTask(phases=(Phase(2, (16, 16, 16)), Phase(3)))
    assert [phase_at(step, task) for step in range(7)] == [(16, 16, 16)] * 2 + [None] * 5


def test_rate_warms_up_and_decays() -> None:
    settings = Optimisation(steps=110, rate=1.0, warmup=10, final=0.1)
    rates = [rate_at(step, settings) for step in range(121)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110:] == pytest.approx([0.1] * 11)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_fast_norm_is_torchs_forward_and_backward() -> None:
    torch.manual_seed(0)
    ours, theirs = FastGroupNorm(4, 16), nn.GroupNorm(4, 16)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.uniform_(-1, 2)
    theirs.load_state_dict(ours.state_dict())
    data = (3 * torch.randn(2, 16, 5, 6, 7) + 1).contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn_like(data)
    results = []
    for norm in (ours, theirs):
        x = data.clone().requires_grad_(True)
        out = norm(x)
        out.backward(upstream)
        results.append((out.detach(), x.grad, norm.weight.grad, norm.bias.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_fast_norm_passes_gradcheck() -> None:
    norm = FastGroupNorm(2, 4).double()
    assert torch.autograd.gradcheck(norm, torch.randn(2, 4, 2, 3, 2).double().requires_grad_(True), atol=1e-4)


def test_fast_norms_keep_names_and_weights(vae: AutoencoderKL) -> None:
    network = AutoencoderKL(vae.config)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    count = sum(type(module) is nn.GroupNorm for module in network.modules())
    use_fast_norms(network)
    assert sum(type(module) is FastGroupNorm for module in network.modules()) == count > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_rescaling_a_vae_changes_its_latents_alone(vae: AutoencoderKL) -> None:
    changed = AutoencoderKL(vae.config).eval().requires_grad_(False)
    changed.load_state_dict(vae.state_dict())
    centre, deviation = torch.tensor([0.3, -2.0]), torch.tensor([0.2, 5.0])
    rescale(changed, centre, deviation)
    image = torch.rand(1, 1, 16, 16, 16)
    (mean, log_variance), (new_mean, new_log_variance) = vae.encode(image), changed.encode(image)
    wide = (1, 2, 1, 1, 1)
    torch.testing.assert_close(new_mean, (mean - centre.view(wide)) / deviation.view(wide), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(new_log_variance, log_variance - 2 * deviation.log().view(wide), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(changed.decode(new_mean), vae.decode(mean), atol=1e-4, rtol=1e-4)


def test_standardised_latents(vae: AutoencoderKL, tmp_path: Path) -> None:
    crops = Crops(DataConfig(str(tiny_training.prepared(tmp_path, train=4))), "train")
    changed = AutoencoderKL(vae.config).eval().requires_grad_(False)
    changed.load_state_dict(vae.state_dict())
    images = torch.stack([crops.pick(index, False) for index in range(4)])
    standardise(changed, crops)
    latents = changed.encode(images)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(1), torch.ones(2), atol=1e-3, rtol=0)
    kept = vae.decode(vae.encode(images)[0])
    torch.testing.assert_close(changed.decode(changed.encode(images)[0]), kept, atol=1e-4, rtol=1e-4)


def test_noised_mixes_data_and_noise_by_time() -> None:
    data = torch.randn(4, 2, 4, 4, 4)
    mixer = scheduler(FlowTask(sample_method="logit-normal"))
    noisy, times, velocity = noised(data, mixer, generator(0, 1))
    assert ((times > 0) & (times < 1000)).all()
    share = (times / 1000).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(noisy, data - share * velocity, atol=1e-5, rtol=1e-5)
    noise = data - velocity
    assert abs(float(noise.mean())) < 0.15
    assert 0.85 < float(noise.std()) < 1.15


def test_noise_and_times_depend_on_the_generator_alone() -> None:
    data, mixer = torch.randn(2, 2, 4, 4, 4), scheduler(FlowTask())
    torch.manual_seed(1)
    first = noised(data, mixer, generator(0, 1))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = noised(data, mixer, generator(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own generator was left alone
    assert not torch.equal(noised(data, mixer, generator(0, 2))[1], first[1])


def test_uniform_times_move_with_the_volume() -> None:
    """MAISI's transform: more voxels than base_voxels means more time at high noise."""
    task = FlowTask(sample_method="uniform", base_voxels=64)
    small, large = (
        noised(torch.zeros(512, 1, *size), scheduler(task), generator(3))[1].mean() for size in ((4, 4, 4), (8, 8, 8))
    )
    assert float(large) > float(small) + 50


def test_conditions_follow_the_network() -> None:
    spacing = torch.tensor([[4.0, 4.0, 3.0]] * 2)
    network = tiny_training.config(Path()).flow.network
    given = conditions(network, 3, spacing)
    assert given["class_labels"].tolist() == [3, 3]
    assert given["spacing"].tolist() == [[400.0, 400.0, 300.0]] * 2
    bare = tiny_training.config(Path(), flow={"network": {"class_embeddings": 0, "spacing": False}}).flow.network
    assert conditions(bare, 3, spacing) == {}


def test_distances() -> None:
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, -2.0])
    assert distance(a, b, "l1").tolist() == [2.0, 0.0]
    assert distance(a, b, "l2").tolist() == [4.0, 0.0]


def region(*size: int) -> torch.Tensor:
    out = torch.zeros(1, 1, *size)
    out[:, :, 3, 3, 3] = 1
    return out


def test_dilation_grows_along_each_axis() -> None:
    grown = dilate(region(8, 8, 8), 2)
    assert int(grown.sum()) == 125
    assert grown[0, 0, 1:6, 1:6, 1:6].min() == 1


def test_contrast_rewards_difference_inside_up_to_the_cap() -> None:
    first, inside = torch.zeros(1, 2, 8, 8, 8), region(8, 8, 8)
    for difference, loss in ((0.5, -0.5), (1.9, -1.9), (2.0, -2.0), (7.0, -2.0)):
        assert float(contrastive_loss(first, first + difference * inside, inside, 2, 2.0)) == pytest.approx(loss)


def test_contrast_stops_pulling_beyond_the_cap() -> None:
    first, inside = torch.zeros(1, 2, 8, 8, 8), region(8, 8, 8)
    for difference, pulls in ((1.0, True), (3.0, False)):
        second = (first + difference * inside).requires_grad_(True)
        contrastive_loss(first, second, inside, 2, 2.0).backward()
        assert second.grad is not None
        assert bool(second.grad.abs().sum() > 0) is pulls


def test_contrast_punishes_difference_in_the_background_but_not_in_the_margin() -> None:
    first, inside = torch.zeros(1, 2, 8, 8, 8), region(8, 8, 8)
    margin = dilate(inside, 2) - inside
    outside = 1 - dilate(inside, 2)
    assert float(contrastive_loss(first, first + 3 * outside, inside, 2, 2.0)) == pytest.approx(3.0)
    assert float(contrastive_loss(first, first + 3 * margin, inside, 2, 2.0)) == 0.0
    mixed = first + 1.0 * inside + 0.25 * outside + 9.0 * margin
    assert float(contrastive_loss(first, mixed, inside, 2, 2.0)) == pytest.approx(0.25 - 1.0)


def test_contrast_weight_drops_at_the_switch() -> None:
    task = ControlNetTask()
    assert [contrast_weight(step, 10, task) for step in (0, 4, 5, 9)] == [0.01, 0.01, 0.001, 0.001]
    assert contrast_weight(8, 10, ControlNetTask(contrast_switch=0.9)) == 0.01


def test_regions_of_labels() -> None:
    labels = torch.full((1, 1, 8, 8, 8), 200, dtype=torch.uint8)
    labels[0, 0, 5, 1, 7] = 7
    labels[0, 0, 0, 0, 0] = 3
    found = region_of(labels, (7, 9), (2, 2, 2))
    assert found.sum() == 1
    assert found[0, 0, 1, 0, 1] == 1
    assert region_of(labels, (), (2, 2, 2)).sum() == 0
    removed = without_roi(labels, (7, 9), 200)
    assert removed[0, 0, 5, 1, 7] == 200
    assert removed[0, 0, 0, 0, 0] == 3


def test_a_controlnet_begins_as_the_denoiser_and_without_effect() -> None:
    config = tiny_training.config(Path())
    torch.manual_seed(0)
    denoiser, controlnet = DenoiserUNet(config.flow.network), ControlNet(config.controlnet_network())
    start_from(controlnet, denoiser)
    assert torch.equal(controlnet.conv_in.conv.weight, denoiser.conv_in.conv.weight)
    shared = set(controlnet.state_dict()) & set(denoiser.state_dict())
    assert len(shared) > 20
    x, times = torch.randn(1, 2, 8, 8, 4), torch.tensor([500.0])
    embedding = controlnet.embed_condition(torch.rand(1, 8, 32, 32, 16))
    down, middle = controlnet(x, times, embedding, torch.tensor([1]))
    assert all(float(residual.detach().abs().max()) == 0 for residual in [*down, middle])
