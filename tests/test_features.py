"""Features: the same bits cached or not, whatever computes them, and under a key that nothing else has."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_data import ThreadNetwork, draw_pair, tiny_dataset, tiny_encoder, write_pair

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.decoder import output_cells, resample
from fullyconv.device import instruction_set
from fullyconv.errors import DataError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.transforms import PLAIN, View, make_views
from fullyconv.upsample import upsample_logits

SIZES = [(40, 33), (1, 1), (64, 70)]
VIEWS = [PLAIN, View(mirror=True), View(scale=1.5, colour=1)]


@pytest.fixture(autouse=True)
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path):
    return tiny_dataset(tmp_path / "data", SIZES)


class Recorder:
    """A cache that keeps nothing and remembers the keys it was asked for."""

    def __init__(self):
        self.loaded, self.stored = [], []

    def load(self, key):
        self.loaded.append(key)

    def store(self, key, entry):
        self.stored.append(key)


def items_of(data, views=(PLAIN,)):
    return [(sample, view) for sample in data for view in views]


def same(first, second):
    """Bit for bit, in the same order of values in memory, which decides with which kernels they are used."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride() and torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


# Cached or not, by one thread or two


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_maps_are_the_same_bits_without_a_cache_into_it_and_from_it(data, tmp_path, threads, precision):
    encoder = tiny_encoder(scales=(1.0, 1.5), network=ThreadNetwork, precision=precision)
    torch.set_num_threads(1)
    expected = list(FeatureReader(encoder, data).all_maps(items_of(data, VIEWS)))
    torch.set_num_threads(threads)
    for cache in (None, FeatureCache(tmp_path / "cache"), FeatureCache(tmp_path / "cache")):
        found = list(FeatureReader(encoder, data, cache).all_maps(items_of(data, VIEWS)))
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert cache.info().entries == len(SIZES) * len(VIEWS)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_points_are_the_same_bits_without_a_cache_into_it_and_from_it(data, tmp_path, threads, precision):
    encoder = tiny_encoder(scales=(1.0, 1.5), network=ThreadNetwork, precision=precision)

    def read(cache):
        points = FeatureReader(encoder, data, cache).all_points(items_of(data, VIEWS), 4, 50, seed=3)
        return [[*values, targets, shares] for values, targets, shares in points]

    torch.set_num_threads(1)
    expected = read(None)
    torch.set_num_threads(threads)
    for cache in (None, FeatureCache(tmp_path / "cache"), FeatureCache(tmp_path / "cache")):
        assert all(same(a, b) for a, b in zip(read(cache), expected, strict=True))
    assert cache.info().entries == len(SIZES) * len(VIEWS)


def test_a_cache_that_is_off_changes_nothing(data, tmp_path):
    cache = FeatureCache(tmp_path / "cache", limit=0)
    found = FeatureReader(tiny_encoder(), data, cache).all_maps(items_of(data))
    expected = FeatureReader(tiny_encoder(), data).all_maps(items_of(data))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert cache.failure is not None


