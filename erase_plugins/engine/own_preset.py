"""A user's own preset: option values by kind of model and concept, from a TOML file, laid over those of the method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.erasing import FULL, preset_names
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.options import check_tables
from erase_plugins.presets import Tables, flatten, parse, title
from erase_plugins.types import KINDS, EditPlan, EraseRequest, Record

if TYPE_CHECKING:
    from erase_plugins.families.base import TargetInfo

#: where a request carries its preset, and a manifest what was taken from it
KEY = "preset"
_LARGEST = 1_000_000
#: "kind" of a file that `workflow.calibrate` makes
CALIBRATION = "calibration"
#: in place of a method
EVERY = "*"


@dataclass(frozen=True)
class OwnPreset(Record):
    """What a preset file says; JSON-ready, so that it travels with a request.

    Attributes:
        file: name of the file without its folder; empty where a mapping was given.
        sha256: of the file's bytes, or of the mapping as JSON.
        tables: name of a table -> option -> value; options outside any table are in "" and hold everywhere.
        method: id of the only method that it is for; None: any; `EVERY`: any, and options that it does not have are
            passed over.
    """

    file: str
    sha256: str
    tables: Tables = field(default_factory=dict)
    method: str | None = None

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"preset {self.file}".rstrip()

    def check(self, method: Any, models: Iterable[str]) -> dict[str, dict[str, Any]]:
        """All tables with values in the types of the method's options, whether they apply or not.

        Args:
            method: the method that it is used with.
            models: kinds of model that a table may be named after.

        Raises:
            RequestError: it is for another method, or a value is not allowed; names file, table and option.
            UnknownName: a table or an option that does not exist, with the nearest that does.
        """
        if self.method not in (None, EVERY, method.id):
            raise RequestError(
                f"{self.where} is for {self.method}, not for {method.id}; take 'method' out of it or name {self.method}"
            )
        full = {FULL} if "parameters" in method.Options.__dataclass_fields__ else set()
        kinds = dict.fromkeys((*KINDS, *sorted(method.kinds)))
        models = {*models, *full}
        for table in self.tables:
            model, _, kind = table.partition(" ")
            if table and model not in (models if kind else {*models, *kinds}):
                raise UnknownName(f"table in {self.where}", model, models if kind else {*models, *kinds})
            if kind and kind not in {*kinds, *full}:
                raise UnknownName(f"kind of concept in {self.where}, {title(table)},", kind, {*kinds, *full})
        return check_tables(method.Options, self.known(method).tables, self.where)

    def known(self, method: Any) -> OwnPreset:
        """What of a preset for every method this one has options for; any other preset as it is."""
        if self.method != EVERY:
            return self
        fields = method.Options.__dataclass_fields__
        tables = {
            table: {name: value for name, value in row.items() if name in fields} for table, row in self.tables.items()
        }
        return replace(self, tables=tables)

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Value of every option for which a table of ``names`` (most specific first) has one."""
        found: dict[str, Any] = {}
        for name in (*names, ""):
            for option, value in self.tables.get(name, {}).items():
                found.setdefault(option, value)
        return found


def load_preset(source: str | Path | Mapping[str, Any] | OwnPreset) -> OwnPreset:
    """A preset from a TOML file, from a mapping of the same shape, or as it is; or the numbers of a calibration.

    Raises:
        RequestError: no such file, not TOML, tables too deep, or a JSON file that is no calibration.
    """
    if isinstance(source, OwnPreset):
        return source
    if isinstance(source, Mapping):
        file, where = "", "preset"
        data = {str(name): value for name, value in source.items()}
        content = json.dumps(data, sort_keys=True, default=str).encode()
    else:
        file, where = Path(source).name, f"preset {Path(source).name}"
        content = _bytes(Path(source), where)
        if Path(source).suffix.lower() == ".json":
            return OwnPreset(file, hashlib.sha256(content).hexdigest(), _calibrated(content, where), EVERY)
        try:
            data = parse(content.decode("utf-8-sig"), where)
        except UnicodeDecodeError as error:
            raise RequestError(f"{where} is not UTF-8 text; save it as UTF-8") from error
    method = data.pop("method", None)
    if method is not None and not isinstance(method, str):
        raise RequestError(f'{where}: method is {method!r}; write the id of a method, for example method = "esd"')
    return OwnPreset(file, hashlib.sha256(content).hexdigest(), flatten(data, where), method)


