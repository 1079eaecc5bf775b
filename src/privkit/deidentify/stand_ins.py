"""Names to show in place of real ones: made from the data subject's key, so that no table has to remember them."""

from __future__ import annotations

from privkit.deidentify.precision import Reduced
from privkit.precisions import StandIn

NUMBERS = 10_000
_FIRST = (
    "Amber Ashen Auburn Azure Beige Blue Brass Bright Bronze Calm Clear Cobalt Copper Coral Crimson Crystal "
    "Dapper Early Easy Ebony Emerald Fleet Gentle Gilded Golden Green Indigo Ivory Jade Jolly Keen Lilac Lively "
    "Lunar Maroon Mellow Merry Misty Navy Nimble Noble Ochre Olive Opal Pearl Placid Polar Proud Quick Quiet "
    "Ruby Rustic Sandy Scarlet Serene Silver Snowy Solar Sunny Teal Umber Velvet Violet Warm"
)
_SECOND = (
    "Alder Ash Aspen Avocet Badger Beech Birch Bittern Cedar Chestnut Cormorant Crane Curlew Cypress Dolphin "
    "Dove Eagle Egret Elm Falcon Fern Finch Gannet Grebe Hare Hawthorn Hazel Heron Holly Ibis Jay Juniper "
    "Kestrel Kite Lark Laurel Linnet Lynx Maple Marten Merlin Myrtle Oak Osprey Otter Petrel Pine Plover Poplar "
    "Puffin Raven Robin Rowan Seal Sparrow Spruce Swan Swift Tern Thrush Willow Wren Yarrow Yew"
)
FIRST, SECOND = tuple(_FIRST.split()), tuple(_SECOND.split())
"""The words are part of the format: a change gives everybody another name."""


def stand_in(seed: bytes, precision: StandIn) -> Reduced:
    """Return the name that ``seed`` gives, such as ``"Amber Heron 4821"``.

    ``seed``: 32 bytes that belong to one data subject and one audience. Of two seeds one in 40 960 000 gives the same
    name; among 7 500 data subjects it is as likely as not that some two share one. So it is shown, and is no key.
    """
    drawn, number = divmod(int.from_bytes(seed, "big"), NUMBERS)
    drawn, second = divmod(drawn, len(SECOND))
    return Reduced(f"{FIRST[drawn % len(FIRST)]} {SECOND[second]} {number:04}", precision)