def test_damaged_entries_are_computed_anew(data, tmp_path):
    expected = list(FeatureReader(tiny_encoder(), data, FeatureCache(tmp_path)).all_maps(items_of(data)))
    for path in (tmp_path / "features").glob("*/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    cache = FeatureCache(tmp_path)
    found = FeatureReader(tiny_encoder(), data, cache).all_maps(items_of(data))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert cache.damaged == len(SIZES)


def test_maps_are_what_the_encoder_gives_rounded_to_half_precision(data):
    encoder = tiny_encoder(scales=(1.0, 1.5))
    for sample in data:
        image = torch.from_numpy(data.read_image(sample).copy()).permute(2, 0, 1)[None]
        maps = FeatureReader(encoder, data).maps(sample)
        expected = [values.half() for values in encoder(image)]
        assert same(maps, [values.clone(memory_format=torch.contiguous_format) for values in expected])


def test_maps_too_large_for_half_precision_are_kept_in_float32(data):
    encoder = tiny_encoder(strides=(4, 8))
    with torch.no_grad():
        encoder.network.mix["8"].weight.mul_(1e6)
    fine, coarse = FeatureReader(encoder, data).maps(data[0])
    assert (fine.dtype, coarse.dtype) == (torch.float16, torch.float32)


# Order, errors and threads


def test_items_comein_order_however_long_each_takes(data):
    reader = FeatureReader(tiny_encoder(), data)
    items = items_of(data, VIEWS) * 2
    delays = [0.02, 0, 0.01, 0, 0, 0.02] * 3

    def slow(index, item):
        time.sleep(delays[index])
        return index, item

    assert list(reader.in_order(slow, enumerate(items))) == list(enumerate(items))


def test_only_a_few_items_are_computed_ahead(data):
    torch.set_num_threads(2)
    reader = FeatureReader(tiny_encoder(), data)
    asked = []
    found = reader.in_order(lambda a, b: a, (asked.append(number) or (number, 0) for number in range(50)))
    for done in range(10):
        assert next(found) == done
        assert len(asked) <= done + 1 + 4


def test_an_unreadable_image_is_an_error_naming_it_after_what_comes_before(data):
    data[2].image.write_bytes(data[2].image.read_bytes()[:500])
    found = FeatureReader(tiny_encoder(), data).all_maps(items_of(data))
    next(found)
    next(found)
    with pytest.raises(DataError, match=r"002.png"):
        next(found)


@pytest.mark.parametrize("cached", [False, True])
def test_a_missing_image_is_an_error_naming_it(data, tmp_path, cached):
    data[0].image.unlink()
    reader = FeatureReader(tiny_encoder(), data, FeatureCache(tmp_path) if cached else None)
    with pytest.raises(DataError, match=r"000.png cannot be read: No such file or directory"):
        reader.maps(data[0])


def test_after_an_error_the_reader_still_works(data):
    reader = FeatureReader(tiny_encoder(), data)
    kept = data[0].image.read_bytes()
    data[0].image.write_bytes(b"no image")
    with pytest.raises(DataError):
        list(reader.all_maps(items_of(data)))
    data[0].image.write_bytes(kept)
    assert len(list(FeatureReader(tiny_encoder(), data).all_maps(items_of(data)))) == len(SIZES)
    assert reader.maps(data[2])


def test_nothing_is_computed_any_more_when_nobody_asks(data):
    torch.set_num_threads(1)
    reader = FeatureReader(tiny_encoder(), data)
    started, gate = [], threading.Event()

    def read(number, _):
        started.append(number)
        return number == 0 or gate.wait(60)

    found = reader.in_order(read, ((number, 0) for number in range(50)))
    next(found)
    found.close()
    gate.set()
    reader._workers.submit(int).result()
    assert started in ([0], [0, 1])  # One may be under way; the next one in the queue is not begun.


def test_the_working_network_is_made_once_for_all_workers(data):
    made = []

    class Counting(ThreadNetwork):
        def folded(self):
            made.append(threading.current_thread().name)
            return super().folded()

    torch.set_num_threads(3)
    reader = FeatureReader(tiny_encoder(network=Counting), data)
    list(reader.all_maps(items_of(data, VIEWS)))
    assert made == [threading.main_thread().name]


def threads_now():
    """torch's own number of threads, OpenMP's and MKL's, as they are for the calling thread."""
    info = torch.__config__.parallel_info()
    return re.findall(r"(get_num_threads\(\)|max_threads\(\)) : (\d+)", info)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_workers_compute_with_one_thread_and_others_as_before(data, threads):
    torch.set_num_threads(threads)
    before = threads_now()
    reader = FeatureReader(tiny_encoder(), data)
    list(reader.all_maps(items_of(data)))
    assert threads_now() == before == [(name, str(threads)) for name, _ in before]
    inside = list(reader.in_order(lambda a, b: threads_now(), [(0, 0)] * 8))
    assert inside == [[(name, "1") for name, _ in before]] * 8


def test_threads_that_start_later_compute_as_before(data):
    torch.set_num_threads(3)
    list(FeatureReader(tiny_encoder(), data).all_maps(items_of(data)))
    found = []
    thread = threading.Thread(target=lambda: found.extend(threads_now()))
    thread.start()
    thread.join()
    assert {number for _, number in found} == {"3"}


LATE = """
import torch
torch.set_num_threads(3)
from fullyconv.features import _single_threaded_workers
workers = _single_threaded_workers(2)
workers.submit(torch.rand(300, 300).sum).result()
print(torch.__config__.parallel_info())
"""


def test_a_main_thread_that_has_not_computed_yet_keeps_its_number_of_threads():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", LATE], check=True, capture_output=True, text=True, env=environment
    )
    numbers = re.findall(r"(?:get_num_threads\(\)|max_threads\(\)) : (\d+)", done.stdout)
    assert set(numbers) == {"3"}