def _calibrated(content: bytes, where: str) -> Tables:
    """The options that a calibration found, outside any table: they hold for its model."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    options = data.get("preset") if isinstance(data, dict) and data.get("kind") == CALIBRATION else None
    if not isinstance(options, dict) or any(isinstance(value, dict | list) for value in options.values()):
        raise RequestError(f"{where} is no calibration; make one with 'erase-plugins calibrate', or give a TOML file")
    return {"": options}


def _bytes(path: Path, where: str) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise RequestError(f"{where} is larger than {_LARGEST} bytes, which no preset is; give a TOML file")
        return path.read_bytes()
    except OSError as error:
        near = get_close_matches(path.name, [item.name for item in path.parent.glob("*.toml")], n=1)
        hint = f"; did you mean {near[0]}?" if near else "; give a TOML file"
        raise RequestError(f"{where} cannot be read: {error.strerror or error}{hint}") from error


def carried(preset: Any) -> dict[str, Any]:
    """``extra`` of a request with this preset; empty for None."""
    return {} if preset is None else {KEY: load_preset(preset).to_dict()}


def over_stored(request: EraseRequest, preset: Any, info: TargetInfo) -> EraseRequest:
    """A request whose options come from an artifact, without those that a preset sets for this model and concept."""
    own = load_preset(preset)
    said = own.values(preset_names(request, info, str(request.options.get("parameters", ""))))
    options = {name: value for name, value in request.options.items() if name not in said}
    return replace(request, options=options, extra={**request.extra, **carried(own)})


def with_preset(request: EraseRequest, method: Any, info: TargetInfo, models: Iterable[str]) -> EraseRequest:
    """The request with the preset that it carries laid under its options; what was given by hand stays.

    Args:
        request: carries a preset in ``extra``, or not.
        method: its method.
        info: the model.
        models: kinds of model that tables may be named after.

    Raises:
        RequestError, UnknownName: see `OwnPreset.check`.
    """
    stored = request.extra.get(KEY)
    if not isinstance(stored, Mapping) or "options" in stored:  # none, or laid in already
        return request
    preset = OwnPreset.from_dict(stored)
    preset.check(method, {*models, *info.profiles})
    preset = preset.known(method)
    values = preset.values(preset_names(request, info))
    parameters = str({**values, **request.options}.get("parameters", ""))
    values = preset.values(preset_names(request, info, parameters))
    used = {name: value for name, value in values.items() if name not in request.options}
    facts = {"file": preset.file, "sha256": preset.sha256, "options": used}
    return replace(request, options={**request.options, **used}, extra={**request.extra, KEY: facts})


def with_note(plan: EditPlan, request: EraseRequest) -> EditPlan:
    """The plan, saying what the preset of the request set, or that it set nothing."""
    facts = request.extra.get(KEY)
    if not facts:
        return plan
    plan = replace(plan, request=replace(plan.request, extra={**plan.request.extra, KEY: facts}))
    name = f"preset {facts['file']}".rstrip()
    if facts["options"]:
        said = ", ".join(f"{option}={_short(value)}" for option, value in sorted(facts["options"].items()))
        return replace(plan, notes=(*plan.notes, f"{name} sets {said}"))
    kind = request.concepts[0].kind
    warning = (
        f"{name} sets nothing here: no table fits this model and the kind {kind}, or the request sets the same options"
    )
    return replace(plan, warnings=(*plan.warnings, warning))


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
