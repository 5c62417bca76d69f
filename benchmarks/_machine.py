"""What every benchmark says about where it ran, and how it reads a data set."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from fullyconv.dataset import Dataset
from fullyconv.device import instruction_set
from fullyconv.synthetic import write_dataset


def machine() -> dict[str, object]:
    """Name the commit, the processor, its threads and the versions that figures depend on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": instruction_set(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_results(name: str, lines: list[str]) -> Path:
    """Write a table, and where it was measured, into a file of today."""
    path = Path(__file__).parent / "results" / f"{datetime.date.today().isoformat()}-{name}.md"
    path.parent.mkdir(exist_ok=True)
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    path.write_text("\n".join([f"# {name}", "", where, "", *lines, ""]), encoding="utf-8")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def open_or_draw(data: Path | None, ignore: tuple[int, ...], folder: Path) -> Dataset:
    """Open a data set, or draw one of 48 images of 480x360 into a folder where none is given."""
    if data is None:
        write_dataset(folder, train=40, val=8, test=0, size=(360, 480), seed=0)
        data = folder
    return Dataset.open(data, ignore=ignore)