# Points


def read_whole(maps, encoder, output_stride, size):
    """The slow twin of reading points: every map upsampled through the output grid to all pixels."""
    cells = output_cells(encoder.specs, output_stride, size)
    upsampled = []
    for spec, values in zip(encoder.specs, maps, strict=True):
        grid = resample(values.float(), spec.stride, output_stride, cells)
        upsampled.append(upsample_logits(grid, output_stride, size)[0])
    return upsampled


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("output_stride", [4, 8, 32])
def test_points_are_the_features_of_every_labelled_pixel(data, view, output_stride):
    encoder = tiny_encoder(scales=(1.0, 1.5))
    reader = FeatureReader(encoder, data)
    everything = reader.all_points(items_of(data, [view]), output_stride, 10**6, seed=0)
    for sample, (points, classes, _) in zip(data, everything, strict=True):
        target = torch.from_numpy(view.apply_mask(data.read_target(sample)).copy())
        labelled = target != 255
        assert torch.equal(classes, target[labelled].long())
        whole = read_whole(reader.maps(sample, view), encoder, output_stride, tuple(target.shape))
        for values, maps in zip(points, whole, strict=True):
            torch.testing.assert_close(values.float(), maps[:, labelled].T, atol=2e-3, rtol=1e-3)


@pytest.fixture
def numbered(tmp_path):
    """One image whose every labelled pixel has a class of its own."""
    image, _ = draw_pair((15, 17), 0)
    mask = np.arange(255, dtype=np.uint8).reshape(15, 17)
    mask[0] = 255
    write_pair(tmp_path / "data", "0", image, mask)
    return Dataset.open(tmp_path / "data", class_table=ClassTable.from_values(range(17, 255)))


def drawn(reader, count, seed=0, view=PLAIN):
    ((points, classes, _),) = reader.all_points([(reader.dataset[0], view)], 4, count, seed)
    return points, classes.tolist()


def test_pixels_are_drawn_without_repetition_from_the_labelled_ones(numbered):
    _, classes = drawn(FeatureReader(tiny_encoder(), numbered), 60)
    assert len(set(classes)) == 60
    assert set(classes) <= set(range(numbered.class_table.num_classes))


def test_features_and_classes_are_of_the_same_pixels(numbered):
    reader = FeatureReader(tiny_encoder(), numbered)
    every, _ = drawn(reader, 10**6)
    points, classes = drawn(reader, 60)
    assert all(torch.equal(values, whole[classes]) for values, whole in zip(points, every, strict=True))


def test_all_labelled_pixels_are_drawn_equally_often(numbered):
    reader = FeatureReader(tiny_encoder(strides=(32,)), numbered)
    counts = Counter(pixel for seed in range(80) for pixel in drawn(reader, 60, seed)[1])
    labelled = numbered.class_table.num_classes
    expected = 80 * 60 / labelled
    assert len(counts) == labelled == 238
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < labelled + 4 * (2 * labelled) ** 0.5


def test_seed_and_view_decide_which_pixels_are_drawn_and_threads_do_not(numbered):
    reader = FeatureReader(tiny_encoder(), numbered)
    first = drawn(reader, 60)[1]
    assert first != drawn(reader, 60, seed=1)[1]
    assert sorted(first) != sorted(drawn(reader, 60, view=View(mirror=True))[1])
    torch.set_num_threads(3)
    assert first == drawn(FeatureReader(tiny_encoder(), numbered), 60)[1]


def test_an_image_without_labels_gives_no_points(tmp_path):
    write_pair(tmp_path / "data", "0", *draw_pair((20, 20), 0))
    write_pair(tmp_path / "data", "1", draw_pair((20, 20), 1)[0], np.full((20, 20), 255, np.uint8))
    data = Dataset.open(tmp_path / "data")
    for cache in (None, FeatureCache(tmp_path / "cache"), FeatureCache(tmp_path / "cache")):
        found = list(FeatureReader(tiny_encoder(), data, cache).all_points(items_of(data), 4, 10, 0))
        assert [len(classes) for _, classes, _ in found] == [10, 0]
        assert [tuple(values.shape) for values in found[1][0]] == [(0, 3), (0, 5), (0, 6), (0, 7)]


