"""Hostile and damaged network pickles: nothing in them runs, and none takes long or much memory."""

import builtins
import codecs
import functools
import io
import json
import operator
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from tests.support.reference_form import ReferenceObject, as_reference, reference_pickle
from torch_utils.persistence import load_network_pkl, save_network_pkl
from training.networks import Generator

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "parity" / "data"
GIGABYTE = 1 << 30


def tiny_generator() -> Any:
    torch.manual_seed(0)
    return Generator(2, 0, 2, 8, 1, {"num_layers": 1}, {"channel_base": 16, "channel_max": 2}).requires_grad_(
        False
    )


def sweep(*arguments: Any) -> dict[str, Any]:
    """What hostile.py prints, its limits held."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-W",
        "error",
        str(ROOT / "tests" / "support" / "hostile.py"),
        *map(str, arguments),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    assert max(result["slowest"].values()) < 10, result["slowest"]
    assert result["peak"] < GIGABYTE
    for name, error in result["errors"].items():
        assert "\n" not in error, name
        assert len(error) < 600, name
        assert error.startswith("the given file "), name
    return result


# --- nothing runs


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def calls(trace: str) -> dict[str, object]:
    """Values whose pickles make the file ``trace``; the keys are the names that an unpickler meets first."""
    code = f"open({trace!r}, 'w').close()"
    module = Call(builtins.__import__, "os")
    return {
        "posix.system": Call(os.system, f"touch {trace}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "io.open": Call(open, trace, "w"),
        "builtins.getattr": Call(getattr, Call(getattr, module, "path"), "join"),
        "builtins.__import__": [module, {"nested": [(Call(eval, code),)]}],
        "functools.partial": Call(functools.partial(eval, code)),
        "operator.methodcaller": Call(operator.methodcaller("touch"), Path(trace)),
        "subprocess.call": Call(subprocess.call, ["touch", trace]),
        "builtins.list": Call(list, Call(map, eval, [code])),
        "torch.serialization.load": Call(torch.load, trace),
        "codecs.open": Call(codecs.open, trace, "w"),
        "_pickle.loads": Call(pickle.loads, pickle.dumps(Call(eval, code))),
        "numpy.memmap": Call(np.memmap, trace, "uint8", "w+", 0, (1,)),
        "pathlib.PosixPath": Path(trace),
        "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
    }


NAMES = tuple(calls("x"))
PLACES = {
    "alone": lambda value: pickle.dumps(value),
    "protocol 3": lambda value: pickle.dumps({"G_ema": value}, protocol=3),
    "a network": lambda value: pickle.dumps({"G_ema": value}),
    "an attribute": lambda value: reference_pickle(G_ema=ReferenceObject("Generator", {"a": value})),
    "a class name": lambda value: reference_pickle(G_ema=ReferenceObject(value, {})),
    "an argument": lambda value: reference_pickle(
        G_ema=as_reference(tiny_generator(), kwargs={"z_dim": value})
    ),
    "plain values": lambda value: reference_pickle(
        G_ema=tiny_generator(), training_set_kwargs={"path": value}
    ),
}


def refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_network_pkl(io.BytesIO(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_refused_by_name_wherever_they_are(tmp_path: Path, name: Any) -> None:
    for write in PLACES.values():
        data = write(calls(str(tmp_path / "trace"))[name])
        refused(data, f"it refers to {re.escape(name)},")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("protocol", [0, 1])
def test_calls_in_old_protocols_and_what_comes_of_calls(tmp_path: Path, protocol: Any) -> None:
    refused(
        pickle.dumps(Call(os.system, f"touch {tmp_path / 'trace'}"), protocol=protocol),
        r"refers to posix\.system",
    )
    refused(f"(S'touch {tmp_path / 'trace'}'\nios\nsystem\n.".encode(), "not allowed")
    chain = b"cbuiltins\ngetattr\n(cos\npath\n" + text("join") + b"tR" + text("x") + b"\x85R."
    refused(chain, r"refers to builtins\.getattr")
    refused(f"(cos\nsystem\nS'touch {tmp_path / 'trace'}'\no.".encode(), r"refers to os\.system")
    assert os.listdir(tmp_path) == []


def test_calls_in_the_bytes_of_a_tensor(tmp_path: Path) -> None:
    """``_load_from_bytes`` is ``torch.load`` in the reference's programs."""
    evil = Call(os.system, f"touch {tmp_path / 'trace'}")
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"a": evil}, zipped)
    torch.save({"a": evil}, legacy, _use_new_zipfile_serialization=False)
    for payload in (pickle.dumps(evil), zipped.getvalue(), legacy.getvalue()):
        data = reference_pickle(
            G_ema=ReferenceObject("Generator", {"a": Call(torch.storage._load_from_bytes, payload)})
        )
        refused(data, r"not in torch's form|refers to posix\.system")
    array = np.array([evil], dtype=object)
    refused(
        reference_pickle(G_ema=tiny_generator(), training_set_kwargs={"a": array}),
        "truncated or damaged .*an array of type 'O8'",
    )
    assert os.listdir(tmp_path) == []


