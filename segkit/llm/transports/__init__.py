"""The ways to a model: HTTP, the OpenAI SDK, the offline model."""
