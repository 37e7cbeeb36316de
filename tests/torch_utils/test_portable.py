"""Our network pickles in the programs of the reference family, and theirs here.

Those programs execute the text in our pickles.

The programs are stand-ins: see reference_program.py.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.reference_program import PROGRAMS, make_program
from torch_utils.persistence import PORTABLE_SOURCE, load_network_pkl, save_network_pkl
from training.augment import AugmentPipe
from training.networks import Discriminator, Generator


@pytest.fixture(scope="module")
def networks() -> Any:
    torch.manual_seed(0)
    G = Generator(8, 2, 8, 16, 3, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8})
    G.mapping.w_avg.normal_()
    D = Discriminator(
        2, 16, 3, channel_base=128, channel_max=8, block_kwargs={"freeze_layers": 1}, decoder_res=8
    )
    pipe = AugmentPipe(xflip=1, rotate90=0.5)
    pipe.p.fill_(0.25)
    return {"G": G, "D": D, "G_ema": G, "augment_pipe": pipe}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_programs_build_their_own_classes(networks: Any, tmp_path: Path, kind: Any) -> None:
    pkl, out, native = tmp_path / "network.pkl", tmp_path / "out.pt", tmp_path / "native.pkl"
    save_network_pkl(pkl, **networks, training_set_kwargs={"path": "a.zip", "resolution": 16})
    folder = tmp_path / kind
    main = make_program(folder, kind)
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", main, pkl, out, native],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(out, weights_only=True)

    module = "training." + PROGRAMS[kind][0].removesuffix(".py")
    G, D = networks["G"], networks["D"]
    assert found["native"] == [True] * 3
    assert [name.rpartition(".")[2] for name in found["classes"]] == [
        "Generator",
        "Discriminator",
        "AugmentPipe",
    ]
    assert module in found["modules"]
    z, c = torch.linspace(-2, 2, 16).reshape(2, 8), torch.eye(2)
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    assert torch.equal(found["images"], G(z, c, truncation_psi=0.5, noise_mode="const"))
    assert torch.equal(found["logits"], D(images, c))
    assert (found["p"], found["xflip"]) == (0.25, 1)
    assert not found["training"]
    assert not found["gradients"]
    assert found["w_avg_beta"] == 0.995
    assert bool(found["decoder"]) == (kind == "ggdr")
    assert found["training_set_kwargs"] == {"path": "a.zip", "resolution": 16}
    sizes = {"channel_base": 128, "channel_max": 8, "num_fp16_res": 0, "conv_clamp": None}
    own = {
        "z_dim": 8,
        "c_dim": 2,
        "w_dim": 8,
        "img_resolution": 16,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2, "w_avg_beta": 0.995},
    }
    assert found["init_kwargs"][0] == {
        **own,
        **(sizes if kind == "stylegan3" else {"synthesis_kwargs": sizes}),
    }

    data = load_network_pkl(native)
    assert data["augment_pipe"].p == 0.25
    for name in ("G", "D", "G_ema"):
        state, expected = data[name].state_dict(), networks[name].state_dict()
        assert list(state) == [key for key in expected if kind == "ggdr" or "_dec." not in key]
        assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_a_program_with_another_decoder_gets_none(text: Any) -> None:
    """GGDR's program builds a decoder of 1×1 convolutions alone; segmentation's and others' are left out."""
    torch.manual_seed(0)
    sizes = dict(c_dim=0, img_resolution=16, img_channels=3, channel_base=128, channel_max=8)
    D = Discriminator(**sizes, decoder_res=16, decoder_kwargs={"num_classes": 2})

    class Theirs(Discriminator):
        def __init__(
            self,
            c_dim: Any,
            img_resolution: Any,
            img_channels: Any,
            channel_base: Any,
            channel_max: Any,
            decoder_res: Any = None,
        ) -> None:
            super().__init__(
                c_dim,
                img_resolution,
                img_channels,
                channel_base=channel_base,
                channel_max=channel_max,
                decoder_res=decoder_res,
            )

    text["find_class"] = lambda name: Theirs
    tensors = {
        key: dict(data=value.numpy().tobytes(), dtype="<f4", shape=list(value.shape))
        for key, value in D.state_dict().items()
    }
    kwargs = dict(sizes, decoder_res=16, decoder_kwargs={"num_classes": 2})
    found = text["Discriminator"]()
    found.__setstate__({"class_name": "Discriminator", "init_kwargs": kwargs, "tensors": tensors})
    assert found.decoder_res is None
    assert torch.equal(found(torch.ones([2, 3, 16, 16]), None), D(torch.ones([2, 3, 16, 16]), None))


@pytest.fixture
def text() -> Any:
    """The names that the travelling text defines."""
    names = {}
    exec(compile(PORTABLE_SOURCE.read_text(), "portable", "exec"), names)
    return names


def test_a_program_without_such_networks_says_so(text: Any) -> None:
    text["MODULES"]["Generator"] = ("json.networks", "json.networks_stylegan2")
    with pytest.raises(ImportError, match=r"none of the modules json.networks, json.networks_stylegan2"):
        text["Generator"]().__setstate__({"class_name": "Generator", "init_kwargs": {}, "tensors": {}})


def test_what_a_constructor_takes(text: Any) -> None:
    class Base:
        def __init__(self, depth: Any, **width: Any) -> None:
            pass

    class Decorated(Base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    class Silent(Decorated):
        pass

    for cls in (Base, Decorated, Silent):
        assert text["takes"](cls, "depth")
        assert not text["takes"](cls, "width")
        assert not text["takes"](cls, "self")
    assert not text["takes"](object, "depth")
