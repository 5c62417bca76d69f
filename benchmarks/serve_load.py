"""The service under load: throughput against one process that calls the Predictor, latencies, memory.

    python benchmarks/serve_load.py --model RUN/best.safetensors --data ../shared/data/camvid/images/val

The service is a process of its own, the clients are threads of this one, on the same machine: they share its
cores. One process that calls the Predictor turns the same image files into the same mask files in memory, one
after the other. Half load and twice the capacity are rates at which requests are sent, whether or not others were
answered. Without `--model`, the fast recipe's network with an untrained decoder. The soak mixes sizes, one request
in five is broken, one in ten is hung up on.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `fullyconv` sets them

from _machine import machine, open_or_draw, write_results

from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.device import set_threads
from fullyconv.image_files import find_images
from fullyconv.images import mask_bytes
from fullyconv.model import build_model
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor

CLIENTS = 8
"""Who ask one request after the other, to find the capacity."""

MOST_CLIENTS = 256
"""Who can wait at a time when requests are sent at a rate."""

WARM_UP = 500
"""Requests before the memory is measured."""


@dataclass
class Tally:
    """What became of requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: int, seconds: float, *, right: bool = True) -> None:
        """Count an answer; the time counts where there was a mask."""
        with self.lock:
            self.statuses[status] += 1
            self.wrong += not right
            if status == 200:
                self.seconds.append(seconds)

    def percentiles(self) -> list[float]:
        """Milliseconds: p50, p95, p99."""
        return [1000 * float(value) for value in np.percentile(self.seconds, [50, 95, 99])]


