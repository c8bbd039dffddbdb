"""The paper's numbers, and others' about it, each labelled with its model, data, judge and number of seeds.

Source: arXiv 2310.05914 (tables 1, 4, 6, 7; figures 4, 5; section 5.4); tatsu-lab/alpaca_eval at cd543a1 (leaderboard);
arXiv 2405.14394, table 1 (an independent replication).
"""

from dataclasses import dataclass

PAPER = "arXiv 2310.05914"
REPLICATION = "arXiv 2405.14394, table 1"
BOARD = "AlpacaEval 1 leaderboard"


@dataclass(frozen=True, slots=True)
class Published:
    """One published pair of numbers, without and with the noise.

    Attributes:
        metric: Our name of the metric.
        setting: Model and training data.
        judge: Who compared the answers; "" where nobody did.
        alpha: The noise scale as stated; "" where it was not.
        without, with_noise: The two numbers, in the unit in which we show the metric.
        source: Paper and table.
        note: What to know before reading it.
    """

    metric: str
    setting: str
    judge: str
    alpha: str
    without: float
    with_noise: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Direction:
    """A published finding without usable numbers: only which way it went."""

    metric: str
    finding: str
    source: str


_GPT4 = "GPT-4"
_CHATGPT = "ChatGPT"

WIN_RATES = (
    Published("win_rate", "LLaMA-2-7B, Alpaca", _GPT4, "5", 29.79, 64.69, "table 1"),
    Published("win_rate", "LLaMA-2-7B, Evol-Instruct", _GPT4, "5", 70.34, 79.60, "table 1"),
    Published(
        "win_rate", "LLaMA-2-7B, ShareGPT", _GPT4, "10", 68.74, 76.28, "table 1", "alpha 10 or 15: tables differ"
    ),
    Published("win_rate", "LLaMA-2-7B, OpenPlatypus", _GPT4, "15", 62.00, 70.61, "table 1"),
    Published("win_rate", "LLaMA-2-7B, Alpaca", _CHATGPT, "5", 48.26, 62.55, "table 6"),
    Published("win_rate", "LLaMA-2-7B, Alpaca", _CHATGPT, "10", 48.26, 61.18, "table 6"),
    Published("win_rate", "LLaMA-2-7B, Alpaca", _CHATGPT, "15", 48.26, 61.86, "table 6"),
    Published(
        "win_rate",
        "LLaMA-1-7B, Alpaca",
        _GPT4,
        "10",
        26.46,
        61.64,
        BOARD,
        "the baseline is Stanford's, not the authors'",
    ),
)
LENGTH_CONTROLLED = (
    Published(
        "lc_win_rate", "LLaMA-1-7B, Alpaca", _GPT4, "10", 26.29, 31.61, BOARD,
        "same answers as the +35 points in the raw win rate; they grew from 396 to 1067 characters",
    ),
)  # fmt: skip
STYLE = (
    Published("characters", "LLaMA-2-7B, Alpaca", "", "5", 375.22, 1061.89, "table 4"),
    Published("characters", "LLaMA-2-7B, Evol-Instruct", "", "5", 864.06, 1403.59, "table 4"),
    Published("words", "LLaMA-2-7B, Alpaca", "", "5", 60.5, 169.36, "table 4"),
    Published("words", "LLaMA-2-7B, Evol-Instruct", "", "5", 138.99, 225.56, "table 4"),
    Published("words", "LLaMA-2-7B, ShareGPT", "", "10", 161.04, 234.99, "table 4"),
    Published("words", "LLaMA-2-7B, OpenPlatypus", "", "15", 170.41, 264.12, "table 4"),
    Published("repetition_2", "LLaMA-2-7B, Alpaca", "", "5", 1.49, 1.72, "table 4"),
    Published("repetition_2", "LLaMA-2-7B, Evol-Instruct", "", "5", 3.87, 3.79, "table 4"),
    Published(
        "log_diversity_paper", "LLaMA-2-7B, Alpaca", "", "5", 15.97, 16.41, "table 4", "on chunks of 50 words"
    ),
    Published(
        "log_diversity_paper", "LLaMA-2-7B, Evol-Instruct", "", "5", 10.65, 10.77, "table 4", "on chunks of 100 words"
    ),
)  # fmt: skip
REPLICATIONS = tuple(
    Published("win_rate", f"LLaMA-2-7B, {data}", "AlpacaEval 1", "", without, with_noise, REPLICATION)
    for data, without, with_noise in (
        ("Alpagasus Alpaca 5k", 16.29, 21.37),
        ("Alpagasus Dolly 3k", 13.42, 14.04),
        ("Alpagasus Dolly 9k", 21.54, 31.61),
        ("Less TydiQA", 5.12, 8.35),
        ("Less MMLU-chat", 4.42, 6.22),
        ("Less BBH-ICL", 36.20, 39.81),
        ("LIMA", 33.06, 30.51),
    )
)
PUBLISHED = (*WIN_RATES, *LENGTH_CONTROLLED, *STYLE)
"""Numbers of the authors' models; all from one seed, none with an interval."""

DIRECTIONS = (
    Direction("loss", "With the noise, training loss is clearly higher and loss on Evol-Instruct slightly lower, "
              "measured with the noise off.", "figure 4"),
    Direction("rouge_l", "Without the noise many training answers come back nearly word for word (ROUGE-L 0.9 to 1.0); "
              "with it about none.", "figure 5"),
    Direction("win_rate", "In 140 comparisons by the authors themselves, 88 preferred the noise, 22 were draws and 30 "
              "preferred the baseline: 74.6% the paper's way, 70.7% with draws as one half.", "section 5.4"),
)  # fmt: skip

CAVEATS = (
    "The paper's models have 7 billion parameters or more, were trained on tens of thousands of examples and judged by "
    "a language model against text-davinci-003. Only directions can be compared with ours, never levels.",
    "Each published number is a single run with one seed and no interval; alpha was chosen on the test benchmark.",
    "The same alpha is a different disturbance on each model: compare the noise-to-embedding ratio instead.",
)
