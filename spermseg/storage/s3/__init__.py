"""S3, and servers that speak it."""
