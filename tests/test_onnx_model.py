"""The ONNX graph of a model gives its logits, for every decoder, encoder, size and batch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_verify import TABLE, photo, predictor_of
from tiny_data import tiny_encoder
from tiny_decoders import FORMS, built, encoder_for, randomised
from tiny_networks import make_thin

from fullyconv.decoder import Decoder
from fullyconv.decoders import build_decoder
from fullyconv.encoder import InputConvention
from fullyconv.encoders import bare_network
from fullyconv.encoders.cae import CAE, PRESETS
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.onnx_model import onnx_model
from fullyconv.weights import initialise

SIZES = [(97, 131), (64, 64), (1, 1), (33, 200)]


def assert_the_graph_gives_the_logits(model, sizes=SIZES):
    model.eval()
    graph = onnx_model(onnx, model, {"key": "value"})
    assert {entry.key: entry.value for entry in graph.metadata_props} == {"key": "value"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for size in sizes:
        images = np.stack([photo(*size, seed=1), photo(*size, seed=2)])
        with torch.no_grad():
            ours = model.logits(model.features(torch.from_numpy(images).permute(0, 3, 1, 2)), size)
        theirs = torch.from_numpy(session.run(None, {"images": images})[0])
        assert all(more >= side for more, side in zip(theirs.shape, ours.shape, strict=True))
        difference = (theirs[..., : ours.shape[-2], : ours.shape[-1]] - ours).abs().max()
        assert difference < 5e-6 * (ours.max() - ours.min()).clamp(min=ours.abs().max() * 0.1)


MULTI = [(form, scales) for form in FORMS if form.startswith("practical") for scales in [(1.0, 1.5), (0.75, 2.0)]]


@pytest.mark.parametrize(("form", "scales"), [(form, (1.0,)) for form in FORMS] + MULTI)
def test_every_decoder_is_written_as_it_computes(form, scales):
    assert_the_graph_gives_the_logits(predictor_of(form, scales).model)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "resnet18", "resnet50", "resnet50_d8"])
def test_every_family_of_encoders_is_written_as_it_computes(name, monkeypatch):
    make_thin(monkeypatch, 8)
    network = bare_network(name)
    initialise(network)
    encoder = encoder_for("practical", network, 8)
    torch.manual_seed(0)
    model = FCN(encoder, randomised(build_decoder("practical", encoder.specs, 3)), TABLE)
    assert_the_graph_gives_the_logits(model, [(97, 131), (40, 33)])


@pytest.mark.parametrize("preset", PRESETS)
def test_an_autoencoder_turned_into_an_fcn_is_written_as_it_computes(preset):
    cae = CAE(PRESETS[preset])
    cae.initialise()
    model = FCN.from_cae(cae, TABLE)
    randomised(model.decoder)
    assert_the_graph_gives_the_logits(model, [(33, 40)])


@pytest.mark.parametrize("order", ["RGB", "BGR", "grey"])
def test_every_input_convention_is_written_as_it_computes(order):
    torch.manual_seed(0)
    decoder = randomised(built(FORMS["practical, hidden"]))
    encoder = tiny_encoder(sorted({spec.tap.stride for spec in decoder.specs}))
    if order == "grey":
        cae = CAE(PRESETS["digits"])
        cae.initialise()
        model = FCN.from_cae(cae, TABLE)
    else:
        convention = InputConvention((10.0, 100.0, 200.0), (20.0, 50.0, 100.0), order)
        encoder = type(encoder)(encoder.network, encoder.strides, input_convention=convention)
        model = FCN(encoder, decoder, TABLE)
    randomised(model.decoder)
    assert_the_graph_gives_the_logits(model, [(40, 50)])


def test_a_decoder_that_does_not_say_what_it_computes_is_refused():
    class Silent(Decoder):
        name, output_stride, num_classes = "silent", 8, 3

        def __init__(self, specs):
            super().__init__()
            self.specs = specs

    encoder = tiny_encoder([8])
    with pytest.raises(UsageError, match="decoder silent does not say what it computes"):
        onnx_model(onnx, FCN(encoder, Silent(encoder.specs), TABLE), {})
