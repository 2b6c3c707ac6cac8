"""Understanding a divergence: the instruction that first went wrong, what became of it, and a report of that."""
