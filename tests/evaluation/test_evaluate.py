"""A model asked and scored on every part."""

import math
from dataclasses import replace

import pytest

from neftune.config import NoiseConfig, RunConfig
from neftune.data.batches import tokenise
from neftune.data.datasets import load_data
from neftune.data.prompts import render_prompt
from neftune.errors import DataError, UnknownNameError
from neftune.evaluation.evaluate import evaluate_model
from neftune.evaluation.generation import generate
from neftune.evaluation.judges import judges
from neftune.evaluation.losses import example_losses
from neftune.evaluation.scores import score_answers
from neftune.evaluation.text_metrics import text_metrics
from neftune.records import PARTS, DataSet, Example, Turn
from neftune.training.models import load_model
from tests.tiny import make_recipe


class WordCounter:
    """A judge that likes words."""

    def scores(self, example: Example, answer: str) -> dict[str, float]:
        return {"quality": float(len(answer.split())), "reference_quality": float(len(example.reference.split()))}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(judges._entries, "words", lambda data: WordCounter())
    recipe = make_recipe(tmp_path)
    config = RunConfig.model_validate({name: recipe[name] for name in ("model", "data", "evaluate")})
    loaded = load_model(config.model, config.data, seed=0)
    return loaded.model, loaded.tokenizer, load_data(config.data), config


def with_settings(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update=changes)})


def test_every_example_has_every_score(tiny):
    model, tokenizer, data, config = tiny
    seen = []
    evaluation = evaluate_model(
        model, tokenizer, data, with_settings(config, judge="words"), on_progress=lambda *done: seen.append(done)
    )
    assert tuple(evaluation.scores) == tuple(evaluation.answers) == PARTS
    assert {part: len(found) for part, found in evaluation.answers.items()} == {"train": 4, "heldout": 16, "test": 16}
    names = {"loss", "tokens", "ended", *text_metrics, "quality", "reference_quality"}
    for part, scores in evaluation.scores.items():
        ids = [one.id for one in data.parts[part][: len(scores.example_ids)]]
        assert list(scores.example_ids) == ids == [answer.example_id for answer in evaluation.answers[part]]
        assert set(scores.values) == names
        assert all(len(values) == len(ids) for values in scores.values.values())
    assert set(evaluation.counts.values()) == {0}
    assert seen[-1] == (36, 36)
    assert seen == sorted(seen)


def test_scores_and_answers_are_those_of_the_parts_alone(tiny):
    model, tokenizer, data, config = tiny
    evaluation = evaluate_model(model, tokenizer, data, config)
    examples = data.parts["test"]
    documents = tokenise(examples, tokenizer, template="plain", max_length=32).documents
    scores = evaluation.scores["test"].values
    assert scores["loss"] == pytest.approx(example_losses(model, documents), abs=1e-5)
    prompts = [render_prompt(one, template="plain", tokenizer=tokenizer) for one in examples]
    generated = generate(model, tokenizer, prompts, max_new_tokens=8)
    for answer, example, prompt, made in zip(evaluation.answers["test"], examples, prompts, generated, strict=True):
        assert (answer.prompt, answer.reference) == (prompt, example.reference)
        assert (answer.text, answer.num_tokens, answer.ended) == (made.text, made.num_tokens, made.ended)
    assert scores["words"] == tuple(float(len(made.text.split())) for made in generated)
    assert scores["tokens"] == tuple(float(made.num_tokens) for made in generated)
    assert "quality" not in scores


def test_the_batch_size_changes_nothing(tiny):
    model, tokenizer, data, config = tiny
    whole = evaluate_model(model, tokenizer, data, config)
    small = evaluate_model(model, tokenizer, data, with_settings(config, batch_size=3))
    assert small.answers == whole.answers
    for part in PARTS:
        for name, values in whole.scores[part].values.items():
            assert small.scores[part].values[name] == pytest.approx(values, abs=1e-5, nan_ok=True)


def test_only_the_parts_asked_for(tiny):
    model, tokenizer, data, config = tiny
    evaluation = evaluate_model(model, tokenizer, data, with_settings(config, parts=["heldout"]))
    assert list(evaluation.scores) == ["heldout"]


def test_a_prompt_that_fills_the_context_has_no_answer_and_is_counted(tiny):
    model, tokenizer, data, config = tiny
    long = Example.make([Turn("user", "cat " * 80), Turn("assistant", "the cat is red .")])
    longer = DataSet({**data.parts, "test": (long, *data.parts["test"])}, data.fingerprint, data.counts)
    evaluation = evaluate_model(model, tokenizer, longer, with_settings(config, judge="words"))
    scores = evaluation.scores["test"]
    assert scores.example_ids[0] == long.id
    assert all(math.isnan(values[0]) for values in scores.values.values())
    assert len(evaluation.answers["test"]) == len(scores.example_ids) - 1
    assert evaluation.counts["test_prompts_too_long"] == evaluation.counts["test_without_loss"] == 1
    only = with_settings(config, parts=["test"])
    with pytest.raises(DataError, match="got none of 1"):
        evaluate_model(model, tokenizer, DataSet({"test": (long,)}, "", {}), only)


