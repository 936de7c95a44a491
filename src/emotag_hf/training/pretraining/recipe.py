"""A recipe: all that a motion network with an ear is taught by, in one TOML file (`emotag pretrain RECIPE.toml`).

In: tracked clips of people, speech with known phoneme times, an ear. Out: a folder with the network for everybody,
`fold_0` ... for people who were left out in turn, and `report.json` with the scores on them. Paths are relative to the
recipe. Each part is a table:

    [data]     talkers (folder of tracked clips), clips (JSON), synthetic (files), heldout (file), most_synthetic
    [network]  ear (file or embedded name), ear_name, head (file of `teach_ear tune`), start (model), dropout,
               phone_dim
    [people]   leave_out (persons), folds
    [speech]   PretrainArguments of the first part, on synthetic speech alone
    [lips]     PretrainArguments of the second part, on people
    [weights]  MotionWeights

The JSON of clips is `{"clip": {"person": "ann", "lag": 1.5, "tested": true, "teaches": false}}`: lag in frames at 25
fps by which the sound is late; tested clips are scored, by networks that were not taught by their person; a clip
teaches unless it says otherwise.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...constants import DEFAULT_MODEL
from .motion_losses import MotionWeights
from .pretrain_arguments import PretrainArguments

# People teach how lips move; synthetic speech, whose times are known, when they are shut. Correlation counts most: it
# is what of a person's motion can be heard at all.
WEIGHTS = MotionWeights(
    table=0.0, rest=1.0, correlation=6.0, velocity=0.1, spoken=1.0, silence=0.4, visemes=1.0, seen=0.0,
)  # fmt: skip
_LIPS = {
    "steps": 600, "batch_size": 16, "window": 120, "learning_rate": 8e-4, "trunk_rate": 0.5, "last_rate": 2.0,
    "ema": 0.98, "synthetic_share": 0.19, "stretch": 0.0, "augment": 0.0,
}  # fmt: skip
# To tell p, b and m from other sounds takes longer than to learn lips, and needs no people: only the net of the viseme
# head learns in this part, and only in this part.
_SPEECH = _LIPS | {"steps": 500, "synthetic_share": 1.0, "trunk_rate": 1.0, "last_rate": 1.0}
_TABLES = ("data", "network", "people", "speech", "lips", "weights")


@dataclass(frozen=True)
class TalkerFacts:
    """What a recipe's JSON says of a clip."""

    person: str
    lag: float = 0.0
    tested: bool = False
    teaches: bool = True


@dataclass(frozen=True)
class Recipe:
    """See the module; `read_recipe` makes one from a file.

    Attributes:
        source: the recipe's text, by which an interrupted training knows its own.
    """

    talkers: Path
    clips: Mapping[str, TalkerFacts]
    ear: str
    synthetic: tuple[Path, ...] = ()
    heldout: Path | None = None
    most_synthetic: int = 150
    ear_name: str | None = None
    head: Path | None = None
    start: str = DEFAULT_MODEL
    dropout: float | None = None
    phone_dim: int = 192
    leave_out: frozenset[str] = frozenset()
    folds: int = 4
    speech: PretrainArguments = field(default_factory=lambda: PretrainArguments(**_SPEECH))
    lips: PretrainArguments = field(default_factory=lambda: PretrainArguments(**_LIPS))
    weights: MotionWeights = WEIGHTS
    source: str = ""


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe.

    Raises:
        ValueError: in one sentence, what is wrong with the file or with one that it names.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8")
        tables = tomllib.loads(source)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"recipe: expected a TOML file in {path}, got {error}.") from error
    _only(tables, _TABLES, "recipe")
    data, network, people = (dict(tables.get(name, {})) for name in ("data", "network", "people"))
    _only(data, ("talkers", "clips", "synthetic", "heldout", "most_synthetic"), "data")
    _only(network, ("ear", "ear_name", "head", "start", "dropout", "phone_dim"), "network")
    _only(people, ("leave_out", "folds"), "people")
    for table, key in ((data, "talkers"), (data, "clips"), (network, "ear")):
        if key not in table:
            raise ValueError(f"recipe: {path} does not say {key!r}; its table needs it.")
    near = lambda name: path.parent / name  # noqa: E731
    there = lambda name: _existing(near(name))  # noqa: E731
    settings: dict[str, Any] = {key: data[key] for key in ("most_synthetic",) if key in data}
    settings |= {key: network[key] for key in ("ear_name", "start", "dropout", "phone_dim") if key in network}
    ear = str(network["ear"])
    if near(ear).is_file():
        ear = str(near(ear))
    return Recipe(
        talkers=there(data["talkers"]),
        clips=read_clip_facts(there(data["clips"])),
        synthetic=tuple(there(name) for name in data.get("synthetic", ())),
        heldout=there(data["heldout"]) if "heldout" in data else None,
        ear=ear,
        head=there(network["head"]) if "head" in network else None,
        leave_out=frozenset(people.get("leave_out", ())),
        folds=int(people.get("folds", 4)),
        speech=_settings(PretrainArguments, _SPEECH, tables, "speech"),
        lips=_settings(PretrainArguments, _LIPS, tables, "lips"),
        weights=_settings(MotionWeights, asdict(WEIGHTS), tables, "weights"),
        source=source,
        **settings,
    )


def read_clip_facts(path: Path) -> dict[str, TalkerFacts]:
    """Clip's name -> facts, from a recipe's JSON; keys that only `teach_ear` reads are ignored.

    Raises:
        ValueError: the file has another format.
    """
    known = [item.name for item in fields(TalkerFacts)]
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: TalkerFacts(**({"person": name} | {key: facts[key] for key in known if key in facts}))
            for name, facts in listed.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'clips: expected JSON {{"clip": {{"person": "ann", "lag": 0}}}} in {path}, got {error!r}.'
        ) from error


def _settings(cls: type, usual: dict[str, Any], tables: dict[str, Any], name: str):
    given = tables.get(name, {})
    _only(given, [item.name for item in fields(cls)], name)
    return cls(**(usual | given))


def _only(table: Any, known, name: str) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"recipe: expected a table [{name}], got {table!r}.")
    if unknown := sorted(set(table) - set(known)):
        raise ValueError(f"recipe: [{name}] has {', '.join(unknown)}; expected some of {', '.join(known)}.")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"recipe: it names {path}, which is not there.")
    return path


__all__ = ["WEIGHTS", "Recipe", "TalkerFacts", "read_clip_facts", "read_recipe"]
