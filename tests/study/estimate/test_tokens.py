"""Tokens are those of a real run where data and tokenizer are here; else estimated, and said so."""

from pathlib import Path

import numpy as np
import pytest

from neftune.config import DataConfig, RunConfig
from neftune.data.datasets import read_examples
from neftune.errors import ConfigError, DataError
from neftune.study.estimate.datasets import CHARACTERS, SHARES, examples_at_hand, published_lengths
from neftune.study.estimate.tokens import Tokens, characters_per_token, run_tokens
from neftune.study.run import run_one
from tests.tiny import make_recipe


def config_of(folder: Path, **changes: object) -> RunConfig:
    recipe = make_recipe(folder)
    values = {name: recipe[name] for name in ("model", "data", "train", "evaluate")}
    return RunConfig.model_validate({**values, **changes})


def tokens_of(config: RunConfig, **options: float) -> Tokens:
    return run_tokens(config, vocabulary=32_000, **options)


def test_tokens_steps_and_weights_are_a_real_runs(tmp_path: Path):
    from neftune.study.estimate.compute import run_work
    from neftune.study.estimate.shapes import model_shape

    evaluate = {"max_new_tokens": 4, "num_train_prompts": 4, "variants": ["held_back=2"]}
    config = config_of(tmp_path, evaluate=evaluate, noise={"alpha": 0.0})
    record = run_one("one", config, tmp_path / "run")
    tokens, shape = tokens_of(config), model_shape(config.model, config.data)
    work = run_work(config, shape, tokens)
    assert tokens.exact
    assert tokens.num_train == record.counts["train_tokens"]
    assert len(tokens.train) == record.counts["train_documents"]
    assert work.steps == record.counts["steps"]
    assert shape.parameters == record.counts["parameters"]
    assert shape.trained == record.counts["parameters_trained"]
    assert {part: len(one) for part, one in tokens.prompts.items()} == {
        part: len(answers) for part, answers in record.answers.items()
    }
    assert work.answers == sum(len(answers) for answers in record.answers.values())
    assert work.answer_tokens >= sum(one.num_tokens for answers in record.answers.values() for one in answers)


def test_an_arm_that_is_not_asked_under_variants_costs_less(tmp_path: Path):
    evaluate = {"max_new_tokens": 4, "variants": ["held_back=2"]}
    baseline = config_of(tmp_path, evaluate=evaluate, noise={"alpha": 0.0})
    noisy = baseline.model_copy(update={"noise": baseline.noise.model_copy(update={"alpha": 5.0})})
    assert set(tokens_of(baseline).prompts) - set(tokens_of(noisy).prompts) == {"test@held_back=2"}


def test_without_a_tokenizer_characters_are_counted(tmp_path: Path):
    config = config_of(tmp_path)
    for file in Path(config.model.path).glob("*token*"):
        file.unlink()
    tokens = tokens_of(config)
    assert not tokens.exact
    assert "3.17 characters a token" in tokens.evidence
    texts = [one.turns[0].content + one.reference for one in examples_at_hand(config.data).parts["train"]]
    assert tokens.num_train == pytest.approx(sum(map(len, texts)) / 3.17, rel=0.3)


def test_a_data_set_that_is_not_here_is_estimated_from_its_published_size():
    data = DataConfig(source="tatsu-lab/alpaca", num_heldout=500, num_test=300)
    assert examples_at_hand(data) is None
    tokens = tokens_of(RunConfig(data=data))
    assert len(tokens.train) == 52_002 - 800
    assert tokens.num_train / len(tokens.train) == pytest.approx(522 / 3.17, rel=0.02)
    assert not tokens.exact
    assert "51,974" in tokens.evidence
    few = tokens_of(RunConfig(data=data.model_copy(update={"num_train": 100, "max_length": 64})))
    assert len(few.train) == 100
    assert few.train.max() <= 64


def test_a_stated_mean_is_obeyed_and_needs_a_number_of_examples():
    data = DataConfig(source="owner/unknown", num_train=400, max_length=4096)
    tokens = tokens_of(RunConfig(data=data), tokens_per_example=180.0)
    assert tokens.train.mean() == pytest.approx(180, rel=0.02)
    with pytest.raises(ConfigError, match=r"owner/unknown is not here. Say how much .* --tokens-per-example"):
        tokens_of(RunConfig(data=data))
    with pytest.raises(ConfigError, match=r"--data\.num-train"):
        tokens_of(RunConfig(data=DataConfig(source="owner/unknown")), tokens_per_example=180.0)


def test_a_file_that_is_missing_or_broken_is_an_error_and_not_an_estimate(tmp_path: Path):
    with pytest.raises(DataError):
        examples_at_hand(DataConfig(source=str(tmp_path / "none.jsonl")))
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")
    with pytest.raises(DataError):
        examples_at_hand(DataConfig(source=str(broken)))


def test_the_ratio_follows_the_vocabulary():
    assert (characters_per_token(32_000), characters_per_token(128_256)) == (3.17, 3.94)


FILES = {"alpaca": "alpaca_52k", "evol-instruct": "evol_instruct_sample", "lima": "lima_1k"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_published_lengths_are_the_files(name: str, shared: Path):
    from neftune.data.prompts import render
    from neftune.study.estimate.tokens import _NoTokenizer

    reading = read_examples(shared / "data/train" / f"{FILES[name]}.jsonl.gz", skip_bad=True)
    examples = list({one.id: one for one in reading.examples}.values())
    rendered = [render(one, template="alpaca", tokenizer=_NoTokenizer()) for one in examples]
    documents = np.quantile([len(one.prompt) + len(one.response) for one in rendered], SHARES)
    prompts = np.quantile([len(one.prompt) for one in rendered], SHARES)
    assert np.allclose(documents, CHARACTERS[name].documents, atol=1)
    assert np.allclose(prompts, CHARACTERS[name].prompts, atol=1)
    assert f"{len(examples):,}" in CHARACTERS[name].measured
    found = published_lengths(
        DataConfig(source=name, num_heldout=1, num_test=1, max_length=10**6), ratio=3.17, tokens_per_example=None
    )
    mean = np.mean([len(one.prompt) + len(one.response) for one in rendered])
    assert found.documents(1000).mean() * 3.17 == pytest.approx(mean, rel=0.03)
