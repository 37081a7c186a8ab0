"""What a picture is: decoding, quality, annotations, tiles, and drawn pictures with exact masks."""
