"""Many runs: plan, execute, store."""
