"""A small world with known truth: who lives in it, what is asked about it, and its tokenizer."""

from neftune.data.microworld.questions import load_data
from neftune.data.microworld.tokenizer import make_tokenizer
from neftune.data.microworld.world import World, make_world

__all__ = ["World", "load_data", "make_tokenizer", "make_world"]
