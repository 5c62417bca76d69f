"""Data sets that others published: what they are, under which terms, where their archives lie, how to know them.

Each digest and size stands here because its source says so, and the source stands beside it. An archive may lie at
several addresses, which are tried in their order. What these archives hold is brought into form by `arrange`.
"""

from dataclasses import dataclass

from fullyconv.errors import UsageError

__all__ = ["PUBLISHED", "Archive", "PublishedSet", "published_set"]


@dataclass(frozen=True)
class Archive:
    """One file that somebody publishes.

    Attributes:
        file: What it is called where it is kept.
        digest: 64 hex digits of its SHA-256, or "md5:" and 32 of its MD5 where nobody states the other.
        urls: Where it lies, best first.
        size: Bytes; None where no source states them.
    """

    file: str
    digest: str
    urls: tuple[str, ...]
    size: int | None = None


@dataclass(frozen=True)
class PublishedSet:
    """A data set of one or several archives.

    Attributes:
        name: What the command line calls it.
        title: What it is, in a line.
        splits: Images and classes, in a line.
        terms: Licence or terms of use, in a line.
        archives: What has to be downloaded.
        ignore: Mask values that are no class, for `--ignore`.
        needs: The extra without which its masks cannot be read; "" where none is needed.
    """

    name: str
    title: str
    splits: str
    terms: str
    archives: tuple[Archive, ...]
    ignore: tuple[int, ...] = ()
    needs: str = ""


def published_set(name: str) -> PublishedSet:
    """The data set of a name.

    Raises:
        UsageError: There is none.
    """
    found = PUBLISHED.get(name)
    if found is None:
        raise UsageError(f"expected a data set, one of {', '.join(PUBLISHED)}, got {name}")
    return found


_VOC_TERMS = "images from Flickr, under its terms of use; see host.robots.ox.ac.uk/pascal/VOC"
_SBD_TERMS = f"to be cited as its authors ask; {_VOC_TERMS}"
_CAMVID_TERMS = "to be cited as its authors ask; see mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"

# Addresses and MD5 of both years (6cd6e144f989b92b3379bac3b3de84fd, 6c3384ef61512963050cb5d687e5bf1e):
# torchvision, datasets/voc.py; host.robots.ox.ac.uk, in its earlier releases, leads there. SHA-256 of 2012:
# pytorch/vision, prototype/datasets/_builtin/voc.py. Its size: what the server answers, in several public logs.
_VOC2012 = Archive(
    "VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar",
    ),
    1_999_639_040,
)
_VOC2011 = Archive(
    "VOCtrainval_25-May-2011.tar",
    "md5:6c3384ef61512963050cb5d687e5bf1e",
    ("https://thor.robots.ox.ac.uk/pascal/VOC/voc2011/VOCtrainval_25-May-2011.tar",),
)

# Addresses and MD5 (82b4d87ceb2ed10f6038a1cba92111cb, 79bff800c5f0b1ec6b21080a3c066722): torchvision,
# datasets/sbd.py. SHA-256 of both and the list's second address, which knows no https: pytorch/vision,
# prototype/datasets/_builtin/sbd.py. Size: a public log.
_SBD = Archive(
    "SBD_benchmark.tgz",
    "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
    ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    1_419_539_633,
)
_SBD_TRAIN = Archive(
    "SBD_train_noval.txt",
    "0b2068f7a359d2907431803e1cd63bf6162da37d7d503b589d3b08c6fd0c2432",
    (
        "https://www.cs.cornell.edu/~bharathh/train_noval.txt",
        "http://home.bharathh.info/pubs/codes/SBD/train_noval.txt",
    ),
)

# Addresses, sizes and MD5: fastai/fastai, fastai/data/checks.txt.
_CAMVID = Archive(
    "camvid.tgz",
    "md5:648371e4f3a833682afb39b08a3ce2aa",
    ("https://s3.amazonaws.com/fast-ai-imagelocal/camvid.tgz",),
    598_913_237,
)
_CAMVID_TINY = Archive(
    "camvid_tiny.tgz",
    "md5:2cf6daf91b7a2083ecfa3e9968e9d915",
    ("https://s3.amazonaws.com/fast-ai-sample/camvid_tiny.tgz",),
    2_314_212,
)

# Addresses: torchvision, datasets/oxford_iiit_pet.py, and the server that they lead to. SHA-256:
# pytorch/vision, prototype/datasets/_builtin/oxford_iiit_pet.py. Sizes: several public logs.
_PET_IMAGES = Archive(
    "oxford_pets_images.tar.gz",
    "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
    (
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
        "https://thor.robots.ox.ac.uk/datasets/pets/images.tar.gz",
    ),
    791_918_971,
)
_PET_MASKS = Archive(
    "oxford_pets_annotations.tar.gz",
    "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
    (
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
        "https://thor.robots.ox.ac.uk/datasets/pets/annotations.tar.gz",
    ),
    19_173_078,
)

# Address and MD5: several public loaders of this set agree on them; no source states the size.
_ADE20K = Archive(
    "ADEChallengeData2016.zip",
    "md5:7328b3957e407ddae1d3cbf487f149ef",
    ("https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
)

_SETS = (
    PublishedSet(
        "voc2012",
        "PASCAL VOC 2012, segmentation",
        "train 1,464, val 1,449; 21 classes",
        _VOC_TERMS,
        (_VOC2012,),
    ),
    PublishedSet(
        "sbd",
        "Semantic Boundaries Dataset (Hariharan et al., 2011)",
        "train 5,623 (train_noval: none of VOC 2012's val), val the other 5,732; 21 classes",
        _SBD_TERMS,
        (_SBD, _SBD_TRAIN),
        needs="sbd",
    ),
    PublishedSet(
        "voc2011-sbd",
        "what the FCN paper learns from and is measured on",
        "train 8,498 of SBD, val 736 of VOC 2011 (seg11valid); 21 classes",
        _SBD_TERMS,
        (_VOC2011, _SBD),
        needs="sbd",
    ),
    PublishedSet(
        "voc2012-sbd",
        "VOC 2012 with SBD's masks added, as most later papers train on",
        "train 10,582, val 1,449 of VOC 2012; 21 classes",
        _SBD_TERMS,
        (_VOC2012, _SBD),
        needs="sbd",
    ),
    PublishedSet(
        "camvid",
        "CamVid in fast.ai's archive: 960 x 720, all 32 names of its authors",
        "train 600, val 101; 31 classes and Void",
        _CAMVID_TERMS,
        (_CAMVID,),
        ignore=(30,),
    ),
    PublishedSet(
        "camvid-tiny",
        "100 images of CamVid at 128 x 96: to try things out",
        "100 without splits; 31 classes and Void",
        _CAMVID_TERMS,
        (_CAMVID_TINY,),
        ignore=(30,),
    ),
    PublishedSet(
        "oxford-pets",
        "Oxford-IIIT Pet: pet, background and the border between them",
        "train 3,680, test 3,669; 2 classes and the border",
        "CC BY-SA 4.0",
        (_PET_IMAGES, _PET_MASKS),
        ignore=(3,),
    ),
    PublishedSet(
        "ade20k",
        "ADE20K, the scene parsing benchmark of 2016",
        "train 20,210, val 2,000; 150 classes",
        "annotations BSD 3-Clause; for the images see groups.csail.mit.edu/vision/datasets/ADE20K",
        (_ADE20K,),
    ),
)

PUBLISHED = {found.name: found for found in _SETS}
"""By name, in the order in which the command line lists them."""
