"""Which network snapshots of a run stay on disk (``--keep-snapshots``)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line

KEEP_ALL = "all"


@dataclass(frozen=True)
class KeepPolicy:
    """A snapshot stays if any of the rules keeps it.

    Attributes:
        last: how many of the newest stay; at least 1, so that a run always has its newest networks.
        best: whether the one with the best value of the run's first metric stays.
        every: each snapshot whose number, from 0, is a multiple of this stays; 0 for none.
    """

    last: int = 1
    best: bool = False
    every: int = 0

    @staticmethod
    def parse(text: str) -> "KeepPolicy | None":
        """``"last:3,best,every:10"`` to a policy; None for ``"all"``. Raises :class:`UserError`."""
        if text == KEEP_ALL:
            return None
        rules: dict[str, int] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(?:(last|every):([1-9][0-9]{0,17})|(best))\s*", part)
            if match is None:
                raise UserError(
                    f"--keep-snapshots={one_line(text, 40)}: '{part.strip()[:40]}' is not one of last:N, "
                    "every:N, best; or say all"
                )
            rules[match[1] or match[3]] = int(match[2] or 1)
        return KeepPolicy(last=rules.get("last", 1), best="best" in rules, every=rules.get("every", 0))

    def superfluous(self, names: Sequence[str], best: str | None) -> list[str]:
        """The snapshots that no rule keeps.

        Args:
            names: of all snapshots, the oldest first.
            best: the one with the best value, or None.
        """
        kept = set(names[-self.last :])
        if self.best and best is not None:
            kept.add(best)
        if self.every:
            kept.update(names[:: self.every])
        return [name for name in names if name not in kept]
