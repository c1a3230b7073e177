"""What a plan tells about itself, and its weights read back."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import plan_bytes, staged_plan, tiny_plan

from ctfast.errors import PlanError, RequestError
from ctfast.plan import Plan
from ctfast.plan_info import decoding, describe_decoding
from ctfast.plan_weights import state_dict


def opened(manifest: dict[str, Any] | None = None, **sections: bytes) -> Plan:
    text = json.dumps(manifest or plan_bytes.MANIFEST).encode()
    return Plan.parse(plan_bytes.build(text, plan_bytes.SECTIONS | sections), "x.plan")


def test_summary_is_json_and_complete() -> None:
    plan = opened()
    summary = json.loads(json.dumps(plan.summary()))
    assert set(plan_bytes.MANIFEST) <= set(summary)
    assert (summary["path"], summary["bytes"], summary["identity"]) == ("x.plan", plan.file_size, plan.identity)
    assert summary["networks"]["denoiser"]["bytes"] == len(b"<net/>") + len(plan_bytes.WEIGHTS)
    assert "tensors" not in summary["networks"]["denoiser"]
    assert [section["name"] for section in summary["sections"]] == list(plan_bytes.SECTIONS)
    assert summary["weights"][0]["sha256"] == plan_bytes.MANIFEST["weights"][0]["sha256"]


def test_summary_leaves_the_manifest_alone() -> None:
    plan = opened()
    plan.summary()
    assert plan.manifest.to_json() == plan_bytes.MANIFEST


def test_description_names_what_matters() -> None:
    text = opened().describe()
    for words in (
        "tiny, revision 1 (maisi-v2, rflow-ct)",
        "denoiser: openvino, fp32, weights float16, 26 bytes",
        "vae_decoder: openvino, bf16, weights float16, 6.0 kB",
        "default 32 x 32 x 16 voxels; legal: one of 32 x 32 x 16, 64 x 64 x 32",
        "default 1.5 x 1.5 x 2 mm; legal: x 0.5 to 5",
        "ct, -1000 to 1000 HU",
        "1 ct (default)",
        "26 Hepatic tumour",
        "class label",
        "30 steps of euler, time grid monai",
        "32 x 32 x 16: 300.0 MB",
        plan_bytes.MANIFEST["weights"][0]["sha256"],
        "open: Apache-2.0",
        "licence: CC0-1.0",
        "2026-11-21, ctfast 0.1.0",
        "ctfast build tiny",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_description_of_a_plan_without_the_optional_parts() -> None:
    manifest = copy.deepcopy(plan_bytes.MANIFEST) | {"memory": []}
    for key in ("labels", "data", "model_card"):
        del manifest[key]
    del manifest["sizes"]["fov"]
    manifest["intensity"]["high"] = None
    manifest["conditioning"]["class_label"] = False
    text = opened(manifest).describe()
    assert "not predicted" in text
    assert "-1000 to unlimited HU" in text
    assert "conditioning    none" in text
    assert "labels" not in text


def test_state_dict_gives_the_tensors_back() -> None:
    tensors = state_dict(opened(), "denoiser")
    weight, bias = tensors["time_embed.0.weight"], tensors["time_embed.0.bias"]
    np.testing.assert_array_equal(weight, [[0, 2, 4], [1, 3, 5]])  # stored as its transpose, 0..5
    np.testing.assert_array_equal(bias, [7, 8])
    assert weight.dtype == bias.dtype == np.float32
    assert weight.flags.c_contiguous
    assert weight.flags.writeable


def test_state_dict_of_other_types_and_shapes() -> None:
    manifest = copy.deepcopy(plan_bytes.MANIFEST)
    tensor = {"offset": 8, "dtype": "int64", "transposed": False}
    manifest["networks"]["denoiser"]["tensors"] = {"count": tensor | {"shape": []}, "none": tensor | {"shape": [0, 3]}}
    data = np.array([1, -5], "<i8").tobytes()
    tensors = state_dict(opened(manifest, **{"denoiser/model.bin": data}), "denoiser")
    assert tensors["count"].shape == ()
    assert tensors["count"] == -5
    assert tensors["count"].dtype == np.int64
    assert tensors["none"].shape == (0, 3)


def test_state_dict_says_what_is_missing() -> None:
    with pytest.raises(PlanError, match="no network 'vae'; it has: denoiser, vae_decoder"):
        state_dict(opened(), "vae")
    with pytest.raises(PlanError, match="does not tell where the tensors of network 'vae_decoder' are"):
        state_dict(opened(), "vae_decoder")


def test_stages_are_counted_not_listed(tmp_path: Path) -> None:
    plan = Plan.open(staged_plan.write(tmp_path / "staged.plan"))
    networks = json.loads(json.dumps(plan.summary()))["networks"]
    assert networks["vae_decoder"]["stages"] == 3
    assert networks["denoiser"]["stages"] == 0
    assert "program" not in networks["vae_decoder"]
    text = plan.describe()
    assert text.count(", also in 3 stages") == 2


def test_decoding_is_planned_for_any_size(tmp_path: Path) -> None:
    plan = Plan.open(staged_plan.write(tmp_path / "staged.plan"))
    assert decoding(plan, None, None)["size"] == [32, 32, 16]
    table = decoding(plan, (36, 40, 44), "20MB")
    assert [row["name"] for row in table["strategies"]] == ["whole", "in_place", "spill", "recompute"]
    assert (table["size"], table["memory_bytes"], table["precision"]) == ([36, 40, 44], 20_000_000, "fp32")
    assert table["chosen"] == "whole"
    whole = table["strategies"][0]
    assert whole["peak_bytes"] == 36 * 40 * 44 * (100 + 4 + 2)
    nothing = decoding(plan, (36, 40, 44), 1000)
    assert nothing["chosen"] is None
    assert not any(row["fits"] for row in nothing["strategies"])
    text = describe_decoding(nothing)
    assert text.splitlines()[0] == "decoding 36 x 40 x 44 voxels in fp32 within 1.0 KiB of memory beyond the networks:"
    assert text.splitlines()[-1] == "none fits"
    for size in ((36, 40, 43), (0, 4, 4), (-4, 4, 4)):
        with pytest.raises(RequestError, match="multiples of 4, 4, 4"):
            decoding(plan, size, None)
    with pytest.raises(RequestError, match="memory: expected"):
        decoding(plan, None, "much")


def test_plans_without_programs_are_whole_and_of_unknown_size(tmp_path: Path) -> None:
    table = decoding(Plan.open(tiny_plan.write(tmp_path / "old.plan")), None, 1000)
    assert table["strategies"] == [
        {"name": "whole", "peak_bytes": None, "work": 1.0, "spilled_bytes": 0, "seconds": 0.0, "fits": True}
    ]
    assert "unknown" in describe_decoding(table)
