"""Faults, really caused, and whether the software survives them: one table of tries and failures.

    python faults/run.py                     # all, in about an hour
    python faults/run.py --only B1 C3        # some
    python faults/run.py --share 0.05        # a twentieth of the tries

The names are those of the families: A data, B training, C feature cache, D model files, E prediction, F service,
G cluster. A training is killed, its system calls fail by `strace` (Debian: apt install strace), its disks are full
or read-only by `unshare`, files are cut and flipped. That faults are found, mistakes that were put in show
(`tests/test_faults.py`). With no failure in N tries the failure rate is below 3 / N with 95 % confidence.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import a_data
import b_training
import c_cache
import d_files
import e_prediction
import f_requests
import f_service
import g_cluster
from machinery import Fault

from fullyconv.errors import FullyConvError

FAULTS = {
    "A1": Fault("images of seven formats cut, flipped, zeroed: read or refused", 3500, a_data.break_images),
    "A2": Fault("decompression bombs of seven formats: refused from the header", 7, a_data.explode),
    "A5": Fault(
        "broken data sets: refused before the first epoch, in the right words", 15, a_data.refuse_broken_sets
    ),
    "A6": Fault("names of all kinds, fifos, loops of links: all used, nothing blocks", 17, a_data.odd_names),
    "A7": Fault("no image, one image, one pixel, one row, one column", 5, a_data.tiny_sets),
    "A8": Fault("every verb on data that are mounted read-only: no byte changed", 9, a_data.read_only_data),
    "B1": Fault("kill -9 of a training at random: resumed to equal weights", 200, b_training.kill_training),
    "B2": Fault("kill -9 at every rename and fsync of a training", 1000, b_training.kill_at_every_rename),
    "B5": Fault(
        "the newest checkpoint cut, flipped, zeroed: the one before is taken", 520, b_training.damage_newest
    ),
    "B6": Fault("no space left at every fsync of a training", 1000, b_training.full_disk),
    "B6d": Fault("run folders on disks of all sizes", 20, b_training.small_disks),
    "B7": Fault(
        "SIGTERM and SIGINT at random: exit 143 and 130, resumed to equal weights", 20, b_training.signal_training
    ),
    "B11": Fault("learning rates that no number survives, crops without a label", 3, b_training.diverge),
    "B12": Fault("no process that could die, no /dev/shm", 3, b_training.no_shared_memory),
    "B13": Fault("two trainings in one folder", 5, b_training.two_in_one_folder),
    "C1": Fault("kill -9 while entries of the feature cache are written", 100, c_cache.kill_writer),
    "C2": Fault("four trainings with one cache, two of them killed", 10, c_cache.share_one),
    "C3": Fault("feature cache entries cut, flipped, zeroed: never used", 1000, c_cache.mutate_cache),
    "C5": Fault("a feature cache on a full disk, or one that is read only", 5, c_cache.no_room),
    "C6": Fault("pickles in place of cache entries: never executed", 20, c_cache.plant_entries),
    "D1": Fault("pickles in every place that is read: never executed", 19, d_files.plant_pickles),
    "D2": Fault("headers of tensor files that lie, or are changed: refused", 10_000, d_files.attack_headers),
    "D3": Fault("model files cut, flipped, zeroed: refused", 600, d_files.mutate_model),
    "E6": Fault("kill -9 of a prediction at random: no partial mask", 50, e_prediction.kill_prediction),
    "F1": Fault(
        "bodies too long, of no length, encoded, to the service: refused unread", 100, f_requests.long_bodies
    ),
    "F2": Fault("forms and JSON that are odd, broken or dense: others never wait", 42, f_requests.odd_forms),
    "F3": Fault("requests of every kind, damaged, and odd ones", 3000, f_requests.damaged_requests),
    "F4": Fault("connections at a byte a second", 200, f_requests.slow_clients),
    "F5": Fault("bombs and broken images by every way into the service", 140, f_requests.hostile_images),
    "F6": Fault(
        "names that lead out of folders, on every route: nothing opened", 26, f_service.names_that_lead_out
    ),
    "F7": Fault("pages in images and names: no script runs, strict headers", 15, f_service.pages_in_images),
    "F8": Fault("addresses in every field: no connection is made", 8, f_service.addresses),
    "F9": Fault("hosts and origins of others, with every method: refused", 27, f_service.foreign_pages),
    "F10": Fault("one socket, a token for others, no path in an answer", 1, f_service.exposure),
    "F13": Fault("32 clients at once: the bytes of the command line", 2000, f_service.many_at_once),
    "F14": Fault("SIGTERM under load, a full disk", 5, f_service.ends_under_load),
    "F15": Fault("images that are open: quota, ids", 1050, f_service.stored_images),
    "G1": Fault(
        "kill -9 of 20 workers of a cluster, 2,000 images: each once, equal", 2000, g_cluster.kill_workers
    ),
    "G2": Fault("kill -9 of the driver of a cluster: gone on, nothing done again", 5, g_cluster.kill_drivers),
    "G3": Fault("images that kill workers, broken ones: listed, the others done", 40, g_cluster.poison),
    "G4": Fault("a cluster job started twice; ports that others reach", 2, g_cluster.twice_and_exposed),
}

NEEDED = {
    "strace": ("B2", "B6", "F6", "F8"),
    "unshare": ("A8", "B6d", "B12", "C5", "F14"),
}
"""Programs of Linux, and what cannot be caused without them."""


def cause(name: str, share: float = 1.0) -> tuple[int, int]:
    """Cause a fault; how often, and how often it was not survived."""
    fault = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        results = list(fault.cause(Path(folder), max(1, round(fault.tries * share))))
    return len(results), results.count(False)


def main() -> None:
    """Cause the faults that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the tries")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    print(f"{'id':4} {'tries':>6} {'failures':>9}  what", flush=True)
    for name in arguments.only:
        lacking = [program for program, names in NEEDED.items() if name in names and not shutil.which(program)]
        if lacking:
            print(f"{name:4} {'-':>6} {'-':>9}  needs {lacking[0]}")
            continue
        tries, failures = found[name] = cause(name, arguments.share)
        print(f"{name:4} {tries:>6} {failures:>9}  {FAULTS[name].what}", flush=True)
    if arguments.json:
        print(json.dumps(found))
    if any(failures for _, failures in found.values()):
        raise FullyConvError("some faults were not survived")


if __name__ == "__main__":
    try:
        main()
    except FullyConvError as error:
        sys.exit(str(error))