def test_the_reference_s_helpers_are_refused_too() -> None:
    """What can be called by name in its programs."""
    for module, name in (
        ("dnnlib.util", "call_func_by_name"),
        ("dnnlib.util", "construct_class_by_name"),
        ("torch_utils.persistence", "_src_to_module"),
        ("torch_utils.persistence", "load_network_pkl"),
        ("torch.hub", "load"),
        ("training.networks", "Generator"),
        ("collections", "OrderedDict.fromkeys"),
        ("numpy", "dtype.type"),
        ("torch.storage", "_load_from_bytes.__globals__"),
    ):
        refused(
            b"\x80\x04" + text(module) + text(name) + b"\x93.", rf"refers to {re.escape(f'{module}.{name}')},"
        )


def test_names_are_shown_in_one_printable_line() -> None:
    refused(
        b"\x80\x04" + text("a\n\x1b[31m\ud800") + text("b" * 5000) + b"\x93.",
        r"refers to a \\x1b\[31m\\ud800\.b{100,200}\.\.\.,",
    )


def test_the_text_in_trapped_files_is_not_run() -> None:
    for name in ("ggdr", "sg2ada"):
        assert load_network_pkl(GOLDEN / f"official-{name}.pkl")["G_ema"] is not None


# --- nothing takes long, or much memory


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def blob(data: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(data)) + data


def tensor(offset: object, shape: object, stride: object, payload: bytes | None = None) -> ReferenceObject:
    """A generator with a tensor of these numbers over four stored elements, or over ``payload``."""
    storage = Call(torch.storage._load_from_bytes, payload or stored(torch.zeros(4)))
    view = Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, None)
    return ReferenceObject("Generator", {"_buffers": {"a": view}})


def stored(values: torch.Tensor) -> bytes:
    """What stands for a tensor's elements in a pickle."""
    storage = values.__reduce_ex__(4)[1][0]
    data: bytes = storage.__reduce__()[1][0]
    return data


def much_before(payload: bytes) -> bytes:
    """A storage whose description of the machine takes a megabyte."""
    machine = payload.index(b"\x80\x02}")
    end = payload.index(b"\x80\x02", machine + 1)
    return payload[:machine] + pickle.dumps({"little_endian": True, "more": bytes(1 << 20)}) + payload[end:]


def doubled(depth: int, combine: bytes) -> bytes:
    """Opcodes of a value that contains its predecessor twice, ``depth`` times over.

    ``combine`` takes two values from the stack.
    """
    steps = (b"h" + bytes([i]) + b"h" + bytes([i]) + combine + b"\x94" for i in range(depth))
    return b"K\x01\x94" + b"".join(steps)


