"""A model's code, loaded apart from every other model's.

In Triton each instance is a process of its own: module globals belong to one instance, and `import helper` finds the
helper.py beside that model.py. Here all of them share a process. So every instance gets a package of its own, with a
name that no other has, and its code gets builtins of its own, whose `__import__` finds, at import time and later, on
any thread:

1. `triton_python_backend_utils`: the instance's own;
2. the standard library;
3. modules and packages of the version's directory, then of the model's, loaded into the instance's package;
4. what is installed.

Code outside of these directories (importlib, pickle, installed libraries) finds such modules too where a model's code
called it; there the name is the first model's that was asked for by it.
"""

import builtins
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from itertools import count
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

__all__ = ["UTILS_NAMES", "ModelCode"]

UTILS_NAMES: Final = frozenset({"triton_python_backend_utils", "c_python_backend_utils"})
_OWNER = "__model_code__"
_numbers = count(1)


class ModelCode:
    """The modules of one instance.

    Args:
        file: its model.py.
        directories: where its own modules are looked for, in order.
        utils: what `import triton_python_backend_utils` gives.
    """

    def __init__(self, file: Path, directories: Sequence[Path], utils: ModuleType) -> None:
        self.file = file
        self.package = f"_model_code_{next(_numbers)}"
        self.paths = [str(directory) for directory in directories]
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import, _OWNER: self}
        self.utils = utils
        self._installed: set[str] = set(sys.stdlib_module_names)
        self._lent: dict[str, ModuleType] = {}
        """Modules that are to be found under their plain names too."""

    def load(self) -> ModuleType:
        """Run model.py and return its module. Raises whatever it raises; then nothing of it is left."""
        _find_models_code()
        package = ModuleType(self.package)
        package.__path__ = self.paths
        package.__package__ = self.package
        sys.modules[self.package] = package
        _codes[self.package] = self
        name = f"{self.package}.{self.file.stem.replace('.', '_')}"
        loader = _ModelLoader(name, str(self.file), self)
        module = importlib.util.module_from_spec(_spec(name, str(self.file), loader))
        sys.modules[name] = module
        try:
            loader.exec_module(module)
        except BaseException:
            self.close()
            raise
        return module

    def close(self) -> None:
        """Forget its modules."""
        _codes.pop(self.package, None)
        inside = self.package + "."
        for name in [name for name in list(sys.modules) if name.startswith(inside)]:
            sys.modules.pop(name, None)
        sys.modules.pop(self.package, None)
        for name, module in self._lent.items():
            if sys.modules.get(name) is module:
                sys.modules.pop(name, None)
        for path in list(sys.path_importer_cache):
            # Directories of load requests never come back; for others Python looks anew.
            if any(path == own or path.startswith(own + os.sep) for own in self.paths):
                sys.path_importer_cache.pop(path, None)

    def lend(self, name: str, module: ModuleType) -> None:
        """Note that one of its modules is in `sys.modules` under this plain name, until it closes."""
        self._lent[name] = module

    def find(self, name: str) -> ModuleSpec | None:
        """A module or package (with an __init__) of that top-level name in its directories."""
        spec = PathFinder.find_spec(name, self.paths)
        return spec if spec is not None and spec.has_location else None

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level == 0 and top not in self._installed:
            if top in UTILS_NAMES:
                return self.utils
            if self._is_own(top):
                return self._import_own(name, top, fromlist)
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if level == 0:
            self._installed.add(top)
        return module

    def _is_own(self, top: str) -> bool:
        if f"{self.package}.{top}" in sys.modules or self.find(top) is not None:
            return True
        # A directory without __init__ may hold no more than a model's files: what is installed goes first.
        is_directory = any((Path(path) / top).is_dir() for path in self.paths)
        return is_directory and top not in sys.modules and importlib.util.find_spec(top) is None

    def _import_own(self, name: str, top: str, fromlist: Sequence[str] | None) -> ModuleType:
        inner = builtins.__import__(f"{self.package}.{name}", None, None, fromlist or ("__name__",), 0)
        # Python code gives a tuple or None; C code (pickle) a list, and it looks into sys.modules afterwards.
        if isinstance(fromlist, list) and sys.modules.setdefault(name, inner) is inner:
            self.lend(name, inner)
        return inner if fromlist else sys.modules[f"{self.package}.{top}"]


_codes: dict[str, ModelCode] = {}
"""By package: Python's import machinery is one for the whole process."""


class _ModelLoader(SourceFileLoader):
    """Runs a module with its model's builtins. Bytecode is neither read nor written: a repository is left as it is,
    and a file that is replaced within the same second is seen."""

    def __init__(self, fullname: str, path: str, owner: ModelCode) -> None:
        super().__init__(fullname, path)
        self._owner = owner

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._owner.builtins
        super().exec_module(module)


class _PackageFinder(MetaPathFinder):
    """Finds the modules inside the models' packages."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        owner = _codes.get(fullname.partition(".")[0])
        if owner is None or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _ModelLoader(fullname, spec.origin, owner)
        return spec


class _CallerFinder(MetaPathFinder):
    """Finds a model's modules, under their plain names, for code that the model's code called."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if path is not None or "." in fullname or not _codes:
            return None
        if fullname in UTILS_NAMES:
            return ModuleSpec(fullname, _SharedUtilsLoader())
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            owner = frame.f_builtins.get(_OWNER)
            if isinstance(owner, ModelCode):
                found = owner.find(fullname)
                return None if found is None else ModuleSpec(fullname, _AliasLoader(owner), origin=found.origin)
            frame = frame.f_back
        return None


class _AliasLoader(Loader):
    """Gives the module of a model's package for its plain name."""

    def __init__(self, owner: ModelCode) -> None:
        self._owner = owner

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{self._owner.package}.{spec.name}")
        self._owner.lend(spec.name, module)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _SharedUtilsLoader(Loader):
    """Gives `triton_python_backend_utils` to an installed library that imports it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        from nextact_server.repository.backends.python.utils_module import utils_module

        return utils_module(None, spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It is whole already."""


def _find_models_code() -> None:
    if not any(isinstance(finder, _PackageFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PackageFinder())
        sys.meta_path.append(_CallerFinder())


def _spec(name: str, origin: str, loader: Loader) -> ModuleSpec:
    spec = ModuleSpec(name, loader, origin=origin)
    spec.has_location = True
    return spec
