"""zip, tar and tar.gz archives, read as byte ranges."""
