"""The pictures of "From CAE to FCN", from digits that are drawn here and the drawn inspection set.

cae_digits.png     digits above what a denoising autoencoder makes of them
cae_surfaces.png   surfaces above their reconstructions
cae_to_fcn.png     image to image, and below it image to classes, by the same downsampling path
cae_skips.png      the FCN without skips (32s) and with more and more of them (16s, 8s, 4s)
cae_any_size.png   the same FCN on images of other sizes
"""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fullyconv.config import PretrainConfig, recipe
from fullyconv.dataset import Dataset
from fullyconv.encoders.cae import load_cae
from fullyconv.pictures import colorize, overlay, reconstruction_panel, save_picture
from fullyconv.predict import Predictor
from fullyconv.pretrain import pretrain, reconstruct
from fullyconv.progress import Console
from fullyconv.synthetic import draw_sample, write_dataset
from fullyconv.train import train

PICTURES = Path(__file__).parent / "pictures"
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
SIZES = ((40, 200), (150, 90), (97, 131), (200, 200))


def drawn_digits(count: int, seed: int = 0) -> list[np.ndarray]:
    """Draw digits of 28 x 28 pixels, each moved, turned and sized by chance."""
    draw = np.random.default_rng(seed)
    digits = []
    for number in range(count):
        canvas = Image.new("L", (56, 56))
        font = ImageFont.truetype(FONT, int(draw.integers(34, 48)))
        place = (28 + draw.uniform(-4, 4), 28 + draw.uniform(-4, 4))
        ImageDraw.Draw(canvas).text(place, str(number % 10), 255, font, anchor="mm", stroke_width=number % 3)
        turned = canvas.rotate(draw.uniform(-20, 20), Image.Resampling.BICUBIC)
        digits.append(np.asarray(turned.resize((28, 28), Image.Resampling.BOX)))
    return digits


def test_rows(data: Dataset, indices: tuple[int, ...]):
    """Images and targets of the test split."""
    test = data.split("test")
    return [(test.read_image(test[index]), test.read_target(test[index])) for index in indices]


def make(folder: Path) -> None:
    """Train what is shown, and draw."""
    digits = pretrain(
        drawn_digits(1000), folder / "digits", PretrainConfig(preset="digits", noise=0.3), progress=Console()
    )
    (digits.run / "reconstructions.png").replace(PICTURES / "cae_digits.png")
    write_dataset(folder / "small", train=128, val=16, test=12, size=(160, 160), seed=1)
    data = Dataset.open(folder / "small")
    cae = pretrain(
        [folder / "small" / "images" / "train"], folder / "cae", PretrainConfig(steps=600), progress=Console()
    )
    shown = [image for image, _ in test_rows(data, (1, 4, 6, 9))]
    whole = load_cae(cae.cae)
    rebuilt = [reconstruct(whole, image) for image in shown]
    save_picture(reconstruction_panel({"input": shown, "reconstruction": rebuilt}), PICTURES / "cae_surfaces.png")
    models = {}
    for stride in (32, 16, 8, 4):
        config = recipe(encoder=f"cae:{cae.cae}", decoder="cae", stride=stride, steps=300, epochs=1)
        models[stride] = Predictor(train(data, folder / f"fcn{stride}", config, progress=Console()).model)
    table = data.class_table
    rows = test_rows(data, (1, 4, 6, 9))
    best = [colorize(models[4].predict(image), table) for image, _ in rows]
    panel = {
        "input": shown,
        "CAE: image to image": rebuilt,
        "FCN: image to classes": best,
        "target": [colorize(target, table) for _, target in rows],
    }
    save_picture(reconstruction_panel(panel), PICTURES / "cae_to_fcn.png")
    skips = {"input": shown}
    for stride, model in models.items():
        title = f"{stride}s" if stride < 32 else "32s: no skip"
        skips[title] = [colorize(model.predict(image), table) for image in shown]
    skips["target"] = panel["target"]
    save_picture(reconstruction_panel(skips), PICTURES / "cae_skips.png")
    sizes = [draw_sample(size, seed=(7, index))[0] for index, size in enumerate(SIZES)]
    masks = [models[4].predict(image) for image in sizes]
    any_size = {
        ", ".join(f"{height} x {width}" for height, width in SIZES): sizes,
        "prediction": [overlay(image, mask, table) for image, mask in zip(sizes, masks, strict=True)],
    }
    save_picture(reconstruction_panel(any_size), PICTURES / "cae_any_size.png")
