"""Reads changed files in a process of its own, which a faulty reader may end: ``python child.py``.

Takes lines of JSON ``{"kind", "given", "first", "count"}``: numbers below 0 stand for the whole file,
``given`` is the path of a file that the kind starts from, or null. Answers each with a line for every changed
file that it begins (``{"begins": number}``) and one at the end (``{"faults": [[number, text], ...],
"seconds", "mebibytes"}``).
"""

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

LIMIT_SECONDS = 10  # of computing, for a file: on a busy machine the clock runs on
LIMIT_WAIT = 120  # by the clock, for a file
LIMIT_ADDRESSES = 8 * 2**30  # bytes for the process, so that a fault does not take the machine's memory


def main() -> None:
    """Serve until standard input ends."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr
    from dnnlib.errors import UserError
    from tests.fuzz.kinds import KINDS

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_ADDRESSES, resource.RLIM_INFINITY))
    made = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, faults, longest = request["kind"], [], 0.0
        with tempfile.TemporaryDirectory() as folder:
            if name not in made:
                if request["given"]:
                    shutil.copy(request["given"], folder)
                made[name] = KINDS[name](Path(folder))
        kind, before = made[name], _resident(reset=True)
        for number in range(request["first"], request["first"] + request["count"]):
            print(json.dumps({"begins": number}), file=answers, flush=True)
            whole = number < 0
            content = kind.content if whole else kind.change(kind.content, random.Random(f"{name} {number}"))
            with tempfile.TemporaryDirectory() as folder:
                kind.write(Path(folder), content)
                began = time.process_time()
                # Both signals end this process, whatever library it is in.
                signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
                signal.alarm(LIMIT_WAIT)
                try:
                    with contextlib.redirect_stderr(io.StringIO()) as printed:
                        kind.read(Path(folder))
                    shown = printed.getvalue()
                except UserError as error:
                    shown = str(error) + "\n"
                    if whole and kind.usable:
                        faults.append([number, f"a whole file is refused: {error}"])
                except BaseException:  # noqa: BLE001  whatever it is, it is reported
                    faults.append([number, traceback.format_exc()[-1500:]])
                    shown = ""
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                longest = max(longest, time.process_time() - began)
                if (
                    any(not letter.isprintable() and letter != "\n" for letter in shown)
                    or "Traceback" in shown
                ):
                    faults.append([number, f"not in printable lines: {shown!r:.1000}"])
        used = _resident() - before
        print(json.dumps({"faults": faults, "seconds": longest, "mebibytes": used}), file=answers, flush=True)


def _resident(*, reset: bool = False) -> float:
    """MiB of memory at the highest point since the last ``reset``; 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
