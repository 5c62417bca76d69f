"""Pictures: the right colour at the right pixel, any size, the image never covered."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.errors import UsageError
from fullyconv.pictures import (
    class_maps,
    colorize,
    overlay,
    probability_picture,
    reconstruction_panel,
    save_picture,
    sheet,
    validation_panel,
    with_legend,
)

BLACK, RED, SKY = (0, 0, 0), (200, 10, 30), (80, 180, 240)
TABLE = ClassTable((ClassEntry("ground", 0, BLACK), ClassEntry("crack", 1, RED), ClassEntry("stain", 2, SKY)))
MANY = ClassTable.from_names([f"class number {index}" for index in range(30)])


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def mask(rng):
    return np.kron(rng.integers(0, 3, (8, 6)), np.ones((5, 10))).astype(np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def slow_borders(mask, width):
    """Pixel by pixel: a pixel is on a border if a square around it holds a lower class index."""
    found = np.zeros(mask.shape, bool)
    for row, column in np.ndindex(mask.shape):
        square = mask[max(row - width, 0) : row + width + 1, max(column - width, 0) : column + width + 1]
        own = mask[row, column]
        found[row, column] = own != 255 and bool((square[square != 255] < own).any())
    return found


def contains(picture, part):
    """Whether a picture holds another one somewhere, unchanged."""
    height, width = (whole - inner + 1 for whole, inner in zip(picture.shape, part.shape[:2], strict=False))
    places = np.ones((height, width), bool)
    for row, column in np.random.default_rng(0).integers(part.shape[:2], size=(40, 2)):
        places &= (picture[row:, column:][:height, :width] == part[row, column]).all(axis=2)
    found = [picture[row:, column:][: part.shape[0], : part.shape[1]] for row, column in np.argwhere(places)]
    return any(np.array_equal(piece, part) for piece in found)


def test_each_class_is_painted_in_its_colour():
    picture = colorize(np.array([[0, 1], [2, 1]], np.uint8), TABLE)
    assert picture.tolist() == [[list(BLACK), list(RED)], [list(SKY), list(RED)]]


def test_ignored_pixels_are_painted_in_two_greys():
    picture = colorize(np.full((12, 12), 255, np.uint8), TABLE)
    colors = np.unique(picture.reshape(-1, 3), axis=0)
    assert len(colors) == 2
    assert (colors == colors[:, :1]).all()


@pytest.mark.parametrize("draw", [lambda i, m: colorize(m, TABLE), lambda i, m: overlay(i, m, TABLE)])
def test_an_index_without_a_class_is_refused(draw, image):
    with pytest.raises(UsageError, match=r"expected class indices 0\.\.2 or 255, got 7"):
        draw(image, np.full((40, 60), 7, np.uint8))


@pytest.mark.parametrize("draw", [overlay, class_maps])
def test_an_image_and_a_mask_of_two_sizes_are_refused(draw, image):
    with pytest.raises(UsageError, match="of one size, got 40 x 60 and 3 x 4"):
        draw(image, np.zeros((3, 4), np.uint8), TABLE)


@pytest.mark.parametrize("place", [1, 2])
def test_a_panel_refuses_a_target_or_prediction_of_another_size(image, mask, place):
    row = [image, mask, mask]
    row[place] = np.zeros((3, 4), np.uint8)
    with pytest.raises(UsageError, match="of one size, got 40 x 60 and 3 x 4"):
        validation_panel([tuple(row)], TABLE)


def test_an_overlay_mixes_image_and_class_colour(image):
    picture = overlay(image, np.full((40, 60), 1, np.uint8), TABLE, alpha=0.25)
    expected = 0.75 * image.astype(float) + 0.25 * np.array(RED)
    assert np.abs(picture - expected).max() <= 0.51


@pytest.mark.parametrize("index", [0, 255])
def test_black_classes_and_ignored_pixels_leave_the_image_as_it_is(image, index):
    assert np.array_equal(overlay(image, np.full((40, 60), index, np.uint8), TABLE), image)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_borders_are_drawn_in_the_pure_colour_of_the_higher_class(image, mask, width):
    mask[10:14, 20:40] = 255
    on_border = slow_borders(mask, width)
    picture = overlay(image, mask, TABLE, alpha=0.5, border=width)
    assert np.array_equal(picture[on_border], TABLE.colors[mask[on_border]])
    assert np.array_equal(picture[~on_border], overlay(image, mask, TABLE, border=0)[~on_border])


def test_a_tall_overlay_has_borders_across_the_strips_it_is_blended_in(rng):
    mask = np.kron(rng.integers(0, 3, (70, 1)), np.ones((17, 4))).astype(np.uint8)
    mask[510:512], mask[512:515], mask[1022:1024], mask[1024:1027] = 0, 2, 2, 0
    image = np.zeros((*mask.shape, 3), np.uint8)
    on_border = slow_borders(mask, 2)
    picture = overlay(image, mask, TABLE, border=2)
    assert np.array_equal(picture[on_border], TABLE.colors[mask[on_border]])
    assert (picture[~on_border] == (TABLE.colors * 0.5 + 0.5).astype(np.uint8)[mask[~on_border]]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (90, 20), (300, 400)])
def test_a_legend_covers_nothing(rng, size):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = with_legend(image, MANY)
    assert picture.shape[0] > size[0]
    left = (picture.shape[1] - size[1]) // 2
    assert np.array_equal(picture[: size[0], left : left + size[1]], image)


def test_a_legend_shows_the_classes_that_are_present(image):
    picture = with_legend(image, TABLE, [2, 0])[40:]
    colors = {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert SKY in colors
    assert RED not in colors


def test_a_legend_can_name_ignored_pixels(image):
    assert with_legend(image, TABLE, [0, 255]).tobytes() != with_legend(image, TABLE, [0]).tobytes()


def test_many_classes_take_more_lines_of_a_legend(image):
    assert with_legend(image, MANY).shape[0] > with_legend(image, MANY, range(3)).shape[0]


def test_a_legend_leaves_a_white_margin_around_long_names(image):
    table = ClassTable.from_names(["a name that is longer than any picture can be wide, " * 3, "Lunker (groß)"])
    picture = with_legend(image, table)
    assert (picture[-4:] == 255).all()
    assert (picture[40:, -4:] == 255).all()


def test_a_panel_holds_image_masks_and_overlay(image, mask):
    prediction = np.roll(mask, 5, axis=0)
    panel = validation_panel([(image, mask, prediction)], MANY)
    parts = [image, colorize(mask, MANY), colorize(prediction, MANY), overlay(image, prediction, MANY)]
    for part in parts:
        assert contains(panel, np.kron(part, np.ones((5, 5, 1))).astype(np.uint8))


def test_a_panel_of_few_classes_has_a_binary_map_for_each(image, mask):
    prediction = np.roll(mask, 5, axis=0)
    panel = validation_panel([(image, mask, prediction)], TABLE)
    for index in range(3):
        where = np.repeat((prediction == index)[..., None], 3, axis=2) * 255
        assert contains(panel, np.kron(where, np.ones((3, 3, 1))).astype(np.uint8))


def test_a_panel_fits_images_of_all_sizes(rng):
    rows = []
    for size in [(1, 1), (9, 700), (1200, 30), (64, 64)]:
        mask = rng.integers(0, 3, size, dtype=np.uint8)
        rows.append((rng.integers(0, 256, (*size, 3), dtype=np.uint8), mask, mask))
    height, width, _ = validation_panel(rows, TABLE).shape
    assert width <= 1620
    assert height <= 4 * 330 + 120


def test_a_thin_line_survives_being_shown_small():
    mask = np.zeros((1600, 1600), np.uint8)
    mask[:, 803:805] = 1
    panel = validation_panel([(np.zeros((1600, 1600, 3), np.uint8), mask, mask)], MANY)
    target, prediction, shown = (panel[100:300, left : left + 320, 0] for left in (344, 676, 1008))
    assert all((part.max(axis=1) > 20).all() for part in (target, prediction, shown))


def test_borders_survive_being_shown_small():
    mask = np.zeros((1600, 1600), np.uint8)
    mask[400:1200, 400:1200] = 1
    panel = validation_panel([(np.zeros((1600, 1600, 3), np.uint8), mask, mask)], MANY)
    shown = panel[36:356, 1008:1328]
    assert shown[160].max(axis=0).tolist() == MANY.colors[1].tolist()
    assert shown[160, 160].tolist() == (MANY.colors[1] // 2).tolist()


def test_a_panel_of_no_sample_is_refused():
    with pytest.raises(UsageError, match="expected at least one sample for a validation panel, got none"):
        validation_panel([], TABLE)


def test_class_maps_show_the_image_and_each_class_in_white(image, mask):
    picture = class_maps(image, mask, TABLE)
    assert contains(picture, np.kron(image, np.ones((5, 5, 1))).astype(np.uint8))
    for index in range(3):
        where = np.repeat((mask == index)[..., None], 3, axis=2) * 255
        assert contains(picture, np.kron(where, np.ones((5, 5, 1))).astype(np.uint8))


def test_many_class_maps_go_on_several_rows(image, mask):
    few, many = class_maps(image, mask, TABLE).shape, class_maps(image, mask, MANY).shape
    assert many[0] > 3 * few[0]
    assert many[1] <= 1700


def test_probabilities_get_darker_as_they_grow():
    picture = probability_picture(np.linspace(0, 1, 50)[None])
    grey = picture @ np.array([0.299, 0.587, 0.114])
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert (np.diff(grey[0]) < 0).all()


@pytest.mark.parametrize("kind", ["array", "pillow", "figure"])
def test_equal_pictures_give_equal_files(tmp_path, image, kind):
    def make():
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        return {"array": image, "pillow": Image.fromarray(image), "figure": figure}[kind]

    save_picture(make(), tmp_path / "a.png")
    save_picture(make(), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_saved_picture_holds_its_pixels_and_nothing_else(tmp_path, image):
    save_picture(np.zeros((2, 2, 3), np.uint8), tmp_path / "a.png")
    save_picture(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.asarray(file), image)
        assert not file.info
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_sheet_has_titles_above_and_all_classes_below():
    table = ClassTable((ClassEntry("sound", 0, (10, 20, 30)), ClassEntry("crack", 1, (200, 30, 30))))
    picture = np.full((40, 60, 3), 77, np.uint8)
    one = sheet([[("image", picture), ("mask", picture)]], table)
    two = sheet([[("image", picture), ("mask", picture)], [("image", picture), ("mask", picture)]], table)
    assert one.shape[1] == two.shape[1]
    assert (one == 77).all(axis=2).sum() * 2 == (two == 77).all(axis=2).sum() > 2 * 2 * 40 * 60
    assert two.shape[0] < 2 * one.shape[0]
    for color in table.colors:
        assert (one == color).all(axis=2).any()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_is_written_in_the_format_of_its_name_and_an_older_one_kept_if_asked(kind, tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    path = tmp_path / f"figure.{kind}"
    save_picture(figure, path)
    first = path.read_bytes()
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    with pytest.raises(UsageError, match="exists already"):
        save_picture(figure, path, overwrite=False)
    save_picture(figure, path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_reconstructions_stand_below_their_inputs(rng):
    images = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    negatives = [255 - image for image in images]
    panel = reconstruction_panel({"input": images, "reconstruction": negatives})
    enlarged = [np.kron(image, np.ones((5, 5, 1), np.uint8)) for image in (*images, *negatives)]
    assert all(contains(panel, image) for image in enlarged)
    top, bottom = (int(np.argwhere((panel == image[0, 0]).all(2))[0, 0]) for image in (enlarged[0], enlarged[3]))
    assert bottom > top + 200


def test_digits_of_any_number_are_enlarged_to_be_seen(rng):
    panel = reconstruction_panel({"input": [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)] * 10})
    assert panel.shape[0] > 100
    assert 1000 < panel.shape[1] <= 1700


def test_a_panel_of_no_reconstruction_is_refused():
    with pytest.raises(UsageError, match="expected at least one image for a panel of reconstructions, got none"):
        reconstruction_panel({"input": []})
