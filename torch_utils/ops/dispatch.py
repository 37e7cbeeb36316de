"""Which implementation of an op runs."""

from typing import Literal

Impl = Literal["auto", "ref", "native"]


def use_native(op: str, impl: Impl) -> bool:
    """Whether ``op`` runs as a compiled op under ``impl``.

    ``auto`` takes the best implementation available, ``ref`` is plain PyTorch, ``native`` insists on the compiled op.
    No compiled ops are part of this version, so ``auto`` means plain PyTorch.

    Raises:
        ValueError: ``impl`` is none of the three.
        RuntimeError: ``impl='native'`` and the op is not available compiled.
    """
    if impl not in ("auto", "ref", "native"):
        raise ValueError(f"{op}: impl must be 'auto', 'ref' or 'native', not {impl!r}")
    if impl == "native":
        raise RuntimeError(f"{op}: no compiled op is available in this version; use impl='auto' or impl='ref'")
    return False
