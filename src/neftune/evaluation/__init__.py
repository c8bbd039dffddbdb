"""One model: answers, losses and scores per example."""
