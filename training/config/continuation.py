"""Continuing a run: which options may differ from it, and which run a command line means."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line, read_json
from training.config.options import CHANGEABLE, OPTIONS, as_options
from training.config.run_directory import OPTIONS_FILE, snapshot_paths, state_paths
from training.config.schema import TrainConfig


def read_options(run_dir: Path) -> TrainConfig:
    """The configuration of a run. Raises :class:`UserError` where it is missing or not this program's."""
    path = run_dir / OPTIONS_FILE
    if not run_dir.is_dir():
        raise UserError(
            f"--continue={run_dir} is not a folder; give a run directory, such as "
            "training-runs/00000-images-auto1"
        )
    if not os.path.lexists(path):
        raise UserError(f"--continue={run_dir} is not a run directory: it has no {OPTIONS_FILE}")
    values = read_json(path)
    try:
        return TrainConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path} is not from this version of the program: {error}") from error


def check_owner(run_dir: Path, *, trust: bool) -> None:
    """Raise :class:`UserError` where another user owns a run or one of its checkpoints, unless ``trust``.

    A run directory can name any detector, and a detector is a program in TorchScript.
    """
    for path in [] if trust else [run_dir, run_dir / OPTIONS_FILE, *state_paths(run_dir)]:
        if not _owners(path) <= {os.geteuid()}:
            raise UserError(
                f"--continue={run_dir}: {path} belongs to another user, and a run can be made to start any "
                "program (SECURITY.md); give --trust if you trust its owner"
            )


def _owners(path: Path) -> set[int]:
    """User ids of a file and, where it is a link, of its target. A missing file has none."""
    found = set()
    with contextlib.suppress(OSError):
        found.add(path.lstat().st_uid)
        found.add(path.stat().st_uid)
    return found


def has_state(run_dir: Path) -> bool:
    """Whether a run has a checkpoint, whole or damaged."""
    return bool(state_paths(run_dir))


def going_on_advice(run_dir: Path) -> str:
    """What to do after a run had to stop: continue from its last checkpoint, if it has one."""
    return (
        f"go on from the last checkpoint with --continue={run_dir}"
        if has_state(run_dir)
        else new_run_advice(run_dir)
    )


def check_has_state(run_dir: Path) -> None:
    """Raise :class:`UserError`, with what to do, for a run without a checkpoint."""
    if has_state(run_dir):
        return
    raise UserError(
        f"--continue={run_dir} has no training-state-*.pt, so nothing can go on exactly; "
        f"{new_run_advice(run_dir)}"
    )


def new_run_advice(run_dir: Path | None) -> str:
    """What to do where a run cannot go on: start another, from its last snapshot if it has one."""
    snapshots = [] if run_dir is None else snapshot_paths(run_dir)
    return (
        f"start a new run from its networks with --resume={snapshots[-1]}" if snapshots else "start a new run"
    )


def continued(config: TrainConfig, options: Mapping[str, Any], run_dir: Path | None = None) -> TrainConfig:
    """The configuration of a run, with what the command line changes.

    Args:
        config: of the run.
        options: the given options by name (:func:`training.config.options.overrides`).
        run_dir: of the run, for messages.

    Raises:
        UserError: an option that must stay has another value, or the new values contradict each other.
    """
    known = as_options(config)
    reg_type = options.get("reg_type", known["reg_type"])
    changed = {
        option: options[option.parameter]
        for option in OPTIONS
        if option.parameter in known
        and options.get(option.parameter, known[option.parameter]) != known[option.parameter]
        and option.applies({"reg_type": reg_type})
        # The option says "at most": a run in more processes may have a smaller microbatch.
        and not (option.parameter == "batch_gpu" and options["batch_gpu"] >= config.microbatch)
    }
    refused = [option for option in changed if not option.changeable]
    if refused:
        listed = ", ".join(
            f"{option.flag}: {_shown(known[option.parameter])} → {_shown(changed[option])}"
            for option in refused
        )
        changeable = " ".join(option.flag for option in OPTIONS if option.changeable)
        raise UserError(
            f"a continued run keeps its options, and these differ ({listed}); leave them out, or "
            f"{new_run_advice(run_dir)}. Changeable are {changeable}"
        )
    gpus = config.runtime.gpus
    values = {}
    for option, value in changed.items():
        if option.parameter == "gpus":
            gpus = value
        else:
            values.update(dict.fromkeys(option.fields, value))
    return on_gpus(_replaced(config, values), gpus)


