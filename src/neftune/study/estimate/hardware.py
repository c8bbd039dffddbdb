"""What processors can do, by their vendors' data sheets; one registry entry each."""

from dataclasses import dataclass

from neftune.registry import Registry

GB = 10**9


@dataclass(frozen=True, slots=True)
class Hardware:
    """One processor.

    Attributes:
        title: As its vendor calls it.
        bf16: Peak FLOP/s of dense matrix products in bfloat16 with sums in float32.
        fp32: Peak FLOP/s in float32 as torch computes by default, without TF32.
        memory: Bytes.
        bandwidth: Bytes per second to and from that memory.
        source: Where the numbers stand.
    """

    title: str
    bf16: float
    fp32: float
    memory: int
    bandwidth: float
    source: str

    def peak(self, dtype: str) -> float:
        """FLOP/s of a model whose weights have this type."""
        return self.fp32 if dtype == "float32" else self.bf16


hardware: Registry[Hardware] = Registry("hardware")
"""Processors by name, as `--hardware` says them."""

for _name, _entry in {
    "h100": Hardware("NVIDIA H100 SXM 80 GB", 989e12, 67e12, 80 * GB, 3.35e12, "NVIDIA H100 data sheet"),
    "h200": Hardware("NVIDIA H200 SXM 141 GB", 989e12, 67e12, 141 * GB, 4.8e12, "NVIDIA H200 data sheet"),
    "a100": Hardware("NVIDIA A100 SXM 80 GB", 312e12, 19.5e12, 80 * GB, 2.039e12, "NVIDIA A100 data sheet"),
    "a100-40": Hardware("NVIDIA A100 SXM 40 GB", 312e12, 19.5e12, 40 * GB, 1.555e12, "NVIDIA A100 data sheet"),
    "l40s": Hardware("NVIDIA L40S 48 GB", 362e12, 91.6e12, 48 * GB, 864e9, "NVIDIA L40S data sheet"),
    "a40": Hardware("NVIDIA A40 48 GB", 149.7e12, 37.4e12, 48 * GB, 696e9, "NVIDIA A40 data sheet"),
    "a5000": Hardware(
        "NVIDIA RTX A5000 24 GB", 111.1e12, 27.8e12, 24 * GB, 768e9, "NVIDIA RTX A5000 data sheet (222.2 with sparsity)"
    ),
    "rtx4090": Hardware(
        "NVIDIA GeForce RTX 4090 24 GB", 165.2e12, 82.6e12, 24 * GB, 1.008e12, "NVIDIA Ada architecture whitepaper"
    ),
    "mi300x": Hardware("AMD MI300X 192 GB", 1307e12, 163.4e12, 192 * GB, 5.3e12, "AMD Instinct MI300X data sheet"),
}.items():
    hardware.register(_name)(_entry)

UTILISATION = 0.3
"""Share of the peak that training is assumed to reach where nothing was measured. torchtitan measures 33% for Llama 3.1
8B on H100 without compilation (its docs/performance.md), at full length; batches of short documents reach less."""

DECODING_UTILISATION = 0.7
"""Share of the memory's bandwidth that decoding is assumed to reach (gpt-fast: 72%, pytorch.org/blog/
accelerating-generative-ai-2)."""

SECONDS_PER_LAYER = 1 / 25.5 / 32
"""Time that a decoding step takes at least per block without compilation: the processor that launches kernels sets it.
Llama 7B (32 blocks) makes 25.5 tokens/s on an A100 (pytorch.org/blog/accelerating-generative-ai-2)."""
