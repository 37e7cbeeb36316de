"""training.config.run_name: what run directories are called."""

from typing import Any

import pytest

from tests.support.runs import described_data, resolved_config
from training.config.run_name import data_name


@pytest.mark.parametrize(
    ("given", "images", "description"),
    [
        ({}, {}, "faces-auto1"),
        ({"gpus": 8}, {}, "faces-auto8"),
        (
            {"cfg": "paper256"},
            {"use_labels": True, "label_dim": 3, "max_size": 50, "xflip": True},
            "faces-cond-subset50-mirror-paper256",
        ),
        ({"gamma": 0.125, "kimg": 1000000, "batch": 32}, {}, "faces-auto1-gamma0.125-kimg1000000-batch32"),
        ({"kimg": 2.5}, {}, "faces-auto1-kimg2.5"),
        ({"aug": "noaug"}, {}, "faces-auto1-noaug"),
        ({"aug": "fixed", "p": 0.25, "augpipe": "bg"}, {}, "faces-auto1-fixed-p0.25-bg"),
        (
            {"target": 0.5, "augpipe": "bgcf", "resume": "a/b.pkl", "freezed": 4},
            {},
            "faces-auto1-target0.5-bgcf-resumecustom-freezed4",
        ),
        ({"resume": "noresume"}, {}, "faces-auto1-noresume"),
        (
            {"cbase": 4096, "cmax": 64, "map_depth": 4, "mbstd_group": 2},
            {},
            "faces-auto1-cbase4096-cmax64-map4-mbstd2",
        ),
        ({"glr": 0.001, "dlr": 0.002}, {}, "faces-auto1-glr0.001-dlr0.002"),
        ({"reg_type": "ggdr", "ggdr_res": 32}, {}, "faces-auto1"),
        (
            {"reg_type": "ggdr", "ggdr_weight": 5, "ggdr_start_kimg": 1.5},
            {},
            "faces-auto1-ggdrweight5-ggdrstart1.5",
        ),
        ({"ggdr_weight": 5, "seg_weight": 2}, {}, "faces-auto1"),
        ({"reg_type": "ggdr", "ggdr_res": (16, 32)}, {}, "faces-auto1-ggdrres16+32"),
        (
            {"reg_type": "ggdr", "ggdr_kernel": 3, "ggdr_act": "lrelu"},
            {},
            "faces-auto1-ggdrkernel3-ggdractlrelu",
        ),
        ({"reg_type": "seg"}, {"annotation_classes": 2}, "faces-auto1-seg"),
        (
            {"reg_type": "seg", "seg_weight": 0.5, "ggdr_res": (8, 16)},
            {"annotation_classes": 2},
            "faces-auto1-seg-segweight0.5",
        ),
        (
            {"fp32": True, "nhwc": True, "workers": 1, "snap": 1, "tick": 1.0, "seed": 3, "device": "cpu"},
            {},
            "faces-auto1",
        ),
    ],
)
def test_names_of_runs(given: dict[str, Any], images: dict[str, Any], description: str) -> None:
    assert resolved_config(described_data(**images), **given).description == description


@pytest.mark.parametrize(
    ("path", "name"), [("/a/b.zip", "b"), ("/a/b/", "b"), ("b", "b"), ("/a/b.c.zip", "b.c"), ("/", "data")]
)
def test_data_name(path: str, name: str) -> None:
    assert data_name(path) == name
