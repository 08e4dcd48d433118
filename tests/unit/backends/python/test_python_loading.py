"""How a model's code is found, completed, initialized and forgotten."""

import json
import logging
import sys
from typing import Any

import pytest
from python_house import House, Sink, ask, execute, request_of

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import InstanceGroup, Placement

ECHO = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([SAYS], object))]) for _ in requests]
"""


def said(model: Any) -> Any:
    (value,) = ask(model).value()
    return value.decode()


def test_helpers_of_the_same_name_beside_two_models_do_not_meet(house: House) -> None:
    code = "from helper_file import SAYS\n" + ECHO
    models = {}
    for name in ("a", "b"):
        models[name] = house.load(
            name,
            code,
            {
                "1/helper_file.py": "import deeper\nSAYS = deeper.SAYS",
                "deeper/__init__.py": "from .inside import SAYS",
                "deeper/inside.py": f"SAYS = '{name}'",
            },
        )
    assert {name: said(model) for name, model in models.items()} == {"a": "a", "b": "b"}


def test_a_helper_may_import_pb_utils_and_be_imported_late_and_relatively(house: House) -> None:
    code = """
    from .helper_file import tensor
    class TritonPythonModel:
        def execute(self, requests):
            made = []
            def work():
                import helper_file as late
                from deep.down import SAYS
                import deep.down
                assert late.tensor is tensor and deep.down.SAYS == SAYS
                made.append(pb_utils.InferenceResponse([tensor(SAYS)]))
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return made
    """
    helper = """
    import numpy as np, triton_python_backend_utils as pb
    def tensor(x): return pb.Tensor("OUT", np.array([x], object))
    """
    model = house.load("m", code, {"1/helper_file.py": helper, "1/deep/down.py": "SAYS = 'down'"})
    assert said(model) == "down"


def test_installed_packages_and_the_standard_library_win_over_directories_of_files(house: House) -> None:
    code = "import json, numpy\nSAYS = numpy.__name__ + json.__name__\n" + ECHO
    model = house.load(
        "m", code, {"1/numpy/weights.txt": "", "1/json.py": "raise ValueError", "1/string.py": "raise ValueError"}
    )
    assert said(model) == "numpyjson"


def test_modules_are_found_by_name_too_as_importlib_and_pickle_do(house: House) -> None:
    code = """
    import importlib, pickle
    from helper_file import Thing
    class TritonPythonModel:
        def execute(self, requests):
            assert importlib.import_module("helper_file").Thing is Thing
            data = pickle.dumps(Thing(), 0).replace(Thing.__module__.encode(), b"helper_file")
            assert type(pickle.loads(data)) is Thing and type(pickle._loads(data)) is Thing
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(["found"]))])]
    """
    model = house.load("m", code, {"1/helper_file.py": "class Thing: pass"})
    assert said(model) == "found"
    house.close(model)
    assert "helper_file" not in sys.modules


def test_a_plain_name_that_importlib_made_goes_with_the_model(house: House) -> None:
    code = "import importlib\nSAYS = importlib.import_module('only_here').SAYS\n" + ECHO
    model = house.load("m", code, {"1/only_here.py": "SAYS = 'first'"})
    assert said(model) == "first"
    assert "only_here" in sys.modules
    house.close(model)
    assert "only_here" not in sys.modules
    assert said(house.load("n", code, {"1/only_here.py": "SAYS = 'second'"})) == "second"


def test_an_installed_library_may_import_pb_utils_and_finds_the_model_by_the_thread(
    house: House, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path_factory.mktemp("installed")
    (library / "shared_library_of_models.py").write_text(
        "import triton_python_backend_utils as pb\n"
        "def says(): return pb.get_model_dir()\n"
        "Response = pb.InferenceResponse"
    )
    monkeypatch.syspath_prepend(str(library))
    model = house.model(
        "m",
        """
        import shared_library_of_models as library
        assert library.Response is pb_utils.InferenceResponse
        return [library.Response([pb_utils.Tensor("OUT", np.array([library.says()]))])]
        """,
    )
    assert said(model) == str(house.root / "m/1")
    for name in ("shared_library_of_models", "triton_python_backend_utils"):
        sys.modules.pop(name)


def test_the_server_leaves_pb_utils_and_the_path_alone(house: House) -> None:
    before = list(sys.path)
    model = house.load("m", "SAYS = 'x'\n" + ECHO)
    assert sys.path == before
    assert "triton_python_backend_utils" not in sys.modules
    package = type(model._model).__module__.partition(".")[0]
    house.close(model)
    assert not [name for name in sys.modules if name.startswith(package)]
    assert not list(house.root.rglob("__pycache__"))


def test_code_that_was_replaced_within_the_second_is_run(house: House) -> None:
    for says in ("1", "2", "3"):
        model = house.load("m", f"SAYS = '{says}'\n" + ECHO)
        assert said(model) == says


def test_each_instance_has_its_own_object_its_own_globals_and_its_own_end(house: House) -> None:
    code = """
    import helper
    class TritonPythonModel:
        def initialize(self, args):
            helper.COUNT.append(args["model_instance_name"])
        def execute(self, requests):
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([",".join(helper.COUNT)]))])]
        def finalize(self):
            helper.COUNT.clear()
    """
    house.write("m", code, {"1/helper.py": "COUNT = []"})
    version = house.version("m")
    first, second = (house.instance(version, f"m_{number}") for number in range(2))
    house.close(first)
    assert said(second) == "m_1"


@pytest.mark.parametrize(("device", "kind", "number"), [("cpu", "CPU", "0"), ("cuda:1", "GPU", "1")])
def test_initialize_is_told_what_triton_tells(house: House, device: str, kind: str, number: str) -> None:
    code = "class TritonPythonModel:\n    def initialize(self, args): self.args = args\n"
    house.write("m", code)
    config = """
    max_batch_size: 8
    input { name: "IN" data_type: TYPE_FP32 dims: [ -1, 4 ] }
    parameters { key: "greet" value { string_value: "hi" } }
    """
    model = house.instance(house.version("m", config), "m_0", device)
    args = model._model.args
    found = json.loads(args.pop("model_config"))
    assert args == {
        "model_instance_kind": kind,
        "model_instance_name": "m_0",
        "model_instance_device_id": number,
        "model_repository": str(house.root / "m"),
        "model_version": "1",
        "model_name": "m",
    }
    assert found["max_batch_size"] == 8
    assert found["input"][0] == {
        "name": "IN",
        "data_type": "TYPE_FP32",
        "format": "FORMAT_NONE",
        "dims": [-1, 4],
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": False,
        "is_non_linear_format_io": False,
    }
    assert (found["parameters"], found["output"], found["metric_tags"]) == ({"greet": {"string_value": "hi"}}, [], {})
    assert "dynamic_batching" not in found


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'\n\nAt:\n  {file}(1): <module>\n"),
        ("class TritonPythonModel(:", "SyntaxError: invalid syntax (model.py, line 1)"),
        ("x = 1", "AttributeError: module '1.model' has no attribute 'TritonPythonModel'"),
        (
            "class TritonPythonModel:\n    def initialize(self, args): raise ValueError('init went wrong')",
            "ValueError: init went wrong\n\nAt:\n  {file}(2): initialize\n",
        ),
        (
            "class TritonPythonModel:\n    def initialize(self, args):\n        import sys; sys.exit(3)",
            "SystemExit: 3\n\nAt:\n  {file}(3): initialize\n",
        ),
        (
            "class TritonPythonModel:\n    def initialize(self): pass",
            "TypeError: TritonPythonModel.initialize() takes 1 positional argument but 2 were given",
        ),
    ],
)
def test_a_model_that_cannot_begin_fails_its_load_with_the_reason(house: House, code: str, message: str) -> None:
    house.write("m", code, head="")
    before = set(sys.modules)
    with pytest.raises(InferError) as failure:
        house.version("m").instance(Placement("m_0", "cpu", InstanceGroup()))
    assert failure.value.code is ErrorCode.INTERNAL
    assert failure.value.message == message.format(file=house.root / "m/1/model.py")
    assert not {name for name in set(sys.modules) - before if name.startswith("_model_code")}


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ("", ErrorCode.INTERNAL, "Python model file not found in '{version}/model.py'"),
        (
            'default_model_filename: "a.txt"',
            ErrorCode.INTERNAL,
            "Model name must end with '.py'. Model name is \"a.txt\".",
        ),
        (
            (
                'default_model_filename: "other.py" '
                'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "maybe" } }'
            ),
            ErrorCode.UNSUPPORTED,
            "Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: maybe'",
        ),
    ],
)
def test_what_is_missing_or_means_nothing_fails_the_load(
    house: House, config: str, code: ErrorCode, message: str
) -> None:
    directory = house.write("m", "")
    (directory / "1/model.py").rename(directory / "1/other.py")
    with pytest.raises(InferError) as failure:
        house.version("m", config)
    assert (failure.value.code, failure.value.message) == (code, message.format(version=directory / "1"))


def test_an_environment_of_its_own_is_warned_of_and_the_model_runs(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    model = house.load(
        "m", "SAYS = 'x'\n" + ECHO, config='parameters { key: "EXECUTION_ENV_PATH" value { string_value: "e.tar" } }'
    )
    assert said(model) == "x"
    assert "EXECUTION_ENV_PATH is not supported" in caplog.text


def test_a_finalize_that_raises_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    model = house.load("m", "class TritonPythonModel:\n    def finalize(self): raise ValueError('at the end')\n")
    with caplog.at_level(logging.ERROR):
        house.close(model)
    assert "ValueError: at the end" in caplog.text


def test_several_servers_in_one_process_do_not_meet(tmp_path: Any) -> None:
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            ready = pb_utils.is_model_ready("other")
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([ready]))]) for _ in requests]
    """
    houses = [House(tmp_path / name) for name in "ab"]
    houses[0].door.add("other", print)
    models = [house.load("m", code) for house in houses]
    sinks = [Sink() for _ in models]
    for model, sink in zip(models, sinks, strict=True):
        execute(model, [request_of(sink)])
    assert [sink.value() for sink in sinks] == [[True], [False]]
    for house in houses:
        house.close_all()
