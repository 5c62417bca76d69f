"""What test_processes.py starts by torchrun: each process trains the runs of a plan and says what it found."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.errors import TrainingError
from fullyconv.feature_cache import FeatureCache
from fullyconv.progress import Silent
from fullyconv.train import train

RANK = int(os.environ["RANK"])


class Counting(FeatureCache):
    """A cache that remembers what this process has stored."""

    def __init__(self, folder):
        super().__init__(folder)
        self.stored = []

    def store(self, key, tensors):
        self.stored.append(key)
        super().store(key, tensors)


class InterruptBefore(Silent):
    """Ctrl-C as an epoch begins, in the first process; the other one finds it gone."""

    def __init__(self, epoch):
        self.epoch = epoch

    def track(self, label, total):
        if label.startswith(f"epoch {self.epoch} of"):
            raise KeyboardInterrupt
        return super().track(label, total)


def main(path):
    plan = json.loads(path.read_text())
    for run in plan["runs"]:
        cache = Counting(Path(run["cache"])) if run.get("cache") else None
        start = Dataset.open(plan["data"]), run["out"], recipe(**run["settings"])
        options = {"cache": cache, "use_cache": cache is not None, "resume": run.get("resume", False)}
        if run.get("interrupt_before"):
            with contextlib.suppress(KeyboardInterrupt, TrainingError):
                train(*start, **options, progress=InterruptBefore(run["interrupt_before"]))
                sys.exit("was not interrupted")
            continue
        result = train(*start, **options)
        said = {
            "counts": result.report.counts,
            "report": result.report.to_json(),
            "stored": cache and cache.stored,
        }
        path.with_name(f"{Path(run['out']).name}-{RANK}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    signal.alarm(100)
    main(Path(sys.argv[1]))
