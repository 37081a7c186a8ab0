"""LabelMe, VIA and COCO annotations, and their rasterisation to masks by one rule."""
