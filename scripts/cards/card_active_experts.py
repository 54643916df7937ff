"""The card's section on fewer active experts, from active-experts.json alone."""

from cards.card_sections import Release, pictures_of, section
from speed.active_experts import ACTIVE_NAME, ACTIVE_PICTURE, active_table


def active_experts_section(release: Release, serving: str) -> str:
    """Return what fewer active experts cost and gain, and the flag; "" where it was not measured.

    serving: the flags with which the card runs a file with all of them.
    """
    results = release.active
    if results is None:
        return ""
    fewer = results["rows"][-1]["experts"]
    how = (
        f"Every file of this repository can be run with fewer of its {results['own']} active experts, by a flag of "
        f"llama.cpp (here {fewer}); the file stays as it is:\n\n"
        f"```sh\nllama-server -m {release.example['files'][0]} --override-kv {results['key']}=int:{fewer} \\\n"
        f"    {serving}\n```"
    )
    numbers = f"All numbers are in `{ACTIVE_NAME}`."
    return section("Fewer active experts", how, active_table(results), numbers, pictures_of(release, ACTIVE_PICTURE))
