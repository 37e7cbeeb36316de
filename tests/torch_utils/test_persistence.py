"""Network pickles: round trip, nothing but data in them, damaged and foreign files refused in one line."""

import io
import os
import pickle
import pickletools

import pytest
import torch

from dnnlib.errors import UserError
from torch_utils.persistence import load_network_pkl, save_network_pkl
from training.augment import AugmentPipe, preset
from training.networks import Discriminator, Generator


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    sizes = {"channel_base": 128, "channel_max": 8}
    G = Generator(8, 2, 8, 32, 3, {"num_layers": 2}, sizes)
    D = Discriminator(2, 32, 3, **sizes, block_kwargs={"freeze_layers": 2}, decoder_res=8)
    pipe = AugmentPipe(**preset("bgc"))
    pipe.p.fill_(0.25)
    return {"G": G, "D": D, "G_ema": G, "augment_pipe": pipe}


@pytest.fixture(scope="module")
def path(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("pkl") / "network.pkl"
    save_network_pkl(path, **networks, training_set_kwargs={"path": "images.zip"}, info={"kimg": 1.5})
    return path


def test_round_trip(networks, path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loaded = load_network_pkl(path)
    assert torch.equal(torch.get_rng_state(), before), "loading draws from the caller's generator"
    assert loaded["training_set_kwargs"] == {"path": "images.zip"}
    assert loaded["info"] == {"kimg": 1.5}
    for name, module in networks.items():
        found = loaded[name]
        assert type(found) is type(module)
        assert not found.training
        assert not any(p.requires_grad for p in found.parameters())
        expected = module.state_dict()
        assert list(found.state_dict()) == list(expected)
        assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    z, c = torch.randn([2, 8]), torch.eye(2)
    assert torch.equal(loaded["G_ema"](z, c, noise_mode="const"), networks["G"](z, c, noise_mode="const"))


def test_open_files_and_missing_pipes(networks, tmp_path):
    path = tmp_path / "network.pkl"
    save_network_pkl(path, **{**networks, "augment_pipe": None})
    with open(path, "rb") as stream:
        assert load_network_pkl(stream)["augment_pipe"] is None
    assert os.listdir(tmp_path) == ["network.pkl"]


def test_the_file_holds_data_only(path):
    """No opcode that imports or calls anything."""
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert not opcodes & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "PERSID", "BINPERSID"}


class Evil:
    """Pickles as a call of ``os.system`` that leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"format": evil}, lambda evil: [evil]])
def test_code_in_a_pickle_is_not_run(tmp_path, wrap):
    data = pickle.dumps(wrap(Evil(tmp_path / "trace")))
    with pytest.raises(UserError, match=r"another kind \(it refers to (posix|os)\.system\)"):
        load_network_pkl(io.BytesIO(data))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fraction", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(path, tmp_path, fraction):
    data = path.read_bytes()
    short = tmp_path / "short.pkl"
    short.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(UserError, match="truncated or damaged"):
        load_network_pkl(short)


def edited(path, edit):
    data = pickle.loads(path.read_bytes())
    edit(data)
    return io.BytesIO(pickle.dumps(data, protocol=4))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(format="other"), "not a network pickle of this project"),
        (lambda data: data.update(version=99), "format version 99"),
        (lambda data: data.pop("D"), "damaged"),
        (lambda data: data["G"].update({"class": "Linear"}), "damaged"),
        (lambda data: data["G"]["init_kwargs"].update(z_dim=9), "damaged"),
        (lambda data: data["G"]["tensors"]["mapping.w_avg"].update(data=b"123"), "damaged"),
        (lambda data: data["G"]["tensors"]["mapping.w_avg"].update(dtype="O"), "damaged"),
    ],
)
def test_damaged_contents_are_refused(path, edit, message):
    with pytest.raises(UserError, match=message) as caught:
        load_network_pkl(edited(path, edit))
    assert "\n" not in str(caught.value) or "damaged" in message


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_network_pkl(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="not a network pickle"):
        load_network_pkl(io.BytesIO(pickle.dumps([1, 2])))
    with pytest.raises(TypeError, match="cannot be stored"):
        save_network_pkl(tmp_path / "a.pkl", G=torch.nn.Linear(1, 1), D=None, G_ema=None)
    assert os.listdir(tmp_path) == []
