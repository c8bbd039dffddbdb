"""The noise in other people's trainers."""
