"""``Global.data: DIR`` sets all paths of a data set in one place: photos, lists, class names."""

from __future__ import annotations

from pathlib import Path

from ppmobilenet.config.check import dotted
from ppmobilenet.config.fields import parameters
from ppmobilenet.config.parts import SHARDS, Dataset
from ppmobilenet.config.reading import Document
from ppmobilenet.errors import UserError

KEY = ("Global", "data")
# names of the lists and of the label file: ours and PaddleClas's, PaddleX's; of the folders of classes
LISTS = (("train_list.txt", "val_list.txt", "label_list.txt"), ("train.txt", "val.txt", "label.txt"))
FOLDERS = ("train", "val")
INDEX = "index.json"  # in a folder of shards (ppmobilenet.photos.shards, which a configuration need not import)


def settle_data(document: Document) -> None:
    """Put in the paths that ``Global.data`` means; one that is typed beside it stays.

    Lists in the folder are used; without them its folders ``train`` and ``val`` are, one folder per class in each, or
    the shards that ``ppmobilenet pack`` made.
    """
    folder = document.get(KEY)
    if not folder:
        return
    root, place = Path(str(folder)), document.where(KEY)
    here = root.expanduser()
    lists = next((names for names in LISTS if (here / names[0]).is_file()), LISTS[0])
    in_folders = not (here / lists[0]).is_file() and all((here / name).is_dir() for name in FOLDERS)
    in_shards = in_folders and all((here / name / INDEX).is_file() for name in FOLDERS)
    meant: dict[tuple, str | None] = {("Infer", "infer_imgs"): str(root / FOLDERS[1] if in_shards else root)}
    for side, name, sub in zip(("Train", "Eval"), lists, FOLDERS):
        dataset = ("DataLoader", side, "dataset")
        if document.get(dataset):
            meant[(*dataset, "image_root")] = str(root / sub if in_folders else root)
            meant[(*dataset, "cls_label_path")] = None if in_folders else str(root / name)
            if in_shards and not document.typed((*dataset, "name")):
                _take_shards(document, dataset, place)
    if document.get(("Infer", "PostProcess")):
        # pack copies the names that lie beside a list
        places = (lists[2], f"{FOLDERS[0]}/{lists[2]}")
        named = next((place for place in places if (here / place).is_file()), None)
        meant["Infer", "PostProcess", "class_id_map_file"] = str(root / named) if named else None
    for path, value in meant.items():
        if not document.typed(path) and (document.get(path[:1]) or path[0] != "Infer"):
            document.put(path, value, place)
    del document.tree["Global"]["data"]  # what is dumped says the paths themselves, and is read back as they are
    document.forget(KEY)


def _take_shards(document: Document, dataset: tuple, place: str) -> None:
    """Have a data set be of shards, without what only single files can be asked.

    Raises:
        UserError: such a key was typed.
    """
    document.put((*dataset, "name"), SHARDS, place)
    own = {*parameters(Dataset.by, SHARDS), *Dataset.known(), "name"}
    for key in [key for key in document.get(dataset) if key not in own]:
        if document.typed((*dataset, key)):
            raise UserError(
                f"{dotted((*dataset, key))} is for single files, and {document.get(KEY)} holds shards",
                where=document.where((*dataset, key)),
                allowed=", ".join(sorted(own)),
            )
        del document.get(dataset)[key]
        document.forget((*dataset, key))
