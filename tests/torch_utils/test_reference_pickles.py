"""Pickles of StyleGAN2-ADA-PyTorch, GGDR and StyleGAN3: rebuilt from arguments and tensors, or refused."""

import collections
import io
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from tests.support.reference_form import ReferenceObject, as_reference, reference_pickle
from torch_utils.persistence import load_network_pkl
from training.augment import AugmentPipe, preset
from training.networks import Discriminator, Generator

SIZES = {"channel_base": 128, "channel_max": 8}


def load(data: Any) -> Any:
    return load_network_pkl(io.BytesIO(data))


def refused(data: Any, message: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.fixture(scope="module")
def G() -> Any:
    torch.manual_seed(0)
    return Generator(8, 2, 8, 16, 3, {"num_layers": 2}, SIZES).requires_grad_(False)


@pytest.fixture(scope="module")
def D() -> Any:
    torch.manual_seed(1)
    return Discriminator(
        2, 32, 3, **SIZES, epilogue_kwargs={"mbstd_group_size": 2}, decoder_res=16
    ).requires_grad_(False)


def assert_same_state(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    state = found.state_dict()
    assert list(state) == list(expected.state_dict())
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_networks_are_rebuilt(G: Any, D: Any, protocol: Any) -> None:
    pipe = AugmentPipe(**preset("bgcfnc"), imgfilter_bands=[1, 0.5, 1, 1], noise_std=0.2)
    pipe.p.fill_(0.3)
    kwargs = {
        "class_name": "training.data.dataset.ImageFolderDataset",
        "path": "a.zip",
        "use_labels": True,
        "max_size": np.int64(7),
        "xflip": False,
    }
    data = load(
        reference_pickle(
            protocol,
            G=G,
            D=D,
            G_ema=G,
            augment_pipe=as_reference(pipe, class_name="AugmentPipeGFeat"),
            training_set_kwargs=kwargs,
        )
    )
    assert data["training_set_kwargs"] == {**kwargs, "max_size": 7}
    assert type(data["training_set_kwargs"]["max_size"]) is int
    assert data["info"] == {}
    for name, module in {"G": G, "D": D, "G_ema": G, "augment_pipe": pipe}.items():
        assert_same_state(data[name], module)
    assert data["augment_pipe"].spec == pipe.spec
    z, c = torch.randn([2, 8]), torch.eye(2)
    assert torch.equal(
        data["G"](z, c, truncation_psi=0.7, noise_mode="const"),
        G(z, c, truncation_psi=0.7, noise_mode="const"),
    )


def test_files_without_pipe_or_other_networks(G: Any) -> None:
    data = load(reference_pickle(G_ema=G))
    assert (data["G"], data["D"], data["augment_pipe"], data["training_set_kwargs"]) == (None, None, None, {})
    refused(reference_pickle(G=G), "has no G_ema")


def test_the_decoder_is_found_without_its_argument(D: Any, G: Any) -> None:
    stored = as_reference(
        D, kwargs={key: value for key, value in D.init_kwargs.items() if key != "decoder_res"}
    )
    assert load(reference_pickle(G_ema=G, D=stored))["D"].decoder_res == 16
    plain = Discriminator(0, 16, 1, **SIZES)
    stored = as_reference(
        plain, kwargs={key: value for key, value in plain.init_kwargs.items() if key != "decoder_res"}
    )
    assert load(reference_pickle(G_ema=G, D=stored))["D"].decoder_res is None


def test_positional_arguments(G: Any, D: Any) -> None:
    stored = as_reference(
        G,
        args=(8, 2, 8),
        kwargs={
            "img_resolution": 16,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 2},
            "synthesis_kwargs": SIZES,
        },
    )
    assert_same_state(load(reference_pickle(G_ema=stored))["G_ema"], G)
    unconditional = Discriminator(0, 16, 3, "skip", 64, 4, 1, 256)
    stored = as_reference(unconditional, args=(0, 16, 3, "skip", 64, 4, 1, 256), kwargs={})
    found = load(reference_pickle(G_ema=G, D=stored))["D"]
    assert_same_state(found, unconditional)
    assert found.init_kwargs == unconditional.init_kwargs
    refused(reference_pickle(G_ema=as_reference(G, args=(8,) * 8)), "8 positional arguments")


def easy_dict(**values: Any) -> Any:
    """An instance of ``dnnlib.util.EasyDict``, as the reference has it."""
    return sys.modules["dnnlib.util"].EasyDict(values)


@pytest.fixture
def dnnlib_util(monkeypatch: pytest.MonkeyPatch) -> None:
    class EasyDict(dict):
        __module__ = "dnnlib.util"
        __qualname__ = "EasyDict"

    module = types.ModuleType("dnnlib.util")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "dnnlib.util", module)
    monkeypatch.setattr(sys.modules["dnnlib"], "util", module, raising=False)


