"""Log-likelihoods for lm-eval that share their prefixes: `--model neftune`."""
