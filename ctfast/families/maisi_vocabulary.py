"""Names of things in the official MAISI models: structures in label maps, and modality codes."""

from __future__ import annotations

from ..manifest import Labels

BODY = 200
BITS = 8


def _sides(name: str, first: int) -> dict[int, str]:
    return {first: f"left {name}", first + 1: f"right {name}"}


def _structures() -> dict[int, str]:
    names = {
        **{1: "liver", 3: "spleen", 4: "pancreas", 5: "right kidney", 6: "aorta", 7: "inferior vena cava"},
        **{8: "right adrenal gland", 9: "left adrenal gland", 10: "gallbladder", 11: "esophagus", 12: "stomach"},
        **{13: "duodenum", 14: "left kidney", 15: "bladder", 17: "portal vein and splenic vein", 19: "small bowel"},
        **{22: "brain", 23: "lung tumor", 24: "pancreatic tumor", 25: "hepatic vessel", 26: "hepatic tumor"},
        **{27: "colon cancer primaries", 28: "left lung upper lobe", 29: "left lung lower lobe"},
        **{30: "right lung upper lobe", 31: "right lung middle lobe", 32: "right lung lower lobe"},
        **{57: "trachea", 62: "colon", 97: "sacrum", 108: "left atrial appendage", 109: "brachiocephalic trunk"},
        **{114: "costal cartilages", 115: "heart", 118: "prostate", 119: "pulmonary vein", 120: "skull"},
        **{121: "spinal cord", 122: "sternum", 125: "superior vena cava", 126: "thyroid gland"},
        **{127: "vertebrae S1", 128: "bone lesion", 132: "airway", BODY: "body"},
    }
    # The spine runs upwards: L5 to L1, T12 to T1, C7 to C1.
    spine = [f"{part}{level}" for part, levels in (("L", 5), ("T", 12), ("C", 7)) for level in range(levels, 0, -1)]
    names |= {33 + index: f"vertebrae {vertebra}" for index, vertebra in enumerate(spine)}
    for first, side in ((63, "left"), (75, "right")):
        names |= {first + rib: f"{side} rib {rib + 1}" for rib in range(12)}
    pairs = {
        **{58: "iliac artery", 60: "iliac vena", 87: "humerus", 89: "scapula", 91: "clavicula", 93: "femur", 95: "hip"},
        **{98: "gluteus maximus", 100: "gluteus medius", 102: "gluteus minimus", 104: "autochthon", 106: "iliopsoas"},
        **{110: "brachiocephalic vein", 112: "common carotid artery", 116: "kidney cyst", 123: "subclavian artery"},
    }
    for first, name in pairs.items():
        names |= _sides(name, first)
    return dict(sorted(names.items()))


# What stands in a tumour's place for tumour guidance; a lung tumour becomes the lobe around it. The bone lesion (128)
# is left alone, as in the official scripts.
_REPLACEMENT = {26: (1,), 24: (4,), 27: (62,), 116: (14,), 117: (5,), 23: (28, 29, 30, 31, 32)}

CT_LABELS = Labels(names=_structures(), bits=BITS, body=BODY, tumour_replacement=_REPLACEMENT)

CT_MODALITIES = {"ct": 1, "ct_wo_contrast": 2, "ct_contrast": 3}
MR_MODALITIES = {
    **{"mri": 8, "mri_t1": 9, "mri_t2": 10, "mri_flair": 11, "mri_pd": 12, "mri_dwi": 13, "mri_adc": 14},
    **{"mri_ssfp": 15, "mri_mra": 16, "mri_t1c": 17, "mri_swi": 20},
}
BRAIN_MODALITIES = {
    **MR_MODALITIES,
    **{"mri_t1_skull_stripped": 29, "mri_t2_skull_stripped": 30, "mri_flair_skull_stripped": 31},
    **{"mri_swi_skull_stripped": 32, "mri_mra_skull_stripped": 33},
}
