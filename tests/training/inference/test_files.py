"""Networks as safetensors plus JSON: round trips to the bit, and damaged or mismatched files."""

import functools
import http.server
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from dnnlib.files import file_sha256
from tests.support.small_networks import small_generator, write_network
from torch_utils.persistence import NETWORKS
from training.inference.files import json_path, load_networks, save_networks, suffix_of, weights_sha256
from training.inference.opening import open_generator

PERFECT: dict[str, Any] = {"training_set_kwargs": {}, "info": {}}


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    """A pickle's networks, and the same as safetensors."""
    networks = load_networks(
        write_network(tmp_path / "net.pkl", c_dim=2, fp16_channels_last=True, num_fp16_res=1)
    )
    save_networks(tmp_path / "net.safetensors", networks)
    return networks, tmp_path / "net.safetensors"


def same(a: Any, b: Any) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert value.stride() == second[name].stride()
        assert torch.equal(value, second[name])
    assert a.init_kwargs == b.init_kwargs


def test_there_and_back_bit_for_bit(pair: Any, tmp_path: Path) -> None:
    networks, path = pair
    loaded = load_networks(path)
    save_networks(tmp_path / "back.pkl", loaded)
    for found in (loaded, load_networks(tmp_path / "back.pkl")):
        for name in NETWORKS:
            if networks[name] is None:
                assert found[name] is None
            else:
                same(networks[name], found[name])
                assert not found[name].training
        assert {key: found[key] for key in PERFECT} == {key: networks[key] for key in PERFECT}
    z, c = torch.randn([3, 8]), torch.eye(2)[[0, 1, 1]]
    assert torch.equal(networks["G_ema"](z, c, noise_mode="const"), loaded["G_ema"](z, c, noise_mode="const"))
    assert not torch.equal(networks["G"].mapping.w_avg, networks["G_ema"].mapping.w_avg)


def test_the_json_says_what_is_in_the_file(pair: Any) -> None:
    networks, path = pair
    header = json.loads(json_path(path).read_text())
    assert header["sha256"] == file_sha256(path)
    assert header["info"]["kimg"] == 12.5
    assert header["training_set_kwargs"] == {"path": "images.zip", "xflip": False}
    assert header["networks"]["augment_pipe"] is None
    G = header["networks"]["G_ema"]
    assert (G["class"], G["init_kwargs"]["c_dim"], G["weights_sha256"]) == (
        "Generator",
        2,
        weights_sha256(networks["G_ema"]),
    )


