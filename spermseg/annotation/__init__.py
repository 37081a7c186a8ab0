"""LabelMe, VIA and COCO annotations -> masks, by one pixel rule."""
