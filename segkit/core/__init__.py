"""The method, without run folders and network: products, batches, prompts, validation, stages as pure functions."""
