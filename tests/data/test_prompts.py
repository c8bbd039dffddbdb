"""The templates, letter by letter, and the way from text to tokens."""

import pytest

from neftune.data.chat import locate_responses
from neftune.data.prompts import encode_prompt, render, render_prompt, resolve_template
from neftune.errors import ModelError, UnknownNameError
from neftune.records import Example, Turn
from tests.tiny_tokenizers import (
    CHATML,
    FORGETS,
    LLAMA2,
    MARKED,
    NO_END,
    NO_GENERATION_PROMPT,
    ZEPHYR,
    byte_level,
    sentencepiece,
)

SINGLE = Example.make([Turn("user", "Add."), Turn("assistant", "Three.")])
WITH_INPUT = Example.make([Turn("user", "Add."), Turn("assistant", "Three.")], input="1 2")
TWO = Example.make([Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Add."), Turn("assistant", "Three.")])
SYSTEM = Example.make([Turn("system", "Be brief."), *TWO.turns])


def shown(example: Example, template: str, tokenizer=None) -> str:
    """The text with its trained part in brackets."""
    rendered = render(example, template=template, tokenizer=tokenizer or sentencepiece())
    text, done = "", 0
    for start, end in rendered.spans:
        text += f"{rendered.prompt[done:start]}[{rendered.prompt[start:end]}]"
        done = end
    return f"{text}{rendered.prompt[done:]}[{rendered.response}]"


def test_alpaca_without_input_is_stanfords_text_with_the_response_right_behind_it():
    assert shown(SINGLE, "alpaca") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Response:[Three.</s>]"
    )


def test_alpaca_with_input_is_stanfords_text():
    assert shown(WITH_INPUT, "alpaca") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:[Three.</s>]"
    )


def test_alpaca_repeats_its_headings_for_later_turns():
    assert shown(SYSTEM, "alpaca") == (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:[Yes?</s>]"
        "\n\n### Instruction:\nAdd.\n\n### Response:[Three.</s>]"
    )


def test_vicuna_is_fastchats_version_1_1():
    assert shown(TWO, "vicuna") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "USER: Hi ASSISTANT:[ Yes?</s>]USER: Add. ASSISTANT:[ Three.</s>]"
    )
    assert shown(SYSTEM, "vicuna").startswith("Be brief. USER: Hi ASSISTANT:[ Yes?</s>]")
    assert "USER: Add.\n\n1 2 ASSISTANT:" in shown(WITH_INPUT, "vicuna")


def test_plain_is_prompt_line_break_response():
    assert shown(SINGLE, "plain") == "Add.\n[Three.</s>]"
    assert shown(WITH_INPUT, "plain") == "Add.\n1 2\n[Three.</s>]"
    assert shown(SYSTEM, "plain") == "Be brief.\nHi\n[Yes?</s>]\nAdd.\n[Three.</s>]"


def test_the_input_goes_with_the_last_question():
    example = Example.make(TWO.turns, input="1 2")
    assert "Hi\n\n### Response:" in shown(example, "alpaca")
    assert "Add.\n\n### Input:\n1 2\n\n### Response:" in shown(example, "alpaca")


CHAT_TEXTS = {
    CHATML: (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Yes?<|im_end|>]\n"
        "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n[Three.<|im_end|>]"
    ),
    ZEPHYR: (
        "<|user|>\nHi<|endoftext|>\n<|assistant|>\n[Yes?<|endoftext|>]\n"
        "<|user|>\nAdd.<|endoftext|>\n<|assistant|>\n[Three.<|endoftext|>]"
    ),
    NO_END: "user: Hi\nassistant:[ Yes?<|endoftext|>]\nuser: Add.\nassistant:[ Three.<|endoftext|>]",
    NO_GENERATION_PROMPT: (
        "user: Hi<|endoftext|>assistant: [Yes?<|endoftext|>]user: Add.<|endoftext|>assistant: [Three.<|endoftext|>]"
    ),
}
CHAT_TEXTS[MARKED] = CHAT_TEXTS[CHATML]


@pytest.mark.parametrize("template", CHAT_TEXTS)
def test_the_tokenizers_own_template_is_cut_at_the_responses_and_their_ends(template: str):
    tokenizer = byte_level()
    tokenizer.chat_template = template
    assert shown(TWO, "chat", tokenizer) == CHAT_TEXTS[template]