def nested_modules(depth: int) -> ReferenceObject:
    """A tree of 9^depth modules, nine of which are in the file at each level."""
    state: dict[str, Any] = {}
    for _ in range(depth):
        module = ReferenceObject("Layer", state)
        state = {"_modules": {str(i): module for i in range(9)}}
    return ReferenceObject("Generator", {**state, "_init_kwargs": {}})


def chain_of_modules(depth: int) -> bytes:
    """A module in a module in a module."""
    begin = (
        b"h\x00}("
        + text("type")
        + text("class")
        + text("class_name")
        + text("Generator")
        + text("state")
        + b"}"
        + text("_modules")
        + b"}"
        + text("m")
    )
    end = b"ssu\x85R"
    return (
        b"\x80\x04ctorch_utils.persistence\n_reconstruct_persistent_obj\n\x940}"
        + text("G_ema")
        + begin * depth
        + b"N"
        + end * depth
        + b"s."
    )


def wide_network(width: int) -> bytes:
    """A network of 64 layers whose tensors all lie over the elements of one."""
    weight, bias = torch.zeros([width, width]), torch.zeros([width])
    layers = {
        f"fc{i}": ReferenceObject("Layer", {"_parameters": {"weight": weight, "bias": bias}})
        for i in range(64)
    }
    G = as_reference(tiny_generator())
    G.state["_modules"]["mapping"] = ReferenceObject(
        "MappingNetwork", {"_modules": layers, "_buffers": {"w_avg": bias}}
    )
    sizes = {"z_dim": width, "c_dim": 0, "w_dim": width, "img_resolution": 8, "img_channels": 1}
    G.state["_init_kwargs"] = {**sizes, "mapping_kwargs": {"num_layers": 64}}
    return reference_pickle(G_ema=G)


def itself() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


def opcode_bombs() -> dict[str, tuple[bytes, str]]:
    """Lengths and repetitions that are only claimed, or that are many opcodes."""
    many, length = 400_000, struct.pack("<Q", 1 << 40)
    return {
        "length of bytes": (b"\x80\x04\x8e" + length + b"x", "it ends too early"),
        "length of text": (b"\x80\x04\x8d" + length + b"x", "it ends too early"),
        "length of a bytearray": (b"\x80\x05\x96" + length + b"x", "it ends too early"),
        "length of an integer": (b"\x80\x04\x8b\xff\xff\xff\x7f" + bytes(9), "not allowed"),
        "an integer": (b"\x80\x04\x8a\xff" + bytes(255) + b".", "an integer of 255 bytes"),
        "memo index": (b"\x80\x04Nr\xff\xff\xff\xff.", "not a network pickle"),
        "repeated list": (b"\x80\x04" + b"]" * many + b".", "more than 300000 opcodes"),
        "repeated set": (b"\x80\x04" + b"\x8f\x94" * many + b".", "more than 300000 opcodes"),
        "repeated mark": (b"\x80\x04" + b"(" * many + b".", "more than 300000 opcodes"),
    }


def call_bombs() -> dict[str, tuple[bytes, str]]:
    """Many calls, and calls with much to them."""
    storage = (
        b"ctorch.storage\n_load_from_bytes\n\x94"
        + blob(stored(torch.zeros(4))[:300] + bytes(1 << 20))
        + b"\x85\x94"
    )
    array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R\x94"
    array_state = (
        b"(K\x01M\x00\x04M\x00\x04\x86cnumpy\ndtype\n"
        + text("u1")
        + b"\x85R\x89"
        + blob(bytes(1 << 20))
        + b"t\x94"
    )
    return {
        "many calls": (
            b"\x80\x04ccollections\nOrderedDict\n\x94" + b"h\x00)R" * 50_000 + b".",
            "more than 20000 calls",
        ),
        "a storage many times": (b"\x80\x04" + storage + b"h\x00h\x01R" * 50_000 + b".", "damaged"),
        "an array many times": (
            b"\x80\x04" + array + array_state + b"0" + b"h\x00h\x01b0" * 50_000 + b".",
            "more than 20000 calls",
        ),
        "long arguments": (
            b"\x80\x04cbuiltins\nset\n\x94(" + b"N" * 200_000 + b"t\x94h\x00h\x01R.",
            "unusual arguments",
        ),
        "a long set": (b"\x80\x04cbuiltins\nset\n(" + b"N" * 200_000 + b"l\x85R.", "a large set"),
        "a long name": (b"\x80\x04c" + b"a" * 30_000_000, "a name without an end"),
        "a name too long": (b"\x80\x04c" + b"a" * 1000 + b"\nb\n.", "a name without an end"),
        "attributes of a dictionary": (b"\x80\x04}}" + text("keys") + b"Nsb.", "a state for a dict"),
    }