class Service:
    """A service in a process of its own.

    Args:
        model: The model file.
    """

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-m", "fullyconv", "serve", f"m={model}", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r"http://([\d.]+):(\d+)/", self.process.stderr.readline())
        assert found is not None
        self.address = found[1], int(found[2])
        self.measured = psutil.Process(self.process.pid)

    def ask(self, tally: Tally, body: bytes, expected: bytes | None = None, *, hang_up: bool = False) -> None:
        """Send one image and count the answer; 0 is a connection that broke, -1 one that we hung up."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection(*self.address, timeout=120)
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
            if hang_up:
                time.sleep(random.uniform(0, 0.05))
                tally.add(-1, 0.0)
                return
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 503:
                assert answer.headers["retry-after"] == "1"
            right = expected is None or answer.status != 200 or content == expected
            tally.add(answer.status, time.perf_counter() - began, right=right)
        except (OSError, http.client.HTTPException):
            tally.add(0, 0.0)
        finally:
            connection.close()

    def memory(self) -> float:
        """Its memory in MiB."""
        return self.measured.memory_info().rss / 2**20

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def alone(predictor: Predictor, files: Sequence[bytes], folder: Path, seconds: float) -> tuple[float, float]:
    """Images a second of one process: from file to file, and of `predict` alone."""
    table = predictor.class_table
    colors = {entry.value: entry.color for entry in table.classes}
    paths = []
    for number, data in enumerate(files):
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(data)
    arrays = [predictor.image_form.read(path) for path in paths]

    def file_to_file(number: int) -> None:
        mask = predictor.predict(predictor.image_form.read(paths[number]))
        mask_bytes(table.encode(mask), colors)

    def rate(work: Callable[[int], object]) -> float:
        work(0)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work(done % len(files))
            done += 1
        return done / (time.perf_counter() - began)

    return rate(file_to_file), rate(lambda number: predictor.predict(arrays[number]))


def busy(service: Service, files: Sequence[bytes], masks: Sequence[bytes], seconds: float) -> tuple[float, Tally]:
    """Let clients ask one request after the other; images a second."""
    tally, end = Tally(), time.perf_counter() + seconds

    def client(seed: int) -> None:
        chosen = random.Random(seed)
        while time.perf_counter() < end:
            number = chosen.randrange(len(files))
            service.ask(tally, files[number], masks[number])

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return tally.statuses[200] / (time.perf_counter() - began), tally


def at_rate(
    service: Service, files: Sequence[bytes], masks: Sequence[bytes], rate: float, seconds: float
) -> Tally:
    """Send requests at a rate, at random moments; what became of them."""
    tally, chosen = Tally(), random.Random(1)
    with ThreadPoolExecutor(MOST_CLIENTS) as pool:
        due = end = time.perf_counter()
        end += seconds
        while due < end:
            due += chosen.expovariate(rate)
            time.sleep(max(due - time.perf_counter(), 0))
            number = chosen.randrange(len(files))
            pool.submit(service.ask, tally, files[number], masks[number])
    return tally


def soak(service: Service, files: Sequence[bytes], count: int) -> tuple[Tally, list[float], list[int]]:
    """Send requests of all kinds; their answers, and memory and open files meanwhile."""
    tally, memory, open_files = Tally(), [], []

    def one(number: int) -> None:
        chosen = random.Random(number)
        body = files[chosen.randrange(len(files))]
        kind = chosen.random()
        service.ask(tally, body[: len(body) // 2] if kind < 0.2 else body, hang_up=0.2 <= kind < 0.3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(WARM_UP)))
        for first in range(0, count, 500):
            list(pool.map(one, range(first, min(first + 500, count))))
            memory.append(service.memory())
            open_files.append(service.measured.num_fds())
            print(f"{first + 500} requests: {memory[-1]:.0f} MiB", file=sys.stderr, flush=True)
    return tally, memory, open_files


def pieces(paths: Sequence[Path], predictor: Predictor, sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """Image files of some sizes."""
    found = []
    for number, path in enumerate(paths):
        height, width = sizes[number % len(sizes)]
        image = Image.fromarray(predictor.image_form.read(path)).resize((width, height))
        with tempfile.SpooledTemporaryFile() as file:
            image.save(file, "PNG")
            file.seek(0)
            found.append(file.read())
    return found


def main() -> None:
    """Measure, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model file")
    parser.add_argument("--data", type=Path, help="a folder of images; drawn if not given")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--soak", type=int, default=10_000, help="requests")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and keep no file")
    arguments = parser.parse_args()
    set_threads(None)
    figures: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        model = arguments.model or Path(name) / "model.safetensors"
        if arguments.model is None:
            save_model(build_model(recipe("fast"), ClassTable.from_values(range(11))), model)
        predictor = Predictor(model)
        drawn = None if arguments.data else open_or_draw(None, (), Path(name) / "data")
        paths = [sample.image for sample in drawn] if drawn else list(find_images([arguments.data]).values())
        files = pieces(paths[:24], predictor, [(360, 480)])
        mixed = pieces(paths[:24], predictor, [(360, 480), (240, 320), (361, 479), (64, 64), (480, 640)])
        table = predictor.class_table
        colors = {entry.value: entry.color for entry in table.classes}
        masks = []
        for data in files:
            (Path(name) / "image.png").write_bytes(data)
            mask = predictor.predict(Path(name) / "image.png")
            masks.append(mask_bytes(table.encode(mask), colors))
        service = Service(model)
        try:
            busy(service, files, masks, 3)
            rounds = []
            for _ in range(3):  # by turns
                ours = alone(predictor, files, Path(name), arguments.seconds / 6)
                rate, tally = busy(service, files, masks, arguments.seconds / 3)
                rounds.append((*ours, rate))
                assert tally.wrong == 0
            whole, only, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
            figures |= {"file to file": whole, "predict alone": only, "service": rate, "ratio": rate / whole}
            lines = [
                "480 x 360, images a second:",
                "",
                "| one process, file to file | one process, predict alone | service | service to one process |",
                "|---|---|---|---|",
                f"| {whole:.1f} | {only:.1f} | {rate:.1f} | {rate / whole:.0%} |",
                "",
                "| load | requests | 200 | 503 | others | wrong | goodput | p50 ms | p95 ms | p99 ms |",
                "|---|---|---|---|---|---|---|---|---|---|",
            ]
            for load in (0.5, 2.0):
                tally = at_rate(service, files, masks, load * rate, arguments.seconds)
                total = sum(tally.statuses.values())
                good, away = tally.statuses[200], tally.statuses[503]
                middle, most, worst = tally.percentiles()
                figures[f"load {load}"] = {**tally.statuses, "p50": middle, "p95": most, "p99": worst}
                lines.append(
                    f"| {load:g} x | {total} | {good} | {away} | {total - good - away} | {tally.wrong} | "
                    f"{good / arguments.seconds / rate:.0%} | {middle:.0f} | {most:.0f} | {worst:.0f} |"
                )
                print(lines[-1], file=sys.stderr, flush=True)
            tally, memory, open_files = soak(service, mixed, arguments.soak)
            figures["soak"] = {**tally.statuses, "memory": memory, "open files": open_files}
            answered = ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items()))
            lines += [
                "",
                f"{arguments.soak} requests after {WARM_UP} others, of five sizes, one in five broken, one in ten "
                f"hung up (-1): {answered}. Memory in MiB after each 500: "
                f"{', '.join(f'{value:.0f}' for value in memory)}; open files {open_files[0]} to "
                f"{open_files[-1]}.",
                "",
                f"Load of the machine over the last 15 minutes: {os.getloadavg()[2]:.1f}.",
            ]
        finally:
            service.close()
    if arguments.json:
        print(json.dumps(figures))
        return
    print(machine(), *lines, sep="\n")
    print(write_results("serve-load", lines))


if __name__ == "__main__":
    main()
