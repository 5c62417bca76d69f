"""A model comes back in every bit, from files of every format version, and hostile files are refused."""

import json
import time
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from fullyconv import encoders
from fullyconv.class_table import ClassTable
from fullyconv.encoder import EncoderNetwork, InputConvention
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.model import FCN
from fullyconv.model_file import FORMAT_VERSION, load_model, read_description, save_model
from fullyconv.taps import Tap
from fullyconv.tensor_file import canonical_json, read_tensor_file, write_tensor_file

GOLDEN = Path(__file__).parent / "golden"

# The logits that golden/model-1.safetensors, which is `tiny_model()`, gave for `gradient_image()` when it was
# written: (row, column) -> one a class. Never make this file anew: a new format version gets a new file.
GOLDEN_LOGITS = {
    (0, 0): [-0.87212, -1.18029, -1.61138],
    (17, 33): [-1.39747, 1.40759, 3.41377],
    (39, 69): [-1.82023, -0.99042, -0.33312],
}


class Tiny(EncoderNetwork):
    """A network of a few hundred numbers, so that the files of this test are small."""

    name = "tiny"
    taps = (Tap("first", 8, 2, 8), Tap("second", 16, 3, 16), Tap("third", 32, 4, 32))
    input_convention = InputConvention((127.5, 127.5, 127.5), (64.0, 64.0, 64.0))
    weights_licence = "CC0-1.0"

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 8, stride=8)
        self.second = nn.Conv2d(2, 3, 2, stride=2)
        self.third = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, images, strides):
        first = self.first(images).relu()
        second = self.second(first).relu()
        maps = {8: first, 16: second, 32: self.third(second).relu()}
        return [maps[stride] for stride in strides]


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    monkeypatch.setattr(encoders, "NETWORKS", {"tiny": Tiny})


def tiny_model(**changes):
    """A model whose weights are waves: equal on every machine, without a random generator."""
    table = ClassTable.from_names(["background", "Kratzer ⌀", "pit"], ignored=[7])
    model = FCN.build(table, encoder="tiny", encoder_weights="none", stride=8, **{"hidden": 4, **changes})
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        if tensor.is_floating_point():
            wave = torch.arange(tensor.numel(), dtype=torch.float64).add(number).mul(1.7).sin()
            tensor.copy_(wave.add(1.5 if "running_var" in name else 0).reshape(tensor.shape))
        else:
            tensor.fill_(number)
    model.training_record = {"rate": 0.1, "epochs": 3, "names": ["a", "b"], "note": None}
    return model.eval()


def gradient_image():
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(70), indexing="ij")
    return torch.stack([rows * 6, columns * 3, (rows * columns) % 256])[None].float()


