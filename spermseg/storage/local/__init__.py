"""Local folders and shared file systems."""
