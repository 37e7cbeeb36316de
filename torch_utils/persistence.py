"""Writes and opens network pickles: generator, discriminator, average and what is needed to use them.

docs/formats.md describes the files. Opening one runs nothing that is in it: see :mod:`torch_utils.pickles`.
"""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from dnnlib.errors import UserError
from dnnlib.file_kinds import kind_of
from dnnlib.files import atomic_write
from dnnlib.untrusted import one_line, open_ordinary, parsing, reason
from torch_utils.pickles import registry
from torch_utils.pickles.arrays import plain
from torch_utils.pickles.record import NetworkRecord
from torch_utils.pickles.reference import record_from_reference
from torch_utils.pickles.unpickler import DamagedPickle, ForbiddenName, read_pickle
from torch_utils.pickles.values import NAMES, PersistentObject, StoredTensor
from torch_utils.recorded import check_recorded

FORMAT = "stylegan2-ada-ggdr networks"
VERSION = 2
NETWORKS = ("G", "D", "G_ema", "augment_pipe")
RECORDED = ("training_set_kwargs", "info")
TENSOR_TYPES = ("<f2", "<f4", "<f8")
#: What pickles of ProGAN, StyleGAN and StyleGAN2 for TensorFlow refer to.
TENSORFLOW_CLASSES = ("dnnlib.tflib.network.Network", "tfutil.Network")

# These register the project's networks. They are imported when a file is first opened or written, so programs
# need this module only.
registry.provide_by("training.networks", "training.augment")

PORTABLE_SOURCE = Path(__file__).with_name("pickles") / "portable.py"
PERSISTENCE_VERSION = 6  # of the reference's protocol
#: Arguments that files always state, because StyleGAN3 has other defaults than StyleGAN2-ADA-PyTorch and this
#: project.
EXPLICIT: dict[str, dict[str, Any]] = {
    "synthesis_kwargs": {"num_fp16_res": 0, "conv_clamp": None},
    "mapping_kwargs": {"w_avg_beta": 0.995},
}


