""".caffemodel files, written here byte by byte -> models: both forms of blobs, the logits, what is refused."""

import contextlib
import struct

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


def test_numbers_that_are_not_packed_are_read(tmp_path):
    data = b"".join(varint(5 * 8 + 5) + struct.pack("<f", value) for value in (1.5, -2, 7))
    shape = bytes_of(7, number(1, 3) + number(1, 1))
    content = bytes_of(1, b"a") + bytes_of(7, shape + data)
    (tmp_path / "a.caffemodel").write_bytes(bytes_of(100, content))
    assert read(tmp_path / "a.caffemodel").tensors["a.weight"].tolist() == [[1.5], [-2.0], [7.0]]


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
        (SHORT[:-5], "it ends within a field"),
        (SHORT + b"\xa2", "it ends within a number"),
        (b"name: 'VGG'\nlayer {", "protocol buffer|ends within"),
        (b"\xff" * 20, "a number is longer than ten bytes"),
        (SHORT + SHORT, "there are two layers 'a'"),
        (layer("a", "BatchNorm", [[1.0]] * 3), "layer 'a' has 3 blobs, expected a name and 1 or 2"),
        (layer("", "Convolution", [[1.0]]), "layer '' has 1 blobs"),
        (
            bytes_of(100, bytes_of(1, b"a") + bytes_of(7, number(1, 2**40) + number(2, 1))),
            "a.weight has 0 numbers, its shape is 1099511627776 x 1 x 0 x 0",
        ),
        (
            bytes_of(100, bytes_of(1, b"a") + bytes_of(7, bytes_of(7, number(1, 7)) + bytes_of(5, bytes(8)))),
            "a.weight has 2 numbers, its shape is 7",
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


def test_it_is_what_the_protobuf_library_reads(tmp_path):
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptors.FileDescriptorProto(name="caffe.proto", package="c", syntax="proto2")
    kinds = descriptors.FieldDescriptorProto
    forms = {
        "Shape": [("dim", 1, kinds.TYPE_INT64, 3, None, True)],
        "Blob": [
            ("data", 5, kinds.TYPE_FLOAT, 3, None, True),
            ("shape", 7, kinds.TYPE_MESSAGE, 1, "Shape", False),
        ],
        "Layer": [
            ("name", 1, kinds.TYPE_STRING, 1, None, False),
            ("blobs", 7, kinds.TYPE_MESSAGE, 3, "Blob", False),
        ],
        "Net": [("layer", 100, kinds.TYPE_MESSAGE, 3, "Layer", False)],
    }
    for form, fields in forms.items():
        message = file.message_type.add(name=form)
        for name, place, kind, label, of, packed in fields:
            field = message.field.add(name=name, number=place, type=kind, label=label)
            if of:
                field.type_name = f".c.{of}"
            if packed:
                field.options.packed = True
    net = factory.GetMessages([file])["c.Net"]()
    reference = plain(8)
    for name, module in reference.named_children():
        added = net.layer.add(name=name)
        for tensor in module.state_dict().values():
            one = added.blobs.add()
            one.data.extend(tensor.flatten().tolist())
            one.shape.dim.extend(tensor.shape)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    assert parity(import_model(path), reference, (40, 33)) < 1e-5
    again = type(net).FromString(caffemodel(reference, path).read_bytes())
    named = {one.name: one.blobs for one in again.layer if one.blobs}
    assert list(named) == [name for name, _ in reference.named_children()]
    assert named["fc7"][0].data[5] == float(reference.fc7.weight.flatten()[5])
