"""The method, without run folders or network: products, batches, prompts, validation, stages as pure functions."""
