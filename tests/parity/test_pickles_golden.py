"""Recorded pickles in the reference's format load without running their text and give recorded images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import generate
from tests.support.golden import DATA, load, relative_error
from torch_utils.persistence import load_network_pkl, save_network_pkl
from training.augment import AugmentPipe, preset
from training.networks import Discriminator, Generator

NETWORKS = load("networks")
CONFIG = json.loads(str(NETWORKS["config"]))
FILES = {"ggdr": CONFIG["decoder_res"], "sg2ada": None}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(NETWORKS[name])


@pytest.fixture(scope="module", params=FILES)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def data(kind: Any) -> Any:
    return load_network_pkl(DATA / f"official-{kind}.pkl")


def test_networks_are_those_that_were_recorded(kind: Any, data: Any) -> None:
    assert set(data) == {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs", "info"}
    expected = {
        "G": Generator(**CONFIG["G"]),
        "D": Discriminator(**CONFIG["D"], decoder_res=FILES[kind]),
        "G_ema": Generator(**CONFIG["G"]),
    }
    for name, module in expected.items():
        state, prefix = data[name].state_dict(), name[0] + "."
        assert list(state) == list(module.state_dict())
        if (kind, name) != ("sg2ada", "D"):  # whose weights were not recorded
            assert all(torch.equal(value, tensor(prefix + key)) for key, value in state.items())
        assert not any(part.training for part in data[name].modules())
    assert data["D"].decoder_res == FILES[kind]
    assert data["training_set_kwargs"] == {"path": "datasets/x.zip", "resolution": 32, "use_labels": True}


def test_outputs(kind: Any, data: Any) -> None:
    images = data["G_ema"].synthesis(tensor("w"), noise_mode="const")
    assert relative_error(images, NETWORKS["img"]) < 5e-6
    assert relative_error(data["G"].mapping(tensor("z"), tensor("c")), NETWORKS["w"]) < 5e-6
    if kind == "ggdr":
        logits, maps = data["D"](tensor("real"), tensor("c"), return_features=True)
        assert relative_error(logits, NETWORKS["logits"]) < 5e-6
        assert relative_error(maps[16], NETWORKS["dec16"]) < 5e-6


def test_augmentation(data: Any) -> None:
    assert isinstance(data["augment_pipe"], AugmentPipe)
    assert float(data["augment_pipe"].p) == pytest.approx(0.37)
    assert data["augment_pipe"].spec == AugmentPipe(**preset("bgc")).spec


def test_saved_as_ours_they_stay_the_same(data: Any, tmp_path: Path) -> None:
    save_network_pkl(tmp_path / "ours.pkl", **data)
    again = load_network_pkl(tmp_path / "ours.pkl")
    for name in ("G", "D", "G_ema", "augment_pipe"):
        for key, value in data[name].state_dict().items():
            assert torch.equal(again[name].state_dict()[key], value)
    assert torch.equal(
        again["G"].synthesis(tensor("w"), noise_mode="const"),
        data["G"].synthesis(tensor("w"), noise_mode="const"),
    )
    assert again["training_set_kwargs"] == data["training_set_kwargs"]


def test_generate_renders_the_recorded_images(tmp_path: Path) -> None:
    recorded = load("pickle_images")
    seeds = ",".join(map(str, recorded["seeds"]))
    network = f"--network={DATA / 'official-ggdr.pkl'}"
    result = CliRunner().invoke(
        generate.main, [network, f"--outdir={tmp_path}", f"--seeds={seeds}", "--trunc=0.7", "--class=1"]
    )
    assert result.exit_code == 0, result.output
    for seed, expected in zip(recorded["seeds"], recorded["images"], strict=True):
        found = np.asarray(PIL.Image.open(tmp_path / f"seed{seed:04d}.png")).astype(float)
        assert np.abs(found - expected).mean() / 255 < 1e-4
