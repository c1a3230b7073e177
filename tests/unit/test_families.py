"""The MAISI family: vocabulary, what the variants take, tumours replaced, regions found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctfast.families import maisi
from ctfast.families.maisi_profiles import PROFILES
from ctfast.families.maisi_vocabulary import CT_LABELS
from ctfast.labels import label_counts
from ctfast.manifest import Labels


class Manifest:
    """As much of a manifest as condition_maps looks at."""

    def __init__(self, labels: Labels | None) -> None:
        self.labels = labels


def condition_maps(labels: Any, kind: str = "tumour", vocabulary: Labels | None = CT_LABELS) -> Any:
    return maisi.condition_maps(Manifest(vocabulary), labels, kind)  # type: ignore[arg-type]


def test_the_official_vocabulary() -> None:
    """133 names, eight of them unused; spot checks over all its groups."""
    names = CT_LABELS.names
    assert len(names) == 125
    assert {2, 16, 18, 20, 21, 129, 130, 131}.isdisjoint(names)
    expected = {
        **{1: "liver", 27: "colon cancer primaries", 28: "left lung upper lobe", 33: "vertebrae L5"},
        **{37: "vertebrae L1", 38: "vertebrae T12", 49: "vertebrae T1", 50: "vertebrae C7", 56: "vertebrae C1"},
        **{63: "left rib 1", 74: "left rib 12", 75: "right rib 1", 86: "right rib 12", 87: "left humerus"},
        **{96: "right hip", 107: "right iliopsoas", 117: "right kidney cyst", 124: "right subclavian artery"},
        **{128: "bone lesion", 132: "airway", 200: "body"},
    }
    assert {label: names[label] for label in expected} == expected
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("variant", "legal", "illegal"),
    [
        ("rflow-ct", [(256, 256, 128), (512, 512, 768)], [(256, 256, 64), (256, 384, 128), (640, 640, 128)]),
        ("ddpm-ct", [(384, 384, 640)], [(128, 128, 128)]),
        ("rflow-mr", [(128, 256, 256), (256, 128, 256), (512, 512, 128)], [(128, 128, 256), (512, 512, 256)]),
        ("rflow-mr-brain", [(256, 256, 256), (128, 128, 128)], [(256, 128, 128)]),
    ],
)
def test_legal_sizes(variant: str, legal: list[Any], illegal: list[Any]) -> None:
    rule = PROFILES[variant].sizes.rule
    assert all(rule.allows(size) for size in legal)
    assert not any(rule.allows(size) for size in illegal)
    assert rule.allows(PROFILES[variant].sizes.default)
    assert PROFILES[variant].sizes.spacing.allows(PROFILES[variant].sizes.spacing.default)


def test_profiles_agree_with_themselves() -> None:
    for profile in PROFILES.values():
        default = profile.modality.default
        assert (default is not None) == profile.conditioning.class_label
        assert default is None or default in profile.modality.names.values()
        assert profile.conditioning.controlnet == (profile.labels is not None)
        assert profile.conditioning.region == (profile.schedule.kind == "ddpm")


def test_tumours_become_what_surrounds_them() -> None:
    labels = np.full((12, 12, 12), 200, np.uint16)
    labels[:6], labels[6:] = 1, 28
    labels[:, :, 8:] = 31
    labels[2, 2, 2] = 26  # hepatic tumour in the liver
    labels[8, 4:6, 4] = 23  # lung tumour deep in the left upper lobe, though the liver and another lobe are larger
    labels[8, 8, 11] = 128  # bone lesion: not replaced
    given, healthy = condition_maps(labels)
    assert np.array_equal(given, labels)
    assert healthy[2, 2, 2] == 1
    assert (healthy[8, 4:6, 4] == 28).all()
    assert healthy[8, 8, 11] == 128
    assert (healthy != labels).sum() == 3


def test_a_tumour_far_from_all_candidates_becomes_the_first() -> None:
    labels = np.full((40, 8, 8), 200, np.uint16)
    labels[0, 0, 0], labels[-1] = 23, 30
    assert condition_maps(labels)[1][0, 0, 0] == 28


def test_one_map_without_tumour_guidance() -> None:
    labels = np.full((4, 4, 4), 26, np.uint16)
    assert len(condition_maps(labels, "none")) == 1
    assert len(condition_maps(labels, "tumour", None)) == 1


def test_regions_of_a_label_map() -> None:
    labels = np.full((4, 4, 4), 200, np.uint16)
    assert maisi.regions(None, labels) == ((0, 1, 0, 0), (0, 0, 1, 0))  # none shows: the official default
    labels[0], labels[1] = 1, 93
    assert maisi.regions(None, labels) == ((0, 0, 1, 0), (0, 0, 0, 1))
    assert maisi.regions(("head", "head"), labels) == ((1, 0, 0, 0), (1, 0, 0, 0))


def test_label_counts() -> None:
    labels = np.random.default_rng(0).integers(0, 1 << 16, (3, 5, 7)).astype(np.uint16)
    assert np.array_equal(label_counts(labels), np.bincount(labels.ravel(), minlength=1 << 16))
