"""How fast are AlpacaEval's prompts answered? The authors' loop | transformers, batches by length | ours, in turn.

    python -m benchmarks.generation --model CHECKPOINT --prompts alpaca_eval.json \
        --out benchmarks/results/generation_<hardware>_<yyyymm>.json

The authors' loop (github.com/neelsjain/NEFTune experiment_code/eval_generate.py): batches of 4 in file order, left
padding, greedy, repetition penalty 1.2, max_length 1024 with the prompt, each batch until its last answer ends. Between
it and ours stands what transformers' `generate` gives with large batches sorted by length. All in float32, one thread,
the same model; seconds of CPU and of wall clock, tokenising and decoding included.

An answer's limit in the authors' loop depends on the longest prompt of its batch, so an answer that meets it must be
the beginning of ours. Prompts of max_length tokens or more cannot be answered by either and are left out and counted.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.noise_overhead import installed, processor
from transformers import AutoModelForCausalLM, AutoTokenizer

from neftune.data.prompts import encode_prompt, render_prompt
from neftune.evaluation.generation import generate
from neftune.evaluation.outputs import read_prompts
from neftune.records import Example, Turn

PENALTY = 1.2


def padded(model: Any, tokenizer: Any, prompts: Sequence[str], *, size: int, max_length: int) -> list[str]:
    """Answers by transformers' own loop, in batches of ``size`` in the order given."""
    texts: list[str] = []
    for start in range(0, len(prompts), size):
        encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts[start : start + size]]
        width = max(len(ids) for ids in encoded)
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in encoded])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded])
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            repetition_penalty=PENALTY,
            max_length=max_length,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts += tokenizer.batch_decode(made[:, width:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


def authors(model: Any, tokenizer: Any, prompts: Sequence[str], max_length: int) -> list[str]:
    """Answers by the authors' loop."""
    return padded(model, tokenizer, prompts, size=4, max_length=max_length)


def sorted_by_length(model: Any, tokenizer: Any, prompts: Sequence[str], max_length: int) -> list[str]:
    """Answers by transformers' loop at its best: large batches of prompts of like length."""
    order = sorted(range(len(prompts)), key=lambda place: len(encode_prompt(prompts[place], tokenizer)))
    texts = padded(model, tokenizer, [prompts[place] for place in order], size=64, max_length=max_length)
    by_place = dict(zip(order, texts, strict=True))
    return [by_place[place] for place in range(len(prompts))]


def ours(model: Any, tokenizer: Any, prompts: Sequence[str], max_length: int) -> list[str]:
    """Answers as `neftune generate` makes them."""
    made = generate(model, tokenizer, prompts, max_new_tokens=max_length, repetition_penalty=PENALTY, batch_size=256)
    return [one.text for one in made]


PROVIDERS: dict[str, Callable[[Any, Any, Sequence[str], int], list[str]]] = {
    "authors": authors,
    "transformers": sorted_by_length,
    "neftune": ours,
}


def timed(function: Callable[[], list[str]]) -> tuple[dict[str, float], list[str]]:
    """Seconds of CPU and of wall clock, and the answers."""
    cpu, wall = time.process_time(), time.perf_counter()
    texts = function()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}, texts


def agreement(first: Sequence[str], second: Sequence[str]) -> dict[str, int]:
    """How many answers are the same, and how many more are the other's beginning."""
    same = sum(one == two for one, two in zip(first, second, strict=True))
    begins = sum(two.startswith(one) or one.startswith(two) for one, two in zip(first, second, strict=True))
    return {"same": same, "one_is_the_others_beginning": begins - same, "different": len(first) - begins}


def rendered(path: Path, tokenizer: Any, max_length: int) -> tuple[list[str], int]:
    """Prompts in the alpaca template that leave room for an answer, and how many do not."""
    examples = [
        Example.make([Turn("user", row.instruction), Turn("assistant", "")], input=row.input)
        for row in read_prompts(path).rows
    ]
    texts = [render_prompt(example, template="alpaca", tokenizer=tokenizer) for example in examples]
    fitting = [text for text in texts if len(encode_prompt(text, tokenizer)) < max_length]
    return fitting, len(texts) - len(fitting)


def summary(seconds: dict[str, list[dict[str, float]]], texts: dict[str, list[str]], tokenizer: Any) -> dict[str, Any]:
    """Medians, ratios to the authors' loop, and whether all say the same."""
    medians = {
        name: {kind: statistics.median(one[kind] for one in rounds) for kind in ("cpu", "wall")}
        for name, rounds in seconds.items()
    }
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "times_faster_than_authors": {
            name: {kind: medians["authors"][kind] / value for kind, value in kinds.items()}
            for name, kinds in medians.items()
        },
        "against_authors": {name: agreement(texts["authors"], texts[name]) for name in texts},
        "answer_tokens": sum(len(ids) for ids in tokenizer(texts["neftune"], add_special_tokens=False)["input_ids"]),
        "mean_characters": statistics.fmean(map(len, texts["neftune"])),
    }


def main() -> None:
    """Measure, print a line for each pass, and write the JSON after every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a small checkpoint that was fine-tuned on the alpaca template")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--two-only", action="store_true", help="leave transformers' large batches out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=1024, help="prompt and answer")
    parser.add_argument("--limit", type=int, help="the first prompts only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model.config.max_position_embeddings = options.max_length
    prompts, left_out = rendered(options.prompts, tokenizer, options.max_length)
    prompts = prompts[: options.limit]
    seconds: dict[str, list[dict[str, float]]] = {
        name: [] for name in PROVIDERS if name != "transformers" or not options.two_only
    }
    texts: dict[str, list[str]] = {}
    for number in range(options.rounds):
        for name in seconds:
            provider = PROVIDERS[name]
            spent, texts[name] = timed(
                lambda provider=provider: provider(model, tokenizer, prompts, options.max_length)
            )
            seconds[name].append(spent)
            print(f"round {number + 1} {name:13} cpu {spent['cpu']:7.1f} s  wall {spent['wall']:7.1f} s", flush=True)
        record = {
            "model": {
                "parameters": sum(one.numel() for one in model.parameters()),
                "config": {
                    name: value for name, value in model.config.to_diff_dict().items() if name != "_name_or_path"
                },
            },
            "prompts": len(prompts),
            "prompts_too_long": left_out,
            "max_length": options.max_length,
            "rounds": number + 1,
            **summary(seconds, texts, tokenizer),
            "device": processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "versions": {name: installed(name) for name in ("torch", "transformers", "neftune")},
            "python": platform.python_version(),
        }
        print({key: record[key] for key in ("times_faster_than_authors", "against_authors")}, flush=True)
        if options.out:
            options.out.write_text(json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