def test_a_part_that_is_not_there_and_a_judge_that_is_not_known(tiny):
    model, tokenizer, data, config = tiny
    with pytest.raises(DataError, match=r"evaluate\.parts names 'heldout', which has no examples"):
        evaluate_model(model, tokenizer, replace(data, parts={"train": data.parts["train"]}), config)
    with pytest.raises(UnknownNameError, match=r"judge must be one of .*facts.*; got 'fact'\. Did you mean 'facts'"):
        evaluate_model(model, tokenizer, data, with_settings(config, judge="fact"))


def test_answers_from_elsewhere_are_scored_alike(tiny):
    model, tokenizer, data, config = tiny
    evaluation = evaluate_model(model, tokenizer, data, config)
    answers = {answer.example_id: answer for answer in evaluation.answers["test"]}
    scores = score_answers(data.parts["test"], answers)
    assert "loss" not in scores.values
    for name, values in scores.values.items():
        assert values == pytest.approx(evaluation.scores["test"].values[name], nan_ok=True)


def test_a_real_checkpoint_on_real_instructions(shared):
    source = shared / "data" / "train" / "lima_1k.jsonl.gz"
    config = RunConfig.model_validate(
        {
            "model": {"path": str(shared / "models" / "stories260k")},
            "data": {"source": str(source), "num_train": 8, "num_heldout": 8, "num_test": 8, "skip_bad": True},
            "evaluate": {"num_train_prompts": 4, "max_new_tokens": 12, "repetition_penalty": 1.2},
        }
    )
    loaded, data = load_model(config.model, config.data, seed=0), load_data(config.data)
    evaluation = evaluate_model(loaded.model, loaded.tokenizer, data, config)
    for part in PARTS:
        scores = evaluation.scores[part]
        unanswered = sum(math.isnan(value) for value in scores.values["tokens"])
        assert unanswered == evaluation.counts[f"{part}_prompts_too_long"]
        assert all(2 < loss < 30 for loss in scores.values["loss"] if not math.isnan(loss))
        assert all(answer.text for answer in evaluation.answers[part])


def test_the_baseline_is_asked_again_under_its_variants(tiny):
    model, tokenizer, data, config = tiny
    asked = with_settings(config, variants=["long", "held_back=6", "truncated"], max_new_tokens=8, judge="words")
    evaluation = evaluate_model(model, tokenizer, data, asked)
    assert tuple(evaluation.scores) == (*PARTS, "test@long", "test@held_back=6")
    assert evaluation.scores["test@long"].example_ids == evaluation.scores["test"].example_ids
    assert "loss" not in evaluation.scores["test@long"].values
    assert "quality" in evaluation.scores["test@long"].values
    assert all("Generate a long response." in one.prompt for one in evaluation.answers["test@long"])
    assert not any("Generate a long response." in one.prompt for one in evaluation.answers["test"])
    assert min(one.num_tokens for one in evaluation.answers["test@held_back=6"]) >= 6
    plain = evaluate_model(model, tokenizer, data, with_settings(config, max_new_tokens=8))
    assert plain.answers["test"] == evaluation.answers["test"]


def test_a_model_that_would_say_nothing_is_held_back(tiny):
    model, tokenizer, data, config = tiny

    def end_at_once(module, args, logits):
        logits[..., tokenizer.eos_token_id] = 1e4
        return logits

    model.lm_head.register_forward_hook(end_at_once)
    asked = with_settings(config, variants=["held_back=6"], max_new_tokens=8)
    answers = evaluate_model(model, tokenizer, data, asked).answers
    assert {one.num_tokens for one in answers["test"]} == {0}
    assert {one.num_tokens for one in answers["test@held_back=6"]} == {6}


def test_only_the_baseline_is_asked_again_unless_all_are_wanted(tiny):
    model, tokenizer, data, config = tiny
    noisy = with_settings(config, variants=["long"]).model_copy(update={"noise": NoiseConfig(alpha=5.0)})
    assert tuple(evaluate_model(model, tokenizer, data, noisy).scores) == PARTS
    stopped = with_settings(config, variants=["long"]).model_copy(update={"stop_at_train_loss_of": "a-run"})
    assert not stopped.asks_variants
    everyone = with_settings(noisy, variants_of="all")
    assert tuple(evaluate_model(model, tokenizer, data, everyone).scores) == (*PARTS, "test@long")
