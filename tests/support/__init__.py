"""What tests and benchmarks share: pictures, models and nights to try things on, and servers that misbehave."""
