"""zip, tar and tar.gz archives as byte ranges."""
