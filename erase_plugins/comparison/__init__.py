"""All methods on the same concepts, prompts and seeds: cells, the processes that work them off, table and figures."""
