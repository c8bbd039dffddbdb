"""Does sharing prefixes give lm-eval's numbers, and for how much less? hf | neftune, on the paper's four benchmarks.

    python -m benchmarks.scoring equal --data FOLDER --out benchmarks/results/scoring_equality_<hardware>_<yyyymm>.json
    python -m benchmarks.scoring time --data FOLDER --out benchmarks/results/scoring_time_<hardware>_<yyyymm>.json

`equal` runs both on all documents, part by part, with a small model: largest difference of log-likelihoods, examples
whose accuracy differs, and token positions that went through the model, counted in its forward passes. `unpadded` is
what the Hugging Face backend would compute at batch size 1, after its own sharing of contexts between one-token
choices. Stopped and started again, it goes on with the next part.

`whole` counts ours once more on a whole benchmark in one call, as a user calls it: the check is then made once.

`time` measures the CPU time of both in turn on the same documents, tokenising included, with a model whose head is 7%
of its weights; the backend runs at the batch size that is its best on the first of these documents.
"""

import argparse
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.noise_overhead import installed, processor, quantiles
from benchmarks.scoring_setting import (
    Part,
    counted_positions,
    evaluation_state,
    make_backend,
    make_model,
    make_parts,
    make_tokenizer,
)

DOCUMENTS = {"arc_challenge": 24, "hellaswag": 32, "mmlu_abstract_algebra": 100, "mmlu_business_ethics": 100}
DOCUMENTS |= {"mmlu_college_physics": 102, "truthfulqa_mc2": 100}
"""How many documents of each task are timed: whole subjects of MMLU, because what is shared is theirs."""
TASKS = ("truthfulqa_mc2", "arc_challenge", "mmlu", "hellaswag")
BATCH_SIZES = (1, 2, 4, 8, 16)


def unpadded(requests: list[tuple[Any, list[int], list[int]]], max_length: int) -> int:
    """Positions of the Hugging Face backend without padding: equal tokens but the last are run once."""
    groups = {tuple((context + continuation)[-(max_length + 1) : -1]) for _, context, continuation in requests}
    return sum(len(group) for group in groups)


def encoded(backend: Any, part: Part) -> list[Any]:
    """A part's requests as the backend encodes them."""
    kept: list[Any] = []
    backend._loglikelihood_tokens = lambda requests, **_: kept.extend(requests) or []
    try:
        backend.loglikelihood(part.instances, disable_tqdm=True)
    finally:
        del backend._loglikelihood_tokens
    return kept


