"""The pydantic room: models that collect and dump only what the current purpose needs, and never show a value.

class RiderIn(PersonalModel):
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]

with privacy.purpose("account"):
    rider = RiderIn.model_validate(form)
"""

from privkit.pydantic.documents import Document, DocumentKeys
from privkit.pydantic.gates import handed_out
from privkit.pydantic.model import PersonalModel, check
from privkit.pydantic.redaction import redacted, redacted_lines

__all__ = ["Document", "DocumentKeys", "PersonalModel", "check", "handed_out", "redacted", "redacted_lines"]
