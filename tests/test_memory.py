"""Memory: amounts in words, and the peak of a computation that is known."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from fullyconv.errors import UsageError
from fullyconv.memory import available_bytes, give_back_freed, parsed_bytes, peak_bytes, shown_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("800000", 800_000), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2GiB", 2**31), (" 3 kB ", 3000)],
)
def test_amounts_are_read(text, count):
    assert parsed_bytes(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-3MB", "3 TB", "1e9", "GB"])
def test_other_words_are_no_amount(text):
    with pytest.raises(UsageError, match="expected an amount of memory such as 500MB or 2GB, got "):
        parsed_bytes(text)


def test_amounts_are_shown_in_three_digits():
    assert [shown_bytes(count) for count in (7, 8000, 123_456_789, 2_500_000_000)] == [
        "7 B",
        "8 kB",
        "123 MB",
        "2.5 GB",
    ]


def test_the_peak_counts_what_lives_at_one_time():
    start = torch.zeros(1000)

    def compute():
        first = start + 1  # 4000 bytes
        first = first * 2  # both live until the second takes the name
        view = first[:500]
        del first  # held by its view
        return view.repeat(4)  # 8000 bytes beside 4000

    assert peak_bytes(compute) == 12_000


def test_what_was_there_before_does_not_count():
    start = torch.zeros(10**6)
    assert peak_bytes(lambda: start.add_(1)[:10]) == 0
    assert peak_bytes(lambda: start[:10] + 1) == 40


def test_there_is_some_memory():
    assert available_bytes() > 10**7


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no malloc_trim")
def test_freed_memory_can_be_given_back():
    blocks = [b"%d" % number * 13_000 for number in range(10_000, 13_000)]  # 65 kB each, 195 MB together
    last = blocks[-1]  # What lies below it cannot be given back by itself.
    del blocks
    before = resident_bytes()
    give_back_freed()
    assert resident_bytes() < before - 10**8
    assert len(last) == 65_000


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
