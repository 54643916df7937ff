"""FILE.gguf.json: the record of a GGUF file that this project built, beside the file.

`QuantRecord` is quantize_gguf.py's, `ConversionRecord` convert_to_gguf.py's, of an F16 file, and `MmprojRecord` that of
its --mmproj, of a file for pictures; a release holds a copy. Those of an imatrix, a padded file and a draft
model are in ggufs/imatrix.py, ggufs/gguf_padding.py and draft_record.py. All are `FileRecord`s: `known_sha256` of
files/known_digests.py takes the digest that they name where nobody has touched the file since it was read.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from files.input_errors import InputError, sha256_file
from files.json_records import Count, Fields, FileRecord, Positive, Sha256, read_json, read_record, require
from files.seals import hold

from pydantic import Field, model_validator

BITS_ROUNDING = 0.000501  # of three decimals, and of the float that holds them
# Of a conversion, in nats per token: F16 costs some 1e-5, a quant of 8 bits some thousandths. More must be rounding.
SAME_KLD = 0.01
ROUNDINGS = 3  # times what rounding costs in transformers; 1.0 and 1.7 were seen, of a full and a pruned model
# Of a checkpoint in its own dtype against fp32. To round each step to bfloat16 costs some thousandths, and more where
# routers are undecided. Above the first a card's limits say so; above the second it is another model.
NOTED_OWN_KLD, MOST_OWN_KLD = 0.02, 0.1
KLD_DECIMALS = 4  # further ones come from the order of sums, which another processor may change
COPIED = ("F16", "BF16", "F32")  # no tool makes these: they are links to their source
ONE_BUILD = "give every host the same LLAMA_CPP, and build the file again with REPLACE=quants"


def check_bits(size: int, parameters: int, bits_per_weight: float) -> None:
    """Raise ValueError for bits per weight that are not those of size and weights; three decimals are kept."""
    bits = 8 * size / parameters
    require(abs(bits_per_weight - bits) <= BITS_ROUNDING, f"bits_per_weight = 8 x bytes / parameters = {bits:.3f}")


class QuantRecord(FileRecord):
    """A quant: recipe, tool, inputs, and what came out.

    tensors_per_type: by type; TYPE<WANTED where rows do not fit the wanted type. cd_*: of CD-* files only, as they were
    asked for, and the statistics that ranked the layers; older records lack the last four. padded: by role the widths
    before and after, of padded files only; parameters and bits_per_weight leave the padding out. auto_*: of AUTO-*
    files only, whether a padding was weighed, and what the sensitivities were measured on; older records have neither.
    imatrix_sha256: None for a file that was built without one, or that copies its source. tools_sha256: of the build of
    llama.cpp; None for a copy, and in older records.
    """

    what: ClassVar[str] = "a record of quantize_gguf.py"
    # What was asked for. llama-quantize is given `base` and `arguments`; `type` is the name in the file's name.
    type: str
    base: str
    arguments: list[str]
    note: str
    cd_scope: str | None = None
    cd_recipe: str | None = None
    cd_protect: str | None = None
    cd_rule: str | None = None
    cd_cuts: list[float] | None = None
    cd_tiers: str | None = None
    cd_stats_sha256: Sha256 | None = None
    padded: dict[str, list[int]] = {}
    auto_padding: bool | None = None
    auto_measured_on: dict[str, Any] | None = None
    llama_cpp: str
    tools_sha256: Sha256 | None = None
    # What came out. Cards and pages take their numbers from here, so that all of them show the same.
    parameters: Positive
    experts: Count
    bits_per_weight: Annotated[float, Field(gt=0)]
    tensors_per_type: dict[str, Positive]
    # The chain of digests: a file is out of date when one of its inputs has another digest, whatever its time says.
    source_sha256: Sha256
    imatrix_sha256: Sha256 | None
    calibration_sha256: Sha256 | None

    @model_validator(mode="after")
    def size_of_weights(self) -> Self:
        """Refuse bits per weight that are not those of size and weights."""
        check_bits(self.bytes, self.parameters, self.bits_per_weight)
        return self


class ConversionLoss(Fields):
    """What a conversion changed: mean KL divergence in nats per token (losses/conversion_loss.py).

    rounding: what rounding alone costs, where kld is above SAME_KLD. own_dtype: what computing in the checkpoint's own
    dtype costs in transformers. tokens_alike: share of the chat's tokens that both have.
    """

    tokens: Positive
    kld: Annotated[float, Field(ge=0)]
    rounding: Annotated[float, Field(ge=0)] = 0.0
    own_dtype: Annotated[float, Field(ge=0, le=MOST_OWN_KLD)]
    tokens_alike: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def as_rounding_explains(self) -> Self:
        """Refuse a loss that makes the file another model."""
        require(self.kld <= max(SAME_KLD, ROUNDINGS * self.rounding), f"kld of at most {SAME_KLD}, or of rounding")
        return self


class ConversionRecord(FileRecord):
    """A converted checkpoint; source_sha256: over the sha256 of every file of it that a converter may read.

    weights_sha256: as expert_drop_metadata.json has it of the full model. Older records have none of the last four.
    """

    what: ClassVar[str] = "a record of convert_to_gguf.py"
    name: str
    outtype: str
    source_sha256: Sha256
    llama_cpp: str
    weights_sha256: Sha256 | None = None
    parameters: Positive | None = None
    bits_per_weight: Annotated[float, Field(gt=0)] | None = None
    against_transformers: ConversionLoss | None = None

    @model_validator(mode="after")
    def size_of_weights(self) -> Self:
        """Refuse bits per weight that are not those of size and weights, and one of them without the other."""
        require((self.parameters is None) == (self.bits_per_weight is None), "parameters with bits_per_weight")
        if self.parameters and self.bits_per_weight:
            check_bits(self.bytes, self.parameters, self.bits_per_weight)
        return self


class MmprojRecord(FileRecord):
    """A converted tower.

    towers: vision, and audio where the checkpoint has it. projection_width: values of an embedding, the hidden size of
    the model that it is for. added: header keys that are not the converter's (ggufs/mmproj.py). source_sha256: over the
    checkpoint's config files and the digest of its towers, which a drop of experts leaves as they are.
    """

    what: ClassVar[str] = "a record of convert_to_gguf.py --mmproj"
    name: str
    type: str
    towers: list[str]
    projection_width: int
    parameters: int
    tensors_per_type: dict[str, int]
    added: list[str]
    towers_sha256: Sha256
    source_sha256: Sha256
    llama_cpp: str


def record_path(gguf: Path) -> Path:
    """Return where the record of a GGUF file lies."""
    # Behind the whole name, not in place of the ending: NAME-Q6_K.json could belong to any kind of file.
    return Path(f"{gguf}.json")


def is_copy(record: Mapping[str, Any]) -> bool:
    """Tell whether a quant is its source as it was; an AUTO file is, where the target has room for all of it."""
    return record["base"] in COPIED or record["sha256"] == record["source_sha256"]


def of_other_builds(records: Mapping[str, dict]) -> list[InputError]:
    """Return an error for each quant that another build of llama.cpp made than most of them; records: by file."""
    made = {name: record for name, record in records.items() if not is_copy(record)}
    builds = {name: record.get("tools_sha256") or "not recorded" for name, record in made.items()}
    usual = Counter(builds.values()).most_common(1)
    return [
        InputError(name, f"the build of llama.cpp that made the others ({usual[0][0][:12]})", build[:12], ONE_BUILD)
        for name, build in builds.items()
        if build != usual[0][0]
    ]


def is_made_of(output: Path, content: dict, kind: type[FileRecord]) -> bool:
    """Tell whether a file is there, whole, and its record of that kind says what `content` does."""
    record = record_path(output)
    if not output.is_file() or not record.is_file():
        return False
    known, wanted = read_json(record), {"version": kind.current, **content}
    return wanted.items() <= known.items() and known.get("sha256") == sha256_file(output)


def read_whole_gguf(gguf: Path, kind: type[FileRecord] = QuantRecord) -> dict:
    """Return the record of a file, of that kind; raise InputError when its bytes are not those of the record."""
    if not gguf.is_file():
        raise InputError(gguf, "a GGUF file", "nothing")
    record = read_record(record_path(gguf), kind)
    if (record["bytes"], record["sha256"]) != (gguf.stat().st_size, sha256_file(gguf)):
        expected = f"the file of its record, sha256 {record['sha256'][:12]}"
        raise InputError(gguf, expected, "other bytes", "build it again")
    return record


def read_held_gguf(gguf: Path, kind: type[FileRecord] = QuantRecord) -> dict:
    """Do what `read_whole_gguf` does of a file that is measured, and hold it to these bytes (files/seals.py)."""
    if gguf.is_file():
        hold(gguf)
    return read_whole_gguf(gguf, kind)
