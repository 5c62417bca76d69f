"""Receptive fields, composed layer by layer. `test_encoders` proves those of every network."""

from fullyconv.taps import ReceptiveField


def test_receptive_fields_compose_layer_by_layer():
    field = ReceptiveField().through(3, padding=1).through(3, padding=0).through(2, 2, padding=0)
    assert (field.size, field.stride, field.start) == (6, 2, -1)
    assert field.through(3, padding=1) == ReceptiveField(size=10, stride=2, start=-3)
