"""Report a protocol as Markdown and plots: means and spread, pairs of equal seed, exact tests, a verdict."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import permutation_test

from dnnlib.errors import UserError
from dnnlib.files import atomic_write, writing
from experiments.cpu_study.protocols import Protocol
from experiments.cpu_study.runs import Curve, find_run, hours_so_far, images_seen, measured, measured_up_to
from experiments.plot_runs import draw
from experiments.plotting import panels, save_figure
from training.config.continuation import differences as option_differences
from training.config.continuation import read_options

#: Verdicts of a complete confirmatory protocol; docs/results/protocol.md has the same sentences.
VERDICTS = {
    "lower": "GGDR has the lower mean FID on every data set, by more than chance explains (p ≤ 0.05): "
    "the claim holds at this scale.",
    "perhaps lower": "GGDR has the lower mean FID on every data set, but chance explains as much (p > 0.05): "
    "nothing is shown.",
    "mixed": "GGDR has the lower mean FID on some data sets and not on others: "
    "the claim is not reproduced at this scale.",
    "not lower": "GGDR has the lower mean FID on no data set: the claim is not reproduced at this scale.",
    "higher": "GGDR has the higher mean FID on every data set, by more than chance explains (p ≤ 0.05): "
    "at this scale it does harm.",
    "none": "A run's last FID is not a finite number, so there is no verdict.",
}
LEVEL = 0.05

#: Values of one data set: ``[arm][seed][name]`` to a curve.
Values = dict[str, dict[int, dict[str, Curve]]]


@dataclass(frozen=True)
class Results:
    """Measured values on one data set.

    Attributes:
        title: of the data set.
        values: all values.
        kimg: of the snapshots that every seed of every arm has measured.
    """

    title: str
    values: Values
    kimg: list[int]

    def at(self, arm: str, name: str, kimg: int) -> np.ndarray:
        """The value ``name`` of each seed of an arm, ``[seeds]``."""
        return np.array([curves[name][kimg] for curves in self.values[arm].values()])


def collect(protocol: Protocol, root: Path) -> dict[str, Results]:
    """The measured values by data set."""
    found = {}
    for data, images in protocol.data.items():
        values: Values = {arm: {} for arm in protocol.arms}
        for run in protocol.runs:
            if run.data == data:
                values[run.arm][run.seed] = measured(find_run(root, run), protocol)
        values = {arm: {seed: seeds[seed] for seed in protocol.seeds} for arm, seeds in values.items()}
        everywhere = [
            set(measured_up_to(curves, protocol)) for seeds in values.values() for curves in seeds.values()
        ]
        found[data] = Results(images.title, values, sorted(set.intersection(*everywhere)))
    return found


def sign_flip_p(pairs: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test of paired differences (Fisher 1935).

    It is the fraction of the 2^n choices of signs whose sum is as far from 0; NaN where a difference is not
    finite.
    """
    if not np.isfinite(pairs).all():
        return math.nan
    if len(pairs) == 1:  # both signs are as far from 0; permutation_test wants two pairs
        return 1.0
    return float(permutation_test((pairs,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue)


def verdict(means: Sequence[tuple[float, float]], p: float) -> str:
    """The key of :data:`VERDICTS` for each data set's mean FIDs (without, with) and the p of all pairs."""
    if not np.isfinite(means).all() or not math.isfinite(p):
        return "none"
    lower, higher = (
        sum(with_ < without for without, with_ in means),
        sum(with_ > without for without, with_ in means),
    )
    if lower == len(means):
        return "lower" if p <= LEVEL else "perhaps lower"
    if lower == 0:
        return "higher" if higher == len(means) and p <= LEVEL else "not lower"
    return "mixed"


def write_report(
    name: str, protocol: Protocol, root: Path, folder: Path, commands: Sequence[str]
) -> list[Path]:
    """Write ``NAME.md`` and plots ``NAME-VALUE.png`` of the snapshots that all runs have measured.

    Without matplotlib, or without values, there is no plot, and the text says so.

    Args:
        name: of the protocol.
        protocol: the protocol.
        root: folder of the runs.
        folder: to write to.
        commands: command lines to list.

    Returns:
        The written files.

    Raises:
        UserError: records can't be read, or a file can't be written.
    """
    results = collect(protocol, root)
    pictures, remark = draw_curves(name, protocol, results, folder)
    lines = [
        f"# Protocol `{name}`: {protocol.title}",
        "",
        f"{standing(protocol, results)} {provenance(name, protocol, root)} "
        f"{sum(hours_so_far(find_run(root, run), protocol.kimg) for run in protocol.runs):.1f} hours of "
        "training and measuring. "
        f"The detector is `{protocol.detector}`: values are comparable with each other, not with those of "
        "other detectors.",
        "",
        *([] if complete(protocol, results) else [*progress(protocol, root), ""]),
        *(line for data in results.values() for line in [*data_section(protocol, data), ""]),
        *outcome(protocol, results),
        "",
        *([remark] if remark else [f"![{path.stem}]({path.name})" for path in pictures]),
        "",
        *option_check(protocol, root),
        "",
        "## Command lines",
        "",
        f"Each training was run in rounds of {protocol.round_kimg} kimg, that is with "
        f"`--kimg={protocol.round_kimg}` first, then with "
        f"`--kimg={2 * protocol.round_kimg} --continue=RUN_DIR` added, and so on; `OMP_NUM_THREADS=1`.",
        "",
        "```bash",
        *commands,
        "```",
    ]
    path = folder / f"{name}.md"
    with writing(folder), atomic_write(path, "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    return [path, *pictures]


def complete(protocol: Protocol, results: dict[str, Results]) -> bool:
    """Whether every run has the values of every snapshot."""
    return all(data.kimg == protocol.snapshots for data in results.values())


def standing(protocol: Protocol, results: dict[str, Results]) -> str:
    """A sentence that says how complete the protocol is."""
    runs = (
        f"{len(protocol.data)} data sets × {len(protocol.arms)} arms × {len(protocol.seeds)} seeds "
        f"to {protocol.kimg} kimg"
    )
    if complete(protocol, results):
        return f"Complete: {runs}."
    return (
        f"**Partial**: {runs} are planned. Only snapshots that every seed of every arm has reached are "
        "shown, and there is no verdict."
    )


def provenance(name: str, protocol: Protocol, root: Path) -> str:
    """When the protocol was begun, the commits and PyTorch of its runs, and the number of starts.

    Raises:
        UserError: the records can't be read.
    """
    runs = {run.name for run in protocol.runs}
    try:
        begun = json.loads((root / f"protocol-{name}.json").read_text(encoding="utf-8"))
        lines = (
            (root / "history.jsonl").read_text(encoding="utf-8").splitlines()
            if (root / "history.jsonl").exists()
            else []
        )
        starts = [
            start
            for start in map(json.loads, lines)
            if start["run"] in runs and start["to_kimg"] <= protocol.kimg
        ]
        day = np.datetime64(int(begun["time"]), "s").astype("datetime64[D]")
        commits = sorted({commit_text(start) for start in [begun, *starts]})
        torch = sorted({s["torch"] for s in [begun, *starts]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the records of the runs in {root} cannot be read ({error})") from error
    return (
        f"Begun on {day}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}; PyTorch {', '.join(torch)}; "
        f"{len(starts)} starts."
    )


def commit_text(start: dict[str, Any]) -> str:
    """The commit of a start, and whether files differed from it."""
    if start["commit"] is None:
        return "not known"
    return f"`{start['commit'][:12]}`{' with uncommitted changes' if start['changed'] else ''}"


def progress(protocol: Protocol, root: Path) -> list[str]:
    """The progress of each run, as a table."""
    lines = ["| run | kimg | snapshots measured |", "|---|---:|---:|"]
    for run in protocol.runs:
        run_dir = find_run(root, run)
        count = len(measured_up_to(measured(run_dir, protocol), protocol))
        lines.append(
            f"| {run.name} | {min(images_seen(run_dir) / 1000, protocol.kimg):g} | {count} of "
            f"{len(protocol.snapshots)} |"
        )
    return lines


def data_section(protocol: Protocol, data: Results) -> list[str]:
    """The section of a data set: values over kimg, then each seed at the last common kimg."""
    lines = [f"## {data.title}", ""]
    if not data.kimg:
        return [*lines, "No snapshot has been measured in all runs."]
    baseline, *others = protocol.arms
    lines += [
        f"Mean ± standard deviation over {len(protocol.seeds)} seeds; that of differences of equal seed, and "
        "how many are below 0.",
        "",
    ]
    for name in value_names(data):
        lines += [
            f"`{name}`:",
            "",
            "| kimg | " + " | ".join([*protocol.arms, *(f"{arm} − {baseline}" for arm in others)]) + " |",
            "|---:|" + "---:|" * (len(protocol.arms) + len(others)),
        ]
        for kimg in data.kimg:
            values = {arm: data.at(arm, name, kimg) for arm in protocol.arms}
            pairs = {arm: values[arm] - values[baseline] for arm in others}
            cells = [
                *map(spread, values.values()),
                *(f"{spread(d)} ({int((d < 0).sum())} of {len(d)})" for d in pairs.values()),
            ]
            lines.append(f"| {kimg} | " + " | ".join(cells) + " |")
        lines.append("")
    return [*lines, *seeds_table(protocol, data)]


def seeds_table(protocol: Protocol, data: Results) -> list[str]:
    """The first value of each run: at the last common kimg, its best so far, its mean over the later half."""
    name, last = value_names(data)[0], data.kimg[-1]
    late = [kimg for kimg in data.kimg if 2 * kimg > last] or [last]
    title = (
        f"`{name}` of every run: at {last} kimg; the best up to there, and where; the mean of the snapshots "
        f"from {late[0]} kimg on:"
    )
    lines = [title, "", "| seed | arm | last | best | late mean |", "|---:|---|---:|---:|---:|"]
    for seed in protocol.seeds:
        for arm in protocol.arms:
            curve = {kimg: data.values[arm][seed][name][kimg] for kimg in data.kimg}
            best, where = min(
                ((value, kimg) for kimg, value in curve.items() if math.isfinite(value)),
                default=(math.nan, 0),
            )
            mean = np.mean([curve[kimg] for kimg in late])
            lines.append(f"| {seed} | {arm} | {curve[last]:.4g} | {best:.4g} ({where} kimg) | {mean:.4g} |")
    return lines


def value_names(data: Results) -> list[str]:
    """Names of the values, in the order of the metrics."""
    return list(next(iter(next(iter(data.values.values())).values())))


def spread(values: np.ndarray) -> str:
    """``112 ± 8.1``: mean and sample standard deviation; the mean alone of a single value."""
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def outcome(protocol: Protocol, results: dict[str, Results]) -> list[str]:
    """The primary outcome of each arm against the first one, with its test and verdict.

    Only a complete confirmatory protocol has a verdict.
    """
    lines = ["## Outcome", ""]
    baseline, *others = protocol.arms
    level = len({data.kimg[-1] if data.kimg else None for data in results.values()}) == 1
    for arm in others:
        pairs, means = [], []
        for data in (data for data in results.values() if data.kimg):
            name, last = value_names(data)[0], data.kimg[-1]
            without, with_ = data.at(baseline, name, last), data.at(arm, name, last)
            with np.errstate(invalid="ignore"):  # inf / inf of runs that came to nothing
                pairs += list(np.log(with_ / without))
            means.append((float(without.mean()), float(with_.mean())))
            lines.append(
                f"- {data.title}: {name} at {last} kimg is {means[-1][0]:.4g} with `{baseline}`, "
                f"{means[-1][1]:.4g} with `{arm}`."
            )
        if not level or not means:
            continue
        p, ratio = sign_flip_p(pairs), math.exp(float(np.mean(pairs)))
        lines.append(
            f"- `{arm}` is lower in {sum(pair < 0 for pair in pairs)} of {len(pairs)} pairs of equal data "
            f"set and seed; the geometric mean of the ratios is {ratio:.3f}. Exact sign-flip test of their "
            f"logarithms: p = {p:.3g}, two-sided, of at least {2 ** (1 - len(pairs)):.2g} that {len(pairs)} "
            "pairs can give."
        )
        if complete(protocol, results) and protocol.confirmatory:
            lines += ["", f"**{VERDICTS[verdict(means, p)]}**"]
    return [*lines, *reservations(protocol, results, level=level)]


def reservations(protocol: Protocol, results: dict[str, Results], *, level: bool) -> list[str]:
    """Reasons why the outcome is no verdict; ``level``: all data sets have reached the same snapshot."""
    if not level or not any(data.kimg for data in results.values()):
        return ["", "The data sets have no last snapshot in common yet, so nothing is tested."]
    if not protocol.confirmatory:
        return [
            "",
            "This protocol is exploratory: its p values are not corrected for looking at several things, and "
            "it gives no verdict.",
        ]
    if not complete(protocol, results):
        return [
            "",
            "The protocol is not complete: there is no verdict, and the test above is not the one that was "
            "planned.",
        ]
    return []


def draw_curves(
    name: str, protocol: Protocol, results: dict[str, Results], folder: Path
) -> tuple[list[Path], str]:
    """Draw the first and the last value (FID and recall), a panel for each data set.

    Returns:
        The files, and a sentence that says why there are none.
    """
    shown = {title: data for title, data in results.items() if data.kimg}
    if not shown:
        return [], "There is nothing to draw yet."
    names, pictures = value_names(next(iter(shown.values()))), []
    for value in dict.fromkeys((names[0], names[-1])):
        try:
            figure, axes = panels(len(shown))
        except UserError as error:  # no matplotlib
            return [], f"There is no plot: {error}"
        for axis, (title, data) in zip(axes, shown.items(), strict=True):
            limited = {
                arm: [
                    {value: {float(kimg): curves[value][kimg] for kimg in data.kimg}}
                    for curves in seeds.values()
                ]
                for arm, seeds in data.values.items()
            }
            draw(axis, value, limited)
            axis.set_title(f"{title}: {value}", fontsize=10)
        pictures.append(folder / f"{name}-{value}.png")
        save_figure(figure, pictures[-1])
    return pictures, ""


def option_check(protocol: Protocol, root: Path) -> list[str]:
    """The resolved options in which the arms differ, as the run directories record them."""
    lines, baseline = ["## Options in which the arms differ", ""], next(iter(protocol.arms))
    found: dict[str, dict[str, set[str]]] = {}
    for run in protocol.runs:
        first, other = (find_run(root, r) for r in (type(run)(run.data, baseline, run.seed), run))
        if run.arm == baseline or first is None or other is None:
            continue
        for option, (before, after) in option_differences(
            read_options(first).to_dict(), read_options(other).to_dict()
        ).items():
            found.setdefault(run.arm, {}).setdefault(option, set()).add(f"{before} → {after}")
    lines += [
        f"- `{arm}`: " + ", ".join(f"{o}: {' or '.join(sorted(v))}" for o, v in options.items())
        for arm, options in found.items()
    ]
    return [*lines, *([] if found else ["No two runs to compare yet."])]