def nesting_bombs() -> dict[str, tuple[bytes, str]]:
    """Values deep in each other, or in themselves."""
    plain = dict(G_ema=tiny_generator())
    head = reference_pickle(**plain)
    collide = b"".join(
        b"\x8a\x09" + (k * ((1 << 61) - 1)).to_bytes(9, "little") + b"N" for k in range(1, 1000)
    )
    return {
        "deep list": (b"\x80\x04" + b"]" * 140_000 + b"a" * 139_999 + b".", "not a network pickle"),
        "deep tuple": (b"\x80\x04)" + b"\x85" * 200_000 + b".", "not a network pickle"),
        "deep key": (b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.", "a tuple as key"),
        "deep name": (b"\x80\x04)" + b"\x85" * 200_000 + text("a") + b"\x93.", "a name that is not text"),
        "deep class name": (
            b"\x80\x04}("
            + text("version")
            + b"K\x01"
            + text("G_ema")
            + b"}("
            + text("class")
            + b")"
            + b"\x85" * 200_000
            + text("init_kwargs")
            + b"}"
            + text("tensors")
            + b"}uu.",
            "a class name that is not text",
        ),
        "doubled class name": (
            b"\x80\x04"
            + doubled(60, b"\x86")
            + b"0}("
            + text("version")
            + b"K\x01"
            + text("G_ema")
            + b"}("
            + text("class")
            + b"h"
            + bytes([60])
            + text("init_kwargs")
            + b"}"
            + text("tensors")
            + b"}uu.",
            "a class name that is not text",
        ),
        "deep shape": (pickle.dumps({"G_ema": tensor(0, ((((1,),),),), (1,))}), "not integers"),
        "deep plain values": (
            head[:-2] + text("info") + b")" + b"\x85" * 200_000 + head[-2:],
            "its info is damaged",
        ),
        "doubled key": (
            b"\x80\x04}" + doubled(60, b"\x86") + b"0}h" + bytes([60]) + b"Ns.",
            "a tuple as key",
        ),
        "colliding keys": (b"\x80\x04}(" + collide + b"u.", "an integer of 9 bytes"),
        "plain values in themselves": (
            reference_pickle(**plain, training_set_kwargs={"a": itself()}),
            "contains itself",
        ),
    }


def module_bombs() -> dict[str, tuple[bytes, str]]:
    """Modules deep in each other."""
    return {
        "nested modules": (reference_pickle(G_ema=nested_modules(9)), "too many modules"),
        "deep modules": (reference_pickle(G_ema=nested_modules(60)), "too many modules"),
        "a chain of modules": (chain_of_modules(2000), "too many modules"),
    }


def tensor_bombs() -> dict[str, tuple[bytes, str]]:
    """Tensors whose numbers do not fit what is stored."""
    return {
        "one element expanded": (
            pickle.dumps({"G_ema": tensor(0, (1 << 40,), (0,))}),
            "4 stored elements for",
        ),
        "a long shape": (
            pickle.dumps({"G_ema": tensor(0, (3,) * 100_000, (0,) * 100_000)}),
            "100000 dimensions",
        ),
        "large sizes": (
            pickle.dumps({"G_ema": tensor(0, (1 << 62,) * 8, (1,) * 8)}),
            "4 stored elements for",
        ),
        "negative stride": (pickle.dumps({"G_ema": tensor(3, (4,), (-1,))}), "not integers of at least 0"),
        "negative offset": (pickle.dumps({"G_ema": tensor(-1, (4,), (1,))}), "not integers of at least 0"),
        "offset": (pickle.dumps({"G_ema": tensor(1, (4,), (1,))}), "4 stored elements for"),
        "strides": (pickle.dumps({"G_ema": tensor(0, (2, 2), (3, 1))}), "4 stored elements for"),
        "empty with an offset": (
            pickle.dumps({"G_ema": tensor(1 << 62, (0,), (1,))}),
            "a generator without synthesis network",
        ),
        "claimed elements": (
            pickle.dumps(
                {
                    "G_ema": tensor(
                        0, (4,), (1,), stored(torch.zeros(4)).replace(b"K\x04N", b"J\x00\x00\x00\x7fN")
                    )
                }
            ),
            "of an unknown kind",
        ),
        "missing elements": (
            pickle.dumps({"G_ema": tensor(0, (3,), (1,), stored(torch.zeros(4))[:-4])}),
            "12 bytes for 4 elements",
        ),
        "more elements": (
            pickle.dumps({"G_ema": tensor(0, (4,), (1,), stored(torch.zeros(4)) + b"x")}),
            "17 bytes for 4 elements",
        ),
        "a view of a storage": (
            pickle.dumps(
                {"G_ema": tensor(0, (4,), (1,), stored(torch.zeros(4)).replace(b"K\x04N", b"K\x04K\x01"))}
            ),
            "a storage of an unknown kind",
        ),
        "much before a storage": (
            pickle.dumps({"G_ema": tensor(0, (4,), (1,), much_before(stored(torch.zeros(4))))}),
            "it ends too early",
        ),
        "shared elements": (wide_network(1024), "share their elements"),
        "zip bomb": (pickle.dumps({"G_ema": tensor(0, (4,), (1,), zipped(1 << 24))}), "not in torch's form"),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Files that ask for much, and what the message says of them."""
    return {**opcode_bombs(), **call_bombs(), **nesting_bombs(), **module_bombs(), **tensor_bombs()}


def zipped(size: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(size))
    return stream.getvalue()


def test_nothing_takes_long_or_much_memory(tmp_path: Path) -> None:
    wanted = {}
    for name, (data, message) in bombs().items():
        (tmp_path / name).write_bytes(data)
        wanted[name] = message
    result = sweep("load", *(tmp_path / name for name in wanted))
    assert result["loads"] == len(wanted)
    for name, message in wanted.items():
        assert re.search(message, result["errors"].get(name, "it was loaded")), (
            name,
            result["errors"].get(name),
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One network as this project stores it, and as the reference does; small, so that every byte counts."""
    folder = tmp_path_factory.mktemp("tiny")
    G = tiny_generator()
    save_network_pkl(folder / "ours", G=None, D=None, G_ema=G, info={"kimg": 1})
    (folder / "theirs").write_bytes(reference_pickle(G_ema=G))
    return {name: folder / name for name in ("ours", "theirs")}


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_truncation_at_every_tenth_byte(files: Any, name: Any) -> None:
    result = sweep("truncate", files[name], 10)
    assert result["loads"] > 700
    assert len(result["errors"]) == result["loads"]


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_bit_flips(files: Any, name: Any) -> None:
    """A flip in a weight, or in text that nobody reads, changes nothing that can be noticed here."""
    result = sweep("flip", files[name], 200)
    assert 20 < len(result["errors"]) < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_many_bit_flips(files: Any, name: Any) -> None:
    assert sweep("flip", files[name], 1500)["loads"] == 1500


@pytest.mark.slow
def test_a_larger_file() -> None:
    path = GOLDEN / "official-ggdr.pkl"
    result = sweep("truncate", path, 1000)
    assert len(result["errors"]) == result["loads"]
    sweep("flip", path, 100)
