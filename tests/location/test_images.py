"""Images are made here, with metadata in every place that a phone or a program puts it."""

import struct
import sys
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from privkit.errors import InvalidValue, MappingError
from privkit.location import GeoPoint
from privkit.location.images import location_in, strip_location

PLACE = GeoPoint(51.5 + 1 / 3600, -0.125)
GPS = {1: "N", 2: (51.0, 30.0, 1.0), 3: "W", 4: (0.0, 7.0, 30.0)}
PLANTED = b"planted-note"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r note="planted-note" exif:GPSLatitude="51,30,1N"'
    b' exif:GPSLongitude="0,7.5W"/></x:xmpmeta>'
)
TRACES = (
    PLANTED,
    b"Exif\0\0",
    b"eXIf",
    b"EXIF",
    b"adobe:ns:meta",
    b"GPSLatitude",
    b"tEXt",
    b"iTXt",
    b"zTXt",
    b"Photoshop",
)


def picture(size: tuple[int, int] = (16, 8), colour: Any = (200, 30, 30), mode: str = "RGB") -> Image.Image:
    made = Image.new(mode, size, colour)
    made.paste((30, 30, 200, 255)[: len(made.getbands())] if mode != "P" else 1, (0, 0, size[0] // 2, size[1] // 2))
    return made


def exif(gps: Any = GPS, **tags: Any) -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = PLANTED.decode()
    if gps:
        made.get_ifd(0x8825).update(gps)
    for tag, value in tags.items():
        made[int(tag[1:])] = value
    return made


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF has no GPS of its own, but a thumbnail whose EXIF has one."""
    inner = saved(picture(), "JPEG", exif=exif())
    # TIFF: header; a first directory with an orientation; a second that points at the thumbnail behind it.
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 0x0112, 3, 1, 1, 26)
    tiff += (
        struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, 56) + struct.pack("<HHII", 0x0202, 4, 1, len(inner))
    )
    tiff += struct.pack("<I", 0)
    assert 56 == len(tiff)
    return saved(picture((64, 32)), "JPEG", exif=b"Exif\0\0" + tiff + inner)


def with_segment(marker: int, body: bytes) -> bytes:
    data = saved(picture(), "JPEG")
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def png_with(**text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("zipped", PLANTED.decode(), zip=True)
    return saved(picture(), "PNG", pnginfo=info)


LOCATED = {
    "JPEG": lambda: saved(picture(), "JPEG", exif=exif(), comment=PLANTED),
    "JPEG with XMP": lambda: saved(picture(), "JPEG", xmp=XMP),
    "JPEG with a thumbnail": with_thumbnail,
    "PNG": lambda: saved(picture(), "PNG", exif=exif()),
    "PNG with text": lambda: png_with(Comment=PLANTED.decode()),
    "WebP": lambda: saved(picture(), "WEBP", exif=exif()),
    "WebP with XMP": lambda: saved(picture(), "WEBP", xmp=XMP),
    "AVIF": lambda: saved(picture(), "AVIF", exif=exif()),
    "MPO": lambda: saved(picture(), "MPO", save_all=True, append_images=[picture()], exif=exif()),
}
NOT_LOCATED = {
    "GIF with a comment": lambda: saved(picture(), "GIF", comment=PLANTED),
    "JPEG with IPTC": lambda: with_segment(0xED, b"Photoshop 3.0\0" + PLANTED),
    "JPEG with an unknown segment": lambda: with_segment(0xEB, PLANTED),
    "JPEG with something behind": lambda: saved(picture(), "JPEG") + PLANTED,
    "PNG with something behind": lambda: saved(picture(), "PNG") + PLANTED,
}


@pytest.mark.parametrize("name", LOCATED)
def test_c32_the_place_in_an_image_is_found_wherever_it_stands(name: str) -> None:
    found = location_in(LOCATED[name]())
    assert found is not None
    assert (pytest.approx(PLACE.lat), pytest.approx(PLACE.lon)) == (found.lat, found.lon)


@pytest.mark.parametrize("name", [*LOCATED, *NOT_LOCATED])
def test_c32_nothing_of_the_metadata_is_left_in_the_bytes(name: str) -> None:
    data = {**LOCATED, **NOT_LOCATED}[name]()
    assert any(each in data for each in TRACES)
    stripped = strip_location(data)
    assert [] == [each for each in TRACES if each in stripped]
    assert location_in(stripped) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_the_picture_stays_in_its_format_and_size(kind: str) -> None:
    stripped = Image.open(BytesIO(strip_location(saved(picture((64, 32)), kind))))
    assert (kind, (64, 32)) == (stripped.format, stripped.size)
    red, _, blue = stripped.convert("RGB").getpixel((60, 30))  # type: ignore[misc]
    assert red > blue + 100


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_upright_though_its_orientation_is_gone(turn: int) -> None:
    from PIL import ImageOps

    data = saved(picture((32, 16)), "PNG", exif=exif(t274=turn))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    stripped = Image.open(BytesIO(strip_location(data)))
    assert upright.size == stripped.size
    assert upright.tobytes() == stripped.tobytes()
    assert not stripped.getexif()


def test_transparency_and_colour_profile_stay() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = picture(colour=(200, 30, 30, 0), mode="RGBA")
    stripped = Image.open(BytesIO(strip_location(saved(clear, "PNG", icc_profile=profile))))
    assert clear.tobytes() == stripped.tobytes()
    assert profile == stripped.info["icc_profile"]
    palette = saved(picture().quantize(4), "PNG", transparency=1)
    again = strip_location(palette)
    one, two = (Image.open(BytesIO(each)).convert("RGBA") for each in (palette, again))
    assert {0, 255} == set(one.getchannel("A").tobytes())
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_keeps_its_frames_and_their_times(kind: str) -> None:
    frames = [picture(colour=(200, shade, 30)) for shade in (0, 120, 240)]
    options: Any = {"comment": PLANTED} if kind == "GIF" else {"exif": exif()}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=[50, 70, 90], loop=3, **options)
    stripped = strip_location(data)
    again: Any = Image.open(BytesIO(stripped))
    assert 3 == again.n_frames
    times = []
    for number in range(3):
        again.seek(number)
        again.load()
        times.append(again.info["duration"])
    assert [50, 70, 90] == times
    assert PLANTED not in stripped


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"planted",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        saved(picture((64, 64)), "JPEG")[:-300],
        saved(picture(), "PNG")[:-30],
        saved(picture((64, 64)), "WEBP")[:40],
    ],
    ids=["empty", "text", "HEIC", "cut JPEG", "cut PNG", "cut WebP"],
)
def test_c32_a_file_that_cannot_be_read_is_an_error_and_never_passed_on(data: bytes) -> None:
    for handle in (strip_location, location_in):
        with pytest.raises(InvalidValue, match="never store it") as caught:
            handle(data)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_c32_a_format_that_is_not_handled_is_refused(kind: str) -> None:
    data = saved(picture(), kind)
    for handle in (strip_location, location_in):
        with pytest.raises(InvalidValue, match=f"format {kind}"):
            handle(data)


def test_a_picture_without_a_place_has_none() -> None:
    assert location_in(saved(picture(), "JPEG")) is None
    assert location_in(saved(picture(), "JPEG", exif=exif(gps=None))) is None


def test_c27_the_place_zero_zero_in_an_image_is_a_place() -> None:
    zero = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
    assert GeoPoint(0, 0) == location_in(saved(picture(), "JPEG", exif=exif(zero)))


@pytest.mark.parametrize(
    "gps",
    [
        {2: (51.0, 30.0, 0.0), 4: (0.0, 7.0, 0.0)},
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: "N", 2: (1.0,)},
    ],
)
def test_a_place_that_cannot_be_read_is_an_error_and_still_taken_out(gps: Any) -> None:
    data = saved(picture(), "JPEG", exif=exif(gps))
    with pytest.raises(InvalidValue):
        location_in(data)
    assert location_in(strip_location(data)) is None


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(), "JPEG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MappingError, match=r"privkit\[images\]"):
        strip_location(data)


def test_a_writer_that_keeps_metadata_is_caught_by_reading_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from privkit.location import images

    data = saved(picture(), "JPEG", exif=exif(), comment=PLANTED)
    monkeypatch.setattr(images, "_written", lambda image: data)
    with pytest.raises(InvalidValue, match="still had metadata") as caught:
        strip_location(data)
    assert PLANTED.decode() not in str(caught.value)
