"""Pictures that commands write: none replaces one that other options or networks made.

Every PNG file carries a mark (:data:`training.data.pictures.MARK`), a digest of the options and networks that
made it. The same command may replace its own results. Others are refused unless ``--overwrite`` is given
(:func:`dnnlib.cli.may_overwrite`).
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dnnlib.addresses import is_address
from dnnlib.cli import may_overwrite
from dnnlib.download import local_file
from dnnlib.errors import UserError
from dnnlib.files import file_sha256
from dnnlib.untrusted import parsing
from training.data.decode import open_picture
from training.data.pictures import MARK
from training.inference.files import weights_sha256
from training.inference.renderer import GeneratorRenderer, Renderer


def mark_of(command: str, sources: Sequence[str | nn.Module] = (), **options: Any) -> str:
    """A mark of what decides a command's results.

    Args:
        command: its name.
        sources: networks, whose weights count, in whatever format they came; single files by path or address,
            whose content counts; other text.
        options: all that changes the result, as plain data.

    Raises:
        UserError: a file can't be had.
    """
    record = json.dumps([command, [_content(source) for source in sources], options], sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()[:32]


def _content(source: str | nn.Module) -> str:
    if isinstance(source, nn.Module):
        return weights_sha256(source)
    if not is_address(source) and not os.path.isfile(source):
        return source
    path = local_file(source)
    with parsing(str(path)):
        return file_sha256(path)


def source_of(renderer: Renderer, network: str) -> str | nn.Module:
    """What :func:`mark_of` takes for a network that is opened: its weights, or the file of an export."""
    return renderer.G if isinstance(renderer, GeneratorRenderer) else network


def has_mark(path: str | os.PathLike[str], mark: str) -> bool:
    """Whether ``path`` is a PNG file with this mark."""
    if not os.path.isfile(path):
        return False
    try:
        with open_picture(Path(path).read_bytes(), sys.maxsize) as image:
            return image.format == "PNG" and bool(image.info.get(MARK) == mark)
    except Exception:  # noqa: BLE001  Pillow raises nearly anything on damaged bytes; such a file is not ours
        return False


def check_outputs(
    folder: str | Path, marks: Mapping[str, str], beside: Sequence[str] = (), option: str = "--outdir"
) -> None:
    """Refuse to replace files in a folder that other options made, unless ``--overwrite`` was given.

    Args:
        folder: need not be there.
        marks: names of the PNG files to write, with the mark of each.
        beside: names of files of other kinds that come with them. They are ours where a picture is there with
            its mark.
        option: names the folder in the message.

    Raises:
        UserError: it names the first such file.
    """
    if may_overwrite() or not os.path.isdir(folder):
        return
    there = {
        entry.name for entry in os.scandir(folder) if not entry.is_dir()
    }  # writing over a folder fails by itself
    ours = [name for name, mark in marks.items() if name in there and has_mark(Path(folder, name), mark)]
    foreign = [name for name in marks if name in there and name not in set(ours)]
    foreign += [name for name in beside if name in there and not ours]
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{Path(folder, foreign[0])}{others} would be replaced, and other options or networks made it; "
            f"give another {option}, or --overwrite to replace it"
        )