@pytest.mark.usefixtures("dnnlib_util")
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_stylegan3_takes_synthesis_arguments_beside_the_generators(protocol: Any) -> None:
    """Its other defaults for half precision and clamping are read from the modules."""
    torch.manual_seed(2)
    G = Generator(
        8, 0, 8, 32, 3, dict(num_layers=2, w_avg_beta=0.998), dict(**SIZES, num_fp16_res=2, conv_clamp=256)
    ).requires_grad_(False)
    D = Discriminator(0, 32, 3, **SIZES, num_fp16_res=2, conv_clamp=256).requires_grad_(False)
    own = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 32, "img_channels": 3}
    kwargs = easy_dict(
        **own,
        mapping_kwargs=easy_dict(num_layers=2, w_avg_beta=0.998),
        **SIZES,
        fused_modconv_default="inference_only",
    )
    D_kwargs = easy_dict(
        c_dim=0,
        img_resolution=32,
        img_channels=3,
        **SIZES,
        block_kwargs=easy_dict(freeze_layers=0),
        mapping_kwargs=easy_dict(),
        epilogue_kwargs=easy_dict(mbstd_group_size=4),
    )
    data = load(
        reference_pickle(protocol, G_ema=as_reference(G, kwargs=kwargs), D=as_reference(D, kwargs=D_kwargs))
    )
    found = data["G_ema"]
    assert_same_state(found, G)
    assert found.init_kwargs["synthesis_kwargs"] == {**SIZES, "num_fp16_res": 2, "conv_clamp": 256}
    assert [found.synthesis.get_submodule(f"b{res}").use_fp16 for res in (4, 8, 16, 32)] == [
        False,
        False,
        True,
        True,
    ]
    assert found.synthesis.b32.conv1.conv_clamp == 256
    assert found.mapping.w_avg_beta == 0.998
    assert {key: data["D"].init_kwargs[key] for key in ("num_fp16_res", "conv_clamp")} == {
        "num_fp16_res": 2,
        "conv_clamp": 256,
    }
    given = as_reference(G, kwargs={**kwargs, "num_fp16_res": 0, "conv_clamp": None})
    assert not load(reference_pickle(protocol, G_ema=given))["G_ema"].synthesis.b32.use_fp16


def test_tensors_of_any_layout_and_precision(G: Any) -> None:
    stored = as_reference(G)
    weight = stored.child("synthesis.b8.conv0").state["_parameters"]["weight"]
    shared = torch.randn(2, weight.numel() + 7)
    variants = {
        "synthesis.b8.conv0": weight.to(memory_format=torch.channels_last),
        "synthesis.b8.conv1": shared[1, 5:-2].view_as(weight).transpose(0, 1),
        "synthesis.b16.conv0": weight.half(),
        "synthesis.b16.conv1": weight.double(),
    }
    for path, value in variants.items():
        stored.child(path).state["_parameters"]["weight"] = torch.nn.Parameter(value, requires_grad=False)
    state = load(reference_pickle(G_ema=stored))["G_ema"].state_dict()
    for path, value in variants.items():
        assert state[f"{path}.weight"].dtype == torch.float32
        assert torch.equal(state[f"{path}.weight"], value.float())


def test_other_state_is_ignored_and_transient_buffers_are_no_weights(G: Any) -> None:
    stored = as_reference(G)
    stored.state["_buffers"] = {"cache": torch.zeros(3), "nothing": None}
    stored.state["_non_persistent_buffers_set"] = {"cache"}
    stored.state["_backward_hooks"] = collections.OrderedDict()
    stored.state["whatever"] = [
        np.float64(1.5),
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.eye(2, dtype=">f4")),
        torch.Size([1, 2]),
    ]
    stored.state["dtype"], stored.state["device"] = torch.float32, torch.device("cuda:0")
    assert_same_state(load(reference_pickle(G_ema=stored))["G_ema"], G)


