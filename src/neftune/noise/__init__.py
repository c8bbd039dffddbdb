"""What is added: the paper's noise, exact in every layout. Needs torch and numpy alone.

documents -> philox -> distributions -> perturb (pure); stacks, calls, phases, meter -> attach (onto a model).
"""
