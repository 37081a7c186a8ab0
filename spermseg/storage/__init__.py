"""Where bytes are: local folders, S3 buckets, archives."""
