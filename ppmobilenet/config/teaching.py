"""PaddleClas's ``DistillationModel`` -> the student as ``Arch``, what teaches it as ``Teacher``.

Everything that follows a training (evaluation, export, reports, ...) is about the student, so that is the network of a
configuration. One network is trained; its teacher is not.
"""

from __future__ import annotations

from ppmobilenet.config.check import dotted
from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError
from ppmobilenet.registry import MODELS, PACKAGE, is_whole

MODELS_AT = ("Arch", "models")
# what belongs to the pair and not to the student
_OF_THE_PAIR = ("models", "pretrained_list", "freeze_params_list", "infer_model_name", "name")
STUDENT, TEACHER = "Student", "Teacher"


def settle_teaching(document: Document) -> list[str]:
    """Put a distillation in our form: ``Arch`` is the student, ``Teacher`` the other. Returns notes for the log.

    Raises:
        UserError: not one student and one teacher; a teacher that is neither built here nor read from a file.
    """
    notes: list[str] = []
    if document.get(("Arch", "name")) == "DistillationModel":
        _split(document, notes)
    _file_teacher(document, notes)
    if document.get(("DataLoader", "UnLabelTrain")) and not document.get((TEACHER,)):
        raise UserError(
            "photos without labels are learned from a teacher's answers, and there is no Teacher",
            where=document.where(("DataLoader", "UnLabelTrain")),
            hint=f"-o Teacher.name=... -o Teacher.pretrained=..., or -o Teacher.pretrained={PACKAGE}DIR",
        )
    return notes


def _split(document: Document, notes: list[str]) -> None:
    names, models = _models(document)
    student = _student(document, names)
    teacher = next(name for name in names if name != student)
    _pretrained_list(document, names)
    arch = document.get(("Arch",))
    kept = {key: value for key, value in arch.items() if key not in _OF_THE_PAIR}
    places = {key: document.where(("Arch", key)) for key in kept}
    own = document.get((TEACHER,)) or {}  # typed: it stands above what the file says of its teacher
    own_places = {key: document.where((TEACHER, key)) for key in own}
    moved = {}
    for name, target in ((student, "Arch"), (teacher, TEACHER)):
        at = (*MODELS_AT, names.index(name), name)
        given = models[names.index(name)][name]
        moved[target] = {key: (value, document.where((*at, key))) for key, value in given.items()}
    whole = document.where(("Arch",))
    for path in (("Arch",), (TEACHER,)):
        document.put(path, {}, whole)
    for key, value in kept.items():
        document.put(("Arch", key), value, places[key])
    for target, given in moved.items():
        for key, (value, place) in given.items():
            document.put((target, key), value, place)
    for key, value in own.items():
        document.put((TEACHER, key), value, own_places[key])
    name = document.get(("Arch", "name"))
    notes.append(f"{whole}: DistillationModel: {name}, which learns, is Arch; what teaches it is Teacher")
    _rename(document, {student: STUDENT, teacher: TEACHER})


def _models(document: Document) -> tuple[list[str], list[dict]]:
    models = document.get(MODELS_AT)
    where = document.where(MODELS_AT)
    form = "a list of two, `- Teacher: {name: ..., pretrained: ...}` and `- Student: {name: ...}`"
    shaped = isinstance(models, list) and all(
        isinstance(m, dict) and len(m) == 1 and isinstance(next(iter(m.values())), dict) for m in models
    )
    if not shaped or len({next(iter(m)) for m in models}) != len(models):
        raise UserError("Arch.models is not a list of named networks", where=where, allowed=form)
    if len(models) != 2:
        raise UserError(f"Arch.models has {len(models)} networks", where=where, allowed=form)
    return [str(next(iter(m))) for m in models], models


