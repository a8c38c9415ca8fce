import keras
import pytest

from tfprune.files import atomic_write, check_writable_folder, run_information


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_renamed_on_success(tmp_path):
    path = tmp_path / "net.weights.h5"
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".weights.h5")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["net.weights.h5"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_folder_replaces_folder(tmp_path):
    path = tmp_path / "export"
    for content in ("first", "second"):
        with atomic_write(path) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert names(path) == ["second"]
    assert names(tmp_path) == ["export"]


def test_keras_model_can_be_saved_through_it(tmp_path, dense_net):
    path = tmp_path / "net.keras"
    with atomic_write(path) as temporary:
        dense_net.save(temporary)
    assert keras.models.load_model(path).count_params() == dense_net.count_params()


def test_atomic_write_borders(tmp_path):
    with pytest.raises(ValueError, match=r"the folder '.*absent' does not exist. Make it"):
        atomic_write(tmp_path / "absent" / "a.txt").__enter__()
    with pytest.raises(ValueError, match=r"Nothing was written for '.*a.txt'"), atomic_write(tmp_path / "a.txt"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="a folder of that name exists"), atomic_write(tmp_path / "folder") as path:
        path.write_text("x")
    assert names(tmp_path) == ["folder"]


def test_check_writable_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    assert check_writable_folder(str(folder)) == folder
    assert names(folder) == []
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "below"):
        with pytest.raises(ValueError, match=r"output folder '.*' cannot be written to: .* Choose another folder"):
            check_writable_folder(path)


def test_run_information():
    information = run_information()
    assert list(information) == ["tfprune", "keras", "tensorflow", "numpy", "python"]
    assert information["keras"] == keras.__version__
    assert all(isinstance(value, str) and value for value in information.values())
