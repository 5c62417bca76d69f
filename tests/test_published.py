"""The table of published data sets: its form, since what it says of others' servers cannot be tried here."""

import re
from urllib.parse import urlsplit

import pytest

from fullyconv.arrange import ARRANGED
from fullyconv.errors import UsageError
from fullyconv.published import PUBLISHED, published_set

# People write these in scripts: a name is not changed once it is out.
NAMES = ["voc2012", "sbd", "voc2011-sbd", "voc2012-sbd", "camvid", "camvid-tiny", "oxford-pets", "ade20k"]

WITHOUT_HTTPS = {"home.bharathh.info"}

ARCHIVES = list({archive.file: archive for found in PUBLISHED.values() for archive in found.archives}.values())


def test_the_names_are_frozen():
    assert list(PUBLISHED) == NAMES
    assert all(name == found.name for name, found in PUBLISHED.items())


def test_each_set_is_brought_into_form():
    assert list(ARRANGED) == NAMES


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.file)
def test_digests_have_the_length_of_their_kind(archive):
    assert re.fullmatch(r"[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.digest)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.file)
def test_addresses_are_https_where_the_host_has_it(archive):
    assert archive.urls
    for url in archive.urls:
        parts = urlsplit(url)
        assert parts.scheme == "https" or parts.hostname in WITHOUT_HTTPS
    assert urlsplit(archive.urls[0]).scheme == "https"


def test_an_archive_has_one_name_and_no_two_have_the_same():
    assert len({archive.digest for archive in ARCHIVES}) == len(ARCHIVES)
    assert len({archive.file for archive in ARCHIVES}) == len(ARCHIVES)
    assert all(re.fullmatch(r"[\w.-]+", archive.file) for archive in ARCHIVES)


@pytest.mark.parametrize("found", PUBLISHED.values(), ids=lambda found: found.name)
def test_each_set_says_what_it_is_and_under_which_terms(found):
    for text in (found.title, found.splits, found.terms):
        assert text
        assert "\n" not in text
        assert len(text) < 115


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match=r"one of voc2012, sbd, .*, got voc2021"):
        published_set("voc2021")
