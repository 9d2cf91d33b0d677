import io

import numpy as np
import pytest
from PIL import Image

from fakeface_jax.data.duplicates import NEAR, group_samples, near_pairs
from fakeface_jax.data.image_metadata import inspect_file
from fakeface_jax.data.samples import Sample
from fakeface_jax.errors import DecodeError
from fakeface_jax.labels import Label


def jpeg(pixels, quality=90, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def distance(a, b):
    return (int(a.phash, 16) ^ int(b.phash, 16)).bit_count()


def with_bits(*places):
    hash_ = np.zeros(32, np.uint8)
    for place in places:
        hash_[place // 8] |= 1 << place % 8
    return hash_


def groups_of(*described):
    """Groups of (source, hint, picture) triples, where a picture is bytes."""
    samples = [
        Sample(root="r", name=str(index), label=Label.REAL, source=source, hint=hint)
        for index, (source, hint, _) in enumerate(described)
    ]
    return group_samples(samples, [inspect_file(data, "x") for _, _, data in described])


@pytest.fixture(scope="module")
def pictures(face_picture, faceless_picture):
    from skimage import data

    return {"face": face_picture, "coffee": faceless_picture, "cat": np.ascontiguousarray(data.chelsea())}


def test_near_pairs_differ_in_at_most_so_many_bits():
    hashes = np.stack([with_bits(), with_bits(*range(45)), with_bits(*range(46)), with_bits(*range(100, 256))])
    assert list(near_pairs(hashes, near=45)) == [(0, 1), (1, 2)]
    assert list(near_pairs(hashes, near=0)) == []
    assert list(near_pairs(hashes[[0, 0, 3, 0]], near=0)) == [(0, 1), (0, 3), (1, 3)]
    assert len(list(near_pairs(hashes, near=256))) == 6


def test_near_pairs_agree_with_counting_bits_one_by_one():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    hashes[20:] = hashes[:20] ^ (rng.random((20, 32)) < 0.3)
    bits = np.unpackbits(hashes, axis=1).astype(int)
    expected = [(a, b) for a in range(40) for b in range(a + 1, 40) if np.abs(bits[a] - bits[b]).sum() <= NEAR]
    assert len(expected) >= 20
    assert list(near_pairs(hashes)) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_make_no_pair(count):
    assert list(near_pairs(np.zeros((count, 32), np.uint8))) == []


def test_copies_of_a_picture_are_near_and_other_pictures_are_not(pictures):
    face = pictures["face"]
    original = inspect_file(png(face), "original")
    half = np.asarray(Image.fromarray(face).resize((256, 256), Image.Resampling.LANCZOS))
    for copy in (jpeg(face, 95), jpeg(face, 40), png(half), jpeg(half, 60)):
        facts = inspect_file(copy, "copy")
        assert facts.sha256 != original.sha256
        assert distance(facts, original) <= NEAR
    for other in ("coffee", "cat"):
        assert distance(inspect_file(png(pictures[other]), other), original) > NEAR


def test_exact_and_near_copies_share_a_group_across_sources(pictures):
    face = pictures["face"]
    half = np.asarray(Image.fromarray(face).resize((200, 200), Image.Resampling.BICUBIC))
    groups = groups_of(
        ("a", "", png(face)), ("a", "", png(pictures["cat"])), ("b", "", png(face)), ("c", "", jpeg(half, 70))
    )
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] != groups[0]


def test_what_a_source_says_belongs_together_shares_a_group_within_that_source(pictures):
    face, coffee, cat = (png(pictures[name]) for name in ("face", "coffee", "cat"))
    groups = groups_of(("a", "clip", face), ("a", "clip", coffee), ("b", "clip", cat))
    assert groups[0] == groups[1] != groups[2]


def test_groups_join_over_several_steps(pictures):
    # face and cat by hint, cat and coffee by another source's hint through the same bytes.
    face, coffee, cat = (png(pictures[name]) for name in ("face", "coffee", "cat"))
    groups = groups_of(("a", "x", face), ("b", "y", coffee), ("b", "y", cat), ("a", "x", cat))
    assert len(set(groups)) == 1


def test_a_group_is_called_after_its_first_member(pictures):
    face, cat = png(pictures["face"]), png(pictures["cat"])
    alone = groups_of(("a", "", face), ("a", "clip", cat))
    more = groups_of(("a", "", face), ("a", "clip", cat), ("b", "z", face), ("b", "z", jpeg(pictures["face"])))
    assert more[:2] == alone == [inspect_file(face, "").sha256, "a:clip"]
    assert more[2] == more[3] == alone[0]


def test_facts_are_those_of_the_file(pictures):
    import hashlib

    data = jpeg(pictures["cat"], 85)
    facts = inspect_file(data, "cat.jpg")
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert (facts.width, facts.height) == (451, 300)
    assert (facts.bytes, facts.container, facts.mode) == (len(data), "JPEG", "RGB")
    assert len(facts.phash) == 64
    assert inspect_file(png(pictures["cat"]), "").jpeg_tables == ""


def test_jpeg_tables_tell_quality_and_sampling_apart(pictures):
    cat, face = pictures["cat"], pictures["face"]
    assert inspect_file(jpeg(cat, 85), "").jpeg_tables == inspect_file(jpeg(face, 85), "").jpeg_tables
    others = {
        inspect_file(jpeg(cat, *options[:1], **options[1]), "").jpeg_tables
        for options in ((85, {}), (86, {}), (85, {"subsampling": 0}))
    }
    assert len(others) == 3


def test_width_and_height_are_those_of_the_upright_picture(pictures):
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = inspect_file(jpeg(pictures["cat"], exif=exif), "")
    assert (facts.width, facts.height) == (300, 451)


def test_a_damaged_picture_has_no_facts(pictures):
    with pytest.raises(DecodeError, match=r"cat\.jpg"):
        inspect_file(jpeg(pictures["cat"])[:2000], "cat.jpg")
