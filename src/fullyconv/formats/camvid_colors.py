"""CamVid as its authors publish it: 701_StillsRaw_full/NAME.png and LabeledApproved_full/NAME_L.png in colours.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video" (2009): 32 names, of which Void is no class. The
colours are those of label_colors.txt, `red green blue name` a line, where it is there.
"""

from pathlib import Path

from fullyconv.class_table import IGNORE_INDEX, ClassEntry
from fullyconv.errors import DataError
from fullyconv.formats.documents import understood
from fullyconv.formats.labels import is_ignored
from fullyconv.formats.lists import numbered_lines
from fullyconv.images import show_path
from fullyconv.layout import KnownClasses, Layout, Sample, by_stem, image_files, ordered, some

__all__ = ["find_camvid_colors", "read_camvid_colors"]

_IMAGES, _MASKS, _ENDING = "701_StillsRaw_full", "LabeledApproved_full", "_L"
_COLORS_FILE = "label_colors.txt"

_COLORS = """
64 128 64 Animal
192 0 128 Archway
0 128 192 Bicyclist
0 128 64 Bridge
128 0 0 Building
64 0 128 Car
64 0 192 CartLuggagePram
192 128 64 Child
192 192 128 Column_Pole
64 64 128 Fence
128 0 192 LaneMkgsDriv
192 0 64 LaneMkgsNonDriv
128 128 64 Misc_Text
192 0 192 MotorcycleScooter
128 64 64 OtherMoving
64 192 128 ParkingBlock
64 64 0 Pedestrian
128 64 128 Road
128 128 192 RoadShoulder
0 0 192 Sidewalk
192 128 128 SignSymbol
128 128 128 Sky
64 128 192 SUVPickupTruck
0 0 64 TrafficCone
0 64 64 TrafficLight
192 64 128 Train
128 128 0 Tree
192 128 192 Truck_Bus
64 0 64 Tunnel
192 192 0 VegetationMisc
0 0 0 Void
64 192 0 Wall
"""


def find_camvid_colors(root: Path) -> Path | None:
    """LabeledApproved_full/ of a folder; None if it has none."""
    folder = root / _MASKS
    return folder if folder.is_dir() else None


def read_camvid_colors(root: Path) -> Layout:
    """Pair NAME.png of the images with NAME_L.png of the masks; there are no splits.

    Raises:
        DataError: The images are missing, a file has no partner, or label_colors.txt is damaged.
    """
    layout = Layout(description=f"{_IMAGES} + {_MASKS} of CamVid", classes=_classes(root / _COLORS_FILE))
    if not (root / _IMAGES).is_dir():
        raise DataError(
            f"{show_path(root)}: expected {_IMAGES}/ beside {_MASKS}/, got none", hint="put the images there"
        )
    images, masks = (by_stem(image_files(root / name, layout.skipped), root / name) for name in (_IMAGES, _MASKS))
    mask_of = {stem.removesuffix(_ENDING): mask for stem, mask in masks.items()}
    alone = sorted(set(images) ^ set(mask_of))
    if alone:
        raise DataError(
            f"{show_path(root)}: {len(alone)} of {len(images)} images and {len(mask_of)} masks have no partner: "
            f"{some(alone)}",
            hint=f"the mask of NAME.png is {_MASKS}/NAME{_ENDING}.png",
        )
    layout.samples = ordered(Sample(name, image, mask_of[name], None) for name, image in images.items())
    return layout


def _classes(path: Path) -> KnownClasses:
    lines = numbered_lines(path) if path.is_file() else enumerate(_COLORS.strip().splitlines(), start=1)
    found: list[ClassEntry] = []
    for number, line in lines:
        with understood(f"{show_path(path)}, line {number}", "red green blue name"):
            red, green, blue, name = line.split(maxsplit=3)
            value = IGNORE_INDEX if is_ignored(name) else sum(entry.value != IGNORE_INDEX for entry in found)
            found.append(ClassEntry(name.strip(), value, (int(red), int(green), int(blue))))
    return KnownClasses(tuple(found), path.name if path.is_file() else "CamVid in colours", colored=True)
