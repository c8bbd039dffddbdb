"""What a study will take before anything starts: runs, tokens, time, memory, disk. Nothing is trained or downloaded."""
