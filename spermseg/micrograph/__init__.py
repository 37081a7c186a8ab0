"""What a picture is: decoding, quality, annotations, tiles, and synthetic pictures with exact masks."""
