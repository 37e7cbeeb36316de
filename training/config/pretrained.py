"""Where transfer learning starts: a network pickle by path, by http(s) address, or by one of a few names.

The functions import :mod:`dnnlib.download` themselves: the command line needs :data:`SOURCES` alone.
"""

import os
from pathlib import Path

from dnnlib.errors import UserError

_ROOT = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets"

#: The names that the reference knows, and the addresses of the networks.
SOURCES = {
    "ffhq256": f"{_ROOT}/ffhq-res256-mirror-paper256-noaug.pkl",
    "ffhq512": f"{_ROOT}/ffhq-res512-mirror-stylegan2-noaug.pkl",
    "ffhq1024": f"{_ROOT}/ffhq-res1024-mirror-stylegan2-noaug.pkl",
    "celebahq256": f"{_ROOT}/celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
    "lsundog256": f"{_ROOT}/lsundog-res256-paper256-kimg100000-noaug.pkl",
}


def check_source(resume: str) -> None:
    """Raise :class:`UserError` where ``--resume`` names nothing. Downloads nothing."""
    from dnnlib.download import is_address

    if resume in SOURCES or is_address(resume) or os.path.isfile(resume):
        return
    state = "is a folder, not a file" if os.path.isdir(resume) else "does not exist"
    raise UserError(
        f"--resume={resume} {state}; give a network pickle by path or http(s) address, or one of "
        f"{', '.join(SOURCES)}"
    )


def fetch_source(resume: str) -> Path:
    """The local path of what ``--resume`` names, downloaded if necessary. Raises :class:`UserError`."""
    from dnnlib.download import local_file

    check_source(resume)
    return local_file(SOURCES.get(resume, resume))
