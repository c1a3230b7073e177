"""Graphs: names, shapes and weights of what goes into a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctfast.export.wrappers import GRAPHS, graphs, residual_names
from ctfast.networks import (
    AutoencoderConfig,
    AutoencoderKL,
    ControlNet,
    ControlNetConfig,
    DenoiserConfig,
    DenoiserUNet,
)
from ctfast.networks.mask_unet import MaskUNet, MaskUNetConfig

FLOW = DenoiserConfig(channels=(8, 16), head_channels=(0, 8), blocks=1, groups=4, class_embeddings=6)
DDPM = replace(FLOW, class_embeddings=0, region=True, full_resample=False, project_attention=False)
VAE = AutoencoderConfig(channels=(8, 16), blocks=(1, 1), groups=4)


def modules() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    return {
        "autoencoder": AutoencoderKL(VAE),
        "denoiser": DenoiserUNet(FLOW),
        "controlnet": ControlNet(ControlNetConfig(FLOW, condition_channels=(4, 8))),
        "mask_autoencoder": AutoencoderKL(replace(VAE, in_channels=8, out_channels=11, transposed=True)),
        "mask_denoiser": MaskUNet(MaskUNetConfig(channels=(8, 16), head_channels=(0, 8), blocks=1, groups=4)),
    }


@pytest.mark.parametrize(
    ("role", "inputs", "outputs"),
    [
        (
            "denoiser",
            [["latent", "timestep", "class_label", "spacing", *residual_names(FLOW)]],
            [["prediction"]],
        ),
        (
            "controlnet",
            [["latent", "timestep", "condition_embedding", "class_label"], ["condition"]],
            [[*residual_names(FLOW)], ["condition_embedding"]],
        ),
        ("autoencoder", [["latent"], ["image"]], [["image"], ["mean", "log_variance"]]),
        ("mask_autoencoder", [["latent"]], [["logits"]]),
        ("mask_denoiser", [["latent", "timestep", "context"]], [["prediction"]]),
    ],
)
def test_tensors_have_the_names_and_shapes_that_the_runtime_knows(
    role: str, inputs: list[list[str]], outputs: list[list[str]]
) -> None:
    made = graphs(role, modules()[role], controlnet=True)
    assert [graph.name for graph in made] == list(GRAPHS[role])
    assert [[port.name for port in graph.inputs] for graph in made] == inputs
    assert [list(graph.outputs) for graph in made] == outputs
    for graph in made:
        out = graph.module(*graph.example((1, 2, 3), batch=2))
        shapes = [tensor.shape for tensor in (out if isinstance(out, tuple) else (out,))]
        assert len(shapes) == len(graph.outputs)
        assert all(shape[0] == 2 for shape in shapes)


@pytest.mark.parametrize(("patch", "middle"), [(1, True), (2, False)])
def test_residuals_of_the_controlnet_fit_the_denoiser(patch: int, middle: bool) -> None:
    assert residual_names(DenoiserConfig()) == (*(f"down_residual_{i:02d}" for i in range(12)), "middle_residual")
    config = replace(FLOW, patch=patch)
    control, condition = graphs("controlnet", ControlNet(ControlNetConfig(config, 8, (4, 8) * patch, middle)))
    (denoiser,) = graphs("denoiser", DenoiserUNet(config), controlnet=True)
    assert control.example((1, 2, 3), 1)[0].shape[2:] == (2 * patch, 4 * patch, 6 * patch)
    made = control.module(*control.example((2, 1, 1), batch=1))
    wanted = {port.name: tensor for port, tensor in zip(denoiser.inputs, denoiser.example((2, 1, 1), 1), strict=True)}
    assert [wanted[name].shape for name in control.outputs] == [tensor.shape for tensor in made]
    assert denoiser.drop_if_unused == control.outputs
    # The coarsest grid fixes the unit of the latent; the embedding lies on the grid of the first convolution.
    assert control.module(*control.example((1, 1, 1), 1))[-1].shape[2:] == (1, 1, 1)
    assert condition.module(*condition.example((2, 1, 1), 1)).shape[2:] == (2, 1, 1)


def test_a_denoiser_without_controlnet_has_no_residual_inputs() -> None:
    (graph,) = graphs("denoiser", DenoiserUNet(DDPM))
    assert [port.name for port in graph.inputs] == ["latent", "timestep", "top_region", "bottom_region", "spacing"]
    assert graph.drop_if_unused == ()


def test_the_denoiser_graph_hands_every_input_to_its_own_place() -> None:
    network = DenoiserUNet(replace(DDPM, class_embeddings=6)).eval()
    (graph,) = graphs("denoiser", network, controlnet=True)
    tensors = graph.example((1, 1, 2))
    given = {port.name: tensor for port, tensor in zip(graph.inputs, tensors, strict=True)}
    expected = network(
        given["latent"],
        given["timestep"],
        class_labels=given["class_label"],
        spacing=given["spacing"],
        top_region=given["top_region"],
        bottom_region=given["bottom_region"],
        down_residuals=[given[name] for name in residual_names(DDPM)[:-1]],
        middle_residual=given["middle_residual"],
    )
    assert torch.equal(graph.module(*tensors), expected)


def test_every_tensor_of_a_network_belongs_to_one_of_its_graphs() -> None:
    for role, network in modules().items():
        if role == "mask_autoencoder":  # its encoder is of no use for generation
            continue
        keys = [key for graph in graphs(role, network, controlnet=True) for key in graph.state]
        assert sorted(keys) == sorted(network.state_dict())


def test_examples_keep_to_the_limits_and_to_the_seed() -> None:
    (graph,) = graphs("denoiser", DenoiserUNet(FLOW))
    first, again, other = graph.example(seed=1), graph.example(seed=1), graph.example(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    latent, timestep, class_label, _ = graph.example(batch=64)
    assert latent.shape == (64, 4, 4, 6, 8)
    assert timestep.min() >= 0
    assert timestep.max() <= 1000
    assert timestep.max() > 500
    assert class_label.dtype == torch.int64
    assert set(class_label.tolist()) == set(range(6))


def test_the_mask_decoder_takes_latents_as_they_are_sampled() -> None:
    network = AutoencoderKL(VAE).eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    (scaled,) = graphs("mask_autoencoder", network, scale_factor=1.7)
    (latent,) = scaled.example()
    torch.testing.assert_close(scaled.module(1.7 * latent), network.decode(latent))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
