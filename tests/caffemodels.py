"""Caffe's files, written byte by byte: what importers read is not read by what wrote it."""

import struct

import numpy as np


def varint(value):
    """Seven bits a byte, the least first."""
    found = bytearray()
    while value > 127:
        found.append(value % 128 + 128)
        value //= 128
    return bytes([*found, value])


def number(field, value):
    return varint(field * 8) + varint(value)


def bytes_of(field, content):
    return varint(field * 8 + 2) + varint(len(content)) + content


def blob(values, legacy=False, doubles=False):
    """A BlobProto: shape and packed data, or num, channels, height and width."""
    values = np.asarray(values)
    form, field = ("<f8", 8) if doubles else ("<f4", 5)
    data = bytes_of(field, values.astype(form).tobytes())
    if legacy:
        sides = [1] * (4 - values.ndim) + list(values.shape)
        return b"".join(number(field, side) for field, side in enumerate(sides, 1)) + data
    return data + bytes_of(7, bytes_of(1, b"".join(map(varint, values.shape))))


def layer(name, kind, blobs, first_version=False, **options):
    """A LayerParameter, or a V1LayerParameter: with bottoms, tops and other fields that nobody needs."""
    if first_version:
        head = bytes_of(2, b"below") + bytes_of(3, b"above") + bytes_of(4, name.encode()) + number(5, 4)
        return bytes_of(2, head + b"".join(bytes_of(6, blob(b, legacy=True)) for b in blobs))
    head = bytes_of(1, name.encode()) + bytes_of(2, kind.encode()) + bytes_of(3, b"below")
    head += varint(5 * 8 + 5) + struct.pack("<f", 1.0) + bytes_of(6, varint(3 * 8 + 5) + struct.pack("<f", 2.0))
    return bytes_of(100, head + b"".join(bytes_of(7, blob(b, **options)) for b in blobs) + number(10, 0))


def caffemodel(reference, path, extra=(), **options):
    """Write a network as Caffe's solver does: every layer, those without weights as well."""
    parts = [bytes_of(1, b"a network"), layer("data", "Python", []), *extra]
    for name, module in reference.named_children():
        kind = "Deconvolution" if "up" in name else "Convolution"
        blobs = [tensor.numpy() for tensor in module.state_dict().values()]
        parts += [layer(name, kind, blobs, **options), layer(f"relu_{name}", "ReLU", [])]
    path.write_bytes(b"".join(parts))
    return path


def scales(four=0.01, three=0.0001, widths=(512, 256)):
    """The layers that FCN-8s at once has in front of its score layers."""
    return [
        layer("scale_pool4", "Scale", [np.full(widths[0], four)]),
        layer("scale_pool3", "Scale", [np.full(widths[1], three)]),
    ]
