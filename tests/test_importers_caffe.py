""".caffemodel files, written here byte by byte -> models: both forms of blobs, the logits, what is refused."""

import contextlib
import struct
import sys

import numpy as np
import pytest
import torch
from caffemodels import blob, bytes_of, caffemodel, layer, number, scales, varint
from oracles import random_reference
from released import PlainAlexNet, PlainVGG, make_narrow, parity

from fullyconv.errors import UsageError, WeightsError
from fullyconv.importers import import_model
from fullyconv.importers.caffe import read


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    make_narrow(monkeypatch, 16)


def plain(stride=32, **options):
    torch.manual_seed(2)
    return random_reference(lambda: PlainVGG(stride, divisor=16, **options))


def narrow_scales(*factors):
    return scales(*factors, widths=(32, 16))


@pytest.mark.parametrize("options", [{}, {"first_version": True}, {"legacy": True}, {"doubles": True}])
def test_both_forms_of_layers_and_blobs_are_read_to_the_bit(options, tmp_path):
    reference = plain(16)
    found = read(caffemodel(reference, tmp_path / "net.caffemodel", **options)).tensors
    state = reference.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(("field", "form"), [(5, "<f"), (8, "<d")])
def test_numbers_that_are_not_packed_are_read(field, form, tmp_path):
    kind = 5 if form == "<f" else 1
    data = b"".join(varint(field * 8 + kind) + struct.pack(form, value) for value in (1.5, -2, 7))
    shape = bytes_of(7, number(1, 3) + number(1, 1))
    content = bytes_of(1, b"a") + bytes_of(7, shape + data)
    (tmp_path / "a.caffemodel").write_bytes(bytes_of(100, content))
    assert read(tmp_path / "a.caffemodel").tensors["a.weight"].tolist() == [[1.5], [-2.0], [7.0]]