# Keys


def keys(data, encoder=None, view=PLAIN, points=None, sample=0):
    """The keys of the maps, and of points where wanted, of a sample."""
    recorder = Recorder()
    reader = FeatureReader(encoder or tiny_encoder(), data, recorder)
    if points is None:
        list(reader.all_maps([(data[sample], view)]))
    else:
        list(reader.all_points([(data[sample], view)], **{"output_stride": 4, "count": 5, "seed": 0, **points}))
    assert recorder.stored == recorder.loaded
    return recorder.loaded


def repaint(path):
    """Change one pixel, keeping the size and times of the file where that is possible."""
    stat = path.stat()
    image, _ = draw_pair((40, 33), 0)
    image[20, 20] ^= 1
    write_pair(path.parent.parent, path.stem, image, np.zeros((40, 33), np.uint8))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_one_changed_pixel_changes_the_key(data):
    before = keys(data)
    repaint(data[0].image)
    assert keys(data) != before


def test_a_file_of_the_same_size_and_time_has_another_key(data):
    before, path = keys(data), data[0].image
    stat, content = path.stat(), path.read_bytes()
    # A comment of the PNG would do: any byte counts, even behind the end of the image.
    path.write_bytes(content + b"a")
    first = keys(data)
    path.write_bytes(content + b"b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len({*before, *first, *keys(data)}) == 3


def other_weights():
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.network.mix["4"].bias[0] += 1e-6
    return encoder


OTHER_ENCODERS = {
    "weights": other_weights,
    "strides": lambda: tiny_encoder(strides=(4, 8, 16)),
    "scales": lambda: tiny_encoder(scales=(1.0, 1.5)),
    "precision": lambda: tiny_encoder(precision=torch.bfloat16),
}


@pytest.mark.parametrize("change", OTHER_ENCODERS)
@pytest.mark.parametrize("points", [None, {}], ids=["maps", "points"])
def test_another_encoder_has_other_keys(data, change, points):
    assert keys(data, OTHER_ENCODERS[change](), points=points) != keys(data, points=points)


def test_a_precision_chosen_later_has_another_key(data):
    recorder, encoder = Recorder(), tiny_encoder()
    reader = FeatureReader(encoder, data, recorder)
    reader.maps(data[0])
    encoder.set_precision(torch.bfloat16)
    reader.maps(data[0])
    assert len(set(recorder.loaded)) == 2


def test_every_view_of_every_image_has_a_key_of_its_own(data):
    views = make_views(mirror=True, scales=(0.5, 1.0), colours=2)
    found = {key for view in views for sample in range(3) for key in keys(data, view=view, sample=sample)}
    assert len(found) == len(views) * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREPROCESSING_VERSION", 99),
        ("torch.__version__", "9.9"),
        ("PIL.__version__", "99.9"),
        ("instruction_set", lambda device: "AVX512+amx_tile"),
    ],
)
def test_what_else_decides_the_bits_is_in_the_key(data, monkeypatch, name, value):
    before = keys(data), keys(data, points={})
    monkeypatch.setattr(f"fullyconv.features.{name}", value)
    after = keys(data), keys(data, points={})
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_the_recipe_of_a_key_says_what_computes(data):
    recipe = FeatureReader(tiny_encoder(), data)._recipe
    assert (recipe["instructions"], recipe["threads"], recipe["device"]) == (instruction_set(), 1, "cpu")


def test_names_places_times_and_threads_are_not_in_the_key(data, tmp_path):
    before = keys(data), keys(data, points={})
    (tmp_path / "data").rename(tmp_path / "moved")
    for kind in ("images", "masks"):
        (tmp_path / "moved" / kind / "000.png").rename(tmp_path / "moved" / kind / "first.png")
    moved = Dataset.open(tmp_path / "moved", class_table=data.class_table)
    os.utime(moved[2].image, (1, 1))
    torch.set_num_threads(3)
    assert moved[2].id == "first"
    assert (keys(moved, sample=2), keys(moved, points={}, sample=2)) == before


