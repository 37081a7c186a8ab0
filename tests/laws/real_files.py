"""Small real files of every kind that strangers upload or annotate, written from synthetic micrographs."""

import base64
import functools
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
import tifffile
from laws.kinds import HEIGHT, WIDTH
from PIL import Image, PngImagePlugin
from support.archive_files import tar_of, zip_of
from support.picture_files import encode, encode_tiff

from spermseg.annotation.rasterise import rasterise
from spermseg.synthetic.draw import DrawConfig, SyntheticMicrograph, draw_micrograph, labelme_annotation


@functools.cache
def drawn(seed: int) -> SyntheticMicrograph:
    return draw_micrograph(seed, DrawConfig(height=HEIGHT, width=WIDTH, scale=0.2, cells=(4, 6)))


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(drawn(seed).pixels)


def sixteen_bits() -> np.ndarray:
    return drawn(1).pixels.astype(np.uint16) * 16


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6
    tags[0x010F] = "Microscopes & Co"
    return tags


def with_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def several_pages() -> bytes:
    return encode("TIFF", picture(), save_all=True, append_images=[picture(1)])


def with_thumbnail() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for pixels, flag in ((drawn(2).pixels[:16, :16], 1), (drawn(2).pixels, 0)):
            writer.write(pixels, photometric="rgb", metadata=None, subfiletype=flag)
    return file.getvalue()


def jpegs() -> list[bytes]:
    return [
        encode("JPEG", picture()),
        encode("JPEG", picture(), progressive=True),
        encode("JPEG", picture().convert("L")),
        encode("JPEG", picture(), exif=exif()),
        encode("JPEG", picture(), restart_marker_rows=1, subsampling=0, dpi=(300, 300)),
        encode("JPEG", picture().convert("CMYK")),
    ]


def pngs() -> list[bytes]:
    return [
        encode("PNG", picture()),
        with_opencv(".png", sixteen_bits()),
        encode("PNG", picture().convert("P"), transparency=3),
        encode("PNG", picture().convert("RGBA"), exif=exif(), pnginfo=notes()),
        encode("PNG", picture().convert("L"), dpi=(300, 300)),
        encode("PNG", picture().convert("1")),
        interlaced(),
    ]


def notes() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Objective", "100x oil, " * 20, zip=True)
    info.add_itxt("Stain", "Diff-Quik", lang="de")
    return info


def interlaced() -> bytes:
    """Return a grey PNG of Adam7's seven passes (PNG 1.2, section 2.6), which no library at hand writes."""

    pixels = np.asarray(picture().convert("L"))
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, right in passes for row in pixels[top::down, left::right]]
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiffs() -> list[bytes]:
    return [
        encode("TIFF", picture()),
        encode("TIFF", picture(), compression="tiff_lzw"),
        encode("TIFF", picture(), compression="tiff_adobe_deflate"),
        encode("TIFF", picture(), compression="jpeg"),
        encode("TIFF", picture().convert("L"), compression="packbits", exif=exif()),
        encode("TIFF", picture().convert("P")),
        encode_tiff(sixteen_bits(), photometric="rgb"),
        encode_tiff(sixteen_bits()[..., 0], byteorder=">", compression="zlib"),
        encode_tiff(drawn(2).pixels, photometric="rgb", tile=(16, 16), bigtiff=True),
        encode_tiff(np.moveaxis(drawn(2).pixels, 2, 0), photometric="rgb", planarconfig="separate"),
        encode_tiff(~sixteen_bits()[..., 0], photometric="miniswhite", extratags=[(281, 3, 1, 4095, True)]),
        encode_tiff(sixteen_bits()[..., 0], compression="lzma", description='<OME SignificantBits="12"/>'),
        with_thumbnail(),
        several_pages(),
    ]


def bmps() -> list[bytes]:
    modes = (picture(), picture().convert("L"), picture().convert("P"), picture().convert("1"))
    return [*(encode("BMP", one) for one in modes), encode("BMP", picture().convert("RGBA"))]


def uploads() -> list[tuple[str, bytes]]:
    names = ("monday/field-1.jpg", "monday/Präparat 2.png", "tuesday/" + "long-" * 30 + "name.bmp")
    return list(zip(names, (jpegs()[0], pngs()[5], bmps()[3]), strict=True))


