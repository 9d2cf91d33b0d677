"""What a bundle is said never to have seen, after one training and after several."""

import dataclasses

from fakeface_jax.bundle import BundleSpec
from fakeface_jax.decision import VerdictBands
from fakeface_jax.evaluation.held_out import left_out
from fakeface_jax.faces import CropSpec


def test_what_a_start_has_seen_was_not_left_out():
    spec = BundleSpec(
        name="x",
        model={"name": "report"},
        crop=CropSpec(),
        detector="centerface",
        bands=VerdictBands(real_below=0.3, fake_from=0.7),
    )

    def made(*leave_out, start=None):
        provenance = {"config": {"loader": {"leave_out": list(leave_out)}}}
        return provenance if start is None else provenance | {"start": {"name": "s", "id": "0", "provenance": start}}

    def names(provenance):
        return left_out(dataclasses.replace(spec, provenance=provenance))

    assert names({}) == ()
    assert names(made("a", "b/x")) == ("a", "b/x")
    assert names(made("a", "b", start=made("a"))) == ("a",)
    assert names(made("a", start=made())) == ()
    assert names(made("a", "b", start={})) == ()
    assert names(made("a/x", start=made("a"))) == ("a/x",)
    assert names(made("a", start=made("a/x", "a/y", "b"))) == ("a/x", "a/y")
    assert names(made("a", start=made("a", start=made("b")))) == ()
    assert names(made("a") | {"start": None}) == ("a",)
