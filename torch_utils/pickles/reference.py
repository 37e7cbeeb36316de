"""Reads the networks of the reference family from the objects in their pickles.

StyleGAN2-ADA-PyTorch, GGDR and StyleGAN3 (its StyleGAN2 configurations) store a network as a tree of modules.
Each module has the source text of its class, its constructor arguments and its ``__dict__``. The arguments
and the tensors are enough; the text is never used.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch_utils.pickles import registry
from torch_utils.pickles.arrays import plain
from torch_utils.pickles.record import NetworkRecord
from torch_utils.pickles.values import PersistentObject, StoredTensor

#: Classes of the reference family, and our classes for them. The last is GGDR's pipe, which moves feature
#: maps too, as ours does.
CLASS_NAMES = {
    "Generator": "Generator",
    "Discriminator": "Discriminator",
    "AugmentPipe": "AugmentPipe",
    "AugmentPipeGFeat": "AugmentPipe",
}
#: Arguments that change how a network computes, not its result.
IRRELEVANT = {"fused_modconv_default"}
MAX_TENSORS, MAX_NESTING, MAX_NAME = 10_000, 10, 100


def record_from_reference(stored: PersistentObject) -> NetworkRecord:
    """The network in an object of the reference. Raises :class:`ValueError` if it is unknown or damaged."""
    if stored.class_name not in CLASS_NAMES:
        raise ValueError(f"an object of class {stored.class_name!r:.100}; known are {', '.join(CLASS_NAMES)}")
    class_name = CLASS_NAMES[stored.class_name]
    kwargs = _constructor_arguments(stored, class_name)
    tensors = dict(_tensors(stored, "", _Budget()))
    if class_name == "Generator":
        _adapt_generator(stored, kwargs)
    elif class_name == "Discriminator":
        _add_recorded(
            kwargs, [module for module in _children(stored).values() if isinstance(module, PersistentObject)]
        )
        if "decoder_res" not in kwargs:
            kwargs["decoder_res"] = _decoder_resolution(tensors)
    return NetworkRecord(class_name, kwargs, tensors)


def _constructor_arguments(stored: PersistentObject, class_name: str) -> dict[str, Any]:
    """Constructor arguments by name, positional ones included."""
    args, kwargs = plain(stored.state.get("_init_args", ())), plain(stored.state.get("_init_kwargs", {}))
    if (
        not isinstance(args, tuple)
        or not isinstance(kwargs, dict)
        or not all(isinstance(name, str) for name in kwargs)
    ):
        raise ValueError(f"the constructor arguments of {class_name} are none")
    names = list(registry.find(class_name).arguments or ())
    if len(args) > len(names):
        raise ValueError(f"{class_name} with {len(args)} positional arguments")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _adapt_generator(stored: PersistentObject, kwargs: dict[str, Any]) -> None:
    """Move arguments of the synthesis network to ``synthesis_kwargs``: StyleGAN3 has them beside it."""
    arguments = registry.find("Generator").arguments or {}
    synthesis_arguments: Any = arguments["synthesis_kwargs"]
    synthesis = _children(stored).get("synthesis")
    if not isinstance(synthesis, PersistentObject):
        raise ValueError("a generator without synthesis network")
    if "input" in _children(synthesis):
        raise ValueError(
            "an alias-free generator (StyleGAN3's configurations t and r); only StyleGAN2 networks can be "
            "opened"
        )
    inner = kwargs.setdefault("synthesis_kwargs", {})
    if not isinstance(inner, dict):
        raise ValueError("argument 'synthesis_kwargs' of Generator is no dictionary")
    for name in [name for name in kwargs if name in synthesis_arguments or name in IRRELEVANT]:
        inner[name] = kwargs.pop(name)
    for name in IRRELEVANT:
        inner.pop(name, None)
    blocks = [module for module in _children(synthesis).values() if isinstance(module, PersistentObject)]
    _add_recorded(inner, blocks)


def _add_recorded(kwargs: dict[str, Any], blocks: list[PersistentObject]) -> None:
    """Add the arguments whose defaults differ within the family, as the network's blocks recorded them."""
    if "num_fp16_res" not in kwargs:
        kwargs["num_fp16_res"] = sum(block.state.get("use_fp16") is True for block in blocks)
    if "conv_clamp" not in kwargs:
        layers = [layer for block in blocks for name, layer in _children(block).items() if name == "conv1"]
        clamps = [
            layer.state["conv_clamp"]
            for layer in layers
            if isinstance(layer, PersistentObject) and "conv_clamp" in layer.state
        ]
        kwargs["conv_clamp"] = plain(clamps[0]) if clamps else None


def _decoder_resolution(tensors: Mapping[str, StoredTensor]) -> int | None:
    """The resolution of GGDR's decoder, from the names of its layers, ``b<resolution>_dec``."""
    layers = [name.removeprefix("b").partition("_dec.")[0] for name in tensors if "_dec." in name]
    return max((int(layer) for layer in layers if layer.isdecimal() and len(layer) < 10), default=None)


class _Budget:
    """Limits the parts visited: with shared modules, a small file can describe an endless tree."""

    def __init__(self) -> None:
        self.parts = 0

    def spend(self, depth: int) -> None:
        self.parts += 1
        if self.parts > MAX_TENSORS or depth > MAX_NESTING:
            raise ValueError("a network of too many modules or tensors")


def _children(stored: PersistentObject) -> dict[Any, Any]:
    return _part(stored, "_modules")


def _part(stored: PersistentObject, name: str) -> dict[Any, Any]:
    part = stored.state.get(name, {})
    if not isinstance(part, dict):
        raise ValueError(f"'{name}' of {stored.class_name!r:.100} is no dictionary")
    return part


def _tensors(stored: PersistentObject, prefix: str, budget: _Budget) -> Iterator[tuple[str, StoredTensor]]:
    """The names and tensors of a module's state dictionary."""
    transient = stored.state.get("_non_persistent_buffers_set", ())
    for part in ("_parameters", "_buffers", "_modules"):
        for name, value in _part(stored, part).items():
            budget.spend(prefix.count("."))
            if not isinstance(name, str) or len(name) > MAX_NAME:
                raise ValueError(f"a part of {stored.class_name!r:.100} without a usable name")
            if value is None or (part == "_buffers" and isinstance(transient, set) and name in transient):
                continue
            if part == "_modules" and isinstance(value, PersistentObject):
                yield from _tensors(value, f"{prefix}{name}.", budget)
            elif part != "_modules" and isinstance(value, StoredTensor):
                yield prefix + name, value
            else:
                raise ValueError(f"'{prefix}{name}' of an unknown kind")
