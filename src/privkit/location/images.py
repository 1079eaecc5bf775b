"""Where a photograph was taken: found in an image file, and taken out of it.

An image is written anew from its pixels, colour profile and timing, so that whatever else the file had stays behind:
EXIF and the thumbnail inside it with an EXIF of its own, XMP, IPTC, text chunks, comments, what follows the image's
end. A JPEG, WebP or AVIF is compressed once more by that. Needs Pillow: pip install 'privkit[images]'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from privkit.errors import InvalidValue, MappingError, PrivkitError
from privkit.location.point import GeoPoint

_WRITTEN_AS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "GIF", "AVIF": "AVIF"}
"""MPO is what phones call a JPEG with further pictures behind it; the first is kept."""

_QUALITY = {"JPEG": {"quality": 90}, "WEBP": {"quality": 90}, "AVIF": {"quality": 80}}
_NO_METADATA = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "icc_profile", "transparency"}
    | {"background", "version", "loop", "duration", "timestamp", "disposal", "blend", "bbox", "default_image"}
)
"""What Pillow reads of an image that tells how to show it."""

_ORIENTATION, _GPS = 0x0112, 0x8825
_OFFSET, _LENGTH = 0x0201, 0x0202
_XMP_ANGLE = re.compile(r'GPS(Latitude|Longitude)\s*(?:=\s*["\']|>)\s*(\d+),([\d.]+)(?:,([\d.]+))?([NSEW])')


def location_in(data: bytes) -> GeoPoint | None:
    """Return where an image says that it was taken, by EXIF, its thumbnail's EXIF or XMP, else None.

    Raises InvalidValue for a file that cannot be read, or whose location cannot, MappingError without Pillow.
    """
    try:
        with _opened(data) as image:
            return _location(image)
    except PrivkitError:
        raise
    except Exception:
        refusal = _unreadable()
    raise refusal  # out here, so that the original error, which may quote the file, is not chained


def strip_location(data: bytes) -> bytes:
    """Return the image without any of its metadata, upright, in the format it had; it was read again to be sure.

    JPEG, PNG, WebP, GIF and AVIF, with all frames of an animation. Raises InvalidValue for a file that cannot be read
    to its end or has another format, so nothing passes unseen; MappingError without Pillow.
    """
    try:
        with _opened(data) as image:
            stripped = _written(image)
        with _opened(stripped) as again:
            left = sorted(set(_metadata(again)))
    except PrivkitError:
        raise
    except Exception:
        refusal = _unreadable()
    else:
        if not left:
            return stripped
        refusal = InvalidValue(
            f"An image still had metadata after it was written anew: {', '.join(left)}.",
            "It may say where the picture was taken.",
            "Refuse the file, and report the format.",
        )
    raise refusal


def _opened(data: bytes) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MappingError(
            "Pillow is not installed.",
            "The location in an image can be neither seen nor taken out without it.",
            "pip install 'privkit[images]'",
        ) from None
    image = Image.open(BytesIO(data))
    if image.format not in _WRITTEN_AS:
        raise InvalidValue(
            f"An image has the format {image.format}, which is not handled.",
            "Its metadata would stay.",
            f"Take one of: {', '.join(sorted(_WRITTEN_AS))}; convert others when they are uploaded.",
            format=image.format,
        )
    return image


def _written(image: Any) -> bytes:
    from PIL import ImageSequence

    target, shown, out = _WRITTEN_AS[image.format], dict(image.info), BytesIO()
    orientation = image.getexif().get(_ORIENTATION, 1)
    moving = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    first, *others = [_bare(frame, orientation) for frame in (ImageSequence.Iterator(image) if moving else [image])]
    options: dict[str, Any] = dict(_QUALITY.get(target, {}))
    options |= {name: shown[name] for name in ("icc_profile", "loop") if name in shown and (moving or name != "loop")}
    if others:
        durations = [frame.info.get("duration", 0) for frame in (first, *others)]
        options |= {"save_all": True, "append_images": others, "duration": durations}
    first.save(out, target, **options)
    return out.getvalue()


def _bare(frame: Any, orientation: int) -> Any:
    """Return the pixels of a frame, turned upright, with its transparency and duration and nothing else."""
    from PIL import Image

    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF 2.32, table 6, as Pillow numbers its transpositions
    copy = frame.copy()
    upright = copy.transpose(Image.Transpose(turns[orientation])) if orientation in turns else copy
    upright.info = {name: value for name, value in frame.info.items() if name in ("transparency", "duration")}
    return upright


def _metadata(image: Any) -> Iterator[str]:
    """Name what a file says beside its pixels, in any of its frames."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        yield from (str(name) for name, value in image.info.items() if name not in _NO_METADATA and not _loops(value))
        yield from ("exif" for _ in image.getexif())
        yield from ("text" for _ in getattr(image, "text", ()))
        yield from (name for name, _ in getattr(image, "applist", ()) if name not in ("APP0", "APP2", "APP14"))


def _loops(value: Any) -> bool:
    """Whether it is the extension of a GIF that tells how often it plays."""
    return isinstance(value, tuple) and value[:1] == (b"NETSCAPE2.0",)


def _location(image: Any) -> GeoPoint | None:
    image.load()  # PNG may have its text behind the pixels
    exif = image.getexif()
    if gps := exif.get_ifd(_GPS):
        return _from_gps(gps)
    if thumbnail := _thumbnail(image, exif):
        found = location_in(thumbnail)
        if found is not None:
            return found
    xmp = image.info.get("xmp", b"")
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp)
    parts = {name: _degrees(angle, side) for name, *angle, side in _XMP_ANGLE.findall(text)}
    return GeoPoint(parts["Latitude"], parts["Longitude"]) if len(parts) == 2 else None


def _from_gps(gps: Any) -> GeoPoint | None:
    """Return the point of tags 1 to 4 of EXIF's GPS directory: side, angle, side, angle."""
    if not any(tag in gps for tag in (2, 4)):
        return None
    lat, lon = (_degrees(gps[tag + 1], gps[tag]) for tag in (1, 3))
    return GeoPoint(lat, lon)


def _degrees(angle: Any, side: str) -> float:
    """Return signed degrees of degrees, minutes and seconds, of which the last may be missing."""
    whole: float = sum(float(part or 0) / 60**power for power, part in enumerate(angle))
    return -whole if side.strip("\0 ").upper() in ("S", "W") else whole


def _thumbnail(image: Any, exif: Any) -> bytes | None:
    """Return the JPEG inside EXIF, whose offset counts from the TIFF header behind ``Exif`` and two zeros."""
    from PIL.ExifTags import IFD

    directory, raw = exif.get_ifd(IFD.IFD1), image.info.get("exif", b"")
    start, length = directory.get(_OFFSET), directory.get(_LENGTH)
    if not start or not length:
        return None
    tiff = raw[6:] if raw.startswith(b"Exif\0\0") else raw
    found: bytes = tiff[start : start + length]
    return found or None


def _unreadable() -> InvalidValue:
    return InvalidValue(
        "A file could not be read as an image to its end.",
        "What it says of a place can be neither seen nor taken out.",
        "Refuse the file; never store it as it came.",
    )
