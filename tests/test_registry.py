"""The registry: a mapping that answers a miss."""

import pytest

from neftune.errors import InputError, UnknownNameError
from neftune.registry import Registry


def test_entries_are_registered_and_found():
    things: Registry[int] = Registry("thing")
    assert things.register("one")(1) == 1
    assert dict(things) == {"one": 1}
    assert "one" in things
    assert things.get("two") is None


def test_a_miss_names_what_was_required_received_and_meant():
    things: Registry[int] = Registry("thing")
    things.register("uniform")(1)
    things.register("gaussian")(2)
    with pytest.raises(UnknownNameError) as caught:
        things["unifrom"]
    assert str(caught.value) == "thing must be one of gaussian, uniform; got 'unifrom'. Did you mean 'uniform'?"
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, KeyError)


def test_a_name_is_given_once():
    things: Registry[int] = Registry("thing")
    things.register("one")(1)
    with pytest.raises(ValueError, match="unique, got 'one' a second time"):
        things.register("one")(2)