@pytest.mark.parametrize("change", [{"output_stride": 8}, {"count": 6}, {"seed": 1}], ids=str)
def test_points_read_in_another_way_have_another_key(data, change):
    assert keys(data, points=change) != keys(data, points={})


def test_points_under_another_mask_have_another_key_and_maps_the_same(data):
    before = keys(data), keys(data, points={})
    image, mask = draw_pair((40, 33), 0)
    mask[20, 20] = 0 if mask[20, 20] else 1
    write_pair(data.root, "000", image, mask)
    assert keys(data) == before[0]
    assert keys(data, points={}) != before[1]


def test_points_of_other_classes_have_another_key_and_maps_the_same(data):
    other = Dataset.open(data.root, class_table=ClassTable.from_names(["sky", "road", "tree"]))
    assert keys(other) == keys(data)
    assert keys(other, points={}) != keys(data, points={})


def test_maps_and_points_are_never_mixed_up(data):
    assert keys(data) != keys(data, points={})


def test_samples_of_equal_files_share_an_entry_and_are_drawn_alike(tmp_path):
    for name in ("a", "b"):
        write_pair(tmp_path / "data", name, *draw_pair((30, 30), 0))
    data = Dataset.open(tmp_path / "data")
    uncached = list(FeatureReader(tiny_encoder(), data).all_points(items_of(data), 4, 20, 0))
    cached = list(FeatureReader(tiny_encoder(), data, FeatureCache(tmp_path)).all_points(items_of(data), 4, 20, 0))
    for (points, *drawn), (others, *other_drawn) in zip(uncached, cached, strict=True):
        assert same([*points, *drawn], [*others, *other_drawn])
    assert FeatureCache(tmp_path).info().entries == 1


@pytest.mark.parametrize("kind", ["maps", "points"])
@pytest.mark.parametrize("cached", [False, True])
def test_an_image_that_changes_under_way_is_refused_and_never_stored(data, monkeypatch, kind, cached):
    recorder = Recorder()
    reader = FeatureReader(tiny_encoder(), data, recorder if cached else None)
    reader._file_digest(data[0].image)
    repaint(data[0].image)
    read = {
        "maps": lambda: reader.maps(data[0]),
        "points": lambda: next(reader.all_points(items_of(data)[:1], 4, 5, 0)),
    }[kind]
    with pytest.raises(
        DataError, match=r"000.png has changed while the run was reading it \(leave the data alone"
    ):
        read()
    assert recorder.stored == []


def test_a_mask_that_changes_under_way_is_refused(data):
    reader = FeatureReader(tiny_encoder(), data)
    reader._file_digest(data[0].mask)
    write_pair(data.root, "000", draw_pair((40, 33), 0)[0], np.zeros((40, 33), np.uint8))
    with pytest.raises(DataError, match=r"masks/000.png has changed"):
        next(reader.all_points(items_of(data), 4, 5, 0))


# What it costs


@pytest.mark.parametrize("size", [(1, 1), (40, 33), (64, 70), (360, 480)])
@pytest.mark.parametrize(("strides", "scales"), [((4, 8, 16, 32), (1.0, 1.5)), ((8,), (0.75,))])
def test_the_bytes_of_maps_are_known_before_they_are_computed(tmp_path, size, strides, scales):
    data = tiny_dataset(tmp_path, [size, (4, 4)])
    reader = FeatureReader(tiny_encoder(strides, scales), data)
    assert reader.map_bytes(size) == sum(maps.nbytes for maps in reader.maps(data[0]))


def test_the_bytes_of_points_are_known_before_they_are_computed(data):
    reader = FeatureReader(tiny_encoder(), data)
    points, *_ = next(reader.all_points(items_of(data), 4, 50, 0))
    assert reader.point_bytes(50) == sum(values.nbytes for values in points)


def test_images_and_targets_are_those_of_the_view(data):
    reader = FeatureReader(tiny_encoder(), data)
    np.testing.assert_array_equal(reader.image(data[0]), data.read_image(data[0]))
    np.testing.assert_array_equal(reader.target(data[0], View(mirror=True)), data.read_target(data[0])[:, ::-1])
    colours = [reader.image(data[0], View(colour=1)), reader.image(data[0], View(colour=1))]
    np.testing.assert_array_equal(*colours)