def on_gpus(config: TrainConfig, gpus: int) -> TrainConfig:
    """The same run on another number of GPUs: the batch stays, and its microbatches shrink if necessary.

    A microbatch holds at least one group of the minibatch standard deviation, whose size stays.
    Raises :class:`UserError` where that is impossible.
    """
    if gpus == config.runtime.gpus:
        return config
    schedule, largest = config.schedule, config.microbatch
    group = min(config.discriminator.mbstd_group, largest)

    def microbatches(processes: int) -> list[int]:
        if processes < 1 or schedule.batch_size % processes:
            return []
        share = schedule.batch_size // processes
        return [n for n in range(group, min(share, largest) + 1, group) if share % n == 0]

    if not microbatches(gpus):
        possible = [str(2**n) for n in range(schedule.batch_size.bit_length()) if microbatches(2**n)]
        raise UserError(
            f"--gpus={gpus}: the run's batch of {schedule.batch_size} images, in groups of at least {group}, "
            f"cannot be split into {gpus} equal parts; --gpus may be {', '.join(possible)}"
        )
    return _replaced(config, {"runtime.gpus": gpus, "schedule.batch_gpu": microbatches(gpus)[-1]})


def explain_microbatches(before: TrainConfig, after: TrainConfig) -> list[str]:
    """A sentence where another number of processes changed the microbatches."""
    old, new = before.microbatch, after.microbatch
    if old == new:
        return []
    return [
        f"{after.runtime.gpus} processes need microbatches of {new} images, not {old} as before: the random "
        "draws differ from here on."
    ]


def check_same_run(saved: Mapping[str, Any], config: TrainConfig, name: str) -> None:
    """Raise :class:`UserError` where a saved configuration differs in more than :data:`CHANGEABLE`.

    An option that is newer than the saved configuration has its default there.
    """
    try:
        known = TrainConfig.from_dict(saved)
    except UserError as error:
        raise UserError(f"{name} is not from this version of the program: {error}") from error
    different = differences(known.to_dict(), config.to_dict())
    if different:
        raise UserError(f"{name} belongs to another run ({_listed(different)})")


def find_run(outdir: Path, config: TrainConfig, *, trust: bool = False) -> tuple[Path | None, list[str]]:
    """The newest run in ``outdir`` that a command line continues, and why it does not continue newer ones.

    It has a checkpoint and the same options but for :data:`CHANGEABLE`. It belongs to this user unless
    ``trust``.
    """
    notes = []
    numbered = (
        [path for path in outdir.glob("[0-9]*-*") if re.match(r"\d+-", path.name) and path.is_dir()]
        if outdir.is_dir()
        else []
    )
    for path in sorted(numbered, key=lambda path: int(path.name.split("-")[0]), reverse=True):
        try:
            check_owner(path, trust=trust)
            different = differences(read_options(path).to_dict(), config.to_dict())
        except UserError as error:
            notes.append(f"{one_line(path.name)} is not continued: {error}")
            continue
        if not different and has_state(path):
            return path, notes
        notes.append(
            f"{one_line(path.name)} is not continued: "
            + (_listed(different) if different else "it has no training-state-*.pt")
        )
    return None, notes


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that differ, :data:`CHANGEABLE` left out: ``{"optim.lr_G": (old, new)}``.

    Args:
        old: a configuration as plain dictionaries.
        new: another.
    """
    before, after = flat(old), flat(new)
    names = [name for name in {**before, **after} if name not in CHANGEABLE]
    return {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one: ``{"optim.lr_G": 0.002}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(
            flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
        )
    return found


def _replaced(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """All values at once, because some fit only together."""
    sections: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        section, field = path.split(".")
        sections.setdefault(section, {})[field] = value
    parts: dict[str, Any] = {}
    for section, fields in sections.items():
        part = getattr(config, section)
        parts[section] = {**part, **fields} if isinstance(part, dict) else dataclasses.replace(part, **fields)
    return dataclasses.replace(config, **parts)


def _listed(different: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name}: {_shown(old)} → {_shown(new)}" for name, (old, new) in different.items())


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
