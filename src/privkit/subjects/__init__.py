"""Jobs about one data subject: erasure, and replaying what a restored database has forgotten."""

from privkit.subjects.erase import Erasure, erase
from privkit.subjects.replay import Replay, replay

__all__ = ["Erasure", "Replay", "erase", "replay"]