def zips() -> list[bytes]:
    return [
        zip_of(uploads(), zipfile.ZIP_STORED),
        zip_of(uploads(), zipfile.ZIP_DEFLATED),
        zip_of(uploads(), zipfile.ZIP_DEFLATED, force_zip64=True),
        zip_of(uploads()[:1], zipfile.ZIP_STORED, prefix=b"#!/bin/sh\n"),
    ]


def tars() -> list[bytes]:
    long_names = [tar_of(uploads(), kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    return [*long_names, tar_of(uploads()[:2], tarfile.USTAR_FORMAT)]


def tar_gzs() -> list[bytes]:
    first, second, third = tars()
    return [gzip.compress(data, mtime=0) for data in (first, second)] + [
        gzip.compress(third[:3000], mtime=0) + gzip.compress(third[3000:], mtime=0)
    ]


def labelmes() -> list[bytes]:
    content = labelme_annotation(drawn(0), "field-1.jpg")
    mask = encode("PNG", Image.fromarray(np.eye(8, 10, dtype=np.uint8) * 255))
    more = [
        {"label": "Head", "points": [[3.0, 4.0], [20.5, 30.0]], "shape_type": "rectangle"},
        {"label": "Head", "points": [[20.0, 20.0], [25.0, 20.0]], "shape_type": "circle", "group_id": 3},
        {
            "label": "Vacuole",
            "points": [[5, 6], [14, 13]],
            "shape_type": "mask",
            "mask": base64.b64encode(mask).decode("ascii"),
        },
    ]
    return [as_json(content), as_json(content | {"shapes": more}), as_json({"shapes": more[:1], "imagePath": "a.png"})]


def vias() -> list[bytes]:
    shapes: list[dict[str, Any]] = [
        {"name": "rect", "x": 3, "y": 4, "width": 20, "height": 10},
        {"name": "circle", "cx": 20, "cy": 20, "r": 5.5},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 9, "ry": 4, "theta": 0.5},
    ]
    for shape in drawn(0).shapes[:3]:
        x, y = shape.points.T.tolist()
        shapes.append({"name": "polygon", "all_points_x": x, "all_points_y": y})
    regions = [
        {"shape_attributes": shape, "region_attributes": {"part": ("Head", "Tail")[number % 2]}}
        for number, shape in enumerate(shapes)
    ]
    boxes = [{**region, "region_attributes": {"type": {"Head": True, "Tail": False}}} for region in regions[:2]]
    images = {
        "a.jpg1234": {"filename": "a.jpg", "size": 1234, "regions": regions, "file_attributes": {}},
        "b.jpg77": {"filename": "b.jpg", "size": 77, "regions": boxes},
    }
    numbered = {"a.jpg": {"filename": "a.jpg", "regions": {str(n): region for n, region in enumerate(regions)}}}
    return [as_json({"_via_settings": {}, "_via_img_metadata": images}), as_json(images), as_json(numbered)]


def cocos() -> list[bytes]:
    polygons = [shape.outline() for shape in drawn(0).shapes[:4]]
    packed = pycocotools.mask.encode(np.asfortranarray(rasterise(polygons[:1], HEIGHT, WIDTH).astype(np.uint8)))
    segmentations: list[Any] = [
        *([np.ravel(polygon.points).tolist()] for polygon in polygons),
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode("ascii")},
        {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]},
    ]
    annotations = [
        {
            "id": n,
            "image_id": 1 + n % 2,
            "category_id": 1 + n % 2,
            "segmentation": one,
            "iscrowd": 0,
            "bbox": [0, 0, 9, 9],
        }
        for n, one in enumerate(segmentations)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    categories = [{"id": 1, "name": "Head"}, {"id": 2, "name": "Tail"}]
    return [as_json({"images": images, "annotations": annotations, "categories": categories})]


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


MAKERS: dict[str, Callable[[], list[bytes]]] = {
    "jpeg": jpegs,
    "png": pngs,
    "tiff": tiffs,
    "bmp": bmps,
    "zip": zips,
    "tar": tars,
    "tar.gz": tar_gzs,
    "labelme": labelmes,
    "via": vias,
    "coco": cocos,
}


@functools.cache
def real_files(kind: str) -> tuple[bytes, ...]:
    """Return the files of a kind, the same ones every time."""
    return tuple(MAKERS[kind]())
