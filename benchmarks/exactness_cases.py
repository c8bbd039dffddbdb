"""Single cases of `noise_exactness`: phases, misuse, other implementations, several ranks."""

import math
import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.pipelines import PROVIDERS, EmbeddingAlone, TransformersNoise
from torch import Tensor, nn
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.neftune import activate_neftune
from transformers.utils import logging

import neftune
from neftune.errors import NeftuneError
from neftune.noise.findings import AuditResult
from tests.tiny_families import VOCAB, make

ALPHA = 5.0
LENGTH = 48
GENERATED = 31
Value = float | str


def both(case: Callable[[str], Value]) -> tuple[Value, Value]:
    """What a case comes to with transformers' hook and with ours."""
    return case("transformers"), case("neftune")


def family(provider: str, model: nn.Module, passes: int) -> AuditResult:
    """A model of some family on two documents of one length."""
    ids = torch.randint(3, VOCAB, (2, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with PROVIDERS[provider](model.train()), neftune.audit(model, ALPHA) as audit:
        for _ in range(passes):
            model(**batch)
    return audit.result()


def reference_pass(provider: str) -> float:
    """The reference of TRL's DPOTrainer where the adapter is switched off for it: noise at how much of alpha."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from tests.tiny_training import tiny_llama, tiny_tokenizer

    words = "".join(f" w{3 + i % 30}" for i in range(12))
    rows = [{"prompt": f"w{3 + i}", "chosen": words, "rejected": f"{words} w9"} for i in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            **_quiet(folder),
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rate=0.0,
            activation_checkpointing=False,
            bf16=False,
            neftune_noise_alpha=ALPHA if provider == "transformers" else None,
        )
        logging.set_verbosity_error()
        trainer = DPOTrainer(
            model=tiny_llama(hidden_size=64),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny_tokenizer(),
            peft_config=LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
            callbacks=_callbacks(provider),
        )
        trainer.remove_callback(PrinterCallback)
        with neftune.audit(trainer, ALPHA) as audit:
            trainer.train()
    return audit.result().find("no_grad").mean


def rollouts(provider: str) -> float:
    """The sampled completions and old log-probabilities of TRL's GRPOTrainer: noise at how much of alpha."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from tests.tiny_training import tiny_llama, tiny_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            **_quiet(folder),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=24,
            learning_rate=0.0,
            activation_checkpointing=False,
            bf16=False,
            neftune_noise_alpha=ALPHA if provider == "transformers" else None,
        )
        logging.set_verbosity_error()
        trainer = GRPOTrainer(
            model=tiny_llama(hidden_size=64),
            reward_funcs=lambda completions, **_: [float(len(one)) for one in completions],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": f"w{3 + i} w4 w5"} for i in range(8)]),
            processing_class=tiny_tokenizer(),
            callbacks=_callbacks(provider),
        )
        trainer.remove_callback(PrinterCallback)
        with neftune.audit(trainer, ALPHA) as audit:
            trainer.train()
    finding = next(one for one in audit.result().findings if one.phase != "training")
    return finding.mean


def cached_generation(provider: str) -> float:
    """Greedy generation in training mode: the noise at the last token, against that of the whole document."""
    model = make("llama")
    ids = torch.randint(3, VOCAB, (64, 12))
    with PROVIDERS[provider](model), neftune.audit(model, ALPHA) as audit:
        new = GENERATED + 1 - ids.shape[1]
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    return audit.result().find("no_grad").groups[-1].mean


def given_embeddings(provider: str) -> Value:
    """Embeddings given in place of token ids."""
    model, ids = EmbeddingAlone(64), torch.randint(3, 100, (4, LENGTH))
    embeddings = functional.embedding(ids, model.embed.weight)

    def forward() -> float:
        return _ratio(model(inputs_embeds=embeddings) - embeddings)

    with PROVIDERS[provider](model.train()):
        return _or_refusal(forward)


def attached_twice(provider: str) -> Value:
    """The noise put on a model that has it."""
    model = EmbeddingAlone(64).train()

    def forward() -> float:
        if provider == "transformers":
            activate_neftune(model, ALPHA)
            activate_neftune(model, ALPHA)
        else:
            neftune.attach(model, ALPHA)
            neftune.attach(model, ALPHA)
        return _embedded_ratio(model)

    return _or_refusal(forward)


class _Fails(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyError("a failure in the midst of training")


def _trained_after_failure(provider: str, folder: str) -> tuple[nn.Module, AuditResult]:
    model = make("llama")
    rows = [{"input_ids": torch.arange(3, 3 + LENGTH), "labels": torch.arange(3, 3 + LENGTH)}] * 40
    arguments = TrainingArguments(
        **_quiet(folder),
        num_train_epochs=8,
        per_device_train_batch_size=8,
        learning_rate=0.0,
        neftune_noise_alpha=ALPHA if provider == "transformers" else None,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=_callbacks(provider))
    trainer.remove_callback(PrinterCallback)
    failing = _Fails()
    trainer.add_callback(failing)
    try:
        trainer.train()
    except KeyError:
        trainer.remove_callback(failing)
    with neftune.audit(model, ALPHA) as audit:
        trainer.train()
    return model, audit.result()


def after_exception(provider: str) -> Value:
    """A training that failed, begun again."""
    with tempfile.TemporaryDirectory() as folder:
        return _or_refusal(lambda: _trained_after_failure(provider, folder)[1].find().mean)


def forward_afterwards(provider: str) -> Value:
    """A training forward of that model when it all is over."""
    with tempfile.TemporaryDirectory() as folder:
        model, _ = _trained_after_failure(provider, folder)
    try:
        with neftune.audit(model.train(), ALPHA) as audit:
            model(torch.arange(3, 3 + LENGTH)[None])
    except AttributeError as error:
        return type(error).__name__
    return audit.result().find().mean


def compiled(provider: str) -> Value:
    """One graph, dynamic shapes, three lengths."""
    torch._dynamo.reset()
    model = EmbeddingAlone(256).train()
    ratios = []
    with PROVIDERS[provider](model):
        whole = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        try:
            for length in (40, 60, 90):
                ids = torch.randint(3, 100, (32, length))
                noisy = whole(input_ids=ids, attention_mask=torch.ones_like(ids))
                ratios.append(_ratio(noisy - functional.embedding(ids, model.embed.weight)))
        except Exception as error:  # whatever torch.compile raises is the result
            return f"fails ({type(error).__name__})"
    return statistics.fmean(ratios)


_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the authors' script": lambda ids, out: 5 / torch.sqrt(torch.tensor(ids.shape[1], dtype=out.dtype) * out.shape[-1]),
    "instructlab": lambda ids, out: 5 / torch.tensor(float(ids.numel())).sqrt(),
    "PaddleNLP": lambda ids, out: 5 / torch.tensor(float(out.shape[0] * out.shape[1])).sqrt(),
    "dolomite-engine": lambda ids, out: 5 / torch.tensor(float(out.numel())).sqrt(),
}
"""What each multiplies U(-1, 1) with; from their sources, see the list of implementations in the project's notes."""


def _setting(of: str) -> tuple[EmbeddingAlone, Tensor]:
    if of == "the authors' script":
        return EmbeddingAlone(256, dtype=torch.float16), torch.randint(3, 1000, (4, 512))
    return EmbeddingAlone(4096), torch.randint(3, 1000, (1 if of == "instructlab" else 8, 64))


def restated(of: str) -> float:
    """The ratio that an implementation's formula gives."""
    model, ids = _setting(of)
    scale = _FORMULAS[of]
    model.embed.register_forward_hook(
        lambda _module, args, out: out + (torch.rand_like(out) * 2 - 1) * scale(args[0], out)
    )
    with neftune.audit(model.train(), ALPHA) as audit:
        model(ids)
    return audit.result().find().mean


def restated_ours(of: str) -> float:
    """Ours in the same setting."""
    model, ids = _setting(of)
    with neftune.attach(model.train(), ALPHA), neftune.audit(model, ALPHA) as audit:
        model(ids)
    return audit.result().find().mean


def correlations() -> tuple[float, float]:
    """Correlation between two ranks' noise: transformers', ours."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, args=(folder,), nprocs=2)
        noises = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2)]
    both_ranks = (torch.stack([noise[name].flatten() for noise in noises]) for name in ("transformers", "neftune"))
    first, second = (float(torch.corrcoef(pair)[0, 1]) for pair in both_ranks)
    return first, second


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for provider in ("transformers", "neftune"):
        torch.manual_seed(0)  # as transformers' Trainer seeds every rank
        model = EmbeddingAlone(128).train()
        parallel = nn.parallel.DistributedDataParallel(model)
        ids = torch.randint(3, 1000, (2, 8, 96))[rank]
        noise = TransformersNoise(model) if provider == "transformers" else neftune.attach(parallel, ALPHA)
        with noise:
            found[provider] = (parallel(input_ids=ids) - functional.embedding(ids, model.embed.weight)).detach()
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def parts_of_rows() -> tuple[float, float]:
    """Two ranks that hold half of every row each: transformers' ratio, ours."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank_with_parts, args=(folder,), nprocs=2)
        found = torch.load(f"{folder}/ratios.pt", weights_only=True)
    return found["transformers"], found["neftune"]


def _rank_with_parts(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for provider in ("transformers", "neftune"):
        torch.manual_seed(0)
        model, mine = EmbeddingAlone(128).train(), slice(rank * LENGTH, (rank + 1) * LENGTH)
        ids, positions = torch.randint(3, 1000, (32, 2 * LENGTH)), torch.arange(2 * LENGTH).expand(32, -1)
        group = torch.distributed.group.WORLD
        theirs = provider == "transformers"
        noise = TransformersNoise(model) if theirs else neftune.attach(model, ALPHA, sequence_group=group)
        with noise:
            noisy = model(input_ids=ids[:, mine], position_ids=positions[:, mine])
        squares = (noisy - functional.embedding(ids[:, mine], model.embed.weight)).detach().square().sum(dim=(1, 2))
        torch.distributed.all_reduce(squares)
        found[provider] = float(squares.sqrt().mean()) * math.sqrt(3) / ALPHA
    if rank == 0:
        torch.save(found, f"{folder}/ratios.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _ratio(noise: Tensor) -> float:
    """Realised over nominal alpha of documents that fill their rows; (B, T, D)."""
    return float(noise.detach().double().flatten(1).norm(dim=1).mean()) * math.sqrt(3) / ALPHA


def _embedded_ratio(model: EmbeddingAlone) -> float:
    ids = torch.randint(3, 100, (64, LENGTH))
    return _ratio(model(ids) - functional.embedding(ids, model.embed.weight))


def _or_refusal(measured: Callable[[], float]) -> Value:
    try:
        return measured()
    except NeftuneError as error:
        return f"refused ({type(error).__name__})"


def _callbacks(provider: str) -> list[TrainerCallback]:
    return [neftune.NoiseCallback(ALPHA)] if provider == "neftune" else []


def _quiet(folder: str) -> dict[str, Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return {
        "output_dir": folder,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
