"""Files and folders appear whole or not at all, and nothing is left beside them."""

import os
import stat
import threading

import pytest

from ppmobilenet import files
from ppmobilenet.errors import UserError


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "before")
    with pytest.raises(RuntimeError), files.whole_file(path, "w") as file:
        file.write("half")
        raise RuntimeError("stopped")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_has_its_folder_and_the_rights_that_open_gives(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.write_text(path, "\udce9 é\r\n", newline="")
    assert path.read_bytes() == "\\udce9 é\r\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed_and_a_pipe_written_directly(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.txt")
    files.write_text(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "through"
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_text(tmp_path / "pipe", "piped")
    reader.join()
    assert got == ["piped"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    files.write_text(os.devnull, "nothing")


@pytest.mark.parametrize("place", ["a file/a.txt", "folder", "/proc/a.txt"])
def test_a_place_that_cannot_be_written_is_said(tmp_path, place):
    (tmp_path / "a file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="^--save: cannot write .*(a.txt|folder): .*\n.*free space or rights"):
        files.write_text(tmp_path / place, "x", where="--save")
    assert sorted(os.listdir(tmp_path)) == ["a file", "folder"]


def test_what_killed_writers_left_goes(tmp_path):
    mine = files.beside(tmp_path / "a.txt")
    other_place = files.beside(tmp_path / "b.txt")
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{child}-"))
    elsewhere, old = (mine.with_name(f".a.txt.partial-{child}-{name}-1") for name in ("other", "long_ago"))
    for left in (mine, other_place, dead, elsewhere, old):
        left.write_text("half")
    os.utime(old, (0, 0))
    files.write_text(tmp_path / "a.txt", "whole")
    assert mine.exists() and other_place.exists() and elsewhere.exists() and not dead.exists() and not old.exists()
