"""The loss of a step: what is drawn estimates what every pixel gives. `test_losses` has the losses themselves."""

import torch

from fullyconv.batches import MapBatch, step_loss
from fullyconv.upsample import upsample_logits


def test_the_sampled_loss_is_the_full_one_on_average():
    torch.manual_seed(0)
    decoder = torch.nn.Conv2d(3, 4, 1)
    decoder.output_stride = 4
    features = torch.randn(2, 3, 4, 4)
    decoder.training_logits = lambda maps, size: (decoder(maps[0]),)
    targets = torch.randint(0, 4, (2, 16, 16))
    every, none = torch.arange(256).expand(2, -1), torch.zeros(2, 0, dtype=torch.long)
    for loss in ("cross_entropy", "focal"):
        drawn = MapBatch([features], (16, 16), targets, every // 16, every % 16, torch.ones(2, 256))
        whole = MapBatch([features], (16, 16), targets, none, none, torch.ones(2, 0))
        sampled, full = step_loss(decoder, drawn, loss, None), step_loss(decoder, whole, loss, None)
        assert torch.allclose(sampled, full, atol=1e-6)
    assert upsample_logits(decoder(features), 4, (16, 16)).shape == (2, 4, 16, 16)


def test_a_summed_loss_is_the_sum_over_the_pixels_of_an_image():
    decoder = torch.nn.Conv2d(3, 4, 1)
    decoder.output_stride = 4
    decoder.training_logits = lambda maps, size: (decoder(maps[0]),)
    targets = torch.randint(0, 4, (2, 16, 16))
    none = torch.zeros(2, 0, dtype=torch.long)
    batch = MapBatch([torch.randn(2, 3, 4, 4)], (16, 16), targets, none, none, torch.ones(2, 0))
    mean, summed = (step_loss(decoder, batch, "cross_entropy", None, summed=flag) for flag in (False, True))
    assert torch.allclose(summed, 256 * mean)
