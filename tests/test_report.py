"""The report of a model: what it counts, and the page that a browser shows."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from command_line import answer
from PIL import Image
from tiny_data import tiny_dataset, write_pair

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.evaluate import evaluate
from fullyconv.report import BINS, measure, report_page

TABLE = ClassTable.from_names(["background", "a", "b"])

DESCRIPTION = {
    "encoder": {
        "name": "tiny",
        "scales": [1.0],
        "strides": [4],
        "weights_source": "package <x>",
        "weights_licence": "Apache-2.0",
    },
    "decoder": {"name": "practical", "hidden": 0},
    "digest": "abc",
    "training": {"config": {"lr": 0.1}, "epoch": 3},
}


class ByColour:
    """Predicts the red channel, cut into classes, and is as sure as the green channel says."""

    class_table = TABLE

    def predict(self, image):
        return (image[..., 0] // 86).astype(np.uint8)

    def predict_with_confidence(self, image):
        return self.predict(image), image[..., 1].astype(np.float32) / 255


@pytest.fixture
def dataset(tmp_path):
    return tiny_dataset(tmp_path / "data", [(20, 30), (7, 9), (16, 16)])


def test_the_metrics_are_those_of_evaluate(dataset):
    dataset = Dataset.open(dataset.root, class_table=TABLE)
    assert measure(ByColour(), dataset).report() == evaluate(ByColour(), dataset)


def test_objects_are_found_by_size(tmp_path):
    target = np.zeros((60, 60), np.uint8)
    target[2:7, 2:12] = 1  # 50 pixels, half of them found
    target[20:40, 20:40] = 2  # 400 pixels, all of them found
    image = np.zeros((60, 60, 3), np.uint8)
    image[2:7, 2:7, 0] = 100
    image[20:40, 20:40, 0] = 200
    write_pair(tmp_path, "x", image, target)
    found = measure(ByColour(), Dataset.open(tmp_path, class_table=TABLE)).found
    assert found.tolist() == [[1, 0.5], [1, 1.0], [0, 0], [0, 0]]


def test_calibration_counts_every_labelled_pixel_once(dataset):
    measured = measure(ByColour(), Dataset.open(dataset.root, class_table=TABLE))
    pixels, right, confidence = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for sample in measured.dataset:
        image, target = measured.dataset.read_image(sample), measured.dataset.read_target(sample)
        for (row, column), index in np.ndenumerate(target):
            if index != 255:
                sure = np.float32(image[row, column, 1]) / np.float32(255)
                place = min(int(float(sure) * BINS), BINS - 1)
                pixels[place] += 1
                right[place] += image[row, column, 0] // 86 == index
                confidence[place] += sure
    assert measured.calibration == pytest.approx(np.stack([pixels, right, confidence], axis=1))
    error = sum(abs(right - confidence)) / sum(pixels)
    assert measured.calibration_error == pytest.approx(error)


def test_the_fingerprint_is_of_images_and_targets(dataset, tmp_path):
    first = measure(ByColour(), Dataset.open(dataset.root, class_table=TABLE)).fingerprint
    path = dataset.root / "masks/001.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = (mask[0, 0] + 1) % 3
    Image.fromarray(mask).save(path)
    assert measure(ByColour(), Dataset.open(dataset.root, class_table=TABLE)).fingerprint != first


def test_data_without_a_label_are_refused(tmp_path):
    write_pair(tmp_path, "x", np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 255, np.uint8))
    with pytest.raises(DataError, match="expected labelled pixels to measure"):
        measure(ByColour(), Dataset.open(tmp_path, class_table=TABLE))


def page_of(dataset, **options):
    measured = measure(ByColour(), Dataset.open(dataset.root, class_table=TABLE))
    return report_page(ByColour(), measured, DESCRIPTION, title="A & B", **options)


def test_the_page_has_everything_and_needs_no_network(dataset):
    history = [{"epoch": 1, "loss": 1.0, "mean_iou": 0.5, "pixel_accuracy": 0.7}]
    page = page_of(dataset, history=history, groups=["x", "x", "y"], split="val")
    heads = [
        "Classes",
        "Confusion",
        "Objects by size",
        "Calibration",
        "Training",
        "The worst 3 images",
        "What it is",
    ]
    assert re.findall(r"<h2>(.*?)</h2>", page) == heads
    assert "from 2 images or groups" in page
    assert "package &lt;x&gt;, licence Apache-2.0" in page
    assert "lr = 0.1" in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|https?://", page)
    assert page.count("data:image/jpeg;base64,") == 3
    assert "Training" not in re.findall(r"<h2>(.*?)</h2>", page_of(dataset))


def test_the_worst_image_comes_first(tmp_path):
    for name, wrong in (("good", 0), ("bad", 9), ("middling", 4)):
        image = np.zeros((10, 10, 3), np.uint8)
        image[:wrong, :, 0] = 100
        write_pair(tmp_path, name, image, np.zeros((10, 10), np.uint8))
    page = page_of(Dataset.open(tmp_path, class_table=TABLE))
    assert re.findall(r"<figcaption>(\w+):", page) == ["bad", "middling", "good"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser is installed")
def test_a_browser_shows_the_page(dataset, tmp_path):
    (tmp_path / "page.html").write_text(page_of(dataset), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=390,3000",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
    done = subprocess.run(
        [*command, f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Uncaught" not in done.stderr
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    # Something is drawn from top to bottom, and nothing is wider than a telephone: the right margin is empty.
    assert all(band.std() > 5 for band in np.array_split(picture[:2400], 6))
    assert (picture[:, -8:] == picture[0, -1]).mean() > 0.98


def test_the_command_writes_one_page_of_a_run(tmp_path, monkeypatch):
    from fullyconv.config import recipe
    from fullyconv.synthetic import write_dataset
    from fullyconv.train import train

    write_dataset(tmp_path / "data", train=3, val=2, test=0, size=(96, 128), seed=0)
    config = recipe("fast", epochs=1, steps=1, device="cpu")
    model = train(Dataset.open(tmp_path / "data"), tmp_path / "run", config).model

    def run():
        return answer(monkeypatch, "report", model, tmp_path / "data", "-o", tmp_path / "r.html")

    done = run()
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>run on data</title>" in page
    assert "<h2>Training</h2>" in page
    again = run()
    assert (again.returncode, "r.html exists already" in again.stderr) == (2, True)
