"""The ways to reach a model: HTTP, the OpenAI SDK, the offline model."""