@pytest.mark.parametrize("answer", ["a", "s", "assistant", ":", "<", "e"])
def test_an_answer_that_occurs_in_its_role_or_end_is_trained_on_and_its_role_is_not(answer: str):
    tokenizer = byte_level()
    tokenizer.chat_template = NO_GENERATION_PROMPT
    example = Example.make([Turn("user", "Hi"), Turn("assistant", answer)])
    assert shown(example, "chat", tokenizer) == f"user: Hi<|endoftext|>assistant: [{answer}<|endoftext|>]"


def test_a_template_that_spells_bos_and_ends_in_eos():
    tokenizer = sentencepiece()
    tokenizer.chat_template = LLAMA2
    assert shown(TWO, "chat", tokenizer) == "<s>[INST] Hi [/INST][ Yes? </s>]<s>[INST] Add. [/INST][ Three. </s>]"
    ids = encode_prompt(render_prompt(TWO, template="chat", tokenizer=tokenizer), tokenizer)
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1] != tokenizer.bos_token_id


def test_the_input_reaches_the_chat_template():
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    assert "<|im_start|>user\nAdd.\n\n1 2<|im_end|>" in shown(WITH_INPUT, "chat", tokenizer)


def test_a_template_that_rewrites_the_past_is_refused_with_the_place():
    tokenizer = byte_level()
    tokenizer.chat_template = FORGETS
    assert shown(SINGLE, "chat", tokenizer).endswith("assistant\n[<think>\n\n</think>\n\nThree.<|im_end|>]")
    with pytest.raises(ModelError, match=r"the same way.*assistant.*writes '<think>.*and then 'Yes.*generation"):
        shown(TWO, "chat", tokenizer)


def test_marks_that_miss_a_response_are_refused():
    tokenizer = byte_level()
    tokenizer.chat_template = MARKED.replace("message['role'] == 'assistant'", "loop.last")
    with pytest.raises(ModelError, match=r"mark each assistant turn.*got 1 marks for 2 turns"):
        shown(TWO, "chat", tokenizer)


def test_a_template_that_refuses_a_role_is_quoted():
    tokenizer = sentencepiece()
    tokenizer.chat_template = LLAMA2
    with pytest.raises(ModelError, match=r"system, user, assistant.*no system turn.*data\.template"):
        shown(SYSTEM, "chat", tokenizer)


def test_locating_keeps_the_text_but_for_ends_put_in():
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    messages = [{"role": turn.role, "content": turn.content} for turn in TWO.turns]
    assert locate_responses(messages, tokenizer).text == tokenizer.apply_chat_template(messages, tokenize=False)


def test_auto_takes_the_chat_template_where_there_is_one():
    tokenizer = sentencepiece()
    assert resolve_template("auto", tokenizer) == "alpaca"
    tokenizer.chat_template = CHATML
    assert resolve_template("auto", tokenizer) == "chat"
    assert render_prompt(SINGLE, template="auto", tokenizer=tokenizer).startswith("<|im_start|>")


def test_wrong_templates_are_refused():
    with pytest.raises(ModelError, match="needs a tokenizer with a chat template"):
        resolve_template("chat", sentencepiece())
    with pytest.raises(UnknownNameError, match="Did you mean 'vicuna'"):
        resolve_template("vicunia", sentencepiece())


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = sentencepiece()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"must have an end-of-sequence token.*eos_token"):
        render_prompt(SINGLE, template="plain", tokenizer=tokenizer)


def test_bos_is_put_once_where_the_tokenizer_puts_one():
    tokenizer = sentencepiece()
    assert encode_prompt("the", tokenizer) == tokenizer("the")["input_ids"]
    assert encode_prompt("<s>the", tokenizer).count(tokenizer.bos_token_id) == 1
    without = byte_level()
    assert encode_prompt("the", without) == without("the")["input_ids"]


def test_an_end_that_the_tokenizer_puts_by_itself_is_not_in_the_prompt():
    from tokenizers import processors

    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert tokenizer("the")["input_ids"][-1] == tokenizer.eos_token_id
    assert encode_prompt("the", tokenizer)[-1] != tokenizer.eos_token_id
