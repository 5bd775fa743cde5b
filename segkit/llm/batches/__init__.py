"""The Batch API of providers: a stage is sent as files of requests, at half price and outside the rate limits."""
