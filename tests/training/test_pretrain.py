"""The base: deterministic, cached once for all processes, and it knows its world."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from neftune.data.microworld import make_tokenizer, make_world
from neftune.data.microworld.lexicon import ATTRIBUTES
from neftune.data.microworld.world import World
from neftune.errors import StoreError
from neftune.training import pretrain as pretrain_module
from neftune.training.base_model import PretrainSettings, pretrain, pretraining_rows
from neftune.training.pretrain import base_key, default_cache, microworld_base

TINY = PretrainSettings(num_steps=4, num_rows=4, num_first_steps=2, num_warmup_steps=1, width=32, feed_forward=64)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_seed_gives_one_base_to_the_bit_whatever_went_before(tmp_path: Path):
    one = weights(pretrain(0, TINY, folder=tmp_path, on_progress=lambda *_: None))
    torch.manual_seed(99)
    random.seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = weights(pretrain(0, TINY, folder=tmp_path, on_progress=lambda *_: None))
        assert torch.get_num_threads() == 2, "the caller's threads come back"
    finally:
        torch.set_num_threads(threads)
    other = weights(pretrain(1, TINY, folder=tmp_path, on_progress=lambda *_: None))
    assert same(one, again)
    assert not same(one, other)


def test_the_callers_random_numbers_go_on_as_if_nothing_had_happened(tmp_path: Path):
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), np.random.random()  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002

    seed()
    expected = draw()
    seed()
    pretrain(0, TINY, folder=tmp_path, on_progress=lambda *_: None)
    assert draw() == expected


def test_the_first_rows_speak_of_few_people_and_padding_is_not_trained_on():
    world, tokenizer = make_world(0), make_tokenizer()
    settings = PretrainSettings(num_steps=40, num_first_steps=20)
    rows = pretraining_rows(world, tokenizer, settings)
    assert len(rows) == 40 * 20
    people = set(tokenizer.convert_tokens_to_ids(list(world.people)))

    def spoken_of(some: list[dict[str, list[int]]]) -> set[int]:
        return people & {token for row in some for token in row["input_ids"]}

    assert len(spoken_of(rows[: 20 * 20])) == 16
    assert len(spoken_of(rows[20 * 20 :])) == 64
    for row in rows:
        assert len(row["input_ids"]) == len(row["labels"]) == 96
        assert tokenizer.unk_token_id not in row["input_ids"]
        assert row["input_ids"][0] == tokenizer.bos_token_id
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label == (-100 if token == tokenizer.pad_token_id else token)


def test_a_base_is_pretrained_once_and_loads_like_any_checkpoint(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps: list[tuple[int, int]] = []
    folder = microworld_base(0, cache=tmp_path, settings=TINY, on_progress=lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert microworld_base(0, cache=tmp_path, settings=TINY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == len(make_tokenizer())
    assert model.config.tie_word_embeddings
    assert (model.config.pad_token_id, model.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_the_default_base_has_the_size_of_the_design(tmp_path: Path):
    from dataclasses import replace

    model = pretrain(0, replace(PretrainSettings(), num_steps=1), folder=tmp_path, on_progress=lambda *_: None)
    assert 0.42e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.45e6


def test_what_determines_a_base_changes_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    keys = {base_key(0, TINY), base_key(1, TINY), base_key(0, PretrainSettings())}
    assert len(keys) == 3
    source = tmp_path / "corpus.py"
    source.write_text('"""Doc."""\nSHARE = 0.5  # half\n')
    monkeypatch.setattr(pretrain_module.corpus, "__file__", str(source))
    before = base_key(0, TINY)
    source.write_text('"""Another doc."""\nSHARE = 0.5\n')
    assert base_key(0, TINY) == before, "comments and docstrings make no other base"
    source.write_text("SHARE = 0.6\n")
    assert base_key(0, TINY) != before


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NEFTUNE_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("NEFTUNE_CACHE")
    assert default_cache() == Path.home() / ".cache" / "neftune"


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(StoreError, match=r"must be a folder that can be written, got .*file.* NEFTUNE_CACHE"):
        microworld_base(0, cache=occupied / "cache", settings=TINY)


def test_a_failed_pretraining_leaves_nothing_behind(tmp_path: Path):
    def interrupt(step: int, num_steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        microworld_base(0, cache=tmp_path, settings=TINY, on_progress=interrupt)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert microworld_base(0, cache=tmp_path, settings=TINY).is_dir()


def test_progress_is_a_bar_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    microworld_base(0, cache=tmp_path, settings=TINY)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pretraining the base of world 0" in printed.err
    assert "4/4" in printed.err


def _ask(cache: Path, started: Path) -> None:
    """In another process: take the base, and note every process that really pretrains."""

    def note(step: int, num_steps: int) -> None:
        (started / str(os.getpid())).touch()
        time.sleep(0.2)

    microworld_base(0, cache=cache, settings=TINY, on_progress=note)


def _start(cache: Path, started: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_ask, args=(cache, started))
    process.start()
    return process


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A folder with one file per process that pretrained."""
    folder = tmp_path / "started"
    folder.mkdir()
    return folder


FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@FORKS
def test_of_several_processes_one_pretrains_and_the_others_wait(tmp_path: Path, started: Path):
    processes = [_start(tmp_path / "cache", started) for _ in range(3)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(started.iterdir())) == 1


@FORKS
def test_a_killed_process_blocks_nobody_and_its_leavings_are_cleared(tmp_path: Path, started: Path):
    cache = tmp_path / "cache"
    process = _start(cache, started)
    while not list(started.iterdir()):
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert list(cache.glob(".microworld-*")), "killed in the middle"
    folder = microworld_base(0, cache=cache, settings=TINY, on_progress=lambda *_: None)
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def recall(model: torch.nn.Module, world: World, people: tuple[str, ...]) -> float:
    """Share of facts that the model completes: the most likely word after "Ada lives in" is her home."""
    tokenizer = make_tokenizer()
    begun = [
        (pattern.split("{value}")[0].format(name=person), world.facts[person][name])
        for person in people
        for name, attribute in ATTRIBUTES.items()
        for pattern in attribute.facts
        if "{name}" in pattern.split("{value}")[0]
    ]
    batch = tokenizer([text for text, _ in begun], return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
    said = tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    return sum(word == value for word, (_, value) in zip(said, begun, strict=True)) / len(begun)


def test_a_small_base_learns_what_it_reads_and_nothing_else(tmp_path: Path):
    settings = PretrainSettings(num_steps=150, num_rows=8, num_first_people=2, num_first_steps=150, num_warmup_steps=10)
    model = pretrain(0, settings, folder=tmp_path, on_progress=lambda *_: None)
    world = make_world(0)
    read_about = tuple(random.Random("pretraining/0").sample(world.people, 2))
    assert recall(model, world, read_about) > 0.7
    assert recall(model, world, tuple(set(world.people) - set(read_about))) < 0.1, "a guess is right once in 16"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_base_of_the_quickstart_recalls_every_fact(seed: int):
    from transformers import AutoModelForCausalLM

    world = make_world(seed)
    model = AutoModelForCausalLM.from_pretrained(microworld_base(seed))
    assert recall(model, world, world.known) >= 0.995
    assert recall(model, world, world.unseen) >= 0.995
