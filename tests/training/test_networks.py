"""Shapes, parameter counts, architectures, freezing, and what GGDR's decoder leaves alone."""

from typing import Any

import pytest
import torch

from training.config.notes import layers_to_freeze
from training.networks import Discriminator, Generator, modulated_conv2d
from training.networks.decoder import decode
from training.networks.discriminator import DiscriminatorBlock, MinibatchStdLayer
from training.networks.layers import HalfPrecision, MappingNetwork, use_bfloat16

SMALL = {"channel_base": 128, "channel_max": 8}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_generator(**kwargs: Any) -> Generator:
    return Generator(
        8,
        kwargs.pop("c_dim", 0),
        8,
        32,
        kwargs.pop("img_channels", 3),
        {"num_layers": 2},
        {**SMALL, **kwargs},
    )


def small_discriminator(c_dim: int = 0, img_channels: int = 3, **kwargs: Any) -> Discriminator:
    return Discriminator(c_dim, 32, img_channels, **SMALL, **kwargs)


def test_parameter_counts_at_paper256() -> None:
    """24.767 M, 24.001 M and with the decoder at 64, 25.576 M: built without memory, on the meta device."""
    with torch.device("meta"):
        G = Generator(512, 0, 512, 256, 3, {"num_layers": 8}, {"channel_base": 16384, "channel_max": 512})
        D = Discriminator(0, 256, 3, channel_base=16384, channel_max=512)
        D_ggdr = Discriminator(0, 256, 3, channel_base=16384, channel_max=512, decoder_res=64)
    assert [round(count(m) / 1e6, 3) for m in (G, D, D_ggdr)] == [24.767, 24.001, 25.576]


def test_without_decoder_keys_and_initial_weights_are_the_baselines() -> None:
    torch.manual_seed(0)
    baseline = small_discriminator().state_dict()
    torch.manual_seed(0)
    extended = small_discriminator(decoder_res=16).state_dict()
    assert list(extended)[: len(baseline)] == list(baseline)
    assert {key.split(".")[0] for key in list(extended)[len(baseline) :]} == {"b8_dec", "b16_dec"}
    for key, value in baseline.items():
        assert torch.equal(value, extended[key]), key


def test_the_decoder_does_not_change_the_logits() -> None:
    torch.manual_seed(0)
    D = small_discriminator(decoder_res=16)
    images = torch.randn([4, 3, 32, 32])
    logits, maps = D(images, None, return_features=True)
    assert torch.equal(logits, D(images, None))
    assert {res: tuple(m.shape) for res, m in maps.items()} == {8: (4, 8, 8, 8), 16: (4, 8, 16, 16)}


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize(("c_dim", "channels"), [(0, 1), (0, 3), (3, 3)])
def test_discriminator_architectures(architecture: Any, c_dim: Any, channels: Any) -> None:
    D = small_discriminator(c_dim, channels, architecture=architecture, decoder_res=8)
    c = torch.eye(3)[[0, 1, 2, 0]] if c_dim else torch.zeros([4, 0])
    images = torch.randn([4, channels, 32, 32])
    logits, maps = D(images, c, return_features=True)
    assert logits.shape == (4, 1)
    assert list(maps) == [8]
    if c_dim:
        assert not torch.allclose(D(images, c.flip(0)), logits)
    assert layers_to_freeze(architecture, 32) == sum(
        block.num_layers for block in D.children() if isinstance(block, DiscriminatorBlock)
    )


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_generator_architectures(architecture: Any, channels: Any) -> None:
    G = small_generator(img_channels=channels, architecture=architecture)
    images, features = G(torch.randn([2, 8]), None, capture=(4, 32))
    assert images.shape == (2, channels, 32, 32)
    assert {res: tuple(f.shape) for res, f in features.items()} == {4: (2, 8, 4, 4), 32: (2, 4, 32, 32)}


