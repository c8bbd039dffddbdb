"""Every check that two ranks can make, in one launch: to start Python costs more than to run them."""

from tests.parallel import compiled, context_parallel, data_parallel, tensor_parallel
from tests.parallel.ranks import run

if __name__ == "__main__":
    run(*data_parallel.CHECKS, *tensor_parallel.CHECKS, *context_parallel.CHECKS, *compiled.CHECKS)
