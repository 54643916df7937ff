"""The gate on the tokens that begin and end a text: every GGUF file has its checkpoint's."""

from choice.drop_metadata import METADATA_NAME
from gates.checked import Checked, Outcome
from ggufs.gguf_header import read_header
from ggufs.token_ids import TokenIds, checkpoint_tokens, header_tokens, token_differences
from release.manifest import CHECKPOINT


def named_ends(tokens: TokenIds) -> str:
    """Return the tokens of a checkpoint in words."""
    return f"bos {tokens.bos}, ends {', '.join(map(str, tokens.ends))}"


def tokens_gate(checked: Checked) -> Outcome:
    """The tokens that begin and end a text are the checkpoint's in every GGUF file.

    The checkpoint is where the build's metadata lie. A GGUF file that was pruned itself has none: then all of the
    release must agree.
    """
    headers = [read_header(checked.first_part(record)) for record in checked.records.values()]
    if checked.kind == CHECKPOINT or not headers:
        return Outcome("no GGUF file", applies=False)
    wanted = checkpoint_tokens(checked.sources["copies"][METADATA_NAME].parent)
    if wanted is None:
        named = header_tokens(headers[0])
        ends = tuple(named[kind] for kind in named if kind != "bos")
        wanted, of_whom = TokenIds(named.get("bos"), ends), f"of {headers[0].path.name}, as there is no checkpoint"
    else:
        of_whom = "of the checkpoint"
    outcome = Outcome(f"{len(headers)} GGUF files against the tokens {of_whom}: {named_ends(wanted)}")
    outcome.deviations = [line for header in headers for line in token_differences(header, wanted)]
    return outcome
