import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neftune.noise import add, operator
from neftune.noise.distributions import distributions
from neftune.noise.tokens import TokenNoise

pytest.importorskip("triton", reason="needs triton")
from triton import compile as compile_kernel
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neftune.noise import kernels

ROOT = Path(__file__).parents[2]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def test_the_interpreter_gives_what_torch_gives_bit_for_bit():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "tests/noise/interpreted_kernels.py",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def compiled(dtype: str, width: int, distribution: str, *, capability: int):
    """The kernel for a device that need not be there, as `add_noise_` would launch it."""
    entry = distributions[distribution]
    settings = kernels.launch_settings(width, entry)
    pointers = {"keys": "*i64", "positions": "*i64", "noised": "*i1", "table": "*i64", "embeddings": f"*{dtype}"}
    pointers |= dict.fromkeys(("factors", "noise_squares", "signal_squares"), "*fp32")
    options = {name: settings.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    types = pointers | dict.fromkeys(settings, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernels._add.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(signature) if name in pointers}
    source = ASTSource(kernels._add, signature, settings, aligned)
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options).asm


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "width", "distribution"),
    [("bf16", 4096, "uniform"), ("bf16", 1024, "bernoulli"), ("fp16", 5120, "uniform"), ("fp32", 2048, "gaussian")],
)
def test_a_gpu_is_told_to_round_twice_to_draw_once_and_to_move_16_bytes_a_thread(
    tmp_path, monkeypatch, capability, dtype, width, distribution
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = compiled(dtype, width, distribution, capability=capability)
    assert not re.findall(r"\bfma\.|\.ftz", code["ptx"]), "product and sum are rounded each, small numbers kept"
    assert code["ttgir"].count("tt.mulhiui") == 20, "ten rounds, two products each: every word is drawn once"
    assert "ld.global.v4.b32" in code["ptx"]
    assert "st.global.v4.b32" in code["ptx"]
    if dtype != "fp32":
        assert f"cvt.rn.{dtype.replace('fp', 'f')}x2.f32" in code["ptx"], "to the nearest"


@pytest.mark.parametrize("width", [1, 8, 64, 288, 1024, 2304, 4096, 5120, 16384])
def test_few_places_of_a_program_stay_empty(width):
    for entry in distributions.values():
        settings = kernels.launch_settings(width, entry)
        blocks, num_blocks = settings["BLOCKS"], entry.num_blocks(width)
        assert settings["ROWS"] * blocks == 128 * settings["num_warps"]
        assert -(-num_blocks // blocks) * blocks < max(2 * num_blocks, num_blocks + 128)


def test_neither_draw_nor_number_of_tokens_belongs_to_what_is_compiled():
    assert {param.name for param in kernels._add.params if param.do_not_specialize} == {
        "num_tokens",
        "draw_low",
        "draw_high",
    }
    for word in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 7):
        signed = kernels._signed(word)
        assert -(2**31) <= signed < 2**31, "always the same type"
        assert signed % 2**32 == word % 2**32


def test_other_devices_and_missing_libraries_mean_torch(monkeypatch):
    add._kernels.cache_clear()
    assert add._kernels(torch.device("meta")) is None
    assert add._kernels(torch.device("cpu")).__name__ == "neftune.noise.compiled"
    monkeypatch.setitem(sys.modules, "neftune.noise.compiled", None)
    assert add._kernels(torch.device("cpu", 0)) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert add._kernels(torch.device("cuda", 71)) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert add._kernels(torch.device("cuda", 72)) is kernels
    monkeypatch.setitem(sys.modules, "neftune.noise.kernels", None)
    assert add._kernels(torch.device("cuda", 73)) is None
    add._kernels.cache_clear()


def test_old_tritons_are_refused(monkeypatch):
    monkeypatch.delattr("triton.language.tuple")
    with pytest.raises(ImportError, match=r"need Triton 3.3 or newer \(torch 2.7 brings it\), got 3"):
        importlib.reload(kernels)


def test_cuda_graphs_leave_the_noise_out():
    for definition in (operator._exposure, operator._noised):
        tags = definition._opoverload.tags
        assert torch.Tag.cudagraph_unsafe in tags, "they would replay one step's noise at every step"


on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def make_noise(num_tokens: int, width: int, distribution: str, draw: int) -> TokenNoise:
    noised = torch.arange(num_tokens) % 3 != 1
    return TokenNoise(
        keys=torch.randint(-(2**63), 2**63 - 1, (num_tokens,)),
        positions=torch.arange(num_tokens),
        scale=torch.rand(num_tokens) * noised,
        noised=noised,
        width=width,
        draw=draw,
        entry=distributions[distribution],
    )


def to_gpu(noise: TokenNoise) -> TokenNoise:
    moved = {name: getattr(noise, name).cuda() for name in ("keys", "positions", "scale", "noised")}
    return dataclasses.replace(noise, **moved)


class TestOnAGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float64])
    @pytest.mark.parametrize("distribution", distributions)
    @pytest.mark.parametrize(
        ("width", "draw"), [(1, 0), (3, 2**33 + 5), (288, 7), (4096, 2**64 - 1), (5120, 1), (16384, 2)]
    )
    def test_equals_the_cpu_bit_for_bit(self, dtype, distribution, width, draw):
        noise, embeddings = make_noise(201, width, distribution, draw), torch.randn(201, width).to(dtype)
        got = embeddings.cuda()
        squares = add.add_(got, to_gpu(noise))
        expected = add.add_(embeddings, noise)
        assert torch.equal(got.cpu(), embeddings)
        for one, other in zip(squares, expected, strict=True):
            assert torch.allclose(one.cpu(), other, rtol=1e-4)

    @pytest.mark.parametrize("distribution", distributions)
    def test_allocates_numbers_per_token_alone(self, distribution):
        noise = to_gpu(make_noise(4096, 4096, distribution, 1))
        embeddings = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
        add.add_(embeddings, noise)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        add.add_(embeddings, noise)
        assert torch.cuda.max_memory_allocated() - before <= 64 * 4096, "64 bytes a token; the embeddings have 8,192"

    def test_nothing_is_compiled_again_from_draw_to_draw_or_batch_to_batch(self):
        compilations = []
        with knobs.runtime.scope():
            knobs.runtime.jit_post_compile_hook = lambda **about: compilations.append(about)
            for num_tokens in (64, 65, 1):
                for draw in (0, 1, 16, 2**31, 2**32, 2**63):
                    embeddings = torch.zeros(num_tokens, 520, device="cuda")
                    add.add_(embeddings, to_gpu(make_noise(num_tokens, 520, "uniform", draw)))
        assert len(compilations) == 1
