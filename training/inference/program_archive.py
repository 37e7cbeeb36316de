"""Reading the programs of ``torch.export`` without running anything but their tensor operators.

``torch.export.load`` trusts its file: it unpickles, evaluates symbolic sizes and guards as Python, and looks
operators up by name. So a ``.pt2`` file is taken apart here first. What passes is a graph of ATen operators
on tensors that are stored as plain bytes; it is put into a fresh archive, without guards and notes on its
source, and that is loaded.
"""

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line, parse_json, parsing

MODEL = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLES = "data/sample_inputs/model.pt"
MAX_MODEL = 2**27  # bytes
PLAIN = (
    "archive_format",
    "archive_version",
    "byteorder",
    ".data/version",
    ".data/serialization_id",
    ".data/alignment",
)
TENSOR_DATA = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
EXTRA = re.compile(r"extra/[\w.]+")

#: What the graphs of this project's generators are made of: arithmetic on tensors in memory. They are listed
#: by name because the same namespace has operators that open files (``from_file``, ``save``).
OPERATORS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        *(
            "add.Tensor",
            "addcmul.default",
            "lerp.Scalar",
            "lerp.Tensor",
            "mul.Tensor",
            "rsqrt.default",
            "square.default",
        ),
        *(
            "conv2d.default",
            "conv_transpose2d.input",
            "linear.default",
            "matmul.default",
            "mean.dim",
            "sum.dim_IntList",
        ),
        *(
            "cat.default",
            "expand.default",
            "flip.default",
            "pad.default",
            "repeat.default",
            "reshape.default",
            "slice.Tensor",
        ),
        *("sym_size.int", "t.default", "transpose.int", "unbind.int", "unsqueeze.default"),
        *("_assert_tensor_metadata.default", "to.dtype", "to.dtype_layout"),
        *(
            "clamp.default",
            "elu.default",
            "leaky_relu.default",
            "relu.default",
            "selu.default",
            "sigmoid.default",
        ),
        *("softplus.default", "tanh.default"),
    )
)
SIZE = re.compile(r"Symbol\('[su]\d+', (positive=True, )?integer=True\)|[su]\d+|\d+")
TREE_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict", None)

#: Kinds of arguments and values that a graph of tensor operators has.
_VALUES = (
    "tensor",
    "int",
    "float",
    "bool",
    "none",
    "scalar_type",
    "memory_format",
    "layout",
    "device",
    "expr",
    "name",
)
_LISTS = ("tensors", "optional_tensors", "ints", "floats", "bools", "sym_ints")
_SYMBOLIC = ("sym_int", "sym_bool")
KINDS = frozenset(f"as_{kind}" for kind in (*_VALUES, *_LISTS, *_SYMBOLIC))


class _Refused(Exception):
    """Something that a graph of tensor operators has no need of."""


def read_program(content: bytes, name: str) -> torch.export.ExportedProgram:
    """The program in a ``.pt2`` file.

    Args:
        content: of a ``.pt2`` file.
        name: of the file, for messages.

    Raises:
        UserError: it is damaged, was made by another version of PyTorch, or holds more than a graph of tensor
            operators.
    """
    with _one_line(name):
        return torch.export.load(io.BytesIO(_archive(_checked(_members(content)))))


def read_extra(content: bytes, name: str) -> dict[str, bytes]:
    """The extra files of a program's ``.pt2`` file by name, without opening the program. Raises as
    :func:`read_program`."""
    with _one_line(name):
        return {
            key.removeprefix("extra/"): value
            for key, value in _members(content).items()
            if EXTRA.fullmatch(key)
        }


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns whatever goes wrong into a :class:`UserError`."""
    with parsing(name, "is damaged, or no program that this PyTorch can open"):
        try:
            yield
        except _Refused as error:
            raise UserError(
                f"{name} holds more than a graph of tensor operators, and opening it could run code: "
                f"{one_line(str(error))}"
            ) from error


def _members(content: bytes) -> dict[str, bytes]:
    """The files of the archive without its top folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _Refused("a compressed file, which may be of any size")
        members = {name.partition("/")[2]: archive.read(name) for name in names}
    if len(members) != len(names):
        raise _Refused("two of its files have the same name")
    for name in members:
        if (
            name not in (MODEL, SAMPLES, *CONFIGS, *PLAIN)
            and not TENSOR_DATA.fullmatch(name)
            and not EXTRA.fullmatch(name)
        ):
            raise _Refused(f"the file '{name}'")
    return members


def _checked(members: dict[str, bytes]) -> dict[str, bytes]:
    """The files to load: checked, and without what is not needed."""
    for name in CONFIGS:
        for key, entry in parse_json(members[name], name)["config"].items():
            if entry["use_pickle"] is not False or not TENSOR_DATA.fullmatch(
                f"{name.rpartition('/')[0]}/{entry['path_name']}"
            ):
                raise _Refused(f"the pickled object '{key}'")
    model = parse_json(members[MODEL], MODEL, limit=MAX_MODEL, finite=False)
    model["guards_code"] = []
    module = model["graph_module"]
    module["treespec_namedtuple_fields"] = {}
    module["metadata"] = {}
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
        if node["target"] not in OPERATORS:
            raise _Refused(f"the operator '{node['target']}'")
    if module["graph"]["custom_obj_values"]:
        raise _Refused("an object of another class")
    for call in module["module_call_graph"]:
        for spec in ("in_spec", "out_spec"):
            if call.get("signature"):
                _check_tree(parse_json(call["signature"][spec], spec)[1])
    _check_values(module)
    if not all(SIZE.fullmatch(symbol) for symbol in model["range_constraints"]):
        raise _Refused("a range of something that is no size")
    return {**members, MODEL: json.dumps(model).encode(), SAMPLES: b""}


def _check_values(value: Any) -> None:
    """Refuse kinds of values that are not in :data:`KINDS`, and sizes that are more than a symbol."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key.startswith("as_") and key not in KINDS:
                raise _Refused(f"a value of the kind '{key}'")
            if key == "expr_str" and not SIZE.fullmatch(entry):
                raise _Refused(f"the size '{entry}'")
            _check_values(entry)
    elif isinstance(value, list):
        for entry in value:
            _check_values(entry)


def _check_tree(spec: dict[str, Any]) -> None:
    """Refuse containers other than tuples, lists and dictionaries."""
    if spec["type"] not in TREE_TYPES:
        raise _Refused(f"a container of the type '{spec['type']}'")
    for child in spec["children_spec"]:
        _check_tree(child)


def _archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()
