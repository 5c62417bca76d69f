"""Miniatures of data sets that others published: their layouts exactly, with a few tiny drawn images in them.

Each function fills a folder, so that a recipe or a reader can be tried on the form of the real data in a second.
"""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from fullyconv.formats.voc import VOC_CLASSES

SIZE = (48, 64)

CAMVID_CODES = (
    *("Animal", "Archway", "Bicyclist", "Bridge", "Building", "Car", "CartLuggagePram", "Child"),
    *(
        "Column_Pole",
        "Fence",
        "LaneMkgsDriv",
        "LaneMkgsNonDriv",
        "Misc_Text",
        "MotorcycleScooter",
        "OtherMoving",
        "ParkingBlock",
    ),
    *("Pedestrian", "Road", "RoadShoulder", "Sidewalk", "SignSymbol", "Sky", "SUVPickupTruck", "TrafficCone"),
    *("TrafficLight", "Train", "Tree", "Truck_Bus", "Tunnel", "VegetationMisc", "Void", "Wall"),
)


def draw_scene(seed, size=SIZE, background=0, classes=(1, 2), border=None):
    """A background with an area of each class in a colour of its own, and a border around it if that has a value.

    Returns:
        H x W x 3 uint8 RGB and H x W uint8 values.
    """
    draw = np.random.default_rng(seed)
    height, width = size
    mask = np.full(size, background, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for place, value in enumerate(classes):
        centre = draw.integers(height // 4, 3 * height // 4), (2 * place + 1) * width // (2 * len(classes))
        radius = draw.integers(height // 8, height // 4 + 1)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        if border is not None:
            mask[distance < radius + 2] = border
        mask[distance < radius] = value
    colors = np.random.default_rng(99).integers(40, 216, (256, 3))
    image = colors[mask] + draw.normal(0, 8, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def save(array, path):
    """Write an image or a mask of values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(array).save(path)


def write_lines(path, lines):
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def voc(root, train=("2007_000032", "2007_000039"), val=("2007_000033", "2007_000042")):
    """PASCAL VOC: root/VOC2012 or another year's folder, with palette masks and a border of 255."""
    for number, name in enumerate([*train, *val]):
        image, mask = draw_scene(number, classes=(1 + number % 20, 15), border=255)
        save(image, root / "JPEGImages" / f"{name}.jpg")
        save(mask, root / "SegmentationObject" / f"{name}.png")
        palette = PillowImage.fromarray(mask)
        colors = np.zeros((256, 3), np.uint8)
        for entry in VOC_CLASSES.entries:
            colors[entry.value] = entry.color
        palette.putpalette(colors.tobytes())
        (root / "SegmentationClass").mkdir(exist_ok=True)
        palette.save(root / "SegmentationClass" / f"{name}.png")
    save(draw_scene(99)[0], root / "JPEGImages" / "2007_000001.jpg")  # most images have no mask
    write_lines(root / "Annotations" / "2007_000001.xml", ["<annotation/>"])
    lists = root / "ImageSets" / "Segmentation"
    for split, names in {"train": train, "val": val, "trainval": sorted([*train, *val])}.items():
        write_lines(lists / f"{split}.txt", names)


def sbd(root, train=("2008_000002", "2007_000032", "2007_000033"), val=("2008_000007", "2007_000042")):
    """SBD's `dataset` folder: img/NAME.jpg, cls/NAME.mat, lists, in which images of VOC's val are, too.

    Its masks have no border.
    """
    from scipy.io import savemat
    from scipy.sparse import csc_matrix

    for number, name in enumerate([*train, *val]):
        image, mask = draw_scene(50 + number, classes=(3 + number, 15))
        save(image, root / "img" / f"{name}.jpg")
        boundaries = np.empty((20, 1), object)
        for place in range(20):
            boundaries[place, 0] = csc_matrix(mask == place + 1).astype(bool)
        found = np.unique(mask[mask > 0]).reshape(-1, 1)
        parts = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": found}
        (root / "cls").mkdir(exist_ok=True)
        savemat(root / "cls" / f"{name}.mat", {"GTcls": parts}, do_compression=True)
    write_lines(root / "train.txt", train)
    write_lines(root / "val.txt", val)


def camvid_of_fast_ai(root, count=4, val=1):
    """fast.ai's CamVid: images/NAME.png, labels/NAME_P.png, codes.txt, and valid.txt where some are held out."""
    names = [f"0016E5_{number:05}" for number in range(count)]
    for number, name in enumerate(names):
        image, mask = draw_scene(number, background=21, classes=(4, 17, 5), border=30)
        save(image, root / "images" / f"{name}.png")
        save(mask, root / "labels" / f"{name}_P.png")
    write_lines(root / "codes.txt", CAMVID_CODES)
    if val:
        write_lines(root / "valid.txt", [f"{name}.png" for name in names[-val:]])


def camvid_of_segnet(root, counts=(("train", 2), ("val", 1), ("test", 1))):
    """SegNet's CamVid: train/, trainannot/ and so on, 11 classes and 11 for unlabelled pixels."""
    for split, count in counts:
        lines = []
        for number in range(count):
            image, mask = draw_scene(number, background=0, classes=(1, 3, 8), border=11)
            save(image, root / split / f"0001TP_{number:06}.png")
            save(mask, root / f"{split}annot" / f"0001TP_{number:06}.png")
            name = f"0001TP_{number:06}.png"
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
        write_lines(root / f"{split}.txt", lines)


def pets(root):
    """Oxford-IIIT Pet: images/ and annotations/trimaps/, lists of names, strays as in the archives."""
    lists = {"trainval": ["Abyssinian_1", "beagle_2"], "test": ["Abyssinian_3", "beagle_4"]}
    for split, names in lists.items():
        for name in names:
            image, mask = draw_scene(len(name) + int(name[-1]), background=2, classes=(1,), border=3)
            save(image, root / "images" / f"{name}.jpg")
            save(mask, root / "annotations" / "trimaps" / f"{name}.png")
            write_lines(root / "annotations" / "trimaps" / f"._{name}.png", ["not a PNG"])
        write_lines(root / "annotations" / f"{split}.txt", [f"{name} 1 1 1" for name in names])
    write_lines(root / "annotations" / "list.txt", ["#Image CLASS-ID SPECIES BREED ID", "Abyssinian_1 1 1 1"])
    write_lines(root / "images" / "Abyssinian_100.mat", ["a stray"])


def ade20k(root):
    """ADE20K's scene parsing benchmark: 0 where a pixel has no class."""
    for split, word, count in (("training", "train", 2), ("validation", "val", 1)):
        for number in range(count):
            image, mask = draw_scene(number, classes=(3, 150), border=2)
            name = f"ADE_{word}_{number + 1:08}"
            save(image, root / "images" / split / f"{name}.jpg")
            save(mask, root / "annotations" / split / f"{name}.png")
    lines = [f"{index}\t0.1\t1\t1\t1\tclass {index}, other word" for index in range(1, 151)]
    write_lines(root / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tStuff\tName", *lines])
    write_lines(root / "sceneCategories.txt", ["ADE_train_00000001 airport_terminal"])


def road_arrays(root, count=3, size=(160, 576)):
    """The lecture's arrays: images 0..1, one-hot masks of background and road, test images without masks."""
    root.mkdir(parents=True, exist_ok=True)
    scenes = [draw_scene(number, size, classes=(1,)) for number in range(count)]
    images = np.stack([image for image, _ in scenes]).astype(np.float64) / 255
    np.save(root / "images_training.npy", images)
    np.save(root / "seg_training.npy", np.stack([np.eye(2)[mask] for _, mask in scenes]))
    np.save(root / "images_testing.npy", images[:1])


def coco(root, counts=(("train", 2), ("val", 1))):
    """COCO 2017: train2017/, val2017/ and annotations/instances_train2017.json and so on, areas as polygons."""
    height, width = SIZE
    for split, count in counts:
        images, areas = [], []
        for number in range(count):
            image, _ = draw_scene(number, classes=())
            left, top = 8 + number, 10
            image[top : top + 20, left : left + 24] = (200, 40, 40)
            save(image, root / f"{split}2017" / f"{number:012}.jpg")
            name = f"{number:012}.jpg"
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            corners = [left, top, left + 24, top, left + 24, top + 20, left, top + 20]
            area = {"id": number, "image_id": number, "category_id": 18, "segmentation": [corners], "iscrowd": 0}
            areas.append(area | {"bbox": [left, top, 24, 20], "area": 480})
        document = {"images": images, "annotations": areas, "categories": [{"id": 18, "name": "dog"}]}
        write_lines(root / "annotations" / f"instances_{split}2017.json", [json.dumps(document)])


def pack(folder, file, prefix=""):
    """Put what a folder holds into a tar or zip file, by the suffix; returns its bytes."""
    paths = sorted(Path(folder).rglob("*"))
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as zipped:
            for path in paths:
                zipped.write(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    else:
        with tarfile.open(file, "w:gz" if file.suffix in (".tgz", ".gz") else "w") as tar:
            for path in paths:
                tar.add(path, f"{prefix}{path.relative_to(folder).as_posix()}", recursive=False)
    return file.read_bytes()