def test_arrays_among_the_plain_values(G: Any) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.asfortranarray([[1.5, 2, 3], [4, 5, 6]]),
        "c": np.eye(2, dtype=">f4"),
        "d": np.zeros([0, 2]),
    }
    for protocol in (3, 4, 5):
        found = load(reference_pickle(protocol, G_ema=G, training_set_kwargs=arrays))["training_set_kwargs"]
        for key, value in arrays.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("version", [1, 5, 6, 7])
def test_any_version_of_the_protocol(G: Any, version: Any) -> None:
    stored = as_reference(G)
    stored.meta["version"] = version
    assert_same_state(load(reference_pickle(G_ema=stored))["G_ema"], G)


def changed(stored: Any, **kwargs: Any) -> Any:
    stored.state["_init_kwargs"] = {**stored.state["_init_kwargs"], **kwargs}
    return stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: changed(s, style_dim=3), "Generator has no argument 'style_dim'"),
        (
            lambda s: changed(s, synthesis_kwargs={**SIZES, "attention": True}),
            r"Generator \(synthesis_kwargs\) has no argument 'attention'",
        ),
        (lambda s: changed(s, synthesis_kwargs=[]), "'synthesis_kwargs' of Generator is no dictionary"),
        (lambda s: changed(s, img_resolution=32), "larger network|lacks"),
        (lambda s: changed(s, img_resolution=8), "unexpected 'synthesis.b16"),
        (lambda s: s.state.pop("_init_kwargs"), "Generator cannot be built from its arguments"),
        (lambda s: s.state.update(_init_args=[]), "the constructor arguments of Generator are none"),
        (
            lambda s: s.meta.update(class_name="ToRGBLayer"),
            "class 'ToRGBLayer'; known are Generator, Discriminator",
        ),
        (lambda s: s.meta.update(class_name=None), "damaged"),
        (lambda s: s.meta.update(state=None), "damaged"),
        (lambda s: s.meta.update(type="function"), "damaged"),
        (lambda s: s.state["_modules"].pop("synthesis"), "generator without synthesis network"),
        (
            lambda s: (
                s.child("synthesis").state["_modules"].update(input=ReferenceObject("SynthesisInput", {}))
            ),
            "alias-free generator",
        ),
        (
            lambda s: s.child("mapping").state.update(_buffers=[]),
            "'_buffers' of 'MappingNetwork' is no dictionary",
        ),
        (lambda s: s.child("mapping").state["_buffers"].pop("w_avg"), "lacks 'mapping.w_avg'|larger network"),
        (
            lambda s: s.child("mapping").state["_buffers"].update(w_avg=3),
            "'mapping.w_avg' of an unknown kind",
        ),
        (lambda s: s.child("mapping").state["_modules"].update(fc0={}), "'mapping.fc0' of an unknown kind"),
        (lambda s: s.child("mapping").state["_modules"].update({"x" * 1000: {}}), "without a usable name"),
        (
            lambda s: s.child("mapping").state["_buffers"].update(w_avg=torch.zeros(8, dtype=torch.int32)),
            "'mapping.w_avg' of Generator is of type int32",
        ),
        (
            lambda s: s.child("mapping").state["_buffers"].update(w_avg=torch.zeros(1).expand(8)),
            "1 stored elements for",
        ),
        (
            lambda s: s.child("mapping").state["_buffers"].update(w_avg=torch.zeros(8, dtype=torch.bfloat16)),
            r"refers to torch\.BFloat16Storage",
        ),
        (lambda s: s.state.update(a=torch.nn.Linear(1, 1)), r"refers to torch\.nn\.modules\.linear\.Linear"),
        (lambda s: s.state.update(a=print), r"refers to builtins\.print"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(G: Any, change: Any, message: Any) -> None:
    stored = as_reference(G)
    change(stored)
    refused(reference_pickle(G_ema=stored), message)


def test_tensorflow_pickles_are_recognised() -> None:
    data = pickle.dumps([1, 2])[:-1].replace(b"]", b"cdnnlib.tflib.network\nNetwork\n)R]", 1) + b"."
    refused(data, r"TensorFlow versions \(dnnlib\.tflib\.network\.Network\).*legacy\.py")
    refused(b"\x80\x03ctfutil\nNetwork\n)R.", "TensorFlow versions")
