"""Makes the pictures of the README and the docs, all from the drawn inspection set.

    python docs/make_pictures.py

overview.png    image, target, prediction and overlay of test images, as the demo's recipe sees them
lecture.png     the lecture's network on two classes: input, class maps, result and overlay
strides.png     FCN-32s, 16s and 8s side by side: what the skips bring back
figures         explain-*.png: the figures of the lecture's network, in steps, FCN-8s and the practical decoder
contributions   explain-contributions.png, explain-skips.png: what each stride of the default recipe contributes
lecture-result.png, lecture-loss.png    the lecture's training (--recipe lecture-exact, narrower and on
                EfficientNet-Lite0): its figures of a test image, and the curves of the run
cae             the pictures of cae_pictures.py
"""

import shutil
import sys
import tempfile
from pathlib import Path

import cae_pictures
import numpy as np
from PIL import Image

from fullyconv.ablation import measure_strides
from fullyconv.class_table import ClassTable
from fullyconv.config import TrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.diagrams import draw
from fullyconv.explain import contribution_pictures, find_network, outline_of, sizes_of
from fullyconv.images import read_mask_array, write_mask
from fullyconv.lecture import lecture_figures
from fullyconv.pictures import colorize, save_picture, validation_panel
from fullyconv.predict import Predictor
from fullyconv.progress import Console
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

PICTURES = Path(__file__).parent / "pictures"
STRIDES = (32, 16, 8)

ALL = ("overview", "lecture", "strides", "figures", "contributions", "lecture-exact", "cae")


def trained(data: Dataset, folder: Path, config: TrainConfig) -> Predictor:
    """Train with some settings."""
    return Predictor(train(data, folder, config, progress=Console()).model)


def rows(data: Dataset, predictor: Predictor, indices: tuple[int, ...]):
    """Image, target and prediction of test images."""
    test = data.split("test")
    images = [test.read_image(test[index]) for index in indices]
    return [
        (image, test.read_target(test[index]), predictor.predict(image))
        for index, image in zip(indices, images, strict=True)
    ]


def two_classes(root: Path) -> Dataset:
    """Turn every defect of a drawn set into one class."""
    colors = {0: (36, 41, 47), 1: (255, 176, 0)}
    for path in sorted((root / "masks").rglob("*.png")):
        write_mask(path, (read_mask_array(path) > 0).astype(np.uint8), colors, overwrite=True)
    (root / "classes.txt").write_text("0,surface,36,41,47\n1,defect,255,176,0\n", encoding="utf-8")
    return Dataset.open(root)


def strides_picture(data: Dataset, predictors: list[Predictor], index: int, table: ClassTable) -> np.ndarray:
    """Put image, target and the predictions of several networks side by side."""
    test = data.split("test")
    image, target = test.read_image(test[index]), test.read_target(test[index])
    gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
    panels = [image, colorize(target, table)] + [colorize(p.predict(image), table) for p in predictors]
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def draw_figures(folder: Path) -> None:
    """Draw the figures of networks; none of them has to be trained for that."""
    lecture = outline_of(find_network("vgg16+lecture"))
    steps = []
    for step in range(1, lecture.step_count + 1):
        save_picture(draw(lecture, step=step), folder / "step.png")
        with Image.open(folder / "step.png") as picture:
            steps.append(np.asarray(picture))
    save_picture(np.concatenate(steps), PICTURES / "explain-lecture-steps.png")
    save_picture(draw(lecture, sizes_of(lecture, (160, 576))), PICTURES / "explain-lecture.png")
    fcn8s = outline_of(find_network("vgg16+fcn", 21, {"fc": True}))
    save_picture(draw(fcn8s), PICTURES / "explain-fcn8s.png")
    practical = outline_of(find_network("efficientnet_lite0+practical", 11))
    save_picture(draw(practical, sizes_of(practical, (360, 480))), PICTURES / "explain-practical.png")


def lecture_result(data: Dataset, predictor: Predictor, index: int) -> np.ndarray:
    """Put the lecture's figures of a test image together: maps stacked, beside them mask alone and overlay."""
    test = data.split("test")
    image = test.read_image(test[index])
    maps, alone, overlay = lecture_figures(image, predictor.predict(image), predictor.class_table).values()
    share = alone[..., 3:] / 255
    on_white = np.rint(alone[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    cells = [np.full((maps.shape[0], 12, 3), 255, np.uint8), maps]
    for picture in (on_white, overlay):
        framed = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=200)
        above = (maps.shape[0] - framed.shape[0]) // 2
        sides = ((above, maps.shape[0] - framed.shape[0] - above), (12, 12), (0, 0))
        cells.append(np.pad(framed, sides, constant_values=255))
    return np.concatenate(cells, axis=1)


def main() -> None:
    """Make all pictures, or those that are named."""
    wanted = set(sys.argv[1:]) or set(ALL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "figures" in wanted:
            draw_figures(folder)
        if "cae" in wanted:
            cae_pictures.make(folder)
        if wanted <= {"figures", "cae"}:
            return
        write_dataset(folder / "data", train=160, val=20, test=24, size=(256, 256), seed=0)
        data = Dataset.open(folder / "data")
        table = data.class_table
        if wanted & {"overview", "contributions"}:
            predictor = trained(data, folder / "overview", recipe())
        if "overview" in wanted:
            save_picture(validation_panel(rows(data, predictor, (1, 4, 9)), table), PICTURES / "overview.png")
        if "contributions" in wanted:
            found = measure_strides(predictor, outline_of(predictor.model), data.split("test"), progress=Console())
            print(found.table())
            for name, picture in contribution_pictures(found, table).items():
                save_picture(picture, PICTURES / f"explain-{name}.png")
        if "strides" in wanted:
            networks = [
                trained(data, folder / f"fcn{stride}", recipe(decoder="fcn", stride=stride)) for stride in STRIDES
            ]
            pictures = [strides_picture(data, networks, index, table) for index in (1, 4, 9)]
            save_picture(np.concatenate(pictures), PICTURES / "strides.png")
        if wanted & {"lecture", "lecture-exact"}:
            two = two_classes(folder / "data")
        if "lecture-exact" in wanted:
            # The lecture's masks are green.
            (folder / "data" / "classes.txt").write_text("0,surface,0,0,0\n1,defect,0,255,0\n", encoding="utf-8")
            green = Dataset.open(folder / "data")
            config = recipe("lecture-exact", encoder="efficientnet_lite0", width=256)
            run = train(green, folder / "exact", config, progress=Console()).run
            save_picture(
                lecture_result(green, Predictor(run / "last.safetensors"), 4), PICTURES / "lecture-result.png"
            )
            shutil.copyfile(run / "curves.png", PICTURES / "lecture-loss.png")
        if "lecture" in wanted:
            predictor = trained(two, folder / "lecture", recipe(decoder="lecture", width=256, lr=1e-3))
            save_picture(validation_panel(rows(two, predictor, (1, 4)), two.class_table), PICTURES / "lecture.png")


if __name__ == "__main__":
    main()
