"""MT-Bench: 80 two-turn questions, each answer graded from 1 to 10 by a judge (arXiv 2306.05685)."""