def test_a_residual_generator_block_is_the_scaled_sum_of_its_branches() -> None:
    """Each is scaled by √½, so that their sum has the variance of one."""
    block: Any = small_generator(architecture="resnet").synthesis.b16
    x, ws = torch.randn([2, 8, 8, 8]), torch.randn([2, 2, 8])
    quiet = {"noise_mode": "none"}
    branch = block.conv1(block.conv0(x, ws[:, 0], **quiet), ws[:, 1], **quiet)
    torch.testing.assert_close(block(x, None, ws, **quiet)[0], (block.skip(x) + branch) * 0.5**0.5)


def test_noise_modes() -> None:
    G = small_generator()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(1)
    ws = G.mapping(torch.randn([1, 8]), None)
    const, none = G.synthesis(ws, noise_mode="const"), G.synthesis(ws, noise_mode="none")
    assert torch.equal(const, G.synthesis(ws, noise_mode="const"))
    assert not torch.allclose(const, none)
    assert not torch.allclose(G.synthesis(ws), G.synthesis(ws))


def test_both_ways_to_modulate_agree() -> None:
    G = small_generator()
    ws = G.mapping(torch.randn([3, 8]), None)
    fused = G.synthesis(ws, noise_mode="const", fused_modconv=True)
    torch.testing.assert_close(fused, G.synthesis(ws, noise_mode="const"), atol=1e-5, rtol=1e-5)


def test_running_average_of_w_moves_only_when_asked() -> None:
    mapping = MappingNetwork(8, 0, 8, num_ws=4, num_layers=2, w_avg_beta=0.9)
    w = mapping(torch.randn([16, 8]), None)
    assert not mapping.w_avg.any()
    z = torch.randn([16, 8])
    w = mapping(z, None, update_emas=True)
    torch.testing.assert_close(mapping.w_avg, 0.1 * w[:, 0].mean(dim=0))


def test_truncation_limits() -> None:
    mapping = MappingNetwork(8, 0, 8, num_ws=4, num_layers=2)
    mapping.w_avg.normal_()
    z = torch.randn([2, 8])
    w, average = mapping(z, None), mapping.w_avg.expand(2, 4, 8)
    torch.testing.assert_close(mapping(z, None, truncation_psi=0), average)
    cut = mapping(z, None, truncation_psi=0, truncation_cutoff=1)
    torch.testing.assert_close(cut[:, :1], average[:, :1])
    torch.testing.assert_close(cut[:, 1:], w[:, 1:])


@pytest.mark.parametrize("freeze", [0, 1, 4, 100])
def test_frozen_layers_are_buffers_under_the_same_names(freeze: Any) -> None:
    """Layers are counted from the image: fromrgb, conv0, conv1, skip of the first block, and so on."""
    plain = small_discriminator()
    D = small_discriminator(block_kwargs={"freeze_layers": freeze})
    assert set(D.state_dict()) == set(plain.state_dict())
    trainable = {name.rsplit(".", 1)[0] for name, _ in D.named_parameters()}
    layers = [
        f"b{res}.{name}"
        for res in (32, 16, 8)
        for name in ("fromrgb", "conv0", "conv1", "skip")
        if res == 32 or name != "fromrgb"
    ]
    assert trainable & set(layers) == set(layers[freeze:])
    assert "b4.out" in trainable


