"""Kinds of file that strangers upload or annotate, and the size of the pictures in the tests' own ones."""

PICTURES = ("jpeg", "png", "tiff", "bmp")
ARCHIVES = ("zip", "tar", "tar.gz")
ANNOTATIONS = ("labelme", "via", "coco")
KINDS = (*PICTURES, *ARCHIVES, *ANNOTATIONS)
HEIGHT, WIDTH = 48, 64
