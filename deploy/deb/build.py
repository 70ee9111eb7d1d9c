"""`make deb`: builds the Debian packages that packages.toml describes, from this repository and its .venv, into dist/.

Nothing is downloaded: what is bundled is what the tests ran with. The same commit and environment give the same bytes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackagePath, distribution
from pathlib import Path
from typing import Any, Final

from manual import page

from xenflow import __version__

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
SCRIPT: Final = """\
#!/usr/bin/python3 -I
import os
import sys

sys.path.insert(0, "{library}")
os.environ["PYTHONPATH"] = "{library}"  # a program that it starts may be a module of ours

from {module} import main

sys.exit(main())
"""
PACKAGES: Final = ("xenflow-common", "xenflow-client", "xenflow", "xenflow-server", "xenflow-app")

Table = Mapping[str, Any]


def main() -> None:
    """Build all packages, and print their paths."""
    parser = argparse.ArgumentParser(description="Build XenFlow's Debian packages.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="directory for the packages")
    parser.add_argument("--version", default=debian_version(), help="[%(default)s]")
    parser.add_argument("--compression", default="xz", help="as dpkg-deb -Z takes it [%(default)s]")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=PACKAGES, help="not all packages")
    options = parser.parse_args()
    if shutil.which("strip") is None or shutil.which("dpkg-deb") is None:
        sys.exit("deb: needs dpkg-deb and strip: apt-get install dpkg binutils")
    tables = tomllib.loads((HERE / "packages.toml").read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    for package in options.only:
        stage = ROOT / "build" / "deb" / f"{os.getpid()}" / package
        try:
            for older in options.output.glob(f"{package}_*.deb"):
                older.unlink()
            print(Package(package, tables, options.version, stage).build(options.output, options.compression))
        finally:
            shutil.rmtree(stage.parent, ignore_errors=True)


def debian_version() -> str:
    """Return the version: that of a release at its tag, else one before it that grows with each commit."""
    try:
        tags = _git("tag", "--points-at", "HEAD").split()
        count = _git("rev-list", "--count", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return __version__ if f"v{__version__}" in tags else f"{__version__}~{count}"


def build_time() -> dt.datetime:
    """Return the time of the commit (or SOURCE_DATE_EPOCH), which everything in the packages bears."""
    try:
        seconds = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    except (OSError, subprocess.CalledProcessError):
        seconds = str(int((ROOT / "pyproject.toml").stat().st_mtime))
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()


class Package:
    """One package: `build` lays its files out in `stage` and packs them."""

    def __init__(self, name: str, tables: Table, version: str, stage: Path) -> None:
        self.name, self.table, self.tables, self.version, self.stage = name, tables[name], tables, version, stage
        self.when = build_time()
        self.compiled = False

    def build(self, output: Path, compression: str) -> Path:
        """Return the path of the finished package."""
        self._python()
        self._programs()
        self._units()
        self._documents()
        self._control()
        for path in (self.stage, *self.stage.rglob("*")):
            os.utime(path, (self.when.timestamp(),) * 2, follow_symlinks=False)
        path = output / f"{self.name}_{self.version}_{self.architecture}.deb"
        command = ["dpkg-deb", "--build", "--root-owner-group", f"-Z{compression}", str(self.stage), str(path)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(int(self.when.timestamp()))}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return path

    @property
    def architecture(self) -> str:
        """What the package runs on: everything, unless it has compiled files."""
        if not self.compiled:
            return "all"
        command = ["dpkg", "--print-architecture"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _python(self) -> None:
        """Put modules of ours and what is bundled into the private library."""
        library = self.stage / self.tables["library"].strip("/")
        for pattern in self.table["python"]:
            for found in sorted(ROOT.glob(pattern)):
                for source in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
                    name = source.relative_to(ROOT)
                    if str(name) not in self.table.get("without", ()):
                        self._install(source, library / name)
        for name in self.table.get("bundled", ()):
            for file in _modules(name):
                target = library / str(file)
                self._install(Path(str(file.locate())), target)
                if target.suffix == ".so":
                    self.compiled = True
                    subprocess.run(["strip", "--strip-unneeded", target], check=True)

    def _programs(self) -> None:
        for program, module in self.table.get("programs", {}).items():
            about = self.tables["manual"][program]
            text = SCRIPT.format(library=self.tables["library"], module=module)
            self._write(f"usr/bin/{program}", text, 0o755)
            text = page(program, module, about, self.version, self.when)
            section = about["section"]
            self._write_gzip(f"usr/share/man/man{section}/{program}.{section}.gz", text)

    def _units(self) -> None:
        for unit in (*self.table.get("units", ()), *self.table.get("idle_units", ())):
            self._install(ROOT / f"deploy/units/{unit}.service", self.stage / f"lib/systemd/system/{unit}.service")

    def _documents(self) -> None:
        share = f"usr/share/doc/{self.name}"
        for example in self.table.get("examples", ()):
            self._install(ROOT / "deploy" / example, self.stage / share / "examples" / Path(example).name)
        for path, source in {**self.table.get("scripts", {}), **self.table.get("conffiles", {})}.items():
            origin, target = ROOT / "deploy" / source, self.stage / path.strip("/")
            self._install(origin, target)
            target.chmod(0o755 if os.access(origin, os.X_OK) else 0o644)
        for directory in self.table.get("directories", ()):
            (self.stage / directory.strip("/")).mkdir(parents=True, exist_ok=True)
        if self.table.get("documents"):
            for source in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
                self._install(
                    source, self.stage / share / source.relative_to(ROOT / "docs" if source.parent != ROOT else ROOT)
                )
            self._write_gzip(f"{share}/NEWS.gz", (ROOT / "CHANGELOG.md").read_text())
            self._write("usr/share/bash-completion/completions/xenflow", _completion())
        self._write(f"{share}/copyright", "\n\n".join(self._licences()) + "\n")
        entry = f"{self.name} ({self.version}) unstable; urgency=medium\n\n  * See /usr/share/doc/xenflow/NEWS.gz.\n"
        date = self.when.strftime("%a, %d %b %Y %H:%M:%S +0000")
        self._write_gzip(f"{share}/changelog.gz", f"{entry}\n -- {self.tables['maintainer']}  {date}\n")

    def _licences(self) -> Iterator[str]:
        yield (
            "XenFlow is under the Apache License 2.0, which is in /usr/share/common-licenses/Apache-2.0 on Debian.\n"
            "Copyright (c) 2026 XenFlow's authors."
        )
        for name in self.table.get("bundled", ()):
            found, licence = distribution(name), self.tables["licences"][name]
            where = f"{self.tables['library']} has {name} {found.version}, unchanged, under {licence}"
            if licence == "Apache-2.0":
                yield f"{where}: /usr/share/common-licenses/Apache-2.0."
                continue
            texts = [file.read_text() for file in found.files or () if re.search(r"dist-info/.*LICENSE", str(file))]
            yield "\n".join([f"{where}:\n", *texts])

    def _control(self) -> None:
        debian = self.stage / "DEBIAN"
        files = sorted(path for path in self.stage.rglob("*") if path.is_file())
        sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(self.stage)}\n" for path in files]
        kibibytes = sum(-(-path.stat().st_size // 1024) for path in files)
        self._write("DEBIAN/control", self._fields(kibibytes))
        self._write("DEBIAN/md5sums", "".join(sums))
        if conffiles := self.table.get("conffiles"):
            self._write("DEBIAN/conffiles", "".join(f"{path}\n" for path in conffiles))
        for kind in ("postinst", "prerm", "postrm"):
            if text := self._script(kind):
                self._write(str((debian / kind).relative_to(self.stage)), text, 0o755)

    def _fields(self, kibibytes: int) -> str:
        major, minor = sys.version_info[:2]
        ours = {package: f"{package} (= {self.version})" for package in PACKAGES}
        depends = [f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})"]
        depends += [ours.get(package, package) for package in self.table["depends"]]
        if self.table.get("units"):
            depends.append("init-system-helpers (>= 1.54~)")
        if self.compiled:
            depends.append("libc6 (>= 2.34)")
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": self.tables["maintainer"],
            "Installed-Size": kibibytes,
            "Depends": ", ".join(depends),
            "Suggests": ", ".join(self.table.get("suggests", ())),
            "Section": "net",
            "Priority": "optional",
            "Description": self.table["summary"] + "\n " + self.table["description"].replace("\n", "\n "),
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)

    def _script(self, kind: str) -> str:
        """Return a maintainer script: the common one, with what this package adds."""
        text = (HERE / "scripts" / kind).read_text()
        units = [[f"{unit}.service" for unit in self.table.get(key, ())] for key in ("units", "idle_units")]
        for mark in ("user", "purge"):
            own = HERE / "scripts" / f"{self.name}.{mark}"
            added = own.read_text().rstrip().replace("\n", "\n    ") if own.exists() else ":"
            text = text.replace(f"#{mark}", added)
        text = text.replace("@PACKAGE@", self.name)
        return text.replace("@UNITS@", " ".join(units[0])).replace("@IDLE@", " ".join(units[1]))

    def _install(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def _write_gzip(self, name: str, text: str) -> None:
        path = self.stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _modules(name: str) -> list[PackagePath]:
    """Return the files that a distribution needs at run time."""
    files = distribution(name).files or []
    wanted = [file for file in files if file.suffix in (".py", ".so") and "dist-info" not in str(file)]
    return [file for file in wanted if ".." not in file.parts and not {"tests", "__editable__"} & set(file.parts)]


def _completion() -> str:
    environment = {**os.environ, "_XENFLOW_COMPLETE": "bash_source"}
    command = [sys.executable, "-c", "from xenflow.cli.main import run; run()"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    os.umask(0o022)
    main()
