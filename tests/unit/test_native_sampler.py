"""The sampling loop: what the networks are given, what is made of their answers, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctfast import _native
from ctfast.errors import CancelledError, DeviceError, PlanError, RequestError

SHAPE = (2, 4, 5, 6)
T, DT = _native.rflow_time_grid(4, 4 * 5 * 6)
RESIDUALS = ["down_residual_00", "down_residual_01", "middle_residual"]


class Network:
    """A session that records its inputs; ``answer`` maps them to the prediction."""

    def __init__(self, inputs: list[str], answer: Any, outputs: list[str] | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self._answer = answer
        self.session = _native.CallableSession(inputs, outputs or ["prediction"], self._run)

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(inputs)
        answer = self._answer(inputs)
        return answer if isinstance(answer, dict) else {"prediction": answer}


def plain(answer: Any = lambda d: 0 * d["latent"]) -> Network:
    return Network(["latent", "timestep"], answer)


def sample(denoiser: Network, controlnet: Network | None = None, **options: Any) -> Any:
    settings = {"shape": SHAPE, "seed": 3, "t": T, "dt": DT} | options
    return _native.sample(denoiser.session, controlnet.session if controlnet else None, **settings)


def test_starts_from_the_seeds_noise() -> None:
    assert np.array_equal(sample(plain()), _native.fill_normal(3, 0, SHAPE))
    assert np.array_equal(sample(plain(), sample=7), _native.fill_normal(3, 7, SHAPE))


def test_starts_from_given_latents_and_leaves_them_alone() -> None:
    given = np.random.default_rng(0).standard_normal(SHAPE)  # float64: converted
    kept = given.copy()
    result = sample(plain(lambda d: np.ones_like(d["latent"])), latents=given)
    assert np.array_equal(given, kept)
    np.testing.assert_allclose(result, given + sum(DT), rtol=0, atol=1e-6)


def test_euler_step_by_step() -> None:
    denoiser = plain(lambda d: np.tanh(d["latent"]) - d["timestep"][0] / 1000)
    expected = _native.fill_normal(3, 0, SHAPE)
    for t, dt in zip(T, DT, strict=True):
        expected = expected + (np.tanh(expected) - np.float32(t) / 1000) * np.float32(dt)
    np.testing.assert_allclose(sample(denoiser), expected, rtol=1e-6, atol=1e-6)
    assert [call["timestep"].tolist() for call in denoiser.calls] == [[t] for t in T]
    assert denoiser.calls[0]["timestep"].dtype == np.float32
    assert denoiser.calls[0]["latent"].shape == (1, *SHAPE)


@pytest.mark.parametrize("steps", [1, 30])
def test_the_whole_loop_equals_monais(steps: int) -> None:
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("monai.networks.schedulers")
    shape = (4, 8, 8, 12)
    scheduler = schedulers.RFlowScheduler(
        num_train_timesteps=1000,
        use_discrete_timesteps=False,
        sample_method="uniform",
        use_timestep_transform=True,
        base_img_size_numel=32**3,
        spatial_dim=3,
    )
    scheduler.set_timesteps(num_inference_steps=steps, input_img_size_numel=8 * 8 * 12)
    times = scheduler.timesteps
    following = torch.cat((times[1:], torch.tensor([0], dtype=times.dtype)))

    def velocity(x: Any, t: Any) -> Any:
        return torch.sin(3 * x) - x * torch.cos(t / 300) * 0.5

    noise = _native.fill_normal(11, 0, shape)
    x = torch.from_numpy(noise)[None]
    for t, next_t in zip(times, following, strict=True):
        x, _ = scheduler.step(velocity(x, t[None].float()), t, x, next_t)

    denoiser = plain(
        lambda d: velocity(torch.from_numpy(d["latent"]), torch.from_numpy(d["timestep"])).numpy(),
    )
    grid_t, grid_dt = _native.rflow_time_grid(steps, 8 * 8 * 12)
    ours = sample(denoiser, shape=shape, seed=11, t=grid_t, dt=grid_dt)
    np.testing.assert_allclose(ours, x[0].numpy(), rtol=0, atol=2e-6)


def test_ddim_equals_monais() -> None:
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("monai.networks.schedulers")
    betas = {"beta_start": 0.0015, "beta_end": 0.0195}
    scheduler = schedulers.DDIMScheduler(1000, schedule="scaled_linear_beta", clip_sample=False, **betas)
    scheduler.set_timesteps(10)
    x = torch.from_numpy(_native.fill_normal(3, 0, SHAPE))[None]
    for t in scheduler.timesteps:
        x, _ = scheduler.step(torch.tanh(x) * 0.5 + t / 2000, t, x)
    denoiser = plain(lambda d: np.tanh(d["latent"]) * 0.5 + d["timestep"][0] / 2000)
    ours = sample(denoiser, method="ddim", steps=10, **betas)
    np.testing.assert_allclose(ours, x[0].numpy(), rtol=1e-5, atol=1e-5)
    assert [call["timestep"][0] for call in denoiser.calls] == scheduler.timesteps.tolist()


def test_ddpm_visits_every_training_step_and_follows_the_seed() -> None:
    run = {"method": "ddpm", "beta_start": 0.0015, "beta_end": 0.0195, "train_steps": 20, "steps": 20}
    denoiser = plain(lambda d: 0.3 * d["latent"])
    first = sample(denoiser, **run)
    assert [call["timestep"][0] for call in denoiser.calls] == list(range(19, -1, -1))
    assert np.array_equal(first, sample(denoiser, **run))
    assert not np.array_equal(first, sample(denoiser, sample=1, **run))


def test_conditions_reach_the_network_in_its_units() -> None:
    names = ["latent", "timestep", "spacing", "class_label", "top_region", "bottom_region"]
    denoiser = Network(names, lambda d: 0 * d["latent"])
    sample(
        denoiser,
        spacing=(0.781, 3.9, 2.5),
        class_label=9,
        top_region=(0, 1, 0, 0),
        bottom_region=(0, 0, 0, 1),
    )
    call = denoiser.calls[0]
    assert call["spacing"].tolist() == [[np.float32(78.1), np.float32(390), np.float32(250)]]
    assert call["class_label"].tolist() == [9]
    assert call["class_label"].dtype == np.int64
    assert call["top_region"].tolist() == [[0, 100, 0, 0]]
    assert call["bottom_region"].tolist() == [[0, 0, 0, 100]]


def test_conditions_that_the_network_does_not_take_are_ignored() -> None:
    sample(plain(), spacing=(1, 1, 1), class_label=1, top_region=(1, 0, 0, 0), bottom_region=(1, 0, 0, 0))


def test_modality_guidance() -> None:
    def answer(d: dict[str, Any]) -> Any:
        return d["latent"] * 0.1 + d["class_label"].reshape(-1, 1, 1, 1, 1).astype(np.float32)

    denoiser = Network(["latent", "timestep", "class_label"], answer)
    result = sample(denoiser, class_label=5, guidance=2.5, guidance_kind="modality", t=[1000.0], dt=[1.0])
    call = denoiser.calls[0]
    assert call["class_label"].tolist() == [5, 0]
    assert call["timestep"].tolist() == [1000, 1000]
    assert np.array_equal(call["latent"][0], call["latent"][1])
    noise = _native.fill_normal(3, 0, SHAPE)
    unconditional, conditional = noise * 0.1, noise * 0.1 + 5
    expected = noise + unconditional + 2.5 * (conditional - unconditional)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def control_pair(embedding_channels: int = 3) -> tuple[Network, Network]:
    """A ControlNet whose residuals tell step and condition apart, and a denoiser that sums them."""

    def residuals(d: dict[str, Any]) -> dict[str, Any]:
        base = d["condition_embedding"].sum(axis=1, keepdims=True) + d["timestep"].reshape(-1, 1, 1, 1, 1)
        return {name: base * (k + 1) for k, name in enumerate(RESIDUALS)}

    control = Network(["latent", "timestep", "condition_embedding", "class_label"], residuals, RESIDUALS)
    denoiser = Network(
        ["latent", "timestep", "class_label", *RESIDUALS],
        lambda d: np.broadcast_to(sum(d[name] for name in RESIDUALS) * 1e-3, d["latent"].shape),
    )
    return denoiser, control


def embedding(rows: int) -> Any:
    return np.random.default_rng(5).standard_normal((rows, 3, 4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_residuals_pass_from_the_controlnet_to_the_denoiser(scale: float) -> None:
    denoiser, control = control_pair()
    condition = embedding(1)
    sample(denoiser, control, condition=condition, class_label=1, control_scale=scale)
    assert len(control.calls) == len(denoiser.calls) == 4
    for t, given, taken in zip(T, control.calls, denoiser.calls, strict=True):
        assert np.array_equal(given["condition_embedding"], condition)
        assert np.array_equal(given["latent"], taken["latent"])
        assert given["timestep"].tolist() == [t]
        assert given["class_label"].tolist() == [1]
        base = condition.sum(axis=1, keepdims=True) + np.float32(t)
        for k, name in enumerate(RESIDUALS):
            np.testing.assert_allclose(taken[name], base * (k + 1) * scale, rtol=1e-6)


def test_the_control_scale_leaves_the_controlnets_own_arrays_alone() -> None:
    shared = {name: np.ones((1, 1, 4, 5, 6), np.float32) for name in RESIDUALS}
    denoiser, _ = control_pair()
    control = Network(["latent", "timestep", "condition_embedding"], lambda d: shared, RESIDUALS)
    sample(denoiser, control, condition=embedding(1), class_label=1, control_scale=0.5)
    assert all((array == 1).all() for array in shared.values())
    assert (denoiser.calls[-1]["middle_residual"] == 0.5).all()


def test_tumour_guidance_uses_both_conditions() -> None:
    denoiser, control = control_pair()
    condition = embedding(2)
    options = {"condition": condition, "class_label": 1, "guidance_kind": "tumour", "t": [1000.0], "dt": [1.0]}
    result = sample(denoiser, control, guidance=3.0, **options)
    assert np.array_equal(control.calls[0]["condition_embedding"], condition)
    assert control.calls[0]["class_label"].tolist() == denoiser.calls[0]["class_label"].tolist() == [1, 0]
    with_tumour, without = (condition.sum(axis=1, keepdims=True) + 1000) * 6e-3
    noise = _native.fill_normal(3, 0, SHAPE)
    np.testing.assert_allclose(result, noise + without + 3 * (with_tumour - without), rtol=1e-4, atol=1e-4)

    sample(denoiser, control, guidance=0.0, **options)  # one conditional pass with the first condition
    assert np.array_equal(control.calls[-1]["condition_embedding"], condition[:1])
    assert denoiser.calls[-1]["class_label"].tolist() == [1]


def test_modality_guidance_repeats_the_condition() -> None:
    denoiser, control = control_pair()
    condition = embedding(1)
    sample(denoiser, control, condition=condition, class_label=1, guidance=1.0, guidance_kind="modality")
    assert np.array_equal(control.calls[0]["condition_embedding"], np.concatenate([condition, condition]))


def test_progress_is_reported_before_each_step_and_at_the_end() -> None:
    events: list[Any] = []
    denoiser = plain(lambda d: events.append("network") or 0 * d["latent"])
    sample(denoiser, observer=lambda *event: events.append(event))
    expected: list[Any] = []
    for i in range(4):
        expected += [("sample", i, 4), "network"]
    assert events == [*expected, ("sample", 4, 4)]


def test_the_observer_cancels() -> None:
    denoiser = plain()
    with pytest.raises(CancelledError, match="2 of 4"):
        sample(denoiser, observer=lambda stage, done, total: done < 2)
    assert len(denoiser.calls) == 2


def test_what_python_raises_inside_the_loop_comes_out_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        sample(plain(lambda d: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        sample(plain(), observer=lambda *event: 1 / 0)


def test_the_observer_may_use_the_session() -> None:
    denoiser = plain(lambda d: np.ones_like(d["latent"]))

    def peek(*event: Any) -> None:
        denoiser.session.run({"latent": np.full((1, *SHAPE), 9.0), "timestep": np.zeros(1)})

    assert np.array_equal(sample(denoiser, observer=peek), sample(denoiser))


def test_a_latent_that_overflowed_is_an_error() -> None:
    def explode(d: dict[str, Any]) -> Any:
        prediction = np.zeros_like(d["latent"])
        prediction[0, 0, 0, 0, :2] = np.nan
        prediction[0, 1, 0, 0, 0] = np.inf
        return prediction

    with pytest.raises(DeviceError, match="3 of 240 values that are not finite"):
        sample(plain(explode))


def test_a_network_of_another_shape_is_a_bad_plan() -> None:
    with pytest.raises(PlanError, match="shape"):
        sample(plain(lambda d: d["latent"][:, :1]))
    with pytest.raises(PlanError, match="'prediction', found velocity"):
        sample(Network(["latent", "timestep"], lambda d: {"velocity": d["latent"]}, ["velocity"]))
    with pytest.raises(PlanError, match="'flavour'"):
        sample(Network(["latent", "flavour"], lambda d: d["latent"]))


LABELLED = ["latent", "timestep", "class_label"]
BAD_REQUESTS: list[tuple[list[str], dict[str, Any], str]] = [
    (["latent", "spacing"], {}, "spacing"),
    (LABELLED, {}, "class label"),
    (["latent", "top_region"], {}, "top_region"),
    (["latent", *RESIDUALS], {}, "ControlNet residuals"),
    (["latent"], {"guidance": -1.0}, "0 or more"),
    (["latent"], {"guidance": float("nan")}, "0 or more"),
    (["latent"], {"guidance": 1.0}, "kind"),
    (["latent"], {"guidance": 1.0, "guidance_kind": "modality"}, "class label"),
    (LABELLED, {"guidance": 1.0, "guidance_kind": "tumour", "class_label": 1}, "two condition embeddings"),
    (["latent"], {"guidance_kind": "style"}, "'none', 'modality', 'tumour'"),
    (["latent"], {"solver": "magic"}, "'euler', 'heun'"),
    (["latent"], {"method": "magic"}, "'flow', 'ddpm', 'ddim'"),
    (["latent"], {"latents": np.zeros((1, 4, 5, 6))}, "latent's shape"),
    (["latent"], {"latents": np.full(SHAPE, np.nan)}, "240 values that are not finite"),
    (["latent"], {"latents": "noise"}, "should be float32"),
    (["latent"], {"shape": (2, 0, 5, 6)}, "at least 1"),
    (["latent"], {"sample": 1 << 48}, "2\\^48"),
    (["latent"], {"t": [], "dt": []}, "time grid"),
    (["latent"], {"method": "ddpm"}, "beta_start"),
    (["latent"], {"method": "ddim", "steps": 0, "beta_start": 0.01, "beta_end": 0.02}, "1 to 1000 steps"),
]


@pytest.mark.parametrize(("inputs", "options", "message"), BAD_REQUESTS)
def test_bad_requests_are_refused_before_any_network_call(
    inputs: list[str], options: dict[str, Any], message: str
) -> None:
    denoiser = Network(inputs, lambda d: 0 * d["latent"])
    with pytest.raises(RequestError, match=message):
        sample(denoiser, **options)
    assert denoiser.calls == []


def test_bad_control_requests() -> None:
    denoiser, control = control_pair()
    with pytest.raises(RequestError, match="none was given"):
        sample(denoiser, control, class_label=1)
    with pytest.raises(RequestError, match="1 or 2, channels"):
        sample(denoiser, control, class_label=1, condition=np.zeros((3, 4, 5, 6)))
    with pytest.raises(RequestError, match="takes no residuals"):
        sample(plain(), control, class_label=1, condition=embedding(1))
    assert control.calls == []
