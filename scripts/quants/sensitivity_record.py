"""The record of measure_sensitivity.py: what each type costs each role, and one low type each layer."""

from typing import Annotated, ClassVar

from files.json_records import Fields, Record, Sha256

from pydantic import Field

# No KLD is below 0 but by rounding, and no logarithm of a float32 is that high.
Nats = Annotated[float, Field(ge=-1e-9, lt=1e6)]


class MeasuredOn(Fields):
    """What sensitivities depend on: the model, the imatrix, the chats; and more, which is only compared.

    questions_sha256, texts_sha256: of the chats, their questions and their token ids; max_tokens: where
    these were cut, if not at MAX_TOKENS.
    """

    source_sha256: Sha256
    imatrix_sha256: Sha256
    chats: int
    questions_sha256: Sha256
    texts_sha256: Sha256
    max_tokens: int | None = None


class Sensitivity(Record):
    """The file of measure_sensitivity.py: KLD in nats per token.

    low_types: by role; roles: by role and type; layers: by role and layer, at the role's low type; errors: by name.
    """

    what: ClassVar[str] = "sensitivities of measure_sensitivity.py"
    inputs: MeasuredOn
    question_file_sha256: Sha256 | None = None  # of the whole file; older records have none
    low_types: dict[str, str]
    roles: dict[str, dict[str, Nats]]
    layers: dict[str, dict[str, Nats]]
    errors: dict[str, Nats]
