"""Networks, GGDR distance and gradient penalties against reference values; state-dict names fit strictly."""

import json
from typing import Any

import pytest
import torch

from tests.support.golden import load, relative_error
from training.ggdr import cosine_distance
from training.loss import path_lengths, r1_penalty
from training.networks import Discriminator, Generator

DATA = load("networks")
CONFIG = json.loads(str(DATA["config"]))
TARGET = CONFIG["decoder_res"]


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(DATA[name])


def weights(prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in DATA.items()
        if key.startswith(prefix)
    }


@pytest.fixture
def G() -> Any:
    network = Generator(**CONFIG["G"]).eval().requires_grad_(False)
    network.load_state_dict(weights("G."), strict=True)
    return network


@pytest.fixture
def D() -> Any:
    network = Discriminator(**CONFIG["D"], decoder_res=TARGET).eval().requires_grad_(False)
    network.load_state_dict(weights("D."), strict=True)
    return network


def test_mapping_and_truncation(G: Any) -> None:
    z, c = tensor("z"), tensor("c")
    assert relative_error(G.mapping(z, c), DATA["w"]) < 2e-6
    assert relative_error(G.mapping(z, c, truncation_psi=0.6, truncation_cutoff=4), DATA["w_trunc"]) < 2e-6


def test_images_and_captured_features(G: Any) -> None:
    resolutions = sorted(int(key[4:]) for key in DATA if key.startswith("feat"))
    images, features = G.synthesis(tensor("w"), capture=resolutions, noise_mode="const")
    assert relative_error(images, DATA["img"]) < 5e-6
    assert relative_error(G.synthesis(tensor("w"), noise_mode="none"), DATA["img_noise_none"]) < 5e-6
    assert set(features) == set(resolutions)
    for res in resolutions:
        assert relative_error(features[res], DATA[f"feat{res}"]) < 5e-6


def test_logits_and_decoder_maps(D: Any) -> None:
    logits, maps = D(tensor("real"), tensor("c"), return_features=True)
    assert relative_error(logits, DATA["logits"]) < 5e-6
    assert relative_error(D(tensor("real"), tensor("c")), DATA["logits"]) < 5e-6
    assert sorted(maps) == [8, 16]
    for res, found in maps.items():
        assert relative_error(found, DATA[f"dec{res}"]) < 5e-6


def test_ggdr_loss_and_its_gradient_in_d(D: Any) -> None:
    D.requires_grad_(True)
    _, maps = D(tensor("img"), tensor("c"), return_features=True)
    loss = 10 * cosine_distance(maps[TARGET], tensor(f"feat{TARGET}")).mean()
    loss.backward()
    assert relative_error(loss, DATA["ggdr_loss"]) < 1e-5
    for name, param in D.named_parameters():
        key = f"ggdr_grad.{name}"
        if key in DATA:
            assert (
                relative_error(torch.zeros_like(param) if param.grad is None else param.grad, DATA[key])
                < 5e-5
            ), name
        else:
            assert param.grad is None or not param.grad.any(), name


def test_r1_penalty(D: Any) -> None:
    images = tensor("real").requires_grad_(True)
    assert relative_error(r1_penalty(D(images, tensor("c")), images), DATA["r1_penalty"]) < 2e-5


def test_path_lengths(G: Any) -> None:
    ws = tensor("w").requires_grad_(True)
    assert (
        relative_error(
            path_lengths(G.synthesis(ws, noise_mode="const"), ws, tensor("pl_noise")), DATA["pl_lengths"]
        )
        < 2e-5
    )