def test_the_hash_of_weights_sees_names_shapes_types_and_values() -> None:
    class Holder(torch.nn.Module):
        def __init__(self, **tensors: Any) -> None:
            super().__init__()
            for name, value in tensors.items():
                self.register_buffer(name, value)

    a, b = torch.arange(4.0), torch.ones(2)
    hashes = [
        weights_sha256(module)
        for module in (
            Holder(a=a, b=b),
            Holder(a=a, c=b),
            Holder(a=b, b=a),
            Holder(a=a.reshape(2, 2), b=b),
            Holder(a=a.double(), b=b),
            Holder(a=a + 1e-6, b=b),
            Holder(a=a[:1].reshape([]), b=b),
            Holder(a=a[:1], b=b),
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert weights_sha256(Holder(b=b, a=a)) == hashes[0]
    channels_last = torch.randn([2, 3, 4, 4])
    assert weights_sha256(Holder(a=channels_last)) == weights_sha256(
        Holder(a=channels_last.to(memory_format=torch.channels_last))
    )


def rewrite(path: Any, change: Any) -> None:
    header = json.loads(json_path(path).read_text())
    change(header)
    json_path(path).write_text(json.dumps(header))


def flip_a_byte(path: Any) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def no_safetensors(path: Any) -> None:
    path.write_bytes(b"\xff" * 100)
    rewrite(path, lambda header: header.update(sha256=file_sha256(path)))


def other_weights(path: Any) -> None:
    flip_a_byte(path)
    rewrite(path, lambda header: header.update(sha256=file_sha256(path)))


def in_generator(**changes: Any) -> Any:
    return lambda path: rewrite(path, lambda header: header["networks"]["G_ema"].update(changes))


DAMAGE = [
    (lambda path: path.unlink(), "does not exist"),
    (lambda path: json_path(path).unlink(), r"two files, net\.safetensors and its \.json"),
    (lambda path: json_path(path).write_text("{"), "no valid JSON"),
    (lambda path: json_path(path).write_text("[" * 100_000), "no valid JSON"),
    (lambda path: json_path(path).write_text("[]"), "does not describe networks"),
    (lambda path: rewrite(path, lambda header: header.update(format="other")), "does not describe networks"),
    (
        lambda path: rewrite(path, lambda header: header.update(version=2)),
        "version 2, this program reads version 1",
    ),
    (lambda path: rewrite(path, lambda header: header.pop("networks")), "is damaged: lacks networks"),
    (
        lambda path: rewrite(path, lambda header: header["networks"].update(D=5)),
        r"networks\.D must be a dictionary or null, not 5",
    ),
    (flip_a_byte, "its SHA-256 differs"),
    (no_safetensors, "not a safetensors file"),
    (other_weights, "are not those that were written"),
    (in_generator(**{"class": "Evil"}), "cannot be rebuilt.*Evil"),
    (in_generator(init_kwargs={}), "cannot be rebuilt"),
    (in_generator(init_kwargs={"command": "rm"}), "no argument 'command'"),
    (in_generator(weights_sha256="0"), "are not those that were written"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_gets_one_line(pair: Any, damage: Any, message: Any) -> None:
    _, path = pair
    damage(path)
    with pytest.raises(UserError, match=message) as raised:
        load_networks(path)
    assert "\n" not in str(raised.value)


def test_arguments_cannot_ask_for_memory(pair: Any) -> None:
    _, path = pair
    rewrite(path, lambda header: header["networks"]["G_ema"]["init_kwargs"].update(z_dim=2**20, w_dim=2**20))
    with pytest.raises(UserError, match="larger network than the file holds"):
        load_networks(path)


def test_what_json_cannot_hold_leaves_no_file(tmp_path: Path) -> None:
    networks = load_networks(write_network(tmp_path / "net.pkl"))
    networks["info"] = {"array": np.zeros(3)}
    with pytest.raises(UserError, match=r"no form in JSON"):
        save_networks(tmp_path / "out.safetensors", networks)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pkl"]


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.ONNX"])
def test_no_way_back_from_exports(name: Any) -> None:
    with pytest.raises(UserError, match="there is no way back to the network"):
        load_networks(name)


def test_missing_package(pair: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks, path = pair
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for function in (
        lambda: load_networks(path),
        lambda: save_networks(tmp_path / "x.safetensors", networks),
    ):
        with pytest.raises(
            UserError, match=r"needs the package safetensors.*: pip install -e '\.\[export\]'"
        ):
            function()


def test_endings() -> None:
    assert suffix_of("a/b.PKL") == ".pkl"
    assert suffix_of("https://host/net.safetensors?x=1.pkl#sha256=00") == ".safetensors"
    assert suffix_of("folder.v2/net") == ""


def test_a_network_without_the_rest_survives(tmp_path: Path) -> None:
    G = small_generator()
    save_networks(
        tmp_path / "x.safetensors", {"G": None, "D": None, "G_ema": G, "augment_pipe": None, **PERFECT}
    )
    loaded = load_networks(tmp_path / "x.safetensors")
    same(loaded["G_ema"], G)
    assert loaded["G"] is loaded["D"] is None


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def test_both_files_are_fetched_by_address(
    pair: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    networks, path = pair
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    handler = functools.partial(Quiet, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}/net.safetensors"
            same(load_networks(f"{address}#sha256={file_sha256(path)}")["G_ema"], networks["G_ema"])
        finally:
            server.shutdown()
            thread.join()
    same(load_networks(address)["G_ema"], networks["G_ema"])


def test_a_file_without_the_average_draws_nothing(tmp_path: Path) -> None:
    save_networks(
        tmp_path / "x.safetensors",
        {"G": small_generator(), "D": None, "G_ema": None, "augment_pipe": None, **PERFECT},
    )
    with pytest.raises(UserError, match=r"x\.safetensors holds no averaged generator"):
        open_generator(str(tmp_path / "x.safetensors"))


def test_what_is_needed_must_be_there(pair: Any, tmp_path: Path) -> None:
    save_networks(tmp_path / "average.pkl", {**pair[0], "D": None})
    assert load_networks(tmp_path / "average.pkl", need=["G_ema"])["D"] is None
    with pytest.raises(UserError, match=r"average\.pkl holds no discriminator \(D\), which is needed here"):
        load_networks(tmp_path / "average.pkl", need=["G_ema", "D"])