def compare(part: Part, backends: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Both backends on all of a part."""
    answers: dict[str, Any] = {}
    positions: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name, backend in backends.items():
        start = time.process_time()
        with counted_positions(model) as counts:
            answers[name] = backend.loglikelihood(part.instances, disable_tqdm=True)
        positions[name], seconds[name] = sum(counts), time.process_time() - start
    ours, theirs = (part.outcomes(answers[name]) for name in ("neftune", "hf"))
    accuracies = [key for key in next(iter(theirs.values())) if "acc" in key]
    exact = [key for key in accuracies if part.task.config.task != "truthfulqa_mc2" or key != "acc"]
    values = zip(answers["neftune"], answers["hf"], strict=True)
    flags = sum(one[1] != other[1] for one, other in zip(answers["neftune"], answers["hf"], strict=True))
    tokens = encoded(backends["hf"], part)
    return {
        "documents": len(ours),
        "requests": len(part.instances),
        "largest_difference": max(abs(one[0] - other[0]) for one, other in values),
        "different_greedy_flags": flags,
        "different_accuracies": sum(ours[one][key] != theirs[one][key] for one in ours for key in exact),
        "largest_difference_of_mc2": max(abs(ours[one][key] - theirs[one][key]) for one in ours for key in accuracies),
        "positions": {**positions, "unpadded": unpadded(tokens, backends["hf"].max_length)},
        "cpu_seconds": seconds,
        "shared": backends["neftune"].shares,
    }


def run_equal(options: argparse.Namespace, tokenizer: Any, record: dict[str, Any], save: Callable[[], None]) -> None:
    """All parts that the record does not have yet."""
    model = make_model("equality")
    found = record.setdefault("parts", {})
    for task in options.tasks or TASKS:
        backends = {name: make_backend(name, model, tokenizer, options.batch_size) for name in ("hf", "neftune")}
        for part in make_parts(task, options.data, documents=options.part):
            if part.name in found:
                continue
            found[part.name] = compare(part, backends, model)
            record["totals"] = totals(found)
            print(part.name, json.dumps(found[part.name]), flush=True)
            save()


def run_whole(options: argparse.Namespace, tokenizer: Any, record: dict[str, Any], save: Callable[[], None]) -> None:
    """Positions of ours on a whole benchmark in one call, as a user calls it, against those that `equal` counted."""
    model = make_model("equality")
    found = record.setdefault("whole", {})
    for task in options.tasks or TASKS:
        (part,) = make_parts(task, options.data, documents=None)
        backend = make_backend("neftune", model, tokenizer, options.batch_size)
        with counted_positions(model) as counts:
            backend.loglikelihood(part.instances, disable_tqdm=True)
        theirs = record["totals"][task]["positions"]["hf"]
        found[task] = {"requests": len(part.instances), "neftune": sum(counts), "hf": theirs}
        found[task]["times_fewer"] = theirs / sum(counts)
        print(task, json.dumps(found[task]), flush=True)
        save()


def totals(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By benchmark."""
    result: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        task = "mmlu" if name.startswith("mmlu") else name.split("[")[0]
        total = result.setdefault(task, {"positions": {}, "largest_difference": 0.0})
        for key in ("documents", "requests", "different_greedy_flags", "different_accuracies"):
            total[key] = total.get(key, 0) + part[key]
        for key in ("largest_difference", "largest_difference_of_mc2"):
            total[key] = max(total.get(key, 0.0), part[key])
        for key, value in part["positions"].items():
            total["positions"][key] = total["positions"].get(key, 0) + value
    for total in result.values():
        counts = total["positions"]
        total["times_fewer"] = {key: counts[key] / counts["neftune"] for key in ("hf", "unpadded")}
    return result


def cpu_seconds(backend: Any, instances: list[Any]) -> float:
    """Of scoring the requests, tokenising included, all threads together."""
    start = time.process_time()
    backend.loglikelihood(instances, disable_tqdm=True)
    return time.process_time() - start


def best_batch_size(part: Part, model: Any, tokenizer: Any) -> tuple[int, dict[int, float]]:
    """The Hugging Face backend's, on a tenth of the part, at least 16 requests."""
    some = part.instances[: max(16, len(part.instances) // 10)]
    times = {size: cpu_seconds(make_backend("hf", model, tokenizer, size), some) for size in BATCH_SIZES}
    return min(times, key=lambda size: times[size]), times


def run_time(options: argparse.Namespace, tokenizer: Any, record: dict[str, Any], save: Callable[[], None]) -> None:
    """Both backends in turn on the same documents."""
    model = make_model("time")
    head = model.lm_head.weight.numel()
    record["model"] = {"weights": model.num_parameters(), "share_of_head": head / model.num_parameters()}
    for task, limit in DOCUMENTS.items():
        found = record.setdefault("tasks", {}).setdefault(task, {})
        if (options.tasks and task not in options.tasks) or len(found.get("ratios", ())) >= options.rounds:
            continue
        (part,) = make_parts(task, options.data, documents=None, limit=limit)
        if "batch_size" not in found:
            size, tried = best_batch_size(part, model, tokenizer)
            found |= {"documents": limit, "requests": len(part.instances), "batch_size": size, "tried": tried}
        size = found["batch_size"]
        rounds: list[dict[str, float]] = found.setdefault("rounds", [])
        while len(rounds) < options.rounds:
            names = ("hf", "neftune") if len(rounds) % 2 else ("neftune", "hf")
            backends = {name: make_backend(name, model, tokenizer, size) for name in names}
            rounds.append({name: cpu_seconds(backend, part.instances) for name, backend in backends.items()})
            found["ratios"] = [one["hf"] / one["neftune"] for one in rounds]
            found["cpu_seconds"] = {name: quantiles([one[name] for one in rounds]) for name in names}
            found["times_less"] = sum(one["hf"] for one in rounds) / sum(one["neftune"] for one in rounds)
            print(task, size, rounds[-1], f"{found['ratios'][-1]:.2f}", flush=True)
            save()


def main() -> None:
    """Measure, print a line for each part and keep the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("equal", "time", "whole"))
    parser.add_argument("--data", type=Path, required=True, help="folder with the task files")
    parser.add_argument(
        "--text",
        default="train/alpaca_52k.jsonl.gz",
        help="what the tokenizer is trained on, in that folder (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON; what it holds is not measured again")
    parser.add_argument("--tasks", nargs="*", help="default: all")
    parser.add_argument("--part", type=int, default=200, help="documents of a part (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="of hf in `equal` (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of `time` (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    packages = ("torch", "transformers", "lm_eval", "tokenizers", "neftune", "numpy")
    record |= {"device": processor(), "cores": os.cpu_count(), "threads": options.threads}
    record |= {"versions": {name: installed(name) for name in packages}, "python": platform.python_version()}

    def save() -> None:
        temporary = options.out.with_suffix(".part")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(options.out)

    tokenizer = make_tokenizer(options.data / options.text)
    model = torch.nn.Linear(1, 1)
    with evaluation_state(model):
        {"equal": run_equal, "time": run_time, "whole": run_whole}[options.what](options, tokenizer, record, save)


if __name__ == "__main__":
    main()
