"""Network pickles of this project: round trips, contents, and the refusal of damaged or foreign files."""

import inspect
import io
import os
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from torch_utils import persistence
from torch_utils.persistence import load_network_pkl, save_network_pkl
from torch_utils.pickles import registry
from torch_utils.pickles.arguments import integer
from training.augment import AugmentPipe, preset
from training.networks import Discriminator, Generator
from training.networks.layers import MappingNetwork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def networks() -> Any:
    torch.manual_seed(0)
    sizes = {"channel_base": 128, "channel_max": 8}
    G = Generator(8, 2, 8, 32, 3, {"num_layers": 2}, sizes)
    D = Discriminator(2, 32, 3, **sizes, block_kwargs={"freeze_layers": 2}, decoder_res=8)
    pipe = AugmentPipe(**preset("bgc"))
    pipe.p.fill_(0.25)
    return {"G": G, "D": D, "G_ema": G, "augment_pipe": pipe}


@pytest.fixture(scope="module")
def path(networks: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("pkl") / "network.pkl"
    save_network_pkl(path, **networks, training_set_kwargs={"path": "images.zip"}, info={"kimg": 1.5})
    return path


def assert_same_state(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_round_trip(networks: Any, path: Any) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loaded = load_network_pkl(path)
    assert torch.equal(torch.get_rng_state(), before), "loading draws from the caller's generator"
    assert loaded["training_set_kwargs"] == {"path": "images.zip"}
    assert loaded["info"] == {"kimg": 1.5}
    for name, module in networks.items():
        found = loaded[name]
        assert type(found) is type(module)
        assert not any(part.training for part in found.modules())
        assert not any(p.requires_grad for p in found.parameters())
        assert [key for key, _ in found.named_parameters()] == [key for key, _ in module.named_parameters()]
        assert_same_state(found.state_dict(), module.state_dict())
    z, c = torch.randn([2, 8]), torch.eye(2)
    assert torch.equal(loaded["G_ema"](z, c, noise_mode="const"), networks["G"](z, c, noise_mode="const"))
    images = torch.randn([2, 3, 32, 32])
    for found, expected in zip(loaded["D"](images, c, True), networks["D"](images, c, True), strict=True):
        assert torch.equal(found[8], expected[8]) if isinstance(found, dict) else torch.equal(found, expected)


def test_what_is_loaded_can_be_trained_and_saved_again(networks: Any, path: Any, tmp_path: Path) -> None:
    loaded = load_network_pkl(path)
    loaded["G"].requires_grad_(True)(torch.zeros([1, 8]), torch.zeros([1, 2])).sum().backward()
    save_network_pkl(tmp_path / "a.pkl", **loaded)
    save_network_pkl(tmp_path / "b.pkl", **load_network_pkl(tmp_path / "a.pkl"))
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()


def test_layouts_and_precisions_survive(tmp_path: Path) -> None:
    """Odd values, channels-last and transposed weights; half and double precision become single."""
    G = Generator(
        2,
        0,
        2,
        8,
        1,
        {"num_layers": 1},
        dict(channel_base=32, channel_max=4, num_fp16_res=1, fp16_channels_last=True),
    )
    D = Discriminator(0, 8, 1, channel_base=32, channel_max=4).half()
    ema = Generator(2, 0, 2, 8, 1, {"num_layers": 1}, dict(channel_base=32, channel_max=4)).double()
    with torch.no_grad():
        G.synthesis.b4.conv1.bias.copy_(torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]))
    G.mapping.fc0.weight = torch.nn.Parameter(torch.randn([2, 2]).t())
    assert G.synthesis.b8.conv0.weight.is_contiguous(memory_format=torch.channels_last)
    save_network_pkl(tmp_path / "n.pkl", G=G, D=D, G_ema=ema)
    loaded = load_network_pkl(tmp_path / "n.pkl")
    for name, module in (("G", G), ("D", D), ("G_ema", ema)):
        for key, value in module.state_dict().items():
            found = loaded[name].state_dict()[key]
            assert found.dtype == torch.float32
            assert found.numpy().tobytes() == value.float().contiguous().numpy().tobytes(), key
    assert loaded["G"].synthesis.b8.conv0.weight.stride() == G.synthesis.b8.conv0.weight.stride()