def test_numbers_packed_in_several_pieces_are_read_in_order(tmp_path):
    pieces = b"".join(bytes_of(5, struct.pack("<2f", *pair)) for pair in ((1, 2), (3, 4)))
    content = bytes_of(1, b"a") + bytes_of(7, pieces + bytes_of(7, number(1, 4)))
    (tmp_path / "a.caffemodel").write_bytes(bytes_of(100, content))
    assert read(tmp_path / "a.caffemodel").tensors["a.weight"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_logits_are_those_of_a_plain_network(stride, tmp_path):
    reference = plain(stride)
    model = import_model(caffemodel(reference, tmp_path / f"fcn{stride}s-heavy-pascal.caffemodel"))
    assert max(parity(model, reference, size) for size in [(1, 1), (45, 70)]) < 1e-5
    assert model.training_record["imported"]["network"].startswith(f"FCN-{stride}s")
    assert model.class_table.names[15] == "person"


def test_at_once_is_told_by_its_layers(tmp_path):
    reference = plain(8, at_once=True)
    path = caffemodel(reference, tmp_path / "net.caffemodel", narrow_scales())
    model = import_model(path)
    assert parity(model, reference, (45, 70)) < 1e-5
    assert model.training_record["imported"]["network"] == "FCN-8s at once (by its layers)"
    with pytest.raises(UsageError, match="has the layers scale_pool4, scale_pool3: it is FCN-8s at once"):
        import_model(path, at_once=False)
    with pytest.raises(WeightsError, match=r"expected every factor of scale_pool4 to be 0\.01, got 0.02 to 0.02"):
        import_model(caffemodel(reference, tmp_path / "b.caffemodel", narrow_scales(0.02)))
    with pytest.raises(WeightsError, match="expected scale_pool4 and scale_pool3, got only one of them"):
        import_model(caffemodel(reference, tmp_path / "c.caffemodel", narrow_scales()[:1]))
    named = caffemodel(reference, tmp_path / "fcn8s-atonce-pascal.caffemodel")
    assert parity(import_model(named), reference, (45, 70)) < 1e-5


def test_alexnet_is_told_by_its_layers(tmp_path):
    reference = random_reference(lambda: PlainAlexNet(divisor=16))
    path = caffemodel(reference, tmp_path / "fcn-alexnet-pascal.caffemodel")
    model = import_model(path)
    assert max(parity(model, reference, size) for size in [(1, 1), (45, 70)]) < 1e-5
    assert model.training_record["imported"]["network"] == "FCN-AlexNet"
    with pytest.raises(UsageError, match=r"only an FCN-8s is trained at once, .* is an FCN-AlexNet"):
        import_model(path, at_once=True)


def test_pascal_context_has_sixty_numbered_classes(tmp_path):
    reference = plain(32, classes=60)
    model = import_model(caffemodel(reference, tmp_path / "pascalcontext-fcn32s-heavy.caffemodel"))
    assert model.class_table.names[59] == "class 59"
    assert parity(model, reference, (33, 40)) < 1e-5


def test_networks_for_other_images_are_refused(tmp_path):
    path = caffemodel(plain(32, classes=40), tmp_path / "nyud-fcn32s-color-heavy.caffemodel")
    with pytest.raises(WeightsError, match="those of NYUDv2 have another mean"):
        import_model(path)
    heads = caffemodel(plain(32, classes=33), tmp_path / "sift.caffemodel", [layer("score_geo", "C", [[1.0]])])
    with pytest.raises(WeightsError, match=r"unexpected: score_geo\.weight"):
        import_model(heads)
    other = tmp_path / "other.caffemodel"
    other.write_bytes(layer("ip1", "InnerProduct", [np.zeros((3, 2))]))
    with pytest.raises(WeightsError, match=r"expected one of upscore.weight, .* got none"):
        import_model(other)


SHORT = layer("a", "Convolution", [np.zeros((2, 3))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no layers with weights"),
        (SHORT[:-5], "it is cut short, or no protocol buffer"),
        (SHORT + b"\xa2", "it is cut short"),
        (b"name: 'VGG'\nlayer {", "it is cut short, or no protocol buffer"),
        (b"\xff" * 20, "it is cut short, or no protocol buffer"),
        (SHORT + SHORT, "there are two layers 'a'"),
        (layer("a", "BatchNorm", [[1.0]] * 3), "layer 'a' has 3 blobs, expected a name and 1 or 2"),
        (layer("", "Convolution", [[1.0]]), "layer '' has 1 blobs"),
        (
            bytes_of(100, bytes_of(1, b"a") + bytes_of(7, number(1, 2**40) + number(2, 1))),
            "a.weight has 0 numbers, its shape is 0 x 1 x 0 x 0",
        ),
        (
            bytes_of(100, bytes_of(1, b"a") + bytes_of(7, bytes_of(7, number(1, 7)) + bytes_of(5, bytes(8)))),
            "a.weight has 2 numbers, its shape is 7",
        ),
        (
            bytes_of(
                100,
                bytes_of(1, b"a") + bytes_of(7, bytes_of(7, number(1, 2**64 - 1) * 2) + bytes_of(5, bytes(4))),
            ),
            "a.weight has 1 numbers, its shape is -1 x -1",
        ),
        (
            bytes_of(
                100,
                bytes_of(1, b"a")
                + bytes_of(7, bytes_of(7, number(1, 2)) + bytes_of(5, bytes(4)) + varint(45) + bytes(4)),
            ),
            "a.weight has 1 numbers, its shape is 2",  # one packed, one not
        ),
        (bytes_of(100, bytes_of(1, b"a") + bytes_of(7, bytes_of(5, bytes(7)))), "no readable Caffe model"),
        (bytes_of(100, bytes_of(1, b"\xff\xfe") + bytes_of(7, blob([1.0]))), "no readable Caffe model"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        import_model(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_or_with_any_byte_changed_ends_in_a_clear_line(tmp_path):
    whole = caffemodel(random_reference(lambda: PlainVGG(32, divisor=64, classes=1)), tmp_path / "a.caffemodel")
    content = whole.read_bytes()
    draw, path = np.random.default_rng(0), tmp_path / "b.caffemodel"
    for place in draw.integers(len(content), size=30).tolist():
        path.write_bytes(content[:place])
        with pytest.raises(WeightsError):
            import_model(path)
        changed = bytearray(content)
        changed[place] ^= int(draw.integers(1, 256))
        path.write_bytes(bytes(changed))
        with contextlib.suppress(WeightsError):  # most bytes are those of numbers
            import_model(path)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf.descriptor_pb2", None)
    (tmp_path / "net.caffemodel").write_bytes(SHORT)
    with pytest.raises(UsageError, match=r"\.caffemodel files need protobuf") as caught:
        import_model(tmp_path / "net.caffemodel")
    assert caught.value.hint == 'install it with: pip install "fullyconv[caffe]"'