def _student(document: Document, names: list[str]) -> str:
    frozen_at = ("Arch", "freeze_params_list")
    frozen, inferred = document.get(frozen_at), document.get(("Arch", "infer_model_name"))
    if frozen is not None and (not isinstance(frozen, list) or len(frozen) != len(names)):
        raise UserError(
            f"Arch.freeze_params_list is {frozen!r}",
            where=document.where(frozen_at),
            allowed=f"{len(names)} times True or False, in the order of Arch.models",
        )
    trained = [name for name, still in zip(names, frozen or [False] * len(names)) if not still]
    if len(trained) != 1:
        what = f"{' and '.join(trained)} are both trained" if trained else "no network is trained"
        raise UserError(
            f"Arch.freeze_params_list: {what}; one learns here, from the other's answers (mutual learning is not done)",
            where=document.where(frozen_at),
            hint="-o Arch.freeze_params_list=[True,False] freezes the first of Arch.models, the teacher",
        )
    if inferred is not None and inferred != trained[0]:
        raise UserError(
            f"Arch.infer_model_name is {inferred!r}, and {trained[0]!r} is trained",
            where=document.where(("Arch", "infer_model_name")),
            allowed=trained[0],
        )
    return trained[0]


def _pretrained_list(document: Document, names: list[str]) -> None:
    """PaddleClas's other place for the weights of each (its own code fails on it)."""
    at = ("Arch", "pretrained_list")
    given = document.get(at)
    if given is None:
        return
    if not isinstance(given, list) or len(given) != len(names):
        raise UserError(
            f"Arch.pretrained_list is {given!r}",
            where=document.where(at),
            allowed=f"{len(names)} files or null, in the order of Arch.models",
        )
    for i, (name, file) in enumerate(zip(names, given)):
        if file:
            document.get(MODELS_AT)[i][name]["pretrained"] = file
            document.marks[(*MODELS_AT, i, name, "pretrained")] = document.where((*at, i))


def _rename(document: Document, own: dict[str, str]) -> None:
    """Losses and metrics speak of the two as Student and Teacher; a post-process of the student is an ordinary one."""
    for section in ("Loss", "Metric"):
        for mode in ("Train", "Eval"):
            listed = document.get((section, mode))
            for entry in listed if isinstance(listed, list) else ():
                for keys in entry.values() if isinstance(entry, dict) else ():
                    for key in ("model_name_pairs", "model_names", "model_key") if isinstance(keys, dict) else ():
                        if key in keys:
                            keys[key] = _renamed(keys[key], own)
    post = ("Infer", "PostProcess")
    if document.get((*post, "name")) == "DistillationPostProcess":
        keys = document.get(post)
        keys["name"] = keys.pop("func", None) or "Topk"
        for key in ("model_name", "key"):
            keys.pop(key, None)


def _renamed(value: object, own: dict[str, str]) -> object:
    if isinstance(value, list):
        return [_renamed(inner, own) for inner in value]
    return own.get(value, value) if isinstance(value, str) else value


def _file_teacher(document: Document, notes: list[str]) -> None:
    """A run's folder, a package or an ONNX file says itself what it computes; other teachers are built here."""
    name_at, file_at = (TEACHER, "name"), (TEACHER, "pretrained")
    name, file = document.get(name_at), document.get(file_at)
    if isinstance(file, str) and is_whole(file):
        kept = ("pretrained", "class_num", "views", "return_patterns")
        for key in [key for key in document.get((TEACHER,)) if key not in kept]:
            if key == "name" and name == "Exported":
                continue
            notes.append(f"{document.where((TEACHER, key))}: Teacher.{key} is passed over: {file} is the teacher")
            document.forget((TEACHER, key))
            del document.get((TEACHER,))[key]
    elif isinstance(name, str) and MODELS.own_name(name) not in MODELS and name != "Exported":
        raise UserError(
            f"{name} is not built here, so its weights cannot teach",
            where=document.where(name_at),
            allowed=", ".join(MODELS),
            hint=f"any network teaches from what was exported of it: -o {dotted(file_at)}=teacher.onnx, "
            f"-o {dotted(file_at)}={PACKAGE}DIR for a package, -o {dotted(file_at)}=output/RUN for a run of here",
        )