def test_open_files_and_missing_networks(networks: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    save_network_pkl(path, **{**networks, "augment_pipe": None, "D": None, "G": None})
    with open(path, "rb") as stream:
        loaded = load_network_pkl(stream)
    assert (loaded["augment_pipe"], loaded["D"], loaded["G"]) == (None, None, None)
    assert os.listdir(tmp_path) == ["network.pkl"]


class Pipe(io.RawIOBase):
    """A stream that only goes forward."""

    def __init__(self, data: Any) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> Any:
        return True

    def readall(self) -> Any:
        return self.data.read()


def test_streams_that_cannot_seek_and_streams_with_more_in_them(networks: Any, path: Any) -> None:
    assert load_network_pkl(Pipe(path.read_bytes()))["info"] == {"kimg": 1.5}
    stream = io.BytesIO(b"before" + path.read_bytes() + b"behind")
    stream.seek(6)
    assert load_network_pkl(stream)["info"] == {"kimg": 1.5}


def test_the_file_refers_to_one_name_and_holds_the_text_of_one_file(path: Any) -> None:
    data = path.read_bytes()
    strings = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    opcodes = [opcode.name for opcode, _, _ in pickletools.genops(data)]
    assert opcodes.count("STACK_GLOBAL") == 1
    assert not set(opcodes) & {"GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "PERSID", "BINPERSID"}
    assert strings[strings.index("torch_utils.persistence") + 1] == "_reconstruct_persistent_obj"
    assert persistence.PORTABLE_SOURCE.read_text() in strings
    imports = [
        line
        for line in persistence.PORTABLE_SOURCE.read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert {line.split()[1].partition(".")[0] for line in imports} == {
        "importlib",
        "inspect",
        "numpy",
        "torch",
    }


def test_an_ordinary_unpickler_is_told_what_to_use(path: Any) -> None:
    with pytest.raises(UserError, match="load_network_pkl"):
        pickle.loads(path.read_bytes())


def test_defaults_that_differ_between_the_references_are_written(path: Any) -> None:
    assert (
        persistence.EXPLICIT["mapping_kwargs"]["w_avg_beta"]
        == inspect.signature(MappingNetwork).parameters["w_avg_beta"].default
    )
    kwargs = load_network_pkl(path)["G"].init_kwargs
    assert kwargs["synthesis_kwargs"] == {
        "num_fp16_res": 0,
        "conv_clamp": None,
        "channel_base": 128,
        "channel_max": 8,
    }
    assert kwargs["mapping_kwargs"] == {"w_avg_beta": 0.995, "num_layers": 2}


def test_plain_values_only(networks: Any, tmp_path: Path) -> None:
    values = {
        "sizes": [-1, 255, -(1 << 40), (1 << 63) - 1, -(1 << 63)],
        "a": [1, 2.5, None, True, b"x", ("t", {"n": {1, 2}})],
        "count": np.int64(3),
        "rate": np.float64(0.5),
    }
    save_network_pkl(tmp_path / "n.pkl", **networks, info=values)
    found = load_network_pkl(tmp_path / "n.pkl")["info"]
    assert found == {**values, "count": 3, "rate": 0.5}
    assert (type(found["count"]), type(found["rate"])) == (int, float)
    itself: list = []
    itself.append(itself)
    for bad, message in (
        ({"dtype": torch.float32}, "dtype"),
        ({"path": tmp_path}, "not plain"),
        ({(1, 2): 3}, "tuple as key"),
        ({"a": itself}, "contains itself"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            save_network_pkl(tmp_path / "bad.pkl", **networks, info=bad)
    with pytest.raises(TypeError, match="cannot be stored"):
        save_network_pkl(tmp_path / "bad.pkl", G=torch.nn.Linear(1, 1), D=None, G_ema=None)
    D = Discriminator(0, 8, 1, channel_base=32, channel_max=4)
    D.b8.resample_filter = D.b8.resample_filter.to(torch.int32)
    with pytest.raises(TypeError, match=r"torch\.int32 cannot be stored"):
        save_network_pkl(tmp_path / "bad.pkl", G=None, D=D, G_ema=None)
    assert os.listdir(tmp_path) == ["n.pkl"]


@pytest.mark.parametrize("fraction", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(path: Any, tmp_path: Path, fraction: Any) -> None:
    data = path.read_bytes()
    short = tmp_path / "short.pkl"
    short.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(
        UserError, match="truncated or damaged" if fraction else "not a network pickle but empty"
    ):
        load_network_pkl(short)


class Editable(pickle.Unpickler):
    """Reads this project's files so that a test can change them."""

    def find_class(self, module: Any, name: Any) -> Any:
        assert (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj")
        return Meta


class Meta:
    def __init__(self, meta: Any) -> None:
        self.meta = meta

    def __reduce__(self) -> Any:
        return persistence._reconstruct_persistent_obj, (self.meta,)


def contents(path: Any) -> Any:
    with open(path, "rb") as stream:
        return Editable(stream).load()


def ask_for_a_large_generator(data: Any, G: Any, D: Any) -> None:
    G["init_kwargs"].update(img_resolution=1 << 20)
    G["init_kwargs"]["synthesis_kwargs"].update(channel_base=1 << 20)


def edited(path: Any, edit: Any) -> Any:
    data = contents(path)
    edit(data, *(data[name].meta["state"] for name in ("G", "D")))
    return io.BytesIO(pickle.dumps(data, protocol=4))


def test_version_1_is_still_read(networks: Any, path: Any) -> None:
    """Its networks are dictionaries."""
    data = contents(path)
    for name in ("G", "D", "G_ema", "augment_pipe"):
        state = data[name].meta["state"]
        data[name] = {
            "class": state["class_name"],
            "init_kwargs": state["init_kwargs"],
            "tensors": state["tensors"],
        }
    loaded = load_network_pkl(io.BytesIO(pickle.dumps({**data, "version": 1}, protocol=4)))
    assert loaded["info"] == {"kimg": 1.5}
    for name, module in networks.items():
        assert_same_state(loaded[name].state_dict(), module.state_dict())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data, G, D: data.update(format="other"), "not a network pickle of this project"),
        (lambda data, G, D: data.update(version=99), "format version 99, this program reads up to 2"),
        (lambda data, G, D: data.update(version="2"), "format version 2,"),
        (lambda data, G, D: data.update(version=[2]), "format version list"),
        (lambda data, G, D: data.update(D=1), "its D is damaged"),
        (lambda data, G, D: data.update(D=[]), "its D is damaged"),
        (lambda data, G, D: data.update(D={}), "its D is damaged"),
        (lambda data, G, D: data.update(G_ema=None), "has no G_ema"),
        (
            lambda data, G, D: data.update(D=data["G"]),
            "its D is damaged .*a Generator stands where the file's Discriminator belongs",
        ),
        (
            lambda data, G, D: data.update(G_ema=data["D"]),
            "its G_ema is damaged .*a Discriminator stands where",
        ),
        (
            lambda data, G, D: data.update(training_set_kwargs={"path": 5}),
            "training_set_kwargs.path must be a path",
        ),
        (lambda data, G, D: data.update(info={"kimg": "x"}), "info.kimg must be a number"),
        (
            lambda data, G, D: data.update(info={"config": {"runtime": 5}}),
            "info.config.runtime must be a dictionary",
        ),
        (lambda data, G, D: data.pop("G_ema"), "has no G_ema"),
        (lambda data, G, D: data.update(info=[1]), "its info is damaged"),
        (lambda data, G, D: data.update(info={1: 2}), "its info is damaged"),
        (lambda data, G, D: data["G"].meta.update(type="function"), "damaged"),
        (lambda data, G, D: data["G"].meta.pop("state"), "damaged"),
        (
            lambda data, G, D: G.update(class_name="Linear"),
            "class 'Linear'; known are AugmentPipe, Discriminator, Generator",
        ),
        (
            lambda data, G, D: G["init_kwargs"].update(z_dim=9),
            r"'mapping.fc0.weight' of Generator has shape \(8, 16\)",
        ),
        (lambda data, G, D: G["init_kwargs"].update(z_dim="8"), "argument 'z_dim' of Generator is '8'"),
        (lambda data, G, D: G["init_kwargs"].update(z_dim=True), "argument 'z_dim' of Generator is True"),
        (lambda data, G, D: G["init_kwargs"].update(z_dim=-1), "argument 'z_dim' of Generator is -1"),
        (
            lambda data, G, D: G["init_kwargs"].update(depth=1),
            "Generator has no argument 'depth'; known are z_dim",
        ),
        (
            lambda data, G, D: G["init_kwargs"].update(mapping_kwargs=3),
            "'mapping_kwargs' of Generator is no dictionary",
        ),
        (
            lambda data, G, D: G["init_kwargs"]["mapping_kwargs"].update(width=1),
            r"Generator \(mapping_kwargs\) has no argument 'width'",
        ),
        (
            lambda data, G, D: G["init_kwargs"]["synthesis_kwargs"].update(resample_filter=[]),
            "'resample_filter'",
        ),
        (
            lambda data, G, D: G["init_kwargs"]["synthesis_kwargs"].update(resample_filter=[1, "3"]),
            "'resample_filter'",
        ),
        (lambda data, G, D: G["init_kwargs"].update(img_resolution=24), "power of two"),
        (lambda data, G, D: G["init_kwargs"].update(w_dim=0), "Generator cannot be built from its arguments"),
        (
            lambda data, G, D: D["init_kwargs"].update(channel_max=1 << 20, channel_base=1 << 20),
            "larger network than the file holds",
        ),
        (ask_for_a_large_generator, "larger network than the file holds"),
        (
            lambda data, G, D: D["init_kwargs"].update(channel_base=10**12),
            "argument 'channel_base' of Discriminator",
        ),
        (lambda data, G, D: D["init_kwargs"].update(decoder_res=16), "lacks 'b16_dec.weight'|larger network"),
        (lambda data, G, D: D["init_kwargs"].update(decoder_res=None), "has the unexpected 'b8_dec.weight'"),
        (lambda data, G, D: D["tensors"].pop("b4.fc.weight"), "lacks 'b4.fc.weight'|larger network"),
        (
            lambda data, G, D: G["tensors"]["mapping.w_avg"].update(data=b"123"),
            "3 bytes for a tensor of shape",
        ),
        (lambda data, G, D: G["tensors"]["mapping.w_avg"].update(data=3), "a tensor of an unknown kind"),
        (lambda data, G, D: G["tensors"]["mapping.w_avg"].update(dtype="O"), "a tensor of an unknown kind"),
        (lambda data, G, D: G["tensors"]["mapping.w_avg"].update(shape=[-8, -1]), "a tensor whose shape"),
        (
            lambda data, G, D: G["tensors"]["mapping.w_avg"].update(shape=[8] + [1] * 9),
            "a tensor whose shape",
        ),
        (
            lambda data, G, D: G["tensors"]["mapping.w_avg"].update(shape=[2, 4]),
            r"'mapping.w_avg' of Generator has shape \(2, 4\)",
        ),
        (lambda data, G, D: G.update(tensors=None), "damaged"),
    ],
)
def test_damaged_contents_are_refused(path: Any, edit: Any, message: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_network_pkl(edited(path, edit))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_network_pkl(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="is a folder"):
        load_network_pkl(tmp_path)
    for data in ([1, 2], {"a": 1}, "text", {"format": persistence.FORMAT}):
        with pytest.raises(UserError, match="is a pickle, but not a network pickle"):
            load_network_pkl(io.BytesIO(pickle.dumps(data)))
    for data in (b"", b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"hello\n" * 9):
        with pytest.raises(UserError, match="not a network pickle"):
            load_network_pkl(io.BytesIO(data))


@pytest.mark.parametrize(
    ("res", "decoder"), [(32, {"num_classes": 3}), (16, {"kernel_size": 3, "activation": "lrelu"})]
)
def test_decoders_of_other_makes(networks: Any, tmp_path: Path, res: Any, decoder: Any) -> None:
    D = Discriminator(0, 32, 3, channel_base=128, channel_max=8, decoder_res=res, decoder_kwargs=decoder)
    save_network_pkl(tmp_path / "d.pkl", G=networks["G"], D=D, G_ema=networks["G_ema"])
    found, images = load_network_pkl(tmp_path / "d.pkl")["D"], torch.randn([2, 3, 32, 32])
    assert found.init_kwargs == D.init_kwargs
    for mine, theirs in zip(
        found(images, None, return_features=True)[1].values(),
        D(images, None, return_features=True)[1].values(),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_a_class_that_registers_itself_can_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's slots take the classes registered for them, with the arguments that they declare."""
    monkeypatch.setattr(registry, "_storables", registry.known())

    @registry.storable("G_ema", arguments={"width": integer(1, 8)})
    class Scale(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.init_kwargs = {"width": width}
            self.weight = torch.nn.Parameter(torch.randn([width]))

    scale = Scale(3)
    save_network_pkl(tmp_path / "a.pkl", G=None, D=None, G_ema=scale)
    found = load_network_pkl(tmp_path / "a.pkl")["G_ema"]
    assert type(found) is Scale
    assert_same_state(found.state_dict(), scale.state_dict())
    save_network_pkl(tmp_path / "b.pkl", G=None, D=scale, G_ema=scale)
    with pytest.raises(UserError, match="a Scale stands where the file's Discriminator belongs"):
        load_network_pkl(tmp_path / "b.pkl")
    save_network_pkl(tmp_path / "c.pkl", G=None, D=None, G_ema=Scale(9))
    with pytest.raises(UserError, match="argument 'width' of Scale is 9, which it cannot be"):
        load_network_pkl(tmp_path / "c.pkl")


def test_a_program_that_imports_persistence_alone_opens_files(tmp_path: Path, networks: Any) -> None:
    save_network_pkl(tmp_path / "a.pkl", **networks)
    code = (
        "import sys; from torch_utils.persistence import load_network_pkl; "
        "assert not any(name.startswith('training') for name in sys.modules); "
        "print(type(load_network_pkl(sys.argv[1])['augment_pipe']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pkl")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "<class 'training.augment.pipe.AugmentPipe'>\n")
