"""Stands in for ``train.py`` in tests of the CPU study: states, records and stopping, without networks.

Each kimg that it "trains" is a line of ``ledger.txt`` in the current folder.
"""

import fcntl
import json
import signal
import sys
import time
from pathlib import Path

OPTIONS = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
LEDGER = Path("ledger.txt")
stopping: list[int] = []


def snapshot(run_dir: Path, kimg: int) -> None:
    for metric in OPTIONS["metrics"].split(","):
        names = [f"{metric}_precision", f"{metric}_recall"] if metric.startswith("pr") else [metric]
        record = {
            "results": dict.fromkeys(names, 100 - kimg),
            "snapshot_pkl": f"network-snapshot-{kimg:06d}.pkl",
        }
        with open(run_dir / f"metric-{metric}.jsonl", "a") as stream:
            stream.write(
                json.dumps({**record, "images_seen": kimg * 1000, "detector": OPTIONS["detector"]}) + "\n"
            )


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    if Path("broken").exists() and OPTIONS["outdir"].endswith(Path("broken").read_text()):
        sys.exit(3)
    run_dir = Path(OPTIONS.get("continue", f"{OPTIONS['outdir']}/00000-run"))
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = sorted(run_dir.glob("training-state-*.pt"))
        done = int(states[-1].stem[-10:]) // 1000 if states else 0
        if not states:
            snapshot(run_dir, 0)
        while done < int(OPTIONS["kimg"]) and not stopping:
            time.sleep(0.03)
            done += 1
            with open(LEDGER, "a") as stream:
                stream.write(f"{Path(OPTIONS['outdir']).name} {done}\n")
            if done == int(OPTIONS["kimg"]):
                snapshot(run_dir, done)
            (run_dir / f"training-state-{done * 1000:010d}.pt").touch()


if __name__ == "__main__":
    main()
