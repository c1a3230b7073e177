"""Networks run by OpenVINO inside the native runtime."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_networks

from ctfast import _native
from ctfast.errors import DeviceError, RequestError

CPU = _native.build_info()["cpu"]
BF16 = CPU["bf16"]
#: A precision, and the least and largest relative error that are to be expected of it.
TIERS = (("fp32", 0, 1e-6), ("bf16", 1e-4, 2e-2), ("fp16", 1e-5, 2e-3))
RESIDUALS = ["down_residual_00", "middle_residual"]


def inputs(size: tuple[int, int, int] = (8, 8, 8), batch: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "latent": rng.standard_normal((batch, 4, *size)).astype(np.float32),
        "timestep": np.full(batch, 700, np.float32),
        "class_label": np.ones(batch, np.int64),
        "spacing": np.full((batch, 3), 150, np.float32),
    }


def zeros(size: tuple[int, int, int] = (8, 8, 8), batch: int = 1) -> dict[str, Any]:
    return {name: np.zeros((batch, 8, *size), np.float32) for name in RESIDUALS}


@pytest.fixture(scope="module")
def ir() -> tuple[str, bytes]:
    return tiny_networks.to_ir(tiny_networks.denoiser())


def test_equals_openvinos_own_interface(ir: tuple[str, bytes]) -> None:
    session = _native.OpenVINOSession.from_bytes(*ir)
    reference = tiny_networks.Reference(tiny_networks.denoiser())
    assert sorted(session.inputs) == sorted(reference.inputs)
    assert session.outputs == ["prediction"]
    for size, batch in (((8, 8, 8), 1), ((4, 6, 10), 2)):
        given = inputs(size, batch) | {name: value + 0.3 for name, value in zeros(size, batch).items()}
        result = session.run(given)["prediction"]
        expected = reference(given)["prediction"]
        assert result.shape == (batch, 4, *size)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_dropped_inputs_count_as_zero_and_vanish(ir: tuple[str, bytes]) -> None:
    full = _native.OpenVINOSession.from_bytes(*ir)
    without = _native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS)
    assert set(without.inputs) == set(full.inputs) - set(RESIDUALS)
    expected = full.run(inputs() | zeros())["prediction"]
    np.testing.assert_allclose(without.run(inputs())["prediction"], expected, rtol=1e-6, atol=1e-6)
    added = len(full.compiled_operations) - len(without.compiled_operations)
    assert added > len(RESIDUALS)  # the inputs themselves, and what added them
    with pytest.raises(RequestError, match="no input 'residual'"):
        _native.OpenVINOSession.from_bytes(*ir, drop=["residual"])


@pytest.mark.parametrize(("precision", "least", "largest"), TIERS)
def test_the_precision_is_the_one_asked_for(
    ir: tuple[str, bytes], precision: str, least: float, largest: float
) -> None:
    if not CPU.get(precision, True):
        with pytest.raises(DeviceError, match="this processor has n"):
            _native.OpenVINOSession.from_bytes(*ir, precision=precision)
        return
    session = _native.OpenVINOSession.from_bytes(*ir, precision=precision)
    result = session.run(inputs() | zeros())["prediction"]
    expected = tiny_networks.Reference(tiny_networks.denoiser())(inputs() | zeros())["prediction"]
    error = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    assert session.precision == precision
    assert result.dtype == np.float32
    assert least <= error < largest


def test_half_precision_weights() -> None:
    model = tiny_networks.denoiser()
    session = _native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(model, compress=True))
    expected = tiny_networks.Reference(model)(inputs() | zeros())["prediction"]
    np.testing.assert_allclose(session.run(inputs() | zeros())["prediction"], expected, rtol=0, atol=5e-3)


def test_the_last_three_shapes_stay_compiled(ir: tuple[str, bytes]) -> None:
    session = _native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS)
    assert session.compiled_shapes == 0
    first = session.run(inputs((4, 4, 4)))["prediction"]
    for n, expected in ((5, 2), (4, 2), (6, 3), (7, 3), (5, 3)):
        result = session.run(inputs((n, 4, 4)))["prediction"]
        assert session.compiled_shapes == expected
        assert result.shape == (1, 4, n, 4, 4)
    assert np.array_equal(session.run(inputs((4, 4, 4)))["prediction"], first)


def test_results_are_the_callers_own(ir: tuple[str, bytes]) -> None:
    session = _native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS)
    first = session.run(inputs())["prediction"]
    kept = first.copy()
    session.run(inputs() | {"timestep": np.zeros(1, np.float32)})
    assert np.array_equal(first, kept)
    del session
    gc.collect()
    assert np.array_equal(first, kept)


def test_thread_counts_agree(ir: tuple[str, bytes]) -> None:
    sessions = [_native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS, threads=n) for n in (0, 1, 2)]
    results = [session.run(inputs())["prediction"] for session in sessions]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=1e-6)


def test_compiled_networks_are_kept_in_the_cache_folder(ir: tuple[str, bytes], tmp_path: Path) -> None:
    for _ in range(2):
        session = _native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS, cache_dir=str(tmp_path))
        result = session.run(inputs())["prediction"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".blob"]
    plain = _native.OpenVINOSession.from_bytes(*ir, drop=RESIDUALS).run(inputs())["prediction"]
    np.testing.assert_allclose(result, plain, rtol=1e-6, atol=1e-6)


def test_sampling_with_a_controlnet_passes_memory_between_networks() -> None:
    shape, condition = (4, 6, 8, 4), np.random.default_rng(1).standard_normal((2, 8, 6, 8, 4)).astype(np.float32)
    t, dt = _native.rflow_time_grid(5, 6 * 8 * 4)
    options = {"shape": shape, "seed": 1, "t": t, "dt": dt, "class_label": 1, "spacing": (1.5, 1.5, 2.0)}
    options |= {"condition": condition, "guidance": 2.0, "guidance_kind": "tumour", "solver": "heun"}
    models = tiny_networks.denoiser(), tiny_networks.controlnet()
    sessions = [_native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(model)) for model in models]
    references = [tiny_networks.Reference(model) for model in models]
    copies = [_native.CallableSession(r.inputs, r.outputs, r) for r in references]
    for scale in (1.0, 0.7):
        ours = _native.sample(*sessions, control_scale=scale, **options)
        expected = _native.sample(*copies, control_scale=scale, **options)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    assert not np.allclose(ours, _native.sample(*sessions, control_scale=0.0, **options), atol=1e-3)


def test_decode_and_encode() -> None:
    decoder = _native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(tiny_networks.decoder()))
    latent = np.random.default_rng(2).standard_normal((4, 8, 6, 4)).astype(np.float32)
    image = _native.decode(decoder, latent, 0.9)
    reference = tiny_networks.Reference(tiny_networks.decoder())
    expected = reference({"latent": latent[None] / np.float32(0.9)})["image"][0, 0]
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)
    windowed = _native.decode(decoder, latent, 0.9, window=(4, 4, 4))
    assert windowed.shape == image.shape == (32, 24, 16)
    assert decoder.compiled_shapes == 2
    encoder = _native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(tiny_networks.encoder()))
    mean, log_variance = _native.encode(encoder, image)
    assert mean.shape == log_variance.shape == latent.shape


def test_wrong_inputs_are_named(ir: tuple[str, bytes]) -> None:
    session = _native.OpenVINOSession.from_bytes(*ir, name="denoiser", drop=RESIDUALS)
    good = inputs()
    with pytest.raises(RequestError, match="'denoiser' needs input 'spacing'"):
        session.run({name: value for name, value in good.items() if name != "spacing"})
    with pytest.raises(RequestError, match=r"was given .*extra"):
        session.run(good | {"extra": np.zeros(1)})
    with pytest.raises(RequestError, match="'class_label' should be i64 and is f32"):
        session.run(good | {"class_label": np.ones(1, np.float32)})
    with pytest.raises(RequestError, match="should be float32, int64 or uint8 and is int32"):
        session.run(good | {"class_label": np.ones(1, np.int32)})
    with pytest.raises(DeviceError, match=r"channel count \(3\)") as caught:
        session.run(good | {"latent": good["latent"][:, :3]})
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)
    session.run(good)  # still usable


def test_what_openvino_cannot_read_is_named(ir: tuple[str, bytes]) -> None:
    xml, weights = ir
    with pytest.raises(DeviceError, match="'decoder'"):
        _native.OpenVINOSession.from_bytes("<net/>", b"", name="decoder")
    with pytest.raises(DeviceError, match="ncorrect weights"):
        _native.OpenVINOSession.from_bytes(xml, weights[:64])
    with pytest.raises(RequestError, match="'fp32', 'bf16', 'fp16'"):
        _native.OpenVINOSession.from_bytes(xml, weights, precision="int8")


def run_python(code: str) -> str:
    """Output of a process of its own, for what would disturb this one."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(tiny_networks.__file__).parent,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_out_of_memory_is_a_memory_error() -> None:
    out = run_python(
        """
        import resource
        import numpy as np
        import tiny_networks
        from ctfast import _native, errors

        session = _native.OpenVINOSession.from_bytes(*tiny_networks.to_ir(tiny_networks.stack(8, 2)), threads=1)
        session.run({"latent": np.zeros((1, 4, 4, 4, 4), np.float32)})
        latent = np.zeros((1, 4, 192, 192, 192), np.float32)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        try:
            session.run({"latent": latent})
        except errors.MemoryBudgetError as error:
            print("refused:", error)
        """
    )
    assert "refused: running network 'network': out of memory" in out