@pytest.fixture
def path(tmp_path):
    """A saved model."""
    save_model(tiny_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def forge(path, *, tensors=(), drop=(), **changes):
    """Change a model file and seal it again, as an attacker would. Names with __ go a level down."""
    document, found = read_tensor_file(path, "fullyconv", FORMAT_VERSION)
    del document["digest"]
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    found = {name: tensor for name, tensor in {**found, **dict(tensors)}.items() if name not in drop}
    write_tensor_file(path, "fullyconv", FORMAT_VERSION, document, found)


def test_a_model_comes_back_in_every_bit(path):
    model, loaded = tiny_model(), load_model(path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.class_table == model.class_table
    assert loaded.training_record == model.training_record
    assert loaded.description() == model.description()
    with torch.no_grad():
        assert torch.equal(loaded(gradient_image()), model(gradient_image()))


def test_the_encoder_of_a_loaded_model_is_fixed_and_its_decoder_can_be_trained_on(path):
    model = load_model(path)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())


def test_equal_models_give_equal_bytes_wherever_they_are_saved(path, tmp_path):
    save_model(load_model(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("decoder", "options"),
    [
        ("practical", {"hidden": 0}),
        ("practical", {"hidden": 5, "scales": (1.0, 1.5), "dropout": 0.3}),
        ("fcn", {"hidden": None}),
        ("fcn", {"hidden": None, "upsampling": "learned"}),
        ("fcn_at_once", {"hidden": None}),
        ("lecture", {"hidden": None, "width": 6}),
    ],
)
def test_models_of_every_decoder_come_back(tmp_path, decoder, options):
    options = {name: value for name, value in options.items() if value is not None}
    table = ClassTable.from_names(["a", "b"])
    model = FCN.build(table, encoder="tiny", encoder_weights="none", decoder=decoder, stride=8, **options).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.description() == model.description()
    with torch.no_grad():
        assert torch.equal(loaded(gradient_image()), model(gradient_image()))


def test_a_file_holds_float32_weights_and_one_metadata_entry(path):
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"fullyconv"}
        assert json.loads(file.metadata()["fullyconv"])["format_version"] == FORMAT_VERSION
        for name in file.keys():  # noqa: SIM118
            counts = name.endswith("num_batches_tracked")
            assert file.get_tensor(name).dtype == (torch.int64 if counts else torch.float32)
            assert name.startswith(("encoder.", "decoder."))


def test_loading_leaves_the_random_state_alone(path):
    state = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_description_is_read_without_building_the_model(path, monkeypatch):
    monkeypatch.setattr(FCN, "from_description", None)
    description = read_description(path)
    assert description["encoder"]["name"] == "tiny"
    assert description["encoder"]["weights_source"] == "random"
    assert description["class_table"]["classes"][1]["name"] == "Kratzer ⌀"
    assert description["training"]["rate"] == 0.1
    assert len(description["digest"]) == 64


def test_a_model_in_reduced_precision_saves_its_exact_weights(path, tmp_path):
    model = load_model(path)
    model.encoder.set_precision(torch.bfloat16)
    model.features(gradient_image())
    save_model(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_rounded_weights_are_not_saved(tmp_path):
    model = tiny_model()
    model.decoder.to(torch.bfloat16)
    with pytest.raises(ModelFileError, match=r"holds float32 weights, but decoder\.\S+ is bfloat16 "):
        save_model(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    model = tiny_model()
    model.decoder.score.weight.data[0, 0] = value
    with pytest.raises(
        ModelFileError, match=r"decoder\.score\.weight has values that are not finite \(the training"
    ):
        save_model(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_existing_model_is_replaced_only_where_asked(path):
    with pytest.raises(UsageError, match="model.safetensors exists already"):  # noqa: RUF043
        save_model(tiny_model(), path)
    save_model(tiny_model(hidden=2), path, overwrite=True)
    assert read_description(path)["decoder"]["hidden"] == 2


def test_a_file_of_format_version_1_gives_the_same_logits_as_when_it_was_written():
    model = load_model(GOLDEN / "model-1.safetensors")
    with torch.no_grad():
        logits = model(gradient_image())[0]
    for (row, column), expected in GOLDEN_LOGITS.items():
        assert logits[:, row, column].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_golden_file_is_the_model_of_this_test():
    model, loaded = tiny_model(), load_model(GOLDEN / "model-1.safetensors")
    assert canonical_json(loaded.description()["class_table"]) == canonical_json(model.class_table.to_json())
    assert loaded.training_record == model.training_record
    for name, tensor in model.decoder.state_dict().items():
        assert torch.allclose(loaded.decoder.state_dict()[name], tensor, atol=1e-6), name


def test_every_format_version_has_a_golden_file():
    for version in range(1, FORMAT_VERSION + 1):
        with safetensors.safe_open(GOLDEN / f"model-{version}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["fullyconv"])["format_version"] == version


CONTRADICTIONS = [
    ({"extra": 1}, r"entries missing: \[\], unknown: \['extra'\]"),
    ({"encoder": []}, r"expected encoder to be dict, got \[\]"),
    ({"stride_grid": True}, "expected stride_grid to be int, got True"),
    ({"encoder__strides": [8, 16, "32"]}, r"expected strides to be list\[int\], got"),
    ({"encoder__strides": [8, 16, True]}, r"expected strides to be list\[int\], got"),
    ({"encoder__scales": [1]}, r"expected scales to be list\[float\], got \[1\]"),
    ({"encoder__scales": [1.0] * 100_000}, "expected at most 64 scales, got 100000"),
    ({"encoder__scales": [1e300]}, "describes no model of this fullyconv: a scale"),
    ({"encoder__strides": [8, 16, 64]}, "describes no model of this fullyconv: encoder tiny has features at"),
    ({"encoder__strides": []}, r"model\.safetensors"),
    ({"encoder__name": "huge"}, "describes no model of this fullyconv: no encoder 'huge'"),
    ({"encoder__name": ["tiny"]}, r"expected name to be str, got \['tiny'\]"),
    ({"encoder__digest": "0" * 64}, "expected digest .*, it describes 0000"),
    (
        {"encoder__input_convention__mean": [0.0, 0.0, 0.0]},
        "expected input_convention .*127.5.*, it describes",
    ),
    ({"decoder__name": "huge"}, "describes no model of this fullyconv: there is no decoder 'huge'"),
    ({"decoder__name": None}, "decoder: expected name to be str, got None"),
    ({"decoder": {}}, "decoder: expected name to be str, got None"),
    ({"decoder__specs": []}, "describes no model of this fullyconv: .*specs"),
    ({"decoder__hidden": 10**12}, r"expected decoder\.\S+ to be float32 3 x 1000000000000 x"),
    ({"decoder__hidden": 10**30}, "describes no model of this fullyconv"),
    ({"decoder__hidden": "4"}, "describes no model of this fullyconv"),
    ({"decoder__hidden": -4}, "describes no model of this fullyconv: hidden channels"),
    ({"decoder__hidden": 3}, r"expected decoder\.score\.weight to be float32 3 x 3 x 1 x 1, got float32 3 x 4 x"),
    ({"decoder__hidden": 0}, r"lacks tensor decoder\.bias"),
    ({"decoder__output_stride": 16}, "expected output_stride 16, it describes 8"),
    ({"output_stride": 16}, "expected output_stride 8, it describes 16"),
    ({"size_policy": "pad-100"}, "expected size_policy pad-to-stride, it describes pad-100"),
    ({"class_table": {}}, "a class table in JSON"),
    (
        {"class_table__classes": [{"name": "a", "value": 0, "color": [0, 0, 0]}]},
        r"expected decoder\.score\.bias",
    ),
    ({"class_table__classes": []}, "expected 1 to 255 classes .*got 0"),
    ({"class_table__encoding": "rgba"}, "a mask encoding"),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_a_description_that_contradicts_itself_is_refused(path, changes, message):
    forge(path, **changes)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path)
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


WRONG_TENSORS = [
    ({"drop": ["decoder.score.weight"]}, r"lacks tensor decoder\.score\.weight$"),
    (
        {"drop": ["encoder.first.bias", "encoder.first.weight"]},
        r"lacks tensor encoder\.first\.bias and 1 more",
    ),
    ({"tensors": {"encoder.fourth": torch.zeros(1)}}, r"has unknown tensor encoder\.fourth$"),
    ({"tensors": {"other": torch.zeros(1)}}, "has unknown tensor other"),
    ({"tensors": {"encoder.first.bias": torch.zeros(3)}}, "encoder.first.bias to be float32 2, got float32 3"),
    ({"tensors": {"encoder.first.bias": torch.zeros(2).half()}}, "bias to be float32 2, got float16 2"),
    ({"tensors": {"decoder.score.bias": torch.zeros(3).double()}}, "bias to be float32 3, got float64 3"),
    (
        {"tensors": {"decoder.score.bias": torch.tensor([0, torch.nan, 0])}},
        "bias has values that are not finite",
    ),
    ({"tensors": {"encoder.first.bias": torch.ones(2)}}, "expected digest .*, it describes"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TENSORS, ids=range(len(WRONG_TENSORS)))
def test_tensors_that_are_not_the_described_ones_are_refused_by_name(path, change, message):
    forge(path, **change)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_a_description_cannot_make_us_allocate_what_the_file_does_not_hold(path):
    forge(path, decoder__hidden=2**40)
    start = time.perf_counter()
    with pytest.raises(ModelFileError):
        load_model(path)
    assert time.perf_counter() - start < 5


def test_a_checkpoint_is_no_model(tmp_path):
    write_tensor_file(tmp_path / "epoch-0001.safetensors", "fullyconv_checkpoint", 1, {}, {})
    with pytest.raises(ModelFileError, match="with the metadata \"fullyconv\", it has 'fullyconv_checkpoint'"):
        load_model(tmp_path / "epoch-0001.safetensors")


def test_a_damaged_model_is_refused_by_both_readers(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    for read in (load_model, read_description):
        with pytest.raises(ModelFileError, match="is damaged"):
            read(path)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "image form: entries missing: .'channels'."),
        ({"channels": 2, "value_range": None, "x": 1}, "unknown: .'x'."),
        ({"channels": "2", "value_range": None}, "expected channels to be int, got 2"),
        ({"channels": 3, "value_range": [0.0, "1"]}, r"expected value_range to be list\[float\]"),
        ({"channels": 3, "value_range": [2.0, 1.0]}, "two numbers that rise"),
        ({"channels": 65, "value_range": None}, r"channels have to be 1\.\.64, got 65"),
    ],
)
def test_a_form_of_images_that_cannot_be_is_refused_in_words(path, form, message):
    forge(path, encoder__image_form=form)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)
