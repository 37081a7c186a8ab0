"""Access to bytes in local folders, S3 buckets and archives."""
