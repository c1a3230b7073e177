"""Every network of the MAISI family against MONAI's class of it: fp32, random weights in every layer."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from support.official_files import one_thread, reference, small  # noqa: E402

from ctfast.networks import AutoencoderConfig, AutoencoderKL, ControlNet, DenoiserUNet  # noqa: E402
from ctfast.networks.mask_unet import MaskUNet  # noqa: E402
from ctfast.networks.variants import variant  # noqa: E402

TOLERANCE = 1e-5  # relative L2 per call, the promise of docs/checkpoints.md
SMALL_SIZES = [(4, 4, 4), (8, 4, 12), (12, 20, 8)]  # latents of the small networks: multiples of 4
FULL_SIZE = (8, 16, 8)  # of the official ones: multiples of 8

Shape = tuple[int, int, int]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    with one_thread(), torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=["rflow-ct", "ddpm-ct"])
def flow_or_ddpm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def close(ours: Any, theirs: Any) -> None:
    assert ours.shape == theirs.shape
    assert float(theirs.std()) > 1e-2, "a reference of zeros agrees with anything"
    assert float((ours - theirs).norm() / theirs.norm()) <= TOLERANCE


def pair(config: Any, kind: Any, seed: int) -> tuple[Any, Any]:
    """Our network and MONAI's with the same weights."""
    theirs = reference(config, seed)
    with torch.device("meta"):
        ours = kind(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours, theirs


def draw(shape: tuple[int, ...], seed: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(batch: int, count: int, size: Shape) -> Any:
    """Label bits at image resolution."""
    generator = torch.Generator().manual_seed(11)
    return torch.randint(0, 2, (batch, count, *(4 * n for n in size)), generator=generator).float()


class Denoisers:
    """A denoiser and a ControlNet of a variant, ours and MONAI's, called with the same inputs."""

    def __init__(self, name: str, networks: Any) -> None:
        self.ddpm = name == "ddpm-ct"
        self.config = networks.controlnet
        self.ours, self.theirs = pair(networks.denoiser, DenoiserUNet, seed=1)
        self.our_control, self.their_control = pair(networks.controlnet, ControlNet, seed=2)

    def inputs(self, size: Shape, batch: int) -> dict[str, Any]:
        labels = None if self.ddpm else torch.tensor([1, 9][:batch])
        region = torch.eye(4)[[0, 2][:batch]] * 100 if self.ddpm else None
        return {
            "x": draw((batch, 4, *size), 3),
            "timesteps": torch.tensor([978.5, 51.90625][:batch]),
            "class_labels": labels,
            "spacing": torch.tensor([[170.0, 78.125, 200.0], [50.0, 500.0, 100.0]])[:batch],
            "top_region": region,
            "bottom_region": None if region is None else region.roll(1, dims=1),
        }

    def call_theirs(self, inputs: dict[str, Any], **residuals: Any) -> Any:
        return self.theirs(
            x=inputs["x"].clone(),
            timesteps=inputs["timesteps"],
            class_labels=inputs["class_labels"],
            spacing_tensor=inputs["spacing"],
            top_region_index_tensor=inputs["top_region"],
            bottom_region_index_tensor=inputs["bottom_region"],
            **residuals,
        )

    def residuals(self, inputs: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        condition = bits(len(inputs["x"]), self.config.label_bits, inputs["x"].shape[2:])
        x, t, labels = inputs["x"], inputs["timesteps"], inputs["class_labels"]
        ours = self.our_control(x, t, self.our_control.embed_condition(condition), labels)
        theirs = self.their_control(x=x.clone(), timesteps=t, controlnet_cond=condition, class_labels=labels)
        return (*ours, *theirs)

    def check(self, size: Shape, batch: int) -> None:
        """Denoiser alone, ControlNet, and denoiser with the ControlNet's residuals."""
        inputs = self.inputs(size, batch)
        close(self.ours(**inputs), self.call_theirs(inputs))

        our_down, our_middle, their_down, their_middle = self.residuals(inputs)
        assert len(our_down) == len(their_down)
        for ours, theirs in zip(our_down, their_down, strict=True):
            close(ours, theirs)
        close(our_middle, their_middle)

        given = [residual.clone() for residual in their_down]  # MONAI adds in place
        controlled = self.call_theirs(
            inputs, down_block_additional_residuals=given, mid_block_additional_residual=their_middle.clone()
        )
        close(self.ours(**inputs, down_residuals=their_down, middle_residual=their_middle), controlled)


@pytest.fixture(scope="module")
def small_denoisers(flow_or_ddpm: str) -> Denoisers:
    return Denoisers(flow_or_ddpm, small(flow_or_ddpm))


@pytest.mark.parametrize("size", SMALL_SIZES)
def test_small_denoiser_and_controlnet(small_denoisers: Denoisers, size: Shape) -> None:
    small_denoisers.check(size, batch=2)


def test_official_denoiser_and_controlnet(flow_or_ddpm: str) -> None:
    Denoisers(flow_or_ddpm, variant(flow_or_ddpm).networks).check(FULL_SIZE, batch=1)


def test_the_last_residual_enters_the_middle_block(small_denoisers: Denoisers) -> None:
    """MONAI adds residuals in place, and the last skip is the trunk: what the middle block sees decides parity."""
    inputs = small_denoisers.inputs((8, 8, 8), batch=1)
    _, _, down, middle = small_denoisers.residuals(inputs)
    seen = {}

    def note(name: str) -> Any:
        return lambda module, args, kwargs: seen.update({name: (args or (kwargs["hidden_states"],))[0].clone()})

    hooks = [
        small_denoisers.ours.middle_block.register_forward_pre_hook(note("ours"), with_kwargs=True),
        small_denoisers.theirs.middle_block.register_forward_pre_hook(note("theirs"), with_kwargs=True),
    ]
    small_denoisers.ours(**inputs)
    without = seen["ours"]
    small_denoisers.ours(**inputs, down_residuals=down, middle_residual=middle)
    given = [residual.clone() for residual in down]
    small_denoisers.call_theirs(
        inputs, down_block_additional_residuals=given, mid_block_additional_residual=middle.clone()
    )
    for hook in hooks:
        hook.remove()
    close(seen["ours"], seen["theirs"])
    close(seen["ours"], without + down[-1])


def check_autoencoder(ours: Any, theirs: Any, config: AutoencoderConfig, size: Shape) -> None:
    latent = draw((1, config.latent_channels, *size), 5)
    close(ours.decode(latent), theirs.decode(latent))
    image = torch.rand((1, config.in_channels, *(4 * n for n in size)), generator=torch.Generator().manual_seed(6))
    mean, log_variance = ours.encode(image)
    their_mean, their_sigma = theirs.encode(image)
    close(mean, their_mean)
    close(torch.exp(0.5 * log_variance), their_sigma)


@pytest.mark.parametrize("role", ["autoencoder", "mask_autoencoder"])
def test_small_autoencoder(role: str) -> None:
    config = getattr(small("rflow-ct"), role)
    ours, theirs = pair(config, AutoencoderKL, seed=3)
    for size in [(2, 2, 2), (3, 5, 4), (8, 6, 7)]:
        check_autoencoder(ours, theirs, config, size)


@pytest.mark.parametrize("role", ["autoencoder", "mask_autoencoder"])
def test_official_autoencoder(role: str) -> None:
    config = getattr(variant("rflow-ct").networks, role)
    ours, theirs = pair(config, AutoencoderKL, seed=4)
    check_autoencoder(ours, theirs, config, (4, 8, 6))


def check_mask_denoiser(ours: Any, theirs: Any, size: Shape, batch: int) -> None:
    x, t = draw((batch, 4, *size), 7), torch.tensor([999.0, 3.0][:batch])
    sizes = torch.rand((batch, 1, 10), generator=torch.Generator().manual_seed(8)) * 2 - 1
    close(ours(x, t, sizes), theirs(x, t, context=sizes))


def test_small_mask_denoiser() -> None:
    ours, theirs = pair(small("rflow-ct").mask_denoiser, MaskUNet, seed=5)
    for size in SMALL_SIZES:
        check_mask_denoiser(ours, theirs, size, batch=2)
    with pytest.raises(ValueError, match="one context token, found 2"):
        ours(draw((1, 4, 4, 4, 4), 1), torch.tensor([1.0]), torch.zeros(1, 2, 10))


def test_official_mask_denoiser() -> None:
    ours, theirs = pair(variant("rflow-ct").networks.mask_denoiser, MaskUNet, seed=6)
    check_mask_denoiser(ours, theirs, FULL_SIZE, batch=1)


def test_official_shapes() -> None:
    """Tensors and parameters as counted in the released networks."""
    counts = {
        ("rflow-ct", "autoencoder"): (130, 20_944_897),
        ("rflow-ct", "denoiser"): (435, 180_500_868),
        ("rflow-ct", "controlnet"): (231, 72_037_072),
        ("rflow-ct", "mask_autoencoder"): (114, 5_256_509),
        ("rflow-ct", "mask_denoiser"): (558, 197_163_012),
        ("ddpm-ct", "denoiser"): (372, 169_370_884),
        ("ddpm-ct", "controlnet"): (196, 68_644_944),
    }
    for (name, role), expected in counts.items():
        with torch.device("meta"):
            state = variant(name).networks.module(role).state_dict()
        assert (len(state), sum(tensor.numel() for tensor in state.values())) == expected, (name, role)
