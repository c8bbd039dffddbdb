"""What does `neftune study --dry-run` say of runs, and what did they take? Predicted beside measured, run by run.

    python -m benchmarks.estimates --data alpaca_52k.jsonl.gz --tokenizer CHECKPOINT \
        --out benchmarks/results/estimates_<hardware>_<yyyymm>.json

Every case is one real run of random weights (the microworld's case has its base), in a process of its own with one
thread. Predicted first, by `estimate_run` for a machine it knows nothing of, so its speed is calibrated; then measured:
parameters, tokens, steps, CPU seconds by stage (load of other programs does not count), peak resident memory above what
the process had before the run, bytes of one checkpoint and of the record.

Time of answers is predicted with every answer at its longest; random weights hardly ever end one. Other programs still
slow a process whose CPU seconds are counted (caches, memory), so the load average is stored beside the numbers.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.noise_overhead import installed, processor

CASES: dict[str, dict[str, Any]] = {
    "llama 0.3 M": {"model": "llama", "width": 64, "layers": 5},
    "llama 6 M": {"model": "llama", "width": 256, "layers": 6},
    "llama 6 M, LoRA": {"model": "llama", "width": 256, "layers": 6, "adapter": "lora"},
    "llama 6 M, recomputed": {"model": "llama", "width": 256, "layers": 6, "gradient_checkpointing": True},
    "llama 6 M, 4 rows": {"model": "llama", "width": 256, "layers": 6, "micro_batch_size": 4},
    "llama 6 M, Lion, half frozen": {
        "model": "llama",
        "width": 256,
        "layers": 6,
        "optimizer": "lion",
        "freeze": ["attention", "embeddings"],
    },
    "llama 6 M, FreeLB": {"model": "llama", "width": 256, "layers": 6, "regularizers": {"freelb": 0.1}},
    "llama 6 M, R3F": {
        "model": "llama",
        "width": 256,
        "layers": 6,
        "regularizers": {"r3f": {"strength": 1, "eps": 0.01}},
    },
    "llama 6 M, bfloat16": {"model": "llama", "width": 256, "layers": 6, "dtype": "bfloat16", "num_train": 16},
    "gpt2 6 M": {"model": "gpt2", "width": 256, "layers": 6},
    "opt 6 M": {"model": "opt", "width": 256, "layers": 6},
    "llama 31 M": {"model": "llama", "width": 512, "layers": 8, "num_train": 16, "micro_batch_size": 4},
    "microworld": {"model": "microworld"},
}
"""Sizes of a model and what its run differs in."""


_OF_TRAINING = ("gradient_checkpointing", "micro_batch_size", "optimizer", "freeze", "regularizers")


def make_model(folder: Path, case: Mapping[str, Any], tokenizer: str) -> Path:
    """Random weights with a real tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    width, layers, heads = case["width"], case["layers"], case["width"] // 32
    sizes = {"vocab_size": len(words), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    plain = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    own = {
        "llama": {**plain, "intermediate_size": width * 8 // 3, "max_position_embeddings": 512},
        "gpt2": {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 512},
        "opt": {**plain, "ffn_dim": 4 * width, "word_embed_proj_dim": width, "max_position_embeddings": 512},
    }[case["model"]]
    torch.manual_seed(0)
    config = AutoConfig.for_model(case["model"], **sizes, **own)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def settings(case: Mapping[str, Any], model: str, data: str) -> dict[str, Any]:
    """A run's settings as plain data."""
    world = model == "microworld"
    source = {"source": "microworld", "template": "chat", "max_length": 96} if world else {"source": data}
    train = {name: case[name] for name in _OF_TRAINING if name in case}
    return {
        "model": {"path": model, "adapter": case.get("adapter", "none"), "dtype": case.get("dtype", "float32")},
        "data": {
            "num_train": case.get("num_train", 64), "num_heldout": 16, "num_test": 16, "skip_bad": True, **source,
        },
        "train": {"epochs": 2 if world else 1, "batch_size": 8, "evaluations": 1, "num_clean_train": 8,
                  "num_clean_heldout": 8, "checkpoints": 2, **train},
        "noise": {"alpha": 5.0},
        "evaluate": {"max_new_tokens": 32, "num_train_prompts": 16, "batch_size": 16},
    }  # fmt: skip


def predict(config: Any) -> dict[str, Any]:
    """What a dry run says."""
    from neftune.study.estimate.estimate import estimate_run
    from neftune.study.estimate.machine import Machine

    one = estimate_run(config, Machine("cpu", "here", 1, 1e12, None))
    return {
        "parameters": one.shape.parameters,
        "trained": one.shape.trained,
        "train_tokens": one.work.train_tokens,
        "steps": one.work.steps,
        "training": one.seconds["training"],
        "evaluation": one.seconds["evaluation"],
        "memory": one.memory.peak - one.memory.runtime,
        "process": one.memory.runtime,
        "memory_parts": dict(one.memory.parts),
        "checkpoint": one.disk.checkpoints / min(3, config.train.checkpoints),
        "record": one.disk.record,
    }


def measure(config: Any) -> dict[str, Any]:
    """What a real run takes, in a process that has made one before: what it imports is not the run's."""
    from neftune.records import to_json
    from neftune.study import run
    from neftune.study.store import write_json

    run._timed = _cpu_timed
    few = config.data.model_copy(update={"num_train": 8, "num_heldout": 2, "num_test": 2})
    with tempfile.TemporaryDirectory() as name:
        run.run_one("warm", config.model_copy(update={"data": few}), Path(name))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        record = run.run_one("one", config, folder)
        peak = _status("VmHWM") - before
        checkpoints = list((folder / "checkpoints").glob("checkpoint-*"))
        one = sum(file.stat().st_size for file in checkpoints[0].rglob("*") if file.is_file())
        write_json(folder / "result.json", to_json(record))
        size = (folder / "result.json").stat().st_size
    return {
        "parameters": record.counts["parameters"],
        "trained": record.counts["parameters_trained"],
        "train_tokens": record.counts["train_tokens"] * round(config.train.epochs),
        "steps": record.counts["steps"],
        "training": record.seconds["training"],
        "evaluation": record.seconds["evaluation"],
        "memory": peak,
        "process": before,
        "checkpoint": one,
        "record": size,
        "answers_at_the_limit": sum(not one.ended for part in record.answers.values() for one in part),
        "answers": sum(len(part) for part in record.answers.values()),
    }


@contextlib.contextmanager
def _cpu_timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds[stage] = time.process_time() - start


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def _child(what: str, values: dict[str, Any]) -> dict[str, Any]:
    """The prediction or the measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--child", what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    made = subprocess.run(
        command, input=json.dumps(values), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(made.stdout.splitlines()[-1])


def ratios(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Predicted over measured, for every quantity that both have."""
    return {
        name: round(predicted[name] / measured[name], 4)
        for name in measured
        if isinstance(predicted.get(name), int | float) and measured[name]
    }


def main() -> None:
    """Predict and measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Alpaca's file")
    parser.add_argument("--tokenizer", help="a checkpoint whose tokenizer is taken")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=["predict", "measure"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import torch

        from neftune.config import RunConfig

        torch.set_num_threads(1)
        config = RunConfig.model_validate(json.loads(sys.stdin.read()))
        print(json.dumps((predict if options.child == "predict" else measure)(config)))
        return
    before = os.getloadavg()
    rows: dict[str, Any] = {}
    for name in options.cases:
        case = CASES[name]
        folder = Path(tempfile.mkdtemp())
        world = case["model"] == "microworld"
        model = "microworld" if world else str(make_model(folder / "model", case, options.tokenizer))
        values = settings(case, model, options.data)
        predicted, measured = _child("predict", values), _child("measure", values)
        rows[name] = {"case": case, "predicted": predicted, "measured": measured, "ratio": ratios(predicted, measured)}
        print(name, json.dumps(rows[name]["ratio"]), flush=True)
        shutil.rmtree(folder)
    versions = {name: installed(name) for name in ("torch", "transformers", "trl", "peft", "neftune")}
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(),
               "load_average": [round(one, 1) for one in (*before, *os.getloadavg())]}  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "versions": versions, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
