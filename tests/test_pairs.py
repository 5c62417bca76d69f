"""Every encoder with every decoder: a step of training, and a model file that comes back bit for bit."""

import math

import pytest
import torch
from tiny_networks import deeper_slow, make_thin

from fullyconv.batches import MapBatch, step_loss
from fullyconv.class_table import ClassTable
from fullyconv.decoders import DECODER_NAMES
from fullyconv.encoders import ENCODER_NAMES
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.model_file import load_model, save_model

OPTIONS = {"lecture": {"width": 9}, "practical": {"hidden": 5}, "torchvision": {"auxiliary": True}}
REFUSED = {
    (encoder, decoder)
    for encoder in ("resnet50_d8", "resnet101_d8")
    for decoder in ("fcn", "fcn_at_once", "lecture")  # They need strides 16 and 32.
}
PAIRS = [(encoder, decoder) for encoder in ENCODER_NAMES for decoder in DECODER_NAMES]
SIZE = (40, 33)


def built(encoder, decoder):
    table = ClassTable.from_names(["background", "scratch", "pit"])
    options = OPTIONS.get(decoder, {})
    return FCN.build(table, encoder=encoder, encoder_weights="none", decoder=decoder, **options)


def train_a_step(model, images):
    """One step of gradient descent on random targets; returns the loss."""
    targets = torch.randint(0, 3, (2, *SIZE))
    targets[:, :5] = 255
    nothing = torch.empty(2, 0, dtype=torch.long)
    batch = MapBatch(model.features(images), SIZE, targets, nothing, nothing, nothing.float())
    optimizer = torch.optim.AdamW(model.train().decoder.parameters(), lr=1e-2)
    loss = step_loss(model.decoder, batch, "cross_entropy", None)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def check_pair(encoder, decoder, path):
    torch.manual_seed(0)
    model = built(encoder, decoder)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    digest = model.encoder.digest()
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    assert math.isfinite(train_a_step(model, images))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.decoder.state_dict().items())
    assert model.encoder.digest() == digest

    save_model(model.eval(), path)
    loaded = load_model(path)
    assert loaded.description() == model.description()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("encoder", "decoder"), deeper_slow([pair for pair in PAIRS if pair not in REFUSED], lambda pair: pair[0])
)
def test_a_pair_trains_a_step_and_comes_back_from_its_file(encoder, decoder, tmp_path, monkeypatch):
    make_thin(monkeypatch, channels=4)
    check_pair(encoder, decoder, tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder"), [pair for pair in PAIRS if pair not in REFUSED])
def test_a_pair_of_full_width_trains_a_step_and_comes_back_from_its_file(encoder, decoder, tmp_path):
    check_pair(encoder, decoder, tmp_path / "model.safetensors")


@pytest.mark.parametrize(("encoder", "decoder"), sorted(REFUSED))
def test_a_pair_without_common_strides_is_refused(encoder, decoder, monkeypatch):
    make_thin(monkeypatch)
    with pytest.raises(UsageError) as caught:
        built(encoder, decoder)
    assert str(caught.value) == (
        f"encoder {encoder} has features at strides 4, 8, not at 16 "
        "(choose a decoder stride among them, or an encoder that has it)"
    )
