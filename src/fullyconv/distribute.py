"""Work over the workers of a Ray cluster, or of this machine: exactly once, whatever is killed.

The work itself is plain Python (`fullyconv.predict_work`), what of it is done stands in files
(`fullyconv.manifest`). Ray Data only brings batches to workers, starts others in the place of those that die, and
gives their batches out again. Ray comes with the extra `ray`.
"""

import contextlib
import io
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from fullyconv.errors import FullyConvError, UsageError
from fullyconv.manifest import Batch
from fullyconv.own_folder import own_folder
from fullyconv.progress import Progress

__all__ = ["Cluster", "answered", "batches_of", "opened_cluster", "statuses_of"]

LARGEST_BATCH = 64
"""Items of a batch. Of them a worker that is killed leaves one to do again, and the rest to do."""

ROUNDS = 50
"""Batches for each worker, at least: so that all end at about the same time."""

CORE_SHARE = 0.5
"""Of a core: what a worker asks Ray for, for each of its threads. The rest of the cores is left for what Ray Data
does itself: workers that asked for whole ones would wait for it, and it for them."""

CONNECT_SECONDS = 5
"""In which a cluster has to answer."""

OBJECTS = 100 * 2**20
"""Bytes of shared memory for a Ray of its own; only names pass through it."""

AGAIN = "when that is mended, run the same command again"

INIT_DEATHS = 1000
"""Workers in a row that may die while they load the model, before Ray Data gives up."""


class Cluster:
    """Ray, connected.

    Args:
        ray: The library.
        words: What it is, for people.
    """

    def __init__(self, ray: Any, words: str) -> None:
        self._ray = ray
        self.words = words

    def cores(self) -> int:
        """Cores of all machines."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def run(
        self,
        worker: type,
        arguments: Mapping[str, Any],
        batches: Sequence[Batch],
        *,
        workers: int,
        threads: int,
        gpu: bool = False,
    ) -> Iterator[dict[str, str]]:
        """Give batches to workers, and yield the statuses of the keys of each, as they come.

        Args:
            worker: Made once in each process; called with rows as `answered` takes and gives them.
            arguments: With which it is made.
            batches: What to do.
            workers: How many.
            threads: Of each.
            gpu: Whether each has a GPU.

        Raises:
            FullyConvError: Ray gives up, or a worker cannot go on.
        """
        data = self._ray.data
        rows = [{"batch": json.dumps(asdict(batch))} for batch in batches]
        # Each block is a task of its own; of very many batches some share one.
        work = data.from_items(rows, override_num_blocks=min(len(rows), 10_000)).map_batches(
            worker,
            fn_constructor_kwargs=dict(arguments),
            batch_size=1,
            num_cpus=CORE_SHARE * threads,
            num_gpus=1 if gpu else None,
            compute=data.ActorPoolStrategy(size=workers),
        )
        try:
            for found in work.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                yield from map(statuses_of, found["found"])
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise FullyConvError(f"the cluster gave up: {lines[-1]}", hint=AGAIN) from error


def answered(rows: Mapping[str, Any], do: Callable[[Batch], dict[str, Any]]) -> dict[str, list[str]]:
    """Do the batches of some rows of Ray Data.

    Args:
        rows: "batch": JSON of each.
        do: Gives the "statuses" of the keys of a batch, or an "error" with which the job cannot go on.

    Returns:
        "found": JSON of what it gave for each.
    """
    return {"found": [json.dumps(do(Batch(**json.loads(text)))) for text in rows["batch"]]}


def statuses_of(found: str) -> dict[str, str]:
    """Read what `answered` wrote of a batch: the status of each key.

    Raises:
        FullyConvError: The job cannot go on.
    """
    answer = json.loads(found)
    if "error" in answer:
        raise FullyConvError(answer["error"], hint=AGAIN)
    statuses: dict[str, str] = answer["statuses"]
    return statuses


def _expect_answer(address: str) -> None:
    """Ask at an address before Ray does, which asks for minutes and says nothing."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray answers at {address}: {error}", hint="start it, or --cluster local") from None


@contextlib.contextmanager
def opened_cluster(address: str, progress: Progress) -> Iterator[Cluster]:
    """Connect to Ray, or start one on this machine for as long as the block takes.

    Args:
        address: "local" starts one, which nobody else can reach; "auto" connects to the one that runs here
            (`RAY_ADDRESS`), else starts one; else where one runs.
        progress: Told which it is.

    Raises:
        UsageError: Ray is not installed, or does not run there.
    """
    # What Ray says of each worker that is killed goes to standard output, which is for results.
    with own_folder("fc-") as folder, contextlib.redirect_stdout(io.StringIO()):
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "local")
        own = address == "local"
        ray = _ray(own)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if own:
            with _muted(), _own_end():
                ray.init(
                    address="local",
                    num_cpus=_own_cores(),
                    include_dashboard=False,
                    object_store_memory=OBJECTS,
                    _temp_dir=str(folder),
                    **quiet,
                )
        else:
            _expect_answer(address)
            try:
                with _muted(), _own_end():
                    ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"no Ray answers at {address}: {str(error).splitlines()[0]}") from None
        _quieten(ray)
        try:
            cluster = Cluster(ray, "Ray on this machine" if own else f"Ray at {address}")
            progress.say(f"{cluster.words}: {cluster.cores()} cores")
            yield cluster
        finally:
            ray.shutdown()


def _ray(own: bool) -> Any:
    """The library of the extra `ray`, told before it is loaded that it is to reach nobody and nobody it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Else it tells of each worker that is killed.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    if own:
        # By itself Ray listens where other machines reach it, on Linux even where 127.0.0.1 is named: this is the
        # switch of systems on which it forms no clusters.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError:
        raise UsageError(
            "--cluster needs Ray, which is not installed", hint='pip install "fullyconv[ray]"'
        ) from None


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Drop what is written to standard error, by whatever language: Ray says there how much it is going to say."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quieten(ray: Any) -> None:
    """Leave the words to us, and let workers be killed as often as somebody likes."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = INIT_DEATHS


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _own_end() -> Iterator[None]:
    """Let SIGTERM do afterwards what it did before: Ray has it print a trace and abort."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def batches_of(
    items: Sequence[Mapping[str, Any]], workers: int, alone: Callable[[Mapping[str, Any]], bool]
) -> list[Batch]:
    """Put items together to batches.

    Args:
        items: What to do, in this order.
        workers: Who share it.
        alone: Whether an item is a batch by itself: one that takes long.
    """
    run = secrets.token_hex(4)
    size = min(max(len(items) // (workers * ROUNDS), 1), LARGEST_BATCH)
    groups = [[item] for item in items if alone(item)]
    others = [item for item in items if not alone(item)]
    groups += [others[start : start + size] for start in range(0, len(others), size)]
    return [Batch(f"{run}-{number:07d}", group) for number, group in enumerate(groups)]
