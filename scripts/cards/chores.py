"""What only the owner of a release can still give. It is printed by check_release.py and is not on the card."""

from cards.card_sections import PICTURES
from release.manifest import CHECKPOINT
from release.names import is_hub_id
from speed.active_experts import ACTIVE_PICTURE


def chores(manifest: dict) -> list[str]:
    """Return a line for each thing that a release lacks and its owner can give, from its manifest."""
    checkpoint = manifest["kind"] == CHECKPOINT
    there = manifest["files"]
    base = (manifest["inputs"].get("licence") or {}).get("identifier", "not known")
    with_imatrix = any(record["imatrix_sha256"] for record in manifest["records"].values())
    absent = [
        ("owner: none was given, so that its commands cannot be run; set OWNER=name", not manifest["owner"]),
        (f"licence: {manifest['license']} by LICENSE; the base's own is {base}", base != manifest["license"]),
        ("base model: not one on the Hub; set BASE=OWNER/NAME if it is there", not is_hub_id(manifest["base"])),
        ("quantized_by: no name was given; set QUANTIZED_BY", not checkpoint and not manifest["quantized_by"]),
        ("scores: no evaluation; run `make eval`", "scores.json" not in there),
        ("KLD: not measured; run `make quality`", not checkpoint and "quality.json" not in there),
        ("calibration: its text is not recorded", with_imatrix and not manifest["inputs"]["calibration"]),
    ]
    # A checkpoint's card shows what is known of its experts; the other pictures are of quants. Nobody needs that of
    # fewer active experts.
    wanted = [name for name in PICTURES if name != ACTIVE_PICTURE and (not checkpoint or "experts" in name)]
    pictures = [name for name in wanted if name not in there]
    return [line for line, holds in absent if holds] + ([f"pictures: {', '.join(pictures)}"] if pictures else [])