def save_network_pkl(
    path: str | os.PathLike[str],
    *,
    G: nn.Module | None,
    D: nn.Module | None,
    G_ema: nn.Module,
    augment_pipe: nn.Module | None = None,
    training_set_kwargs: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a network pickle; the file appears complete or not at all.

    Args:
        path: of the file.
        G: the generator, or None. The reference's programs can't open a file without ``G`` or ``D``.
        D: the discriminator, or None.
        G_ema: the generator's average.
        augment_pipe: the augmentation pipe of the run, or None.
        training_set_kwargs: arguments that open the training set again.
        info: further plain values to record, such as ``kimg``.

    Raises:
        OSError: the file can't be written.
        TypeError: a network's class is not registered, or ``training_set_kwargs`` or ``info`` has values that
            are not plain.
    """
    networks = dict(zip(NETWORKS, (G, D, G_ema, augment_pipe), strict=True))
    source = PORTABLE_SOURCE.read_text(encoding="utf-8")
    data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    data.update(
        {name: None if module is None else _Packed(module, source) for name, module in networks.items()}
    )
    data.update(training_set_kwargs=plain(training_set_kwargs or {}), info=plain(info or {}))
    with atomic_write(path) as stream:
        pickle.dump(data, stream, protocol=4)


def load_network_pkl(source: str | os.PathLike[str] | IO[bytes]) -> dict[str, Any]:
    """Open a network pickle without running anything in it.

    It may be this project's, or one of StyleGAN2-ADA-PyTorch, GGDR or StyleGAN3 (with StyleGAN2 networks).

    Args:
        source: a path, or a file opened for reading bytes.

    Returns:
        a dictionary. ``G``, ``D``, ``G_ema`` and ``augment_pipe`` are modules of this project, in float32, in
        evaluation mode, on the CPU, without gradients; all but ``G_ema`` may be None. ``training_set_kwargs``
        and ``info`` are dictionaries of plain values; ``info`` is empty for files of the reference.

    Raises:
        UserError: the file is missing or damaged, has networks of another kind, or refers to anything but
            tensors, arrays, plain values and known classes.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise UserError(f"network pickle {source} is a folder, not a file")
        if not path.exists():
            raise UserError(f"network pickle {source} does not exist")
        with parsing(f"network pickle {source}"), open_ordinary(path) as stream:
            return _load(stream, str(source))
    return _load(source, str(getattr(source, "name", "the given file")))


def _load(stream: IO[bytes], name: str) -> dict[str, Any]:
    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    start = stream.tell()
    size = stream.seek(0, io.SEEK_END) - start
    stream.seek(start)
    kind, words = kind_of(stream)
    if kind not in ("pickle", "text", "unknown"):  # pickles of protocol 0 are text
        raise UserError(f"{name} is not a network pickle but {words}; give a network-snapshot-*.pkl")
    try:
        data = read_pickle(stream, NAMES)
    except ForbiddenName as error:
        raise UserError(f"{name} {_refusal(str(error))}") from error
    except DamagedPickle as error:
        found = (
            f"is not a network pickle but {words}"
            if kind == "text"
            else "is not a network pickle, or it is truncated or damaged"
        )
        raise UserError(f"{name} {found} ({reason(error)}); give a network-snapshot-*.pkl") from error
    _check_kind(data, name)
    loaded: dict[str, Any] = {}
    for part in NETWORKS:
        with parsing(f"{name} cannot be used: its {part}", "is damaged or of an unknown kind"):
            stored = data.pop(part, None)  # so that its memory is free again before the next one is built
            loaded[part] = None if stored is None else _record(stored).build(limit=size, slot=part).float()
    for part in RECORDED:
        with parsing(f"{name} cannot be used: its {part}", "is damaged or of an unknown kind"):
            loaded[part] = _dictionary(data.get(part))
    check_recorded(loaded, name)
    if loaded["G_ema"] is None:
        raise UserError(f"{name} has no G_ema, the network that images are made with")
    return loaded


def _check_kind(data: Any, name: str) -> None:
    if not isinstance(data, dict) or not any(part in data for part in NETWORKS):
        raise UserError(f"{name} is a pickle, but not a network pickle")
    if data.get("format", FORMAT) != FORMAT:
        raise UserError(f"{name} is a pickle, but not a network pickle of this project")
    version = data.get("version", VERSION)
    if type(version) is not int or not 1 <= version <= VERSION:
        shown = one_line(str(version), 40) if type(version) in (int, float, str) else type(version).__name__
        raise UserError(
            f"{name} has format version {shown}, this program reads up to {VERSION}; update the program"
        )


def _record(stored: Any) -> NetworkRecord:
    """A network in any of its forms: version 1 or 2 of this project, or the reference's.

    A file can mix the last two if a program of the reference family changed it.
    """
    if isinstance(stored, PersistentObject) and "tensors" not in stored.state:
        return record_from_reference(stored)
    packed = stored.state if isinstance(stored, PersistentObject) else stored
    class_name = packed["class_name"] if isinstance(stored, PersistentObject) else packed["class"]
    if type(class_name) is not str:  # checked before a look-up: hashing a nested tuple can take forever
        raise TypeError("a class name that is not text")
    return NetworkRecord(
        class_name,
        _dictionary(packed["init_kwargs"]),
        {key: _tensor(value) for key, value in packed["tensors"].items()},
    )


def _tensor(packed: Any) -> StoredTensor:
    data, dtype, shape = packed["data"], packed["dtype"], packed["shape"]
    if type(data) is not bytes or dtype not in TENSOR_TYPES or type(shape) is not list:
        raise ValueError("a tensor of an unknown kind")
    return StoredTensor.contiguous(data, np.dtype(dtype), tuple(shape))


def _dictionary(value: Any) -> dict[str, Any]:
    value = plain(value)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError("no dictionary of names")
    return value


def _refusal(name: str) -> str:
    if name in TENSORFLOW_CLASSES:
        return (
            f"is a network pickle of StyleGAN's TensorFlow versions ({name}), which only they can open; "
            "convert it with stylegan2-ada-pytorch's legacy.py (--source, --dest) and open the result"
        )
    return (
        f"was not opened: it refers to {one_line(name, 200)}, which no network pickle needs and which could "
        "run code"
    )


class _Packed:
    """Pickles a network as a persistent object of the reference, of a class in :data:`PORTABLE_SOURCE`."""

    def __init__(self, module: nn.Module, source: str) -> None:
        name = type(module).__name__
        if name not in registry.known():
            raise TypeError(f"{name} cannot be stored in a network pickle")
        kwargs = dict(module.init_kwargs)  # type: ignore[arg-type]
        if name == "Generator":
            kwargs.update({key: {**defaults, **kwargs[key]} for key, defaults in EXPLICIT.items()})
        tensors = {key: _pack_tensor(value) for key, value in module.state_dict().items()}
        state = {"class_name": name, "init_kwargs": plain(kwargs), "tensors": tensors}
        self.meta = dict(
            type="class", version=PERSISTENCE_VERSION, module_src=source, class_name=name, state=state
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,)


def _pack_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    array = tensor.detach().cpu().numpy()
    dtype = array.dtype.newbyteorder("<").str
    if dtype not in TENSOR_TYPES:
        raise TypeError(f"tensors of type {tensor.dtype} cannot be stored in a network pickle")
    return {
        "data": array.astype(dtype, copy=False).tobytes(order="C"),
        "dtype": dtype,
        "shape": list(array.shape),
    }


def _reconstruct_persistent_obj(meta: Any) -> None:
    """The function that network pickles name for making a network. Nothing here calls it."""
    raise UserError(
        "open network pickles with torch_utils.persistence.load_network_pkl, which runs nothing in them"
    )