def test_minibatch_std() -> None:
    """Groups are n, n + N/group, …: two groups of two alternate, and equal images have no deviation."""
    x = torch.tensor([0.0, 5, 2, 5]).reshape(4, 1, 1, 1).expand(4, 2, 4, 4)
    y = MinibatchStdLayer(2)(x)
    assert y.shape == (4, 3, 4, 4)
    torch.testing.assert_close(y[:, 2, 0, 0], torch.tensor([1.0, 0, 1, 0]), atol=2e-4, rtol=0)
    with pytest.raises(ValueError, match="does not divide"):
        MinibatchStdLayer(3)(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Generator(8, 0, 8, 24, 3), "power of two"),
        (lambda: Discriminator(0, 4, 3), "at least 8"),
        (lambda: small_discriminator(decoder_res=32), "not possible"),
        (lambda: small_discriminator(decoder_res=4), "not possible"),
        (
            lambda: small_discriminator(decoder_res=16, decoder_kwargs={"num_classes": 2}),
            "score resolution 16 is not possible",
        ),
        (
            lambda: small_discriminator(decoder_res=16, decoder_kwargs={"kernel_size": 2}),
            "must be odd, not 2",
        ),
        (lambda: small_discriminator(architecture="vgg"), "architecture"),
        (lambda: small_generator(architecture="vgg"), "architecture"),
        (lambda: small_discriminator()(torch.zeros([1, 3, 16, 16]), None), "expected images"),
        (
            lambda: small_discriminator()(torch.zeros([1, 3, 32, 32]), None, return_features=True),
            "no decoder",
        ),
        (lambda: small_generator(c_dim=2)(torch.zeros([1, 8]), None), "expected c"),
        (lambda: small_generator()(torch.zeros([1, 7]), None), "expected z"),
        (lambda: small_generator().synthesis(torch.zeros([1, 3, 8])), "expected ws"),
        (lambda: small_generator()(torch.zeros([1, 8]), None, capture=(64,)), "cannot capture"),
        (lambda: small_generator()(torch.zeros([1, 8]), None, noise_mode="loud"), "noise_mode"),
        (lambda: MappingNetwork(0, 0, 8, num_ws=None), "at least one"),
        (
            lambda: MappingNetwork(8, 0, 8, num_ws=2, w_avg_beta=None)(
                torch.zeros([1, 8]), None, truncation_psi=0.5
            ),
            "truncation",
        ),
    ],
)
def test_wrong_arguments_are_refused(call: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture
def half_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision as on a GPU, carried out on the CPU: the same casts, formats and safeguards."""
    monkeypatch.setattr(HalfPrecision, "half_types", {"cpu": torch.float16})


@pytest.mark.parametrize("nhwc", [False, True])
def test_half_precision_follows_float32(half_on_cpu: Any, nhwc: Any) -> None:
    torch.manual_seed(0)
    G = small_generator(num_fp16_res=2, conv_clamp=256, fp16_channels_last=nhwc)
    D = small_discriminator(
        decoder_res=16, num_fp16_res=2, conv_clamp=256, block_kwargs={"fp16_channels_last": nhwc}
    )
    assert [G.get_submodule(f"synthesis.b{res}").use_fp16 for res in (4, 8, 16, 32)] == [
        False,
        False,
        True,
        True,
    ]
    assert [D.get_submodule(f"b{res}").use_fp16 for res in (8, 16, 32)] == [False, True, True]
    dtypes = {}
    for name in ("synthesis.b32.conv1", "synthesis.b8.conv1"):
        G.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: dtypes.update({name: out.dtype})
        )
    ws = G.mapping(torch.randn([4, 8]), None)
    images, features = G.synthesis(ws, capture=(32,), noise_mode="const")
    assert dtypes == {"synthesis.b32.conv1": torch.float16, "synthesis.b8.conv1": torch.float32}
    full = G.synthesis(ws, noise_mode="const", force_fp32=True)
    assert (images.dtype, features[32].dtype) == (torch.float32, torch.float32)
    assert not torch.equal(images, full)
    torch.testing.assert_close(images, full, atol=0.02, rtol=0.02)
    logits, maps = D(images, None, return_features=True)
    full_logits, full_maps = D(images, None, return_features=True, force_fp32=True)
    assert (logits.dtype, maps[16].dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(logits, full_logits, atol=0.02, rtol=0.02)
    torch.testing.assert_close(maps[16], full_maps[16], atol=0.02, rtol=0.02)
    (maps[16].square().mean() + logits.mean()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in D.parameters())


def test_on_a_cpu_float32_takes_channels_last_from_16_up() -> None:
    G, D = small_generator(), small_discriminator()
    found = {}
    for network, name in (
        (G.synthesis, "b32"),
        (G.synthesis, "b16"),
        (G.synthesis, "b8"),
        (D, "b16"),
        (D, "b8"),
    ):
        block = network.get_submodule(name)
        block.conv0.register_forward_hook(
            lambda _m, _i, out, key=(network is D, name): found.update(
                {key: out.is_contiguous(memory_format=torch.channels_last)}
            )
        )
    images, features = G.synthesis(G.mapping(torch.randn([2, 8]), None), capture=(8, 32))
    D(images, None)
    assert all(x.is_contiguous() for x in (images, *features.values()))  # whatever the blocks compute in
    assert {name for name, last in found.items() if last} == {(False, "b32"), (False, "b16"), (True, "b16")}


def test_bfloat16_runs_on_a_cpu_in_channels_last_and_follows_float32() -> None:
    torch.manual_seed(0)
    G, D = (
        small_generator(num_fp16_res=2, conv_clamp=256),
        small_discriminator(decoder_res=16, num_fp16_res=2, conv_clamp=256),
    )
    before = set(G.state_dict())
    for network in (G, D):
        use_bfloat16(network)
    assert (set(G.state_dict()), G.init_kwargs) == (
        before,
        small_generator(num_fp16_res=2, conv_clamp=256).init_kwargs,
    )
    found = {}
    for module, name in (
        (G.synthesis.b32.conv1, "G32"),
        (G.synthesis.b8.conv1, "G8"),
        (D.b16.conv0, "D16"),
        (D.b8.conv0, "D8"),
    ):
        module.register_forward_hook(
            lambda _m, _i, out, name=name: found.update(
                {name: (out.dtype, out.is_contiguous(memory_format=torch.channels_last))}
            )
        )
    ws = G.mapping(torch.randn([4, 8]), None)
    images, features = G.synthesis(ws, capture=(32,), noise_mode="const")
    logits, maps = D(images, None, return_features=True)
    half, full = (torch.bfloat16, True), (torch.float32, False)
    assert found == {"G32": half, "G8": full, "D16": half, "D8": full}
    assert {images.dtype, features[32].dtype, logits.dtype, maps[16].dtype} == {torch.float32}
    expected = G.synthesis(ws, capture=(32,), noise_mode="const", force_fp32=True)
    assert found["G32"][0] == torch.float32
    torch.testing.assert_close(images, expected[0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(features[32], expected[1][32], atol=0.1, rtol=0.05)
    torch.testing.assert_close(logits, D(images, None, force_fp32=True), atol=0.05, rtol=0.05)


def test_half_precision_is_normalised_before_it_could_overflow() -> None:
    x, styles = torch.randn([1, 8, 4, 4]), 1e5 * torch.rand([1, 8])
    weight = 1e6 * torch.randn([4, 8, 3, 3])
    expected = modulated_conv2d(x, weight, styles, padding=1)
    found = modulated_conv2d(x.half(), weight, styles, padding=1)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_activations_are_clamped() -> None:
    D = small_discriminator(conv_clamp=0.1)
    outputs = []
    D.b32.conv0.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    D(10 * torch.randn([2, 3, 32, 32]), None)
    assert outputs[0].abs().max().item() == pytest.approx(0.1)


@pytest.mark.parametrize(("kernel", "activation"), [(1, "linear"), (1, "lrelu"), (3, "linear"), (3, "lrelu")])
def test_decoder_variants(kernel: Any, activation: Any) -> None:
    """Shapes stay, weights grow with the kernel's area, and an activation is not linear (table 4b)."""
    D = small_discriminator(decoder_res=16, decoder_kwargs={"kernel_size": kernel, "activation": activation})
    plain = small_discriminator(decoder_res=16)
    _, maps = D(torch.randn([2, 3, 32, 32]), None, return_features=True)
    assert {res: tuple(m.shape) for res, m in maps.items()} == {8: (2, 8, 8, 8), 16: (2, 8, 16, 16)}
    shapes, usual = ({name: p.shape for name, p in net.named_parameters()} for net in (D, plain))
    assert shapes.keys() == usual.keys()
    for name, shape in shapes.items():
        assert shape == (usual[name] if "_dec.weight" not in name else (*usual[name][:2], kernel, kernel))
    with torch.no_grad():
        for name in ("b8_dec.bias", "b16_dec.bias"):
            D.get_parameter(name).normal_()
        features = {4: torch.randn([2, 8, 4, 4]), 8: torch.randn([2, 8, 8, 8])}
        zero, at, opposite = (
            decode(D, 16, {res: s * f for res, f in features.items()})[16] for s in (0.0, 1.0, -1.0)
        )
    assert torch.allclose(at + opposite, 2 * zero, atol=1e-4) == (activation == "linear")


def test_a_decoder_of_class_scores() -> None:
    """It ends at the images' resolution with a linear layer of one channel a class, and goes last."""
    D = small_discriminator(decoder_res=32, decoder_kwargs={"num_classes": 5, "activation": "lrelu"})
    logits, maps = D(torch.randn([2, 3, 32, 32]), None, return_features=True)
    assert logits.shape == (2, 1)
    assert {res: m.shape[1] for res, m in maps.items()} == {8: 8, 16: 8, 32: 5}
    assert maps[32].shape == (2, 5, 32, 32)
    assert D.b32_dec.weight.shape == (5, 8 + 8, 1, 1)
    assert (D.b16_dec.activation, D.b32_dec.activation) == ("lrelu", "linear")
    tiny = Discriminator(0, 8, 3, **SMALL, decoder_res=8, decoder_kwargs={"num_classes": 2})
    assert tiny(torch.randn([1, 3, 8, 8]), None, return_features=True)[1][8].shape == (1, 2, 8, 8)


def test_the_encoder_s_first_weights_do_not_depend_on_the_decoder() -> None:
    states = []
    for kwargs in ({}, {"num_classes": 3}, {"kernel_size": 3}):
        torch.manual_seed(0)
        states.append(
            small_discriminator(
                decoder_res=32 if "num_classes" in kwargs else 16, decoder_kwargs=kwargs
            ).state_dict()
        )
    for key, value in states[0].items():
        if "_dec." not in key:
            assert all(torch.equal(value, state[key]) for state in states), key


def test_the_usual_decoder_is_written_as_before() -> None:
    assert "decoder_kwargs" not in small_discriminator(decoder_res=16, decoder_kwargs={}).init_kwargs


def test_only_layers_that_resample_have_another_filter() -> None:
    """The shapes fit the reference's pickles. Layers that do not resample keep the default filter."""
    other = {"resample_filter": [1, 2, 1]}
    networks = (
        small_generator(architecture="resnet", **other),
        small_discriminator(decoder_res=8, block_kwargs=other),
    )
    sizes = {
        name: len(f)
        for net in networks
        for name, f in net.named_buffers()
        if name.endswith("resample_filter")
    }
    resampling = {
        name for name in sizes if name.split(".")[-2] in ("skip", "conv0" if "synthesis" in name else "conv1")
    }
    blocks = {name for name in sizes if name.split(".")[-2] in ("b4", "b8", "b16", "b32")}
    assert len(resampling) == 12
    assert {name for name, size in sizes.items() if size == 3} == resampling | blocks
    images, maps = networks[0].synthesis(torch.randn([2, networks[0].num_ws, 8]), capture=(8,))
    assert networks[1](images, torch.zeros([2, 0]), return_features=True)[1][8].shape == maps[8].shape


def test_activations_of_g_are_clamped() -> None:
    G = Generator(
        8, 0, 8, 32, 3, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8, "conv_clamp": 0.1}
    )
    found = {}
    for name in ("b8.conv0", "b32.conv1", "b32.torgb"):
        G.get_parameter(f"synthesis.{name}.bias").data.fill_(10)
        G.synthesis.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.update({name: out.abs().max().item()})
        )
    G(torch.randn([2, 8]), None)
    assert found == pytest.approx({"b8.conv0": 0.1, "b32.conv1": 0.1, "b32.torgb": 0.1})


def test_initial_values() -> None:
    torch.manual_seed(0)
    G = Generator(8, 0, 8, 32, 3, {"num_layers": 2}, {"channel_base": 128, "channel_max": 8})
    named = dict(G.named_parameters())
    for name, p in named.items():
        if name.endswith("affine.bias"):
            assert (p == 1).all(), name
        elif name.endswith(("bias", "noise_strength")):
            assert not p.any(), name
    assert G.get_parameter("mapping.fc0.weight").detach().std().item() == pytest.approx(100, rel=0.3)
